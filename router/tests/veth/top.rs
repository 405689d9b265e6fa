//! `spillway top` in a real terminal, beside a real router. The terminal is tmux's.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use spillway_testing::{Process, bind_udp, wait_until};

use crate::packets::{egress, frame};
use crate::{GATEWAY, IpFamily, NODE, Rig, converse, launch};

const WITHIN: Duration = Duration::from_secs(30);

/// A terminal of 80 columns and 24 lines, with a shell in it.
struct Pane {
    socket: PathBuf,
    _server: Process,
}

impl Pane {
    /// Runs a shell script in it.
    fn run(rig: &Rig, script: &str) -> Self {
        let socket = rig.directory.path().join("tmux");
        let server = rig
            .gateway
            .spawn(["tmux", "-D", "-f", "/dev/null", "-S"].map(Into::into).iter().chain([&socket]));
        wait_until("tmux listens", WITHIN, || socket.exists());
        let pane = Self { socket, _server: server };
        wait_until("tmux has a terminal", WITHIN, || {
            pane.tmux(&["new-session", "-d", "-x", "80", "-y", "24", script]).status.success()
        });
        pane
    }

    fn tmux(&self, command: &[&str]) -> Output {
        // UTF-8, wherever the test runs.
        let mut tmux = Command::new("tmux");
        tmux.arg("-u").arg("-S").arg(&self.socket).args(command).env("LC_ALL", "C.UTF-8");
        tmux.output().expect("tmux is installed: run `make test`")
    }

    fn text(&self) -> String {
        String::from_utf8(self.tmux(&["capture-pane", "-p"]).stdout).unwrap()
    }

    fn wait_for(&self, text: &str) {
        wait_until(text, WITHIN, || self.text().contains(text));
    }

    fn press(&self, key: &str) {
        assert!(self.tmux(&["send-keys", key]).status.success());
    }

    /// A process that the shell has started.
    fn child(&self) -> Option<String> {
        let output = self.tmux(&["display-message", "-p", "#{pane_pid}"]).stdout;
        let shell = String::from_utf8(output).ok()?.trim().to_owned();
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"));
        children.ok()?.split_whitespace().next().map(ToOwned::to_owned)
    }
}

/// `spillway top` twice, how each has ended, and whether the terminal is as it was.
fn script(rig: &Rig) -> String {
    let socket = rig.directory.path().join("spillway.sock");
    let top = format!("{} top --socket {}", env!("CARGO_BIN_EXE_spillway"), socket.display());
    format!(
        "was=$(stty -g); {top}; echo \"first ended with $?\"; read -r _; {top}; \
         echo \"second ended with $?\"; [ \"$(stty -g)\" = \"$was\" ] && echo all as before; cat"
    )
}

/// Packets each second, out and in, of the row with this name in the egress view.
fn rates_of<'a>(screen: &'a str, name: &str) -> Option<[&'a str; 2]> {
    let mut rows = screen.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row.first() == Some(&name))?;
    Some([*row.get(2)?, *row.get(4)?])
}

#[test]
fn top_follows_a_router_on_a_real_terminal() {
    let mut rig = Rig::new("top", true);
    let pane = Pane::run(&rig, &script(&rig));
    pane.wait_for("Forwarding: generation 1");
    converse(&rig);
    pane.wait_for("Flows 1000 ");
    pane.press("Tab");
    pane.wait_for("Nothing was dropped within the last minute.");
    pane.press("3");
    pane.wait_for(&egress(IpFamily::V4).to_string());
    pane.wait_for("all      1000");
    let node = rig.node.enter(|| bind_udp((NODE, 8472)));
    wait_until("the policy's packets are seen", WITHIN, || {
        node.send_to(&frame(0, 0), (GATEWAY, 8472)).unwrap();
        let text = pane.text();
        let rates = rates_of(&text, "all");
        rates.is_some_and(|[out, _]| out.parse::<f64>().is_ok_and(|packets| packets > 0.0))
    });
    pane.press("4");
    pane.wait_for("Pod -> destination");
    pane.press("?");
    pane.wait_for("Shift-Tab");
    pane.press("?");
    pane.press("1");
    assert!(pane.tmux(&["resize-window", "-x", "120", "-y", "30"]).status.success());
    pane.wait_for("Handed off/s");

    rig.spillway.signal("KILL");
    pane.wait_for("No answer for ");
    wait_until("the router has ended", WITHIN, || !rig.spillway.is_running());
    rig.spillway = launch(&rig.gateway, rig.directory.path());
    pane.wait_for("Forwarding: generation 1");
    pane.wait_for("Flows 0 ");

    pane.press("q");
    pane.wait_for("first ended with 0");
    pane.press("Enter");
    pane.wait_for("Forwarding: generation 1");
    let top = pane.child().expect("it runs");
    assert!(Command::new("kill").arg(&top).status().unwrap().success());
    pane.wait_for("second ended with 0");
    pane.wait_for("all as before");
}

#[test]
fn top_prints_once_what_it_would_show() {
    let rig = Rig::new("once", true);
    converse(&rig);
    let once = |view: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_spillway"))
            .args(["top", "--once", "--view", view, "--socket"])
            .arg(rig.directory.path().join("spillway.sock"))
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && error.is_empty(), "{error}");
        String::from_utf8(output.stdout).unwrap()
    };
    let overview = once("overview");
    assert!(overview.contains("Forwarding: generation 1, from "), "{overview}");
    assert!(overview.contains("Flows 1000   New 0/s   Dropped 0/s"), "{overview}");
    assert!(!overview.contains("q quit") && !overview.contains('\u{1b}'), "{overview}");
    let egress = once("egress");
    assert!(egress.contains("all      1000"), "{egress}");
    // Everything was sent before it was counted first, so that rates are known, and are none.
    assert_eq!(rates_of(&egress, "all"), Some(["0"; 2]), "{egress}");
    let flows = once("flows");
    assert_eq!(flows.lines().filter(|line| line.contains(" -> ")).count(), 201, "{flows}");
}
