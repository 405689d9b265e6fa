//! The command line as a person or a script sees it: what is printed where, and exit codes. The
//! router is played by a listener with prepared answers.

// Only the bodies of `#[test]` functions are exempt by themselves.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use spillway_api::{Applied, Document, Problem, Request, Response, policy_page};
use tempfile::TempDir;

const STATE: &str = include_str!("../api/tests/example.yaml");
const CONFIG: &str = "devices: [{name: eth0}, {name: spw-pods}]\n";

/// What a command printed, and its exit code.
#[derive(Debug)]
struct Ran {
    code: i32,
    output: String,
    error: String,
}

fn spillway(arguments: &[&str]) -> Ran {
    let command = Command::new(env!("CARGO_BIN_EXE_spillway"))
        .args(arguments)
        .env_remove("SPILLWAY_SOCKET")
        .output()
        .unwrap();
    Ran {
        code: command.status.code().unwrap(),
        output: String::from_utf8(command.stdout).unwrap(),
        error: String::from_utf8(command.stderr).unwrap(),
    }
}

/// A directory with a configuration, a state document and a place for a socket.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(TempDir::new().unwrap());
        place.write("config.yaml", CONFIG);
        place.write("state.yaml", STATE);
        place
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Answers requests of one connection with `answer`.
    fn router(&self, answer: impl Fn(&Request) -> Response + Send + 'static) -> String {
        let listener = UnixListener::bind(self.path("socket")).unwrap();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            for line in BufReader::new(&stream).lines() {
                let response = answer(&serde_json::from_str(&line.unwrap()).unwrap());
                let response = serde_json::to_string(&response).unwrap() + "\n";
                (&stream).write_all(response.as_bytes()).unwrap();
            }
        });
        self.name("socket")
    }
}

/// A document's policies in pages of two rows.
fn policies(request: &Request) -> Response {
    let Request::Policies { cursor, .. } = request else { return Response::refused("policies!") };
    let first = |_, _, list: &[IpAddr]| list.first().copied();
    Response::Policies(policy_page(&Document::parse(STATE).unwrap(), *cursor, 2, &first))
}

#[test]
fn a_good_configuration_and_state_are_checked_without_a_router() {
    let place = Place::new();
    let (config, state) = (place.name("config.yaml"), place.name("state.yaml"));
    let ran = spillway(&["check", "--config", &config, "--state", &state]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let expected = format!("{config}: good, 2 devices\n{state}: good, generation 1, 1 policies\n");
    assert_eq!((ran.output, ran.error), (expected, String::new()));
}

#[test]
fn a_bad_state_is_refused_with_its_line_and_field() {
    let place = Place::new();
    place.write("state.yaml", &STATE.replace("10.0.1.41", "10.0.1.400"));
    let (config, state) = (place.name("config.yaml"), place.name("state.yaml"));
    let ran = spillway(&["check", "--config", &config, "--state", &state]);
    assert_eq!((ran.code, ran.output.as_str()), (1, ""), "{ran:?}");
    assert_eq!(
        ran.error,
        format!(
            "spillway: cannot use the state document {state}: line 23, column 23: \
             policies[0].pods[1]: expected an IP address such as 192.0.2.1 or 2001:db8::1, found \
             \"10.0.1.400\"\n"
        )
    );
}

#[test]
fn run_refuses_a_bad_configuration_before_it_touches_anything() {
    let place = Place::new();
    place.write("config.yaml", &format!("{CONFIG}workers: 0\n"));
    let config = place.name("config.yaml");
    let ran = spillway(&["run", "--config", &config]);
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.error,
        format!(
            "spillway: cannot use the configuration {config}: line 2, column 10: workers: expected \
             a whole number from 1 to 64, found 0\n"
        )
    );
}

#[test]
fn without_a_router_every_question_says_what_to_do() {
    for command in ["status", "policies", "flows", "drops", "usage"] {
        let ran = spillway(&[command, "--socket", "/nonexistent/socket"]);
        assert_eq!((ran.code, ran.output.as_str()), (1, ""), "{command}");
        assert_eq!(
            ran.error,
            "spillway: cannot reach Spillway at /nonexistent/socket: No such file or directory. Is \
             `spillway run` running? Name its socket with --socket.\n"
        );
    }
}

#[test]
fn a_gateway_without_a_router_is_not_ready() {
    let ran = spillway(&["ready", "--socket", "/nonexistent/socket"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.output.starts_with("[-]router failed: cannot reach Spillway at"), "{ran:?}");
    assert!(ran.output.ends_with("\nready check failed\n"), "{ran:?}");
    assert_eq!(ran.error, "spillway: the gateway is not ready\n");
}

#[test]
fn top_needs_a_router_for_its_text_and_a_terminal_for_its_screen() {
    let ran = spillway(&["top", "--once", "--socket", "/nonexistent/socket"]);
    assert_eq!((ran.code, ran.output.as_str()), (1, ""), "{ran:?}");
    assert!(ran.error.contains("cannot reach Spillway at /nonexistent/socket: "), "{ran:?}");
    let ran = spillway(&["top", "--socket", "/nonexistent/socket"]);
    assert_eq!((ran.code, ran.output.as_str()), (1, ""), "{ran:?}");
    assert_eq!(
        ran.error,
        "spillway: standard input and output are no terminal: `spillway top --once` prints text\n"
    );
    for interval in ["0", "61"] {
        assert_eq!(spillway(&["top", "--interval", interval]).code, 2);
    }
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    for arguments in [&["dance"][..], &["status", "-o", "xml"], &["run"], &[]] {
        assert_eq!(spillway(arguments).code, 2, "{arguments:?}");
    }
    assert_eq!(spillway(&["--help"]).code, 0);
    assert_eq!(spillway(&["--version"]).code, 0);
}

#[test]
fn policies_are_shown_whole_however_many_pages_they_have() {
    let place = Place::new();
    let ran = spillway(&["policies", "--socket", &place.router(policies)]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.output.lines().count(), 1 + 6, "{}", ran.output);
    assert!(
        ran.output
            .ends_with("10.0.2.182   203.0.113.20/32    192.168.44.129   Excluded CIDR    app1\n")
    );
}

#[test]
fn json_output_is_one_document() {
    let place = Place::new();
    let ran = spillway(&["policies", "-o", "json", "--socket", &place.router(policies)]);
    let rows: serde_json::Value = serde_json::from_str(&ran.output).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 6);
    assert_eq!(rows[1]["gatewayIP"], "Excluded CIDR");
}

#[test]
fn the_socket_may_be_named_by_the_environment() {
    let place = Place::new();
    let socket = place.router(policies);
    let status = Command::new(env!("CARGO_BIN_EXE_spillway"))
        .arg("policies")
        .env("SPILLWAY_SOCKET", socket)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
}

fn apply(request: &Request) -> Response {
    let Request::PutState { document } = request else { return Response::refused("documents!") };
    match Document::parse(document) {
        Ok(document) => Response::Applied(Applied { generation: document.generation }),
        Err(problem) => Problem::into(problem),
    }
}

#[test]
fn a_document_is_applied_from_a_file_and_from_standard_input() {
    let place = Place::new();
    let state = place.name("state.yaml");
    let ran = spillway(&["apply", &state, "--socket", &place.router(apply)]);
    assert_eq!((ran.code, ran.output.as_str()), (0, "generation 1 is programmed\n"), "{ran:?}");

    std::fs::remove_file(place.path("socket")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_spillway"))
        .args(["apply", "-", "--socket", &place.router(apply)])
        .stdin(std::fs::File::open(&state).unwrap())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "generation 1 is programmed\n");
}

#[test]
fn a_document_that_the_router_refuses_is_named_with_its_line() {
    let place = Place::new();
    place.write("state.yaml", &STATE.replace("kind: own", "kind: mine"));
    let state = place.name("state.yaml");
    let ran = spillway(&["apply", &state, "--socket", &place.router(apply)]);
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.error,
        format!(
            "spillway: {state} is not applied: line 14, column 11: egress_addresses[0].kind: \
             expected one of own, shared, found \"mine\"\n"
        )
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let place = Place::new();
    let mut child = Command::new(env!("CARGO_BIN_EXE_spillway"))
        .args(["policies", "--socket", &place.router(policies)])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn detach_without_anything_attached_says_so() {
    let place = Place::new();
    let directory = place.name("never-run");
    let ran = spillway(&["detach", "--runtime-dir", &directory]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.output, format!("nothing is attached: {directory}/bpf has no pinned program\n"));
    assert!(!Path::new(&directory).exists());
}
