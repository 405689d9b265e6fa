//! A router that is played: it answers with the events and flows that a test has told it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde_json::{Value, json};
use spillway_api::{Event, EventPage, Flow, FlowPage, PortBlock, PortBlockPage, Request, Response};
use tempfile::TempDir;

/// What it knows.
#[derive(Default)]
struct State {
    /// When it started: connections of the one before end.
    since_us: u64,
    events: Vec<Event>,
    lost: u64,
    flows: Vec<Flow>,
    /// Blocks of ports that pods have; none where ports are leased one by one.
    blocks: Option<Vec<PortBlock>>,
}

/// The router, and a directory with its socket.
pub(crate) struct Router {
    pub(crate) directory: TempDir,
    state: Arc<Mutex<State>>,
}

impl Router {
    pub(crate) fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let state = Arc::new(Mutex::new(State { since_us: micros(3_600), ..State::default() }));
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        let known = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let known = Arc::clone(&known);
                std::thread::spawn(move || answer_all(&stream.unwrap(), &known));
            }
        });
        Self { directory, state }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file's name as a word of a command line.
    pub(crate) fn word(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    /// Something happens to the flow of a pod's port, so many seconds before now.
    pub(crate) fn happens(&self, kind: &str, port: u16, seconds_ago: u64) {
        self.happens_to(kind, &original(port), &reply(port), seconds_ago);
    }

    /// Something happens now to the flow of a pod that leaves as `egress`.
    pub(crate) fn happens_between(
        &self,
        kind: &str,
        pod: (&str, u16),
        egress: (&str, u16),
        remote: (&str, u16),
    ) {
        self.happens_to(kind, &tuple(pod, remote), &tuple(remote, egress), 0);
    }

    fn happens_to(&self, kind: &str, original: &Value, reply: &Value, seconds_ago: u64) {
        let time_us = micros(seconds_ago);
        self.change(|state| {
            let number = state.events.last().map_or(1, |last| last.number + 1);
            let mut event = json!({
                "number": number, "time_us": time_us, "worker": 0, "kind": kind, "protocol": "tcp",
                "original": original, "reply": reply, "pod": "shop/cart-0",
                "policy": "app1", "peer": "192.168.211.128",
            });
            if kind == "end" {
                event["reason"] = "closed".into();
                event["total"] = json!({
                    "duration_ms": 1_000, "original_packets": 5, "original_bytes": 420,
                    "reply_packets": 4, "reply_bytes": 990,
                });
            }
            state.events.push(serde_json::from_value(event).unwrap());
        });
    }

    /// The pod gets or gives back the 64 ports from this one on, so many seconds before now.
    pub(crate) fn happens_to_block(&self, kind: &str, first: u16, seconds_ago: u64) {
        let (time_us, none) = (micros(seconds_ago), "0.0.0.0");
        self.change(|state| {
            let number = state.events.last().map_or(1, |last| last.number + 1);
            let event = json!({
                "number": number, "time_us": time_us, "worker": 0, "kind": kind, "protocol": "any",
                "original": tuple(("10.0.1.40", 0), (none, 0)),
                "reply": tuple((none, 0), ("192.168.44.129", first)),
                "pod": "shop/cart-0", "last_port": first + 63,
            });
            state.events.push(serde_json::from_value(event).unwrap());
            state.blocks.get_or_insert_default();
        });
    }

    /// The pod has the 64 ports from this one on, since so many seconds.
    pub(crate) fn has_block(&self, first: u16, age: u64) {
        let block = json!({
            "worker": 0, "pod": "shop/cart-0", "pod_address": "10.0.1.40",
            "egress_address": "192.168.44.129", "first_port": first, "last_port": first + 63,
            "flows": 1, "age_s": age,
        });
        let block = serde_json::from_value(block).unwrap();
        self.change(|state| state.blocks.get_or_insert_default().push(block));
    }

    /// A pod's flow is there, since so many seconds.
    pub(crate) fn has_flow(&self, port: u16, age: u64) {
        let flow = json!({
            "worker": 0, "protocol": "tcp", "original": original(port), "reply": reply(port),
            "state": "established", "age_s": age, "idle_s": 0, "original_packets": 1,
            "original_bytes": 1, "reply_packets": 1, "reply_bytes": 1, "policy": "app1",
            "peer": "192.168.211.128", "pod": "shop/cart-0",
        });
        self.change(|state| state.flows.push(serde_json::from_value(flow).unwrap()));
    }

    /// It could not note so many events more.
    pub(crate) fn loses(&self, events: u64) {
        self.change(|state| state.lost += events);
    }

    /// It ends, and another one starts that knows nothing of its events.
    pub(crate) fn restarts(&self) {
        self.change(|state| {
            let (flows, blocks) = (std::mem::take(&mut state.flows), state.blocks.take());
            *state = State { since_us: micros(0), flows, blocks, ..State::default() };
        });
    }
}

/// So many seconds before now, in microseconds since 1970.
fn micros(seconds_ago: u64) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_micros()).unwrap() - seconds_ago * 1_000_000
}

/// The flow of a pod's port, which is seen as the port one above it.
fn original(port: u16) -> Value {
    tuple(("10.0.1.40", port), ("203.0.113.10", 443))
}

fn reply(port: u16) -> Value {
    tuple(("203.0.113.10", 443), ("192.168.44.129", port.wrapping_add(1)))
}

fn tuple(source: (&str, u16), destination: (&str, u16)) -> Value {
    json!({
        "source": source.0, "source_port": source.1,
        "destination": destination.0, "destination_port": destination.1,
    })
}

/// Answers the requests of a connection, until the router has ended.
fn answer_all(stream: &UnixStream, state: &Mutex<State>) {
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    let since_us = lock().since_us;
    for line in BufReader::new(stream).lines() {
        // The other side may end at any time.
        let Ok(line) = line else { return };
        let state = lock();
        if state.since_us != since_us {
            return;
        }
        let response = answer(&state, &serde_json::from_str(&line).unwrap());
        drop(state);
        let text = serde_json::to_string(&response).unwrap() + "\n";
        let mut stream = stream;
        if stream.write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

fn answer(state: &State, request: &Request) -> Response {
    match request {
        Request::Events { cursor, limit } => {
            let events = state.events.iter().filter(|event| event.number >= *cursor);
            let events: Vec<Event> = events.take((*limit).min(2) as usize).cloned().collect();
            let end = state.events.last().map_or(1, |last| last.number + 1);
            let next = events.last().map_or(end, |last| last.number + 1);
            let first = state.events.first().map_or(end, |first| first.number);
            let (lost, since_us) = (state.lost, state.since_us);
            let port_blocks = state.blocks.is_some();
            Response::Events(EventPage { events, first, next, lost, since_us, port_blocks })
        }
        Request::Flows { cursor, .. } => {
            let at = usize::try_from(*cursor).unwrap();
            let rows: Vec<Flow> = state.flows.iter().skip(at).take(1).cloned().collect();
            let next = (at + 1 < state.flows.len()).then_some(cursor + 1);
            Response::Flows(FlowPage { rows, next })
        }
        Request::PortBlocks { cursor, .. } => {
            let (at, all) = (usize::try_from(*cursor).unwrap(), state.blocks.iter().flatten());
            let rows: Vec<PortBlock> = all.clone().skip(at).take(1).cloned().collect();
            let next = (at + 1 < all.count()).then_some(cursor + 1);
            Response::PortBlocks(PortBlockPage { rows, next })
        }
        other => Response::refused(format!("nobody has said what to answer to {other:?}")),
    }
}

/// The lines of a file, as JSON; none of one that is not there yet.
pub(crate) fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
