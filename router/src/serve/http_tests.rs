//! The server over real connections: Prometheus and the kubelet, slow clients, and those that mean ill.
//! The router is played by a listener.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use spillway_api::{Request, Response as Answer};
use tempfile::TempDir;

use super::*;
use crate::serve::sample::{drops, status, usage};

/// Short enough for a test, long enough for a busy machine.
const LIMITS: Limits = Limits {
    connections: 4,
    head_within: Duration::from_secs(1),
    answer_within: Duration::from_secs(2),
    connection_within: Duration::from_secs(4),
};

/// A server on a free port; it ends with the process.
pub(in crate::serve) struct Running {
    address: SocketAddr,
    directory: TempDir,
}

impl Running {
    pub(in crate::serve) fn start(with_page: bool) -> Self {
        Self::with_routes(move |asker| everything(asker, with_page))
    }

    fn with_routes(routes: impl FnOnce(Asker) -> Router + Send + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let socket = directory.path().join("socket");
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                let asker = Asker::new(&socket, LIMITS.answer_within);
                serve(listener, routes(asker), LIMITS).await;
            });
        });
        Self { address, directory }
    }

    /// With a router that has each of its connections served by `serve`, in a thread of its own.
    fn with_router(serve: impl Fn(&UnixStream) + Clone + Send + 'static) -> Self {
        Self::start(false).and_router(serve)
    }

    /// The same, with a page if it was started with one.
    pub(in crate::serve) fn and_router(
        self,
        serve: impl Fn(&UnixStream) + Clone + Send + 'static,
    ) -> Self {
        let running = self;
        let listener = UnixListener::bind(running.directory.path().join("socket")).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serve = serve.clone();
                std::thread::spawn(move || serve(&stream));
            }
        });
        running
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Everything that comes back for a request's head.
    pub(in crate::serve) fn ask(&self, head: &str) -> String {
        let mut stream = self.connect();
        let host = if head.contains("Host: ") { "" } else { "Host: 127.0.0.1\r\n" };
        stream.write_all(format!("{head}\r\n{host}\r\n").as_bytes()).unwrap();
        until_closed(&mut stream)
    }

    pub(in crate::serve) fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1"))
    }
}

fn until_closed(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    // A reset ends it too; what came before counts.
    let _ = stream.read_to_string(&mut text);
    text
}

/// Answers as a router does that forwards.
fn answer(mut stream: &UnixStream) {
    for line in BufReader::new(stream).lines() {
        let answer = match serde_json::from_str(&line.unwrap()).unwrap() {
            Request::Status { .. } => Answer::Status(status()),
            Request::Drops => Answer::Drops(drops()),
            Request::Usage => Answer::Usage(usage()),
            other => panic!("not expected: {other:?}"),
        };
        stream.write_all((serde_json::to_string(&answer).unwrap() + "\n").as_bytes()).unwrap();
    }
}

pub(in crate::serve) fn assert_is(response: &str, status: &str, body: &str) {
    assert!(response.starts_with(&format!("HTTP/1.1 {status}")), "{response}");
    let (_, found) = response.split_once("\r\n\r\n").unwrap();
    assert!(found.contains(body), "{response}");
}

#[test]
fn a_router_that_forwards_is_ready_and_has_metrics() {
    let running = Running::with_router(answer);
    assert_is(&running.get("/livez"), "200", "ok\n");
    assert_is(&running.get("/livez?verbose"), "200", "livez check passed\n");
    assert_is(&running.get("/readyz"), "200", "ok\n");
    assert_is(
        &running.get("/readyz?timeout=1s&verbose=1"),
        "200",
        "[+]draining ok\nreadyz check passed",
    );
    let plain = running.get("/metrics");
    assert_is(&plain, "200", "# TYPE spillway_dropped_packets_total counter\n");
    assert!(plain.contains("content-type: text/plain; version=0.0.4"), "{plain}");
    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
    let open = running.ask(&format!("GET /metrics HTTP/1.1\r\n{accept}"));
    assert_is(&open, "200", "# TYPE spillway_dropped_packets counter\n");
    assert!(open.contains("content-type: application/openmetrics-text; version=1.0.0"), "{open}");
    assert!(open.ends_with("# EOF\n"), "{open}");
}

#[test]
fn without_a_router_it_lives_says_so_and_is_not_ready() {
    let running = Running::start(false);
    assert_is(&running.get("/livez"), "200", "ok\n");
    let response = running.get("/readyz");
    assert_is(&response, "503", "[-]router failed: cannot reach Spillway at ");
    assert_is(&response, "503", "Is `spillway run` running?");
    assert_is(&running.get("/metrics"), "200", "\nspillway_up 0.0\n");
}

#[test]
fn what_is_not_served_is_refused() {
    let running = Running::with_router(answer);
    assert_is(&running.get("/"), "404", "try /metrics");
    // Flows are shown only where somebody wants that.
    for path in ["/page.js", "/api/v1/status", "/api/v1/flows"] {
        assert_is(&running.get(path), "404", "try /metrics");
    }
    assert_is(&running.get("/metrics/../../etc/passwd"), "404", "try /metrics");
    let posted = running.ask("POST /metrics HTTP/1.1\r\nContent-Length: 0");
    assert_is(&posted, "405", "");
    assert!(posted.contains("allow: GET,HEAD"), "{posted}");
    let head = running.ask("HEAD /livez HTTP/1.1");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-length: 3"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "it has a body: {head}");
    assert_is(&running.ask("\u{1}\u{2}\u{3}"), "400", "");
    let long = format!("GET /livez HTTP/1.1\r\nX: {}", "x".repeat(HEAD_BYTES_MAX));
    assert_is(&running.ask(&long), "431", "");
    // A body that nobody wants is not waited for.
    let endless = "GET /livez HTTP/1.1\r\nContent-Length: 999999999";
    assert_is(&running.ask(endless), "200", "ok\n");
}

#[test]
fn probes_are_all_that_is_asked_where_probes_are() {
    let running = Running::with_routes(probes);
    assert_is(&running.get("/livez"), "200", "ok\n");
    assert_is(&running.get("/readyz"), "503", "[-]router failed: cannot reach Spillway at ");
    assert_is(&running.get("/metrics"), "404", "not here");
}

#[test]
fn a_request_that_does_not_end_ends_with_its_connection() {
    let running = Running::start(false);
    let start = Instant::now();
    let mut slow = running.connect();
    slow.write_all(b"GET /livez HTTP/1.1\r\nHost: te").unwrap();
    assert_is(&running.get("/livez"), "200", "ok\n");
    let said = until_closed(&mut slow);
    assert!(!said.contains("200"), "{said}");
    assert!(start.elapsed() >= LIMITS.head_within, "closed before its time");
}

#[test]
fn beyond_the_connections_that_there_may_be_the_next_one_waits_for_its_turn() {
    let running = Running::start(false);
    let start = Instant::now();
    let idle: Vec<TcpStream> = (0..LIMITS.connections).map(|_| running.connect()).collect();
    assert_is(&running.get("/livez"), "200", "ok\n");
    assert!(start.elapsed() >= LIMITS.head_within, "it did not wait until an idle one was closed");
    drop(idle);
}

#[test]
fn a_router_that_says_nothing_is_asked_once_at_a_time_and_not_waited_for() {
    let (asked, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&most);
    let running = Running::with_router(move |mut stream| {
        seen.fetch_max(asked.fetch_add(1, SeqCst) + 1, SeqCst);
        // Until the client gives up.
        let _ = stream.read_to_end(&mut Vec::new());
        asked.fetch_sub(1, SeqCst);
    });
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let start = Instant::now();
                assert_is(&running.get("/readyz"), "503", "[-]router failed: no");
                assert!(start.elapsed() < LIMITS.connection_within, "{:?}", start.elapsed());
            });
        }
        scope.spawn(|| assert_is(&running.get("/livez"), "200", "ok\n"));
    });
    assert_eq!(most.load(SeqCst), 1);
}
