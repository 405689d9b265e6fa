//! Questions to the router, over a socket: one at a time, each within a time.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context as _;
use spillway_api::{Client, ClientError};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

/// How long the router is left alone after each answer: whoever asks without end by HTTP must not keep it
/// from its work.
const PAUSE: Duration = Duration::from_millis(50);

/// Whoever asks the router.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    socket: Arc<Path>,
    turn: Arc<Semaphore>,
    /// How long an answer may take, the turn included.
    within: Duration,
    /// Whether the router has answered the last question: the log tells only of changes.
    answers: Arc<AtomicBool>,
}

impl Asker {
    pub(super) fn new(socket: &Path, within: Duration) -> Self {
        let (turn, answers) = (Arc::new(Semaphore::new(1)), Arc::new(AtomicBool::new(true)));
        Self { socket: socket.into(), turn, within, answers }
    }

    /// Another one, whose questions do not wait for the turn of this one's.
    pub(super) fn beside(&self) -> Self {
        Self { turn: Arc::new(Semaphore::new(1)), ..self.clone() }
    }

    /// Asks on a connection of its own. The error is for a person.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Client) -> Result<T, ClientError> + Send + 'static,
    ) -> anyhow::Result<T> {
        let asked = timeout(self.within, self.ask_in_turn(question)).await;
        let answer = asked.unwrap_or_else(|_| {
            let (socket, seconds) = (self.socket.display(), self.within.as_secs());
            Err(anyhow::anyhow!(
                "no answer from Spillway at {socket} within {seconds} seconds: it is busy, or hangs. \
                 Its log says more."
            ))
        });
        if self.answers.swap(answer.is_ok(), Relaxed) != answer.is_ok() {
            match &answer {
                Ok(_) => tracing::info!("the router answers again"),
                Err(error) => tracing::warn!("{error:#}"),
            }
        }
        answer
    }

    async fn ask_in_turn<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Client) -> Result<T, ClientError> + Send + 'static,
    ) -> anyhow::Result<T> {
        let turn = Arc::clone(&self.turn).acquire_owned().await?;
        let (socket, within) = (Arc::clone(&self.socket), self.within);
        let answer = spawn_blocking(move || {
            let ask = || question(&mut Client::connect_within(&socket, within)?);
            // It is over when the answer is there, also when nobody waits for it any more.
            (ask(), turn)
        });
        let (answer, turn) = answer.await.context("the question was not asked")?;
        tokio::spawn(async move {
            sleep(PAUSE).await;
            drop(turn);
        });
        Ok(answer?)
    }
}
