//! The web page of `spillway serve --page`, and the router's answers as JSON, which it asks for.
//!
//! However many look at it, the router is asked each question once a second at most: they share its
//! answers. Only a page that was opened by an address, or as `localhost`, is answered: no other site's
//! page can have its own name lead here and read along (DNS rebinding).

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::{Deserialize, Serialize};
use spillway_api::{Client, ClientError, Flow, FlowPage};
use tokio::sync::Mutex;

use super::ask::Asker;

const HTML: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// How long an answer is given again: less than what a page waits between two questions.
const FRESH: Duration = Duration::from_millis(900);

/// Answers that are kept at most, each of one page of rows at most.
const ANSWERS_MAX: usize = 16;

/// Pages of flows that are looked through for one answer, at most, and flows from which on it is enough.
const SEARCHED_PAGES_MAX: usize = 8;
const FOUND_ENOUGH: usize = 256;

/// Bytes of a search, at most.
const SEARCH_BYTES_MAX: usize = 200;

/// When the router gave an answer, in milliseconds since the server's start: two of them are what rates
/// are reckoned from.
const ANSWERED_MS: HeaderName = HeaderName::from_static("spillway-answered-ms");

const JSON: [(HeaderName, &str); 2] =
    [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];

/// What every answer here has, besides what it is.
const HEADERS: [(&str, &str); 5] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
];

/// The page and what it asks.
pub(super) fn routes(asker: Asker) -> Router {
    let shared = Shared { asker, answers: Arc::default(), started: Instant::now() };
    Router::new()
        .route("/", get(|| async { text("text/html; charset=utf-8", HTML) }))
        .route("/page.css", get(|| async { text("text/css; charset=utf-8", STYLE) }))
        .route("/page.js", get(|| async { text("text/javascript; charset=utf-8", SCRIPT) }))
        .route("/api/v1/status", get(status))
        .route("/api/v1/drops", get(drops))
        .route("/api/v1/usage", get(usage))
        .route("/api/v1/policies", get(policies))
        .route("/api/v1/flows", get(flows))
        .layer(from_fn(guarded))
        .with_state(shared)
}

async fn status(State(shared): State<Shared>) -> Response {
    shared.answer(Question::Status).await
}

async fn drops(State(shared): State<Shared>) -> Response {
    shared.answer(Question::Drops).await
}

async fn usage(State(shared): State<Shared>) -> Response {
    shared.answer(Question::Usage).await
}

async fn policies(State(shared): State<Shared>, Query(wanted): Query<Wanted>) -> Response {
    shared.answer(Question::Policies { cursor: wanted.cursor }).await
}

async fn flows(State(shared): State<Shared>, Query(wanted): Query<Wanted>) -> Response {
    if wanted.search.len() > SEARCH_BYTES_MAX {
        let error = format!("a search has {SEARCH_BYTES_MAX} bytes at most");
        return (StatusCode::BAD_REQUEST, problem(&error)).into_response();
    }
    shared.answer(Question::Flows { cursor: wanted.cursor, search: wanted.search }).await
}

/// Where a page of rows starts, and what its rows must have.
#[derive(Debug, Deserialize)]
struct Wanted {
    #[serde(default)]
    cursor: u64,
    /// Words, of which each must be somewhere in a row.
    #[serde(default)]
    search: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Question {
    Status,
    Drops,
    Usage,
    Policies { cursor: u64 },
    Flows { cursor: u64, search: String },
}

impl Question {
    /// Asks the router; its answer as JSON.
    fn ask(&self, router: &mut Client) -> Result<Bytes, ClientError> {
        match self {
            Self::Status => router.status().map(|answer| json(&answer)),
            Self::Drops => router.drops().map(|answer| json(&answer)),
            Self::Usage => router.usage().map(|answer| json(&answer)),
            Self::Policies { cursor } => router.policies(*cursor).map(|answer| json(&answer)),
            Self::Flows { cursor, search } => {
                found(search, *cursor, |cursor| router.flows(cursor)).map(|answer| json(&answer))
            }
        }
    }
}

/// The flows that have every word of a search, of so many pages that it does not take long; where the next
/// ones begin.
fn found(
    search: &str,
    cursor: u64,
    mut page: impl FnMut(u64) -> Result<FlowPage, ClientError>,
) -> Result<FlowPage, ClientError> {
    let search = search.to_lowercase();
    let words: Vec<&str> = search.split_whitespace().collect();
    let mut found = FlowPage { rows: Vec::new(), next: Some(cursor) };
    for _ in 0..SEARCHED_PAGES_MAX {
        let Some(cursor) = found.next.filter(|_| found.rows.len() < FOUND_ENOUGH) else { break };
        let FlowPage { rows, next } = page(cursor)?;
        found.rows.extend(rows.into_iter().filter(|flow| has(flow, &words)));
        found.next = next;
    }
    Ok(found)
}

fn has(flow: &Flow, words: &[&str]) -> bool {
    if words.is_empty() {
        return true;
    }
    let Flow { original, reply, .. } = flow;
    let text = format!(
        "{} {}:{} {}:{} {}:{} {} {} {}",
        flow.protocol,
        original.source,
        original.source_port,
        original.destination,
        original.destination_port,
        reply.destination,
        reply.destination_port,
        flow.state,
        flow.policy.to_lowercase(),
        flow.peer
    );
    words.iter().all(|word| text.contains(word))
}

/// The router's answers, for everybody who looks at them.
#[derive(Clone, Debug)]
struct Shared {
    asker: Asker,
    answers: Arc<Mutex<VecDeque<Answered>>>,
    started: Instant,
}

#[derive(Clone, Debug)]
struct Answered {
    question: Question,
    at: Instant,
    answer: Result<Bytes, Failure>,
}

/// Why there is no answer.
#[derive(Clone, Debug)]
struct Failure {
    message: String,
    /// Whether no other question would be answered either.
    is_away: bool,
}

impl Shared {
    async fn answer(&self, question: Question) -> Response {
        let Answered { at, answer, .. } = self.answered(question).await;
        match answer {
            Ok(json) => {
                let at = at.saturating_duration_since(self.started).as_millis().to_string();
                (JSON, [(ANSWERED_MS, at)], json).into_response()
            }
            Err(Failure { message, .. }) => {
                (StatusCode::SERVICE_UNAVAILABLE, problem(&message)).into_response()
            }
        }
    }

    /// Who asks meanwhile waits here: often for the same answer.
    async fn answered(&self, question: Question) -> Answered {
        let mut answers = self.answers.lock().await;
        answers.retain(|answered| answered.at.elapsed() < FRESH);
        let known = answers.iter().find(|answered| match &answered.answer {
            Err(failure) if failure.is_away => true,
            _ => answered.question == question,
        });
        if let Some(known) = known {
            return known.clone();
        }
        let asked = question.clone();
        let answer = self.asker.ask(move |router| asked.ask(router)).await;
        let answer = answer.map_err(|error| Failure {
            is_away: !matches!(error.downcast_ref(), Some(ClientError::Refused(_))),
            message: format!("{error:#}"),
        });
        let answered = Answered { question, at: Instant::now(), answer };
        answers.truncate(ANSWERS_MAX - 1);
        answers.push_front(answered.clone());
        answered
    }
}

fn json<T: Serialize>(answer: &T) -> Bytes {
    // What was read from JSON can be written as JSON.
    serde_json::to_vec(answer).unwrap_or_default().into()
}

fn problem(error: &str) -> impl IntoResponse + use<> {
    let body = json(&serde_json::json!({ "error": error }));
    (JSON, body)
}

fn text(kind: &'static str, text: &'static str) -> Response {
    // Another version of the program brings another page.
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")], text).into_response()
}

async fn guarded(request: Request, next: Next) -> Response {
    let mut response = match is_opened_by_address(request.headers()) {
        true => next.run(request).await,
        false => {
            let words = "open this page by the server's IP address or as localhost: other names are \
                         refused, so that no other site can read it through your browser\n";
            (StatusCode::FORBIDDEN, words).into_response()
        }
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether the client came by an address, or by the name that leads nowhere else.
fn is_opened_by_address(headers: &HeaderMap) -> bool {
    // Without the header it is no browser of our time.
    let Some(host) = headers.get(HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let without_port = match host.strip_prefix('[') {
        Some(ipv6) => ipv6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    without_port.eq_ignore_ascii_case("localhost") || without_port.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
