//! The client against listeners that answer well, badly, or not at all.

// Only the bodies of `#[test]` functions are exempt by themselves.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::thread::JoinHandle;

use spillway_api::{Applied, Client, ClientError, Request, Response, TraceProtocol, TraceRequest};
use tempfile::TempDir;

/// Answers one request with these bytes and closes.
fn listener_that_answers(answer: Vec<u8>) -> (TempDir, PathBuf, JoinHandle<String>) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut request = String::new();
        BufReader::new(&stream).read_line(&mut request).unwrap();
        (&stream).write_all(&answer).unwrap();
        request
    });
    (directory, path, thread)
}

fn answered(response: &Response) -> Vec<u8> {
    let mut line = serde_json::to_vec(response).unwrap();
    line.push(b'\n');
    line
}

#[test]
fn a_document_is_put_and_its_generation_comes_back() {
    let answer = answered(&Response::Applied(Applied { generation: 7 }));
    let (_directory, path, thread) = listener_that_answers(answer);
    let applied = Client::connect(&path).unwrap().put_state("généra\ntion".to_owned()).unwrap();
    assert_eq!(applied.generation, 7);
    let request: Request = serde_json::from_str(&thread.join().unwrap()).unwrap();
    assert_eq!(request, Request::PutState { document: "généra\ntion".to_owned() });
}

/// A packet of which as little is said as can be.
const TRACED: TraceRequest = TraceRequest {
    from: IpAddr::V4(Ipv4Addr::new(10, 0, 1, 40)),
    to: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
    protocol: TraceProtocol::Tcp,
    from_port: None,
    to_port: None,
    size: None,
    peer: None,
    may_fragment: false,
};

#[test]
fn the_protocol_has_the_words_of_its_reference() {
    for (request, line) in [
        (Request::Status { author: false }, r#"{"request":"status"}"#),
        (Request::Status { author: true }, r#"{"request":"status","author":true}"#),
        (Request::Flows { cursor: 0, limit: 1000 }, r#"{"request":"flows"}"#),
        (
            Request::Policies { cursor: 4, limit: 2 },
            r#"{"request":"policies","cursor":4,"limit":2}"#,
        ),
        (Request::Drops, r#"{"request":"drops"}"#),
        (Request::Usage, r#"{"request":"usage"}"#),
        (Request::State, r#"{"request":"state"}"#),
        (Request::TakeCaptured { id: 3, end: false }, r#"{"request":"take_captured","id":3}"#),
        (Request::LogLevel { filter: None, for_s: None }, r#"{"request":"log_level"}"#),
        (Request::Trace(TRACED), r#"{"request":"trace","from":"10.0.1.40","to":"203.0.113.10"}"#),
    ] {
        assert_eq!(serde_json::from_str::<Request>(line).unwrap(), request);
    }
    let refused = serde_json::to_string(&Response::refused("no")).unwrap();
    assert_eq!(refused, r#"{"response":"error","message":"no"}"#);
}

#[test]
fn a_router_that_does_not_run_is_named_with_what_to_do() {
    let error = Client::connect("/nonexistent/spillway.sock".as_ref()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot reach Spillway at /nonexistent/spillway.sock: No such file or directory. Is \
         `spillway run` running? Name its socket with --socket."
    );
}

#[test]
fn a_refusal_is_shown_as_the_router_words_it() {
    let (_directory, path, _thread) =
        listener_that_answers(answered(&Response::refused("too old")));
    let error = Client::connect(&path).unwrap().put_state(String::new()).unwrap_err();
    assert!(matches!(error, ClientError::Refused(_)));
    assert_eq!(error.to_string(), "too old");
}

#[test]
fn half_an_answer_is_an_error() {
    let (_directory, path, _thread) = listener_that_answers(b"{\"response\":\"sta".to_vec());
    let error = Client::connect(&path).unwrap().status().unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("no whole answer from Spillway at {}: the connection was closed", path.display())
    );
}

#[test]
fn an_answer_to_another_request_is_an_error() {
    let answer = answered(&Response::Applied(Applied { generation: 7 }));
    let (_directory, path, _thread) = listener_that_answers(answer);
    let error = Client::connect(&path).unwrap().status().unwrap_err();
    assert!(error.to_string().contains("it answers another request"), "{error}");
}
