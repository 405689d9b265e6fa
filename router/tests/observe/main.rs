//! Commands that follow a router's events, as a person or a script sees them: `observe`, `nat-log` and
//! `who-had`. The router is played by a listener that is told what happens. The collector of IPFIX is
//! nfdump's; it needs root, for a network namespace.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod collector;
mod nat_log;
mod router;
mod watch;

use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// How long a test waits for what must come.
const WITHIN: Duration = Duration::from_secs(20);

/// A command of `spillway`.
fn spillway(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spillway"));
    command.args(words).env_remove("SPILLWAY_SOCKET").stdin(Stdio::null());
    command
}

/// A command that runs until it is told to end.
struct Running(Option<Child>);

impl Running {
    fn start(command: &mut Command) -> Self {
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(Some(piped.spawn().unwrap()))
    }

    fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    /// What it has printed in all, when it ends by itself.
    fn into_printed(mut self) -> Printed {
        Printed::of(&self.0.take().unwrap().wait_with_output().unwrap())
    }

    /// What it has printed in all, after this signal.
    fn end(mut self, signal: Signal) -> Printed {
        let child = self.0.take().unwrap();
        let id = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(id, signal).unwrap();
        Printed::of(&child.wait_with_output().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What a command printed, and its exit code; none if a signal has ended it.
#[derive(Debug)]
struct Printed {
    code: Option<i32>,
    output: String,
    error: String,
}

impl Printed {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Self {
            code: output.status.code(),
            output: text(&output.stdout),
            error: text(&output.stderr),
        }
    }
}
