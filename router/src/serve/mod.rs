//! `spillway serve`: a running router's metrics and health over HTTP, for Prometheus and the kubelet, and
//! where it is wanted a page for people.
//!
//! A process of its own that asks the router over a socket, as `spillway status` does: what
//! comes from the network is never parsed by the process that has the network capabilities, and no
//! request gets nearer to a packet than an operator's question.

mod ask;
mod http;
mod metrics;
mod page;
mod ready;
#[cfg(test)]
pub(crate) mod sample;

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use spillway_api::Status;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use ask::Asker;
use http::Limits;

/// Serves until SIGTERM or SIGINT, whether a router runs or not; the page, which shows flows, only where it is
/// wanted. `probes` has listeners, connections and questions of its own: whoever takes all that there is of
/// them at `listen` does not keep a kubelet from its answers.
///
/// # Errors
/// When nobody can listen at `listen` or `probes`.
pub(crate) fn serve(
    listen: SocketAddr,
    probes: Option<SocketAddr>,
    socket: &Path,
    with_page: bool,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot make an event loop")?;
    let served = runtime.block_on(until_signal(listen, probes, socket, with_page));
    // A question that the router does not answer must not keep the process.
    runtime.shutdown_background();
    served
}

/// Whether a router that has answered so, or not, is ready, and what is missing: as `/readyz?verbose`.
pub(crate) fn readiness(answer: &anyhow::Result<Status>) -> (bool, String) {
    ready::told("ready", &ready::checks(answer), true)
}

async fn until_signal(
    listen: SocketAddr,
    probes: Option<SocketAddr>,
    socket: &Path,
    with_page: bool,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch signals")?;
    let limits = Limits::default();
    let asker = Asker::new(socket, limits.answer_within);
    if let Some(address) = probes {
        let listener = bind(address, "--probes").await?;
        tokio::spawn(http::serve(listener, http::probes(asker.beside()), limits));
    }
    let listener = bind(listen, "--listen").await?;
    tokio::select! {
        () = http::serve(listener, http::everything(asker, with_page), limits) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

async fn bind(address: SocketAddr, option: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!(
            "cannot listen on {address}: choose an address of this host and a free port ({option})"
        )
    })?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    Ok(listener)
}
