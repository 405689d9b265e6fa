//! A process that a test has started.

use std::process::{Child, Command, Stdio};

/// A running process, killed by its id and waited for when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts it, with nothing on its standard input.
    pub(crate) fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null());
        let child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        Self { child }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal by name, such as `STOP`.
    ///
    /// # Panics
    ///
    /// When it cannot be sent.
    pub fn signal(&self, name: &str) {
        let id = self.id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -s {name} {id} has failed");
    }

    /// Whether it has not ended yet.
    ///
    /// # Panics
    ///
    /// When the kernel does not tell.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use crate::Namespace;

    #[test]
    fn a_process_runs_in_the_namespace_and_ends_with_its_owner() {
        let namespace = Namespace::new("process");
        let mut process = namespace.spawn(["sleep", "60"]);
        assert!(process.is_running());
        let entry = PathBuf::from(format!("/proc/{}", process.id()));
        assert!(entry.exists());
        drop(process);
        assert!(!entry.exists());
    }
}
