//! `spillway serve` as a process, and clients that mean ill.

// Only the bodies of `#[test]` functions are exempt by themselves.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, ErrorKind, Lines, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

/// Connections at one time, as router/src/serve/README.md has it.
const CONNECTIONS: usize = 16;

/// A server without a router, on free ports.
struct Server {
    process: Child,
    /// What it says would be lost, and the process with it, if nobody could read it.
    _log: Lines<BufReader<ChildStderr>>,
    probes: SocketAddr,
    everything: SocketAddr,
}

impl Server {
    fn start() -> Self {
        // An IPv4 address in brackets, as a manifest has it that is for both families.
        let mut process = Command::new(env!("CARGO_BIN_EXE_spillway"))
            .args(["serve", "--listen", "[127.0.0.1]:0", "--probes", "127.0.0.1:0"])
            .args(["--socket", "/nonexistent/socket"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut address = || {
            let line = log.next().expect("it says where it listens").unwrap();
            let (_, address) = line.split_once("listening on http://").expect(&line);
            address.parse().unwrap()
        };
        let (probes, everything) = (address(), address());
        Self { process, _log: log, probes, everything }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What is answered within a time; nothing if nothing comes.
fn get(address: SocketAddr, path: &str, within: Duration) -> Option<String> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(within)).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    match stream.read_to_string(&mut text) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        read => read.map(|_| Some(text)).unwrap(),
    }
}

#[test]
fn a_kubelet_is_answered_while_silent_clients_hold_everything_else() {
    let server = Server::start();
    let minute = Duration::from_secs(60);
    let answer = get(server.everything, "/livez", minute).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");

    // Those that come later wait until these have been closed, one lot after the other, each after two
    // seconds.
    let silent: Vec<_> =
        (0..8 * CONNECTIONS).map(|_| TcpStream::connect(server.everything).unwrap()).collect();
    let other = get(server.everything, "/livez", Duration::from_secs(1));
    assert_eq!(other, None, "the silent clients do not hold it");
    for (path, status) in [("/livez", "HTTP/1.0 200"), ("/readyz", "HTTP/1.0 503")] {
        let answer = get(server.probes, path, Duration::from_secs(10)).expect(path);
        assert!(answer.starts_with(status), "{answer}");
    }
    let other = get(server.everything, "/livez", Duration::from_secs(1));
    assert_eq!(other, None, "the silent clients did not hold it all the time");
    drop(silent);
}
