//! The HTTP server: `/metrics`, `/livez`, `/readyz`, the page where it is wanted, and what a client may take of it. One request on a
//! connection; whoever is slow, or sends nonsense, loses that connection and nothing else.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use spillway_api::Client;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::ask::Asker;
use super::metrics::{self, Answers};
use super::page;
use super::ready;

/// Bytes of a request's head, at most.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// How long nobody is accepted after the kernel refused to: it has no memory or no descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

const OPEN_METRICS: &str = "application/openmetrics-text";
const OPEN_METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What clients may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections at one time; further ones wait until they are accepted.
    pub(super) connections: usize,
    /// How long a request's head may take to come.
    pub(super) head_within: Duration,
    /// How long the router may take to answer.
    pub(super) answer_within: Duration,
    /// How long a connection lasts, from its start to the response's last byte.
    pub(super) connection_within: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16,
            head_within: Duration::from_secs(2),
            answer_within: Duration::from_secs(4),
            // Below Prometheus' usual time for a scrape.
            connection_within: Duration::from_secs(8),
        }
    }
}

/// Serves `listener`, for ever.
pub(super) async fn serve(listener: TcpListener, routes: Router, limits: Limits) {
    let service = TowerToHyperService::new(routes);
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(limits.head_within);
    server.keep_alive(false).max_buf_size(HEAD_BYTES_MAX);
    // Nobody closes the semaphore.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let connection = server.serve_connection(TokioIo::new(stream), service.clone());
        tokio::spawn(async move {
            // However it has ended, that was its client's doing.
            let _ = timeout(limits.connection_within, connection).await;
            drop(place);
        });
    }
}

/// All that there is to ask; the page where it is wanted.
pub(super) fn everything(asker: Asker, with_page: bool) -> Router {
    let page = if with_page { page::routes(asker.clone()) } else { Router::new() };
    health().route("/metrics", get(metrics)).with_state(asker).merge(page).fallback(nothing_here)
}

/// What a kubelet asks.
pub(super) fn probes(asker: Asker) -> Router {
    health().with_state(asker).fallback(nothing_here)
}

fn health() -> Router<Asker> {
    Router::new().route("/livez", get(livez)).route("/readyz", get(readyz))
}

/// That this answers is all that it says.
async fn livez(RawQuery(query): RawQuery) -> Response {
    said(ready::told("livez", &[], is_verbose(query.as_deref())))
}

async fn readyz(State(asker): State<Asker>, RawQuery(query): RawQuery) -> Response {
    let checks = ready::checks(&asker.ask(Client::status).await);
    said(ready::told("readyz", &checks, is_verbose(query.as_deref())))
}

/// Of a router that does not answer there is still something to tell.
async fn metrics(State(asker): State<Asker>, headers: HeaderMap) -> Response {
    let asked = asker.ask(|router| {
        let (status, drops) = (router.status()?, router.drops()?);
        // Last: a router that does not know the question may close the connection.
        Ok(Answers { status, drops, usage: router.usage().ok() })
    });
    let Ok(text) = metrics::open_metrics(asked.await.ok()) else {
        let problem = "the router's answer cannot be written as metrics\n";
        return (StatusCode::INTERNAL_SERVER_ERROR, problem).into_response();
    };
    match wants_open_metrics(&headers) {
        true => ([(CONTENT_TYPE, OPEN_METRICS_TYPE)], text).into_response(),
        false => ([(CONTENT_TYPE, PLAIN_TYPE)], metrics::plain(&text)).into_response(),
    }
}

async fn nothing_here() -> Response {
    (StatusCode::NOT_FOUND, "not here: try /metrics, /livez or /readyz?verbose\n").into_response()
}

fn said((holds, text): (bool, String)) -> Response {
    let status = if holds { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, text).into_response()
}

/// Whether a query has the word, with a value or without.
fn is_verbose(query: Option<&str>) -> bool {
    let mut words = query.unwrap_or_default().split('&');
    words.any(|word| word.split('=').next() == Some("verbose"))
}

fn wants_open_metrics(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.into_iter().any(|value| value.contains(OPEN_METRICS))
}

#[cfg(test)]
#[path = "http_tests.rs"]
pub(super) mod tests;
