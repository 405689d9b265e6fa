//! Brings documents to the router, and again whenever the router has lost them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use spillway_api::{Client, ClientError, Document};
use tokio::sync::watch;

/// How often the router is asked whether it still has what it was given.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What became of a document.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The document.
    pub document: Arc<Document>,
    /// The generation that the router has programmed, or why it has not.
    pub result: Result<u64, Failure>,
}

/// Why a document is not programmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// In one word, for programs. Stable.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// Puts each new document to the router that listens at `socket`, and says what became of it;
/// ends when there will be no more.
pub async fn publish(
    socket: PathBuf,
    mut documents: watch::Receiver<Option<Arc<Document>>>,
    outcomes: watch::Sender<Option<Outcome>>,
) {
    let mut programmed: Option<(Arc<Document>, u64)> = None;
    loop {
        let document = documents.borrow_and_update().clone();
        if let Some(document) = document {
            let (at, last) = (socket.clone(), programmed.clone());
            let wanted = document.clone();
            let put = tokio::task::spawn_blocking(move || put(&at, &wanted, last.as_ref()));
            let result = put.await.unwrap_or_else(|panic| {
                Err(Failure { reason: "InternalError", message: panic.to_string() })
            });
            programmed = result.as_ref().ok().map(|generation| (document.clone(), *generation));
            announce(&outcomes, Outcome { document, result });
        }
        tokio::select! {
            changed = documents.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(ASK_AGAIN) => {}
        }
    }
}

/// Says what became of a document, if it is anything new.
fn announce(outcomes: &watch::Sender<Option<Outcome>>, outcome: Outcome) {
    outcomes.send_if_modified(|last| {
        let same = last.as_ref().is_some_and(|last| {
            Arc::ptr_eq(&last.document, &outcome.document) && last.result == outcome.result
        });
        if same {
            return false;
        }
        match &outcome.result {
            Ok(generation) => tracing::info!(
                "generation {generation} is programmed: {} policies",
                outcome.document.policies.len()
            ),
            Err(failure) => tracing::warn!("not programmed: {}", failure.message),
        }
        *last = Some(outcome);
        true
    });
}

/// Makes sure that the router runs the document; returns its generation there.
fn put(
    socket: &Path,
    document: &Arc<Document>,
    programmed: Option<&(Arc<Document>, u64)>,
) -> Result<u64, Failure> {
    let mut router = Client::connect(socket)?;
    let running = router.status_for_author()?.generation;
    if let Some((last, generation)) = programmed
        && running == Some(*generation)
        && (Arc::ptr_eq(last, document) || last == document)
    {
        return Ok(*generation);
    }
    // Whatever runs there, ours is newer: this process is the only author.
    let generation = running.map_or(1, |running| running + 1);
    let text = serde_json::to_string(&Document { generation, ..Document::clone(document) })
        .map_err(|error| Failure { reason: "InternalError", message: error.to_string() })?;
    Ok(router.put_state(text)?.generation)
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let reason = match &error {
            ClientError::Refused(_) => "RouterRefused",
            ClientError::Unreachable { .. }
            | ClientError::NotPermitted(_)
            | ClientError::Exchange { .. }
            | ClientError::Unreadable { .. } => "RouterUnreachable",
        };
        Self { reason, message: error.to_string() }
    }
}
