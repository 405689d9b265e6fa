//! The server over real Unix sockets: good clients, slow ones, and those that mean ill.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mio::{Events, Poll};
use spillway_api::limits::DOCUMENT_BYTES_MAX;
use spillway_api::{Applied, Client};
use tempfile::TempDir;

use super::*;

/// Bytes of an answer that no socket's buffer has room for.
const LARGE: usize = 1 << 19;

/// A server in a thread of its own, with a clock that stands still until it is put forward: however
/// slow the machine is, no connection's time is over before.
struct Running {
    directory: TempDir,
    ended: Arc<AtomicBool>,
    seconds_ahead: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start() -> Self {
        Self::with(Access::Full)
    }

    fn with(access: Access) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("run/spillway.sock");
        let mut poll = Poll::new().unwrap();
        let mut server = Server::bind(&path, access, poll.registry(), Token(100)).unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let seconds_ahead = Arc::new(AtomicU64::new(0));
        let (end, ahead) = (Arc::clone(&ended), Arc::clone(&seconds_ahead));
        let started = Instant::now();
        let thread = std::thread::spawn(move || {
            let mut events = Events::with_capacity(32);
            while !end.load(Ordering::Relaxed) {
                poll.poll(&mut events, Some(Duration::from_millis(10))).unwrap();
                for event in &events {
                    assert!(server.ready(event.token(), &mut answer));
                }
                let ahead = Duration::from_secs(ahead.load(Ordering::Relaxed));
                server.expire(started + ahead);
            }
        });
        Self { directory, ended, seconds_ahead, thread: Some(thread) }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("run/spillway.sock")
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Whether the server still serves others.
    fn is_alive(&self) -> bool {
        Client::connect(&self.path()).unwrap().put_state("alive".to_owned()).is_ok()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))), "the server panicked");
    }
}

/// Answers a document with its length, so that every answer can be told from the others.
fn answer(request: Request) -> Response {
    match request {
        Request::PutState { document } if document == "large" => {
            Response::refused("x".repeat(LARGE))
        }
        Request::PutState { document } => {
            Response::Applied(Applied { generation: document.len() as u64 })
        }
        _ => Response::refused("only documents"),
    }
}

fn read_line(stream: &UnixStream) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

fn message(line: &str) -> String {
    match serde_json::from_str(line).unwrap() {
        Response::Error(refusal) => refusal.message,
        other => panic!("expected an error, found {other:?}"),
    }
}

#[test]
fn requests_of_one_connection_are_answered_in_order() {
    let server = Running::start();
    let mut client = Client::connect(&server.path()).unwrap();
    for length in [0, 1, 70_000, 3_000_000] {
        assert_eq!(client.put_state("d".repeat(length)).unwrap().generation, length as u64);
    }
    assert_eq!(client.status().unwrap_err().to_string(), "only documents");
}

#[test]
fn requests_sent_in_one_go_are_all_answered() {
    let server = Running::start();
    let stream = server.connect();
    let requests: String = (0..200)
        .map(|n| format!("{{\"request\":\"put_state\",\"document\":\"{n:0>n$}\"}}\n"))
        .collect();
    (&stream).write_all(requests.as_bytes()).unwrap();
    let mut lines = BufReader::new(&stream).lines();
    for length in 0..200 {
        let expected = format!("{{\"response\":\"applied\",\"generation\":{}}}", length.max(1));
        assert_eq!(lines.next().unwrap().unwrap(), expected);
    }
}

#[test]
fn only_the_owner_may_open_a_socket_and_the_members_of_its_group() {
    for (access, mode) in [
        (Access::Full, 0o600),
        (Access::ReadOnly { group: None }, 0o600),
        // One that whoever runs this is in: others can be given only by root.
        (Access::ReadOnly { group: Some(rustix::process::getegid().as_raw()) }, 0o660),
    ] {
        let server = Running::with(access);
        let metadata = std::fs::metadata(server.path()).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{access:?}");
        if let Access::ReadOnly { group: Some(group) } = access {
            assert_eq!(metadata.gid(), group);
        }
    }
}

#[test]
fn a_read_only_socket_refuses_what_would_change_something_and_nothing_else() {
    let server = Running::with(Access::ReadOnly { group: None });
    let stream = server.connect();
    for (request, is_answered) in [
        ("{\"request\":\"status\"}", true),
        ("{\"request\":\"status\",\"author\":true}", false),
        ("{\"request\":\"policies\"}", true),
        ("{\"request\":\"flows\"}", true),
        ("{\"request\":\"drops\"}", true),
        ("{\"request\":\"usage\"}", true),
        ("{\"request\":\"trace\",\"from\":\"10.0.1.40\",\"to\":\"203.0.113.10\"}", true),
        ("{\"request\":\"events\"}", true),
        ("{\"request\":\"state\"}", false),
        ("{\"request\":\"put_state\",\"document\":\"generation: 1\"}", false),
        ("{\"request\":\"drain\",\"draining\":true}", false),
        ("{\"request\":\"drain\",\"draining\":false}", false),
    ] {
        (&stream).write_all(format!("{request}\n").as_bytes()).unwrap();
        let said = message(&read_line(&stream));
        // `answer` says the one, the socket the other.
        let expected = if is_answered { "only documents" } else { "this socket is read-only" };
        assert!(said.starts_with(expected), "{request}: {said}");
    }
}

#[test]
fn a_read_only_socket_takes_no_documents_into_memory() {
    let server = Running::with(Access::ReadOnly { group: None });
    let mut client = Client::connect(&server.path()).unwrap();
    let error = client.put_state("d".repeat(READ_ONLY_REQUEST_BYTES_MAX)).unwrap_err();
    assert_eq!(error.to_string(), "expected a request of at most 65536 bytes");
}

#[test]
fn garbage_is_refused_and_the_connection_goes_on() {
    let server = Running::start();
    let stream = server.connect();
    let deep = [b"[".repeat(100_000), b"\n".to_vec()].concat();
    for garbage in [&b"\n"[..], b"status\n", b"\xff\x00\xfe\n", b"{\"request\":\"dance\"}\n", &deep]
    {
        (&stream).write_all(garbage).unwrap();
        let message = message(&read_line(&stream));
        assert!(message.starts_with("expected one JSON object on a line"), "{message}");
    }
    (&stream).write_all(b"{\"request\":\"status\"}\n").unwrap();
    assert_eq!(message(&read_line(&stream)), "only documents");
}

#[test]
fn a_request_that_is_too_long_is_refused_and_ends_its_connection() {
    let server = Running::start();
    let mut client = Client::connect(&server.path()).unwrap();
    let error = client.put_state("d".repeat(DOCUMENT_BYTES_MAX)).unwrap_err();
    assert_eq!(error.to_string(), "expected a request of at most 67108864 bytes");
    assert!(client.status().is_err());
    assert!(server.is_alive());
}

#[test]
fn a_seventeenth_connection_is_told_so() {
    let server = Running::start();
    let mut open: Vec<UnixStream> = (0..CONNECTIONS_MAX).map(|_| server.connect()).collect();
    let one_too_many = read_line(&server.connect());
    assert_eq!(message(&one_too_many), "16 connections are open already; try again later");
    drop(open.pop());
    let deadline = Instant::now() + Duration::from_secs(60);
    while !server.is_alive() {
        assert!(Instant::now() < deadline, "the place that was given up is not used");
    }
    for stream in &open {
        (&*stream).write_all(b"{\"request\":\"status\"}\n").unwrap();
        assert_eq!(message(&read_line(stream)), "only documents");
    }
}

#[test]
fn a_slow_client_is_waited_for_and_hinders_nobody() {
    let server = Running::start();
    let slow = server.connect();
    for byte in b"{\"request\":\"put_state\",\"document\":\"slow\"}\n" {
        (&slow).write_all(&[*byte]).unwrap();
        assert!(server.is_alive());
    }
    assert_eq!(read_line(&slow), "{\"response\":\"applied\",\"generation\":4}\n");
}

#[test]
fn a_client_that_does_not_read_hinders_nobody_and_gets_all_when_it_does() {
    let server = Running::start();
    let stream = server.connect();
    (&stream).write_all(b"{\"request\":\"put_state\",\"document\":\"large\"}\n").unwrap();
    assert!(server.is_alive());
    assert_eq!(message(&read_line(&stream)).len(), LARGE);
}

#[test]
fn a_connection_whose_time_is_over_is_closed() {
    let server = Running::start();
    let idle = server.connect();
    let half = server.connect();
    (&half).write_all(b"{\"request\":").unwrap();
    let unread = server.connect();
    (&unread).write_all(b"{\"request\":\"put_state\",\"document\":\"large\"}\n").unwrap();
    assert!(server.is_alive());
    server.seconds_ahead.store(3_600, Ordering::Relaxed);
    for mut stream in [&idle, &half, &unread] {
        let mut rest = Vec::new();
        // Bytes that were sent already may still be read; then comes the end.
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.len() < LARGE);
    }
    server.seconds_ahead.store(0, Ordering::Relaxed);
    assert!(server.is_alive());
}

#[test]
fn a_client_that_leaves_without_its_answer_hinders_nobody() {
    let server = Running::start();
    // So many that each place would be taken if it were not given up.
    for _ in 0..3 * CONNECTIONS_MAX {
        let stream = server.connect();
        // Some come before the server knows that others have left, and are refused.
        let _ = (&stream).write_all(b"{\"request\":\"put_state\",\"document\":\"large\"}\n");
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while !server.is_alive() {
        assert!(Instant::now() < deadline, "the connections are still held");
    }
}

fn bind(path: &Path) -> Result<Server, ServerError> {
    let poll = Poll::new().unwrap();
    Server::bind(path, Access::Full, poll.registry(), Token(0))
}

#[test]
fn a_socket_left_by_a_dead_process_is_replaced() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("spillway.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let server = bind(&path).unwrap();
    assert!(UnixStream::connect(&path).is_ok());
    drop(server);
    assert!(!path.exists());
}

#[test]
fn a_socket_on_which_somebody_listens_is_left_alone() {
    let server = Running::start();
    let error = bind(&server.path()).unwrap_err();
    let path = server.path();
    assert_eq!(
        error.to_string(),
        format!(
            "another process listens on {}: stop it, or configure another path for this one",
            path.display()
        )
    );
    assert!(server.is_alive());
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    let error = bind(&path).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{} exists and is no socket: remove it, or configure another path", path.display())
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
}

#[test]
fn a_socket_of_a_successor_is_not_removed() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("spillway.sock");
    let server = bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let successor = bind(&path).unwrap();
    drop(server);
    assert!(path.exists());
    drop(successor);
    assert!(!path.exists());
}

#[test]
fn a_token_of_somebody_else_is_not_taken() {
    let directory = TempDir::new().unwrap();
    let poll = Poll::new().unwrap();
    let path = directory.path().join("spillway.sock");
    let mut server = Server::bind(&path, Access::Full, poll.registry(), Token(100)).unwrap();
    assert!(!server.ready(Token(99), &mut answer));
    assert!(server.ready(Token(100), &mut answer));
    assert!(server.ready(Token(100 + Server::TOKENS - 1), &mut answer));
    assert!(!server.ready(Token(100 + Server::TOKENS), &mut answer));
    assert_eq!(server.deadline(), None);
}
