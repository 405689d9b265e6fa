//! The read-only socket of a real router, asked by whoever is in its group, and by whoever is not.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use super::*;

/// The group of the router's configuration, which nobody has here.
const GROUP: u32 = 9602;

/// Connects to a socket, and prints what it answers to each request.
const ASK: &str = "
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
lines = connection.makefile('rw')
for request in sys.argv[2:]:
    print(request, file=lines, flush=True)
    print(lines.readline(), end='')
";

/// What nobody, in this group alone, gets from a socket for these requests; else why not.
fn ask(rig: &Rig, group: u32, socket: &str, requests: &[&str]) -> Result<Vec<String>, String> {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", &format!("--regid={group}"), "--clear-groups"]);
    command.args(["--bounding-set=-all", "--no-new-privs", "/usr/bin/python3", "-c", ASK]);
    command.arg(rig.directory.path().join(socket)).args(requests);
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        return Err(text(&output.stderr));
    }
    Ok(text(&output.stdout).lines().map(str::to_owned).collect())
}

#[test]
fn members_of_the_group_may_ask_and_change_nothing() {
    const READ_ONLY: &str = "read-only/spillway.sock";
    let rig = Rig::new("read-only", true);
    // As /run/spillway is; a test's directory lets nobody in.
    let mode = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(rig.directory.path(), mode).unwrap();

    let requests = ["{\"request\":\"status\"}", "{\"request\":\"drain\",\"draining\":true}"];
    let answers = ask(&rig, GROUP, READ_ONLY, &requests).unwrap();
    assert!(answers[0].starts_with("{\"response\":\"status\""), "{answers:?}");
    assert!(answers[1].contains("this socket is read-only"), "{answers:?}");
    assert_eq!(rig.client().status().unwrap().draining_s, None);

    let socket = rig.directory.path().join(READ_ONLY);
    let ready = Command::new(env!("CARGO_BIN_EXE_spillway"))
        .args(["ready".as_ref(), "--socket".as_ref(), socket.as_os_str()])
        .output()
        .unwrap();
    assert!(ready.status.success(), "{ready:?}");
    assert!(String::from_utf8_lossy(&ready.stdout).ends_with("ready check passed\n"), "{ready:?}");

    for (group, socket) in [(65_534, READ_ONLY), (GROUP, "spillway.sock")] {
        let refusal = ask(&rig, group, socket, &requests).unwrap_err();
        assert!(refusal.contains("PermissionError"), "{group} at {socket}: {refusal}");
    }
}
