//! `spillway log-level` and a running router: what it logs changes while it runs.

use std::process::{Command, Output};
use std::time::Duration;

use spillway_api::{CapturePoint, CaptureRequest, Client};
use spillway_testing::wait_until;

use crate::Rig;

const WITHIN: Duration = Duration::from_secs(15);

fn log_level(rig: &Rig, options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_spillway"))
        .arg("log-level")
        .args(options)
        .arg("--socket")
        .arg(rig.directory.path().join("spillway.sock"))
        .output()
        .unwrap()
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Starts the router once more, with its log in a file.
fn launch_with_log(rig: &mut Rig) {
    rig.spillway.signal("TERM");
    wait_until("the router has ended", WITHIN, || !rig.spillway.is_running());
    let directory = rig.directory.path().display();
    let line = format!(
        "exec {} run --config {directory}/config.yaml --state {directory}/state.yaml \
         2>{directory}/log",
        env!("CARGO_BIN_EXE_spillway")
    );
    rig.spillway = rig.gateway.spawn(["sh", "-c", &line]);
    let socket = rig.directory.path().join("spillway.sock");
    wait_until("the document is programmed", WITHIN, || {
        let status = Client::connect(&socket).and_then(|mut client| client.status());
        status.is_ok_and(|status| status.generation == Some(1))
    });
}

/// Has the router do what it logs at the level `info`; whether the log has it.
fn logs_a_capture(rig: &Rig) -> bool {
    let mut client = rig.client();
    let request = CaptureRequest {
        points: vec![CapturePoint::Sent],
        host: None,
        pod: None,
        port: None,
        protocol: None,
        drop_reason: None,
        snaplen: 64,
    };
    let id = client.capture(request).unwrap();
    while client.take_captured(id, true).unwrap().more {}
    let log = std::fs::read_to_string(rig.directory.path().join("log")).unwrap();
    log.contains(&format!("capture {id} has begun"))
}

#[test]
fn what_is_logged_changes_at_once_and_back_after_its_time() {
    let mut rig = Rig::new("loglevel", true);
    launch_with_log(&mut rig);
    assert_eq!(printed(&log_level(&rig, &[])), "info\n");
    assert!(logs_a_capture(&rig));
    let shown = printed(&log_level(&rig, &["warn"]));
    assert_eq!(shown, "warn\nafter a restart: info\n");
    assert!(!logs_a_capture(&rig));
    let shown = printed(&log_level(&rig, &["warn,spillway::capture=debug"]));
    assert!(shown.starts_with("warn,spillway::capture=debug\n"), "{shown}");
    assert!(logs_a_capture(&rig));
    let shown = printed(&log_level(&rig, &["error", "--for", "2"]));
    assert!(shown.starts_with("error\nin ") && shown.ends_with("s: info\n"), "{shown}");
    wait_until("the first one is in force again", WITHIN, || {
        rig.client().log_level(None, None).unwrap().filter == "info"
    });
    assert!(logs_a_capture(&rig));

    let refused = log_level(&rig, &["debgu"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said.starts_with("spillway: expected a log level (error, warn, info"), "{said}");
    assert_eq!(printed(&log_level(&rig, &["-o", "json"])).lines().count(), 4);
}
