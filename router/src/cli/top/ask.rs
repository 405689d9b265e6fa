//! Questions to the router, again and again, on a thread of its own: a router that does not answer must
//! not keep keys from being heard.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use spillway_api::{Client, ClientError, Usage};

use super::rates::{Sample, SomeFlows};

/// How long the router may take for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// How often it is asked what flows use: it counts them every 5 seconds at most.
pub(super) const USAGE_EVERY: Duration = Duration::from_secs(5);

/// Flows that are asked for at most, in so many pages at most.
const FLOWS_MAX: usize = 4_096;
const FLOW_PAGES_MAX: usize = 32;

/// What is asked, and when.
#[derive(Debug)]
pub(super) struct Asker {
    socket: PathBuf,
    started: Instant,
    /// Whether somebody looks at flows.
    wants_flows: Arc<AtomicBool>,
    /// What flows used when it was asked last, and when that was.
    usage: Option<(Instant, Option<Usage>)>,
}

impl Asker {
    pub(super) fn new(socket: &Path, wants_flows: Arc<AtomicBool>) -> Self {
        Self { socket: socket.to_owned(), started: Instant::now(), wants_flows, usage: None }
    }

    /// Asks everything once, on a connection of its own: the router closes one that is idle.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub(super) fn ask(&mut self) -> Result<Sample, ClientError> {
        let mut router = Client::connect_within(&self.socket, ANSWER_WITHIN)?;
        let status = router.status()?;
        let at = self.started.elapsed();
        let drops = router.drops()?;
        let flows = match self.wants_flows.load(Relaxed) {
            true => Some(some_flows(&mut router)?),
            false => None,
        };
        let is_due = self.usage.as_ref().is_none_or(|(asked, _)| asked.elapsed() >= USAGE_EVERY);
        if is_due {
            // Last: a router that does not know the question may close the connection.
            self.usage = Some((Instant::now(), router.usage().ok()));
        }
        let usage = self.usage.as_ref().and_then(|(_, usage)| usage.clone());
        Ok(Sample { at, status, drops, usage, flows })
    }

    /// Asks at each interval, until nobody wants to know any more; errors go the same way as answers.
    pub(super) fn ask_on<T>(
        mut self,
        interval: Duration,
        over: &Receiver<()>,
        answers: &Sender<T>,
        told: impl Fn(Result<Sample, (String, Duration)>) -> T,
    ) {
        loop {
            let answer = self.ask().map_err(|error| {
                // Of a router that comes back nothing is known.
                self.usage = None;
                (error.to_string(), self.started.elapsed())
            });
            if answers.send(told(answer)).is_err() {
                return;
            }
            match over.recv_timeout(interval) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

fn some_flows(router: &mut Client) -> Result<SomeFlows, ClientError> {
    let mut flows = SomeFlows::default();
    let mut next = Some(0);
    for _ in 0..FLOW_PAGES_MAX {
        let Some(cursor) = next.filter(|_| flows.rows.len() < FLOWS_MAX) else { break };
        let page = router.flows(cursor)?;
        flows.rows.extend(page.rows);
        next = page.next;
    }
    flows.are_all = next.is_none();
    Ok(flows)
}
