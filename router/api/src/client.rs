//! A blocking client of the operator's socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::capture::{CapturePage, CaptureRequest};
use crate::event::EventPage;
use crate::limits::{PAGE_ROWS_MAX, RESPONSE_BYTES_MAX};
use crate::message::{
    Applied, Drops, FlowPage, LogLevel, PolicyPage, PortBlockPage, Refusal, Request, Response,
    Status, Trace, TraceRequest, Usage,
};

/// Where the router listens unless it is told otherwise.
pub const SOCKET_DEFAULT: &str = "/run/spillway/spillway.sock";

/// How long one read or write may take, unless the caller says otherwise. Programming a large document
/// takes seconds.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How long a count of flows that goes on is waited for, and how soon it is asked again.
const USAGE_WITHIN: Duration = Duration::from_secs(60);
const USAGE_AGAIN: Duration = Duration::from_millis(100);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "cannot reach Spillway at {path}: {}. Is `spillway run` running? Name its socket with \
         --socket.",
        os_error(.error)
    )]
    Unreachable {
        /// The socket.
        path: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// This user may not ask there.
    #[error(
        "may not use Spillway's socket {0}: be root, or, for what only asks, name the read-only \
         socket with --socket, as a member of its group (`read_only_group`)"
    )]
    NotPermitted(String),
    /// The exchange broke off.
    #[error("no whole answer from Spillway at {path}: {}", os_error(.error))]
    Exchange {
        /// The socket.
        path: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// The answer is none that this version knows.
    #[error(
        "cannot read the answer of Spillway at {path}: {detail}. Does `spillway run` have another \
         version?"
    )]
    Unreadable {
        /// The socket.
        path: String,
        /// What was wrong with it.
        detail: String,
    },
    /// The router refused the request.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A connection to a running router.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    timeout: Duration,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the router that listens at `path`.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreachable`] when nobody does, [`ClientError::NotPermitted`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        Self::connect_within(path, TIMEOUT)
    }

    /// The same, where one read or write may take so long, which is not 0.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreachable`] when nobody listens, [`ClientError::NotPermitted`].
    pub fn connect_within(path: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let connected = UnixStream::connect(path).and_then(|stream| {
            stream.set_read_timeout(Some(timeout))?;
            stream.set_write_timeout(Some(timeout))?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => {
                Ok(Self { path: path.to_owned(), timeout, stream: BufReader::new(stream) })
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(ClientError::NotPermitted(display(path)))
            }
            Err(error) => Err(ClientError::Unreachable { path: display(path), error }),
        }
    }

    /// How the router is.
    ///
    /// # Errors
    ///
    /// Any but [`ClientError::Unreachable`].
    pub fn status(&mut self) -> Result<Status, ClientError> {
        self.ask_status(false)
    }

    /// The same, for the author of the state documents: the router takes note of when it asked last.
    ///
    /// # Errors
    ///
    /// Any but [`ClientError::Unreachable`].
    pub fn status_for_author(&mut self) -> Result<Status, ClientError> {
        self.ask_status(true)
    }

    fn ask_status(&mut self, author: bool) -> Result<Status, ClientError> {
        match self.exchange(&Request::Status { author })? {
            Response::Status(status) => Ok(status),
            other => Err(self.unexpected(other)),
        }
    }

    /// The rows of the programmed policies from `cursor` on: 0, then each page's `next`.
    ///
    /// # Errors
    ///
    /// Any but [`ClientError::Unreachable`].
    pub fn policies(&mut self, cursor: u64) -> Result<PolicyPage, ClientError> {
        match self.exchange(&Request::Policies { cursor, limit: PAGE_ROWS_MAX })? {
            Response::Policies(page) => Ok(page),
            other => Err(self.unexpected(other)),
        }
    }

    /// The live flows from `cursor` on: 0, then each page's `next`.
    ///
    /// # Errors
    ///
    /// Any but [`ClientError::Unreachable`].
    pub fn flows(&mut self, cursor: u64) -> Result<FlowPage, ClientError> {
        match self.exchange(&Request::Flows { cursor, limit: PAGE_ROWS_MAX })? {
            Response::Flows(page) => Ok(page),
            other => Err(self.unexpected(other)),
        }
    }

    /// The blocks of ports that pods have from `cursor` on: 0, then each page's `next`.
    ///
    /// # Errors
    ///
    /// Any but [`ClientError::Unreachable`]; [`ClientError::Refused`] by a router that is older.
    pub fn port_blocks(&mut self, cursor: u64) -> Result<PortBlockPage, ClientError> {
        match self.exchange(&Request::PortBlocks { cursor, limit: PAGE_ROWS_MAX })? {
            Response::PortBlocks(page) => Ok(page),
            other => Err(self.unexpected(other)),
        }
    }

    /// What was dropped, passed and steered.
    ///
    /// # Errors
    ///
    /// Any but [`ClientError::Unreachable`].
    pub fn drops(&mut self) -> Result<Drops, ClientError> {
        match self.exchange(&Request::Drops)? {
            Response::Drops(drops) => Ok(drops),
            other => Err(self.unexpected(other)),
        }
    }

    /// What flows use of egress addresses and policies, as it was counted last.
    ///
    /// # Errors
    ///
    /// Any but [`ClientError::Unreachable`]; [`ClientError::Refused`] by a router that is older.
    pub fn usage(&mut self) -> Result<Usage, ClientError> {
        match self.exchange(&Request::Usage)? {
            Response::Usage(usage) => Ok(usage),
            other => Err(self.unexpected(other)),
        }
    }

    /// The same, but where a count goes on, what it gives; after a minute what there is by then.
    ///
    /// # Errors
    ///
    /// Those of [`Client::usage`].
    pub fn usage_counted_anew(&mut self) -> Result<Usage, ClientError> {
        let deadline = Instant::now() + USAGE_WITHIN;
        let first = self.usage()?;
        let mut usage = first.clone();
        while usage.counting
            && (!usage.counted || usage.counted_at_ms == first.counted_at_ms)
            && Instant::now() < deadline
        {
            std::thread::sleep(USAGE_AGAIN);
            usage = self.usage()?;
        }
        Ok(usage)
    }

    /// What would become of a packet; nothing changes.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] when there can be no such packet, or no state document is in force.
    pub fn trace(&mut self, packet: TraceRequest) -> Result<Trace, ClientError> {
        match self.exchange(&Request::Trace(packet))? {
            Response::Trace(trace) => Ok(trace),
            other => Err(self.unexpected(other)),
        }
    }

    /// What happened to flows from the event with this number on: 0 for the oldest that is kept, then
    /// each page's `next`.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] when the router keeps no events.
    pub fn events(&mut self, cursor: u64) -> Result<EventPage, ClientError> {
        match self.exchange(&Request::Events { cursor, limit: PAGE_ROWS_MAX })? {
            Response::Events(page) => Ok(page),
            other => Err(self.unexpected(other)),
        }
    }

    /// The state document in force, as JSON; none before the first.
    ///
    /// # Errors
    ///
    /// Any but [`ClientError::Unreachable`]; [`ClientError::Refused`] by a router that is older.
    pub fn state(&mut self) -> Result<Option<String>, ClientError> {
        match self.exchange(&Request::State)? {
            Response::State { document } => Ok(document),
            other => Err(self.unexpected(other)),
        }
    }

    /// Replaces the state document by the one in `document`, YAML or JSON.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] when the document is wrong or old; the running one stays.
    pub fn put_state(&mut self, document: String) -> Result<Applied, ClientError> {
        match self.exchange(&Request::PutState { document })? {
            Response::Applied(applied) => Ok(applied),
            other => Err(self.unexpected(other)),
        }
    }

    /// Lets flows go on and no new one begin, or begin again.
    ///
    /// # Errors
    ///
    /// Any but [`ClientError::Unreachable`].
    pub fn drain(&mut self, draining: bool) -> Result<(), ClientError> {
        match self.exchange(&Request::Drain { draining })? {
            Response::Drained { draining: done } if done == draining => Ok(()),
            other => Err(self.unexpected(other)),
        }
    }

    /// Begins to capture packets; gives the capture's id.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] when one is going on, or the request is wrong.
    pub fn capture(&mut self, request: CaptureRequest) -> Result<u64, ClientError> {
        match self.exchange(&Request::Capture(request))? {
            Response::Capturing { id } => Ok(id),
            other => Err(self.unexpected(other)),
        }
    }

    /// Takes what a capture has captured since, and, with `end`, ends it: its last page has no more.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] when there is no such capture any more.
    pub fn take_captured(&mut self, id: u64, end: bool) -> Result<CapturePage, ClientError> {
        match self.exchange(&Request::TakeCaptured { id, end })? {
            Response::Captured(page) => Ok(page),
            other => Err(self.unexpected(other)),
        }
    }

    /// What the router logs, and, with a filter, from now on: for so many seconds, or as long as it runs.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] when the filter is wrong; the one before stays.
    pub fn log_level(
        &mut self,
        filter: Option<String>,
        for_s: Option<u64>,
    ) -> Result<LogLevel, ClientError> {
        match self.exchange(&Request::LogLevel { filter, for_s })? {
            Response::LogLevel(level) => Ok(level),
            other => Err(self.unexpected(other)),
        }
    }

    fn exchange(&mut self, request: &Request) -> Result<Response, ClientError> {
        let line = self.send(request).and_then(|()| self.receive()).map_err(|error| {
            let (path, error) = (display(&self.path), plain(error, self.timeout));
            ClientError::Exchange { path, error }
        })?;
        serde_json::from_slice(&line).map_err(|error| self.unreadable(error.to_string()))
    }

    /// Sends a request. A router that has refused it half-read closes: its answer counts.
    fn send(&mut self, request: &Request) -> io::Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        let sent = self.stream.get_mut().write_all(&line);
        match sent.as_ref().map_err(io::Error::kind) {
            Err(io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(()),
            _ => sent,
        }
    }

    fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        self.stream.by_ref().take(RESPONSE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if line.ends_with(b"\n") {
            return Ok(line);
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed"))
    }

    fn unexpected(&self, response: Response) -> ClientError {
        match response {
            Response::Error(refusal) => ClientError::Refused(refusal),
            _ => self.unreadable("it answers another request".to_owned()),
        }
    }

    fn unreadable(&self, detail: String) -> ClientError {
        ClientError::Unreadable { path: display(&self.path), detail }
    }
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

/// The error; a timeout as what it is.
fn plain(error: io::Error, timeout: Duration) -> io::Error {
    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
        let words = format!("nothing came for {} seconds", timeout.as_secs());
        return io::Error::new(io::ErrorKind::TimedOut, words);
    }
    error
}

/// The kernel's words for an error, without their number.
#[must_use]
pub fn os_error(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}
