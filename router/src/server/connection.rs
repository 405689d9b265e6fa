//! One connection to the operator's socket: bytes in, a request, its response, bytes out.

use std::io::{self, Read as _, Write as _};
use std::time::Instant;

use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use spillway_api::limits::{CONNECTIONS_MAX, EXCHANGE_TIMEOUT};
use spillway_api::{Request, Response};

/// Bytes that one read takes at most.
const READ_BYTES: usize = 64 * 1024;

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It waits for its client.
    Waits,
    /// It could go on at once.
    HasMore,
    /// It is to be closed.
    Ended,
}

/// A client's connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    /// Bytes of a request, at most.
    request_bytes_max: usize,
    /// Received and not yet answered.
    input: Vec<u8>,
    /// How much of `input` is known to hold no end of line.
    searched: usize,
    /// The response that is being sent.
    output: Vec<u8>,
    /// How much of `output` is sent.
    sent: usize,
    /// Whether the connection ends with this response.
    is_last: bool,
    /// When it is closed, unless a request or a response is completed before.
    pub(super) deadline: Instant,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, request_bytes_max: usize) -> Self {
        Self {
            stream,
            request_bytes_max,
            input: Vec::new(),
            searched: 0,
            output: Vec::new(),
            sent: 0,
            is_last: false,
            deadline: Instant::now() + EXCHANGE_TIMEOUT,
        }
    }

    /// Tells one client too many why it is not served.
    pub(super) fn refuse(mut stream: UnixStream) {
        let message = format!("{CONNECTIONS_MAX} connections are open already; try again later");
        // A new socket has room for this line; a client that is gone has no need of it.
        let _ = stream.write(&line(&Response::refused(message)));
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.stream, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Has the event loop report the connection again, although nothing new happens to it.
    pub(super) fn reregister(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.reregister(&mut self.stream, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Goes on until the client must do something, or one exchange is done.
    pub(super) fn advance(&mut self, answer: &mut dyn FnMut(Request) -> Response) -> Progress {
        loop {
            let step = if self.output.is_empty() {
                self.receive(answer)
            } else {
                self.send().map(|()| Some(Progress::HasMore))
            };
            match step {
                Ok(None) => {}
                Ok(Some(_)) if self.is_last && self.output.is_empty() => return Progress::Ended,
                Ok(Some(progress)) => return progress,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Waits,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Progress::Ended,
            }
        }
    }

    /// Takes a request from what was received, or receives more.
    fn receive(
        &mut self,
        answer: &mut dyn FnMut(Request) -> Response,
    ) -> io::Result<Option<Progress>> {
        let end = self.input[self.searched..].iter().position(|byte| *byte == b'\n');
        let end = end.map(|end| self.searched + end);
        if end.unwrap_or(self.input.len()) > self.request_bytes_max {
            let message = format!("expected a request of at most {} bytes", self.request_bytes_max);
            self.input = Vec::new();
            self.is_last = true;
            self.begin_output(&Response::refused(message));
            return Ok(None);
        }
        if let Some(end) = end {
            let response = respond(&self.input[..end], answer);
            self.input.drain(..=end);
            self.begin_output(&response);
            return Ok(None);
        }
        self.searched = self.input.len();
        let mut buffer = [0; READ_BYTES];
        match self.stream.read(&mut buffer)? {
            0 => Ok(Some(Progress::Ended)),
            count => {
                self.input.extend_from_slice(&buffer[..count]);
                Ok(None)
            }
        }
    }

    /// Begins to send a response. The client has its time to read it, however long it took.
    fn begin_output(&mut self, response: &Response) {
        self.output = line(response);
        self.searched = 0;
        self.deadline = Instant::now() + EXCHANGE_TIMEOUT;
    }

    /// Sends the response, all of it. The time for the next request begins then.
    fn send(&mut self) -> io::Result<()> {
        while self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..])? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => self.sent += count,
            }
        }
        self.output = Vec::new();
        self.sent = 0;
        self.deadline = Instant::now() + EXCHANGE_TIMEOUT;
        Ok(())
    }
}

fn respond(request: &[u8], answer: &mut dyn FnMut(Request) -> Response) -> Response {
    match serde_json::from_slice(request) {
        Ok(request) => answer(request),
        Err(error) => Response::refused(format!(
            "expected one JSON object on a line, such as {{\"request\":\"status\"}}: {error}"
        )),
    }
}

fn line(response: &Response) -> Vec<u8> {
    let mut line = serde_json::to_vec(response).unwrap_or_else(|error| {
        // Maps with keys that are no text do not serialize; no response has one.
        tracing::error!("a response has no JSON form: {error}");
        b"{\"response\":\"error\",\"message\":\"the response has no JSON form\"}".to_vec()
    });
    line.push(b'\n');
    line
}
