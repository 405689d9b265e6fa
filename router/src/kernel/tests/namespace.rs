//! Network namespaces for these tests: made with `ip`, removed when dropped.

use std::os::fd::AsFd;
use std::process::{Command, Output};

/// A network namespace of its own, named after this process.
pub(super) struct Namespace {
    name: String,
}

impl Namespace {
    pub(super) fn new(name: &str) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "needs root: run `make test` (these tests make network namespaces)"
        );
        let name = format!("spwk-{}-{name}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]));
        let namespace = Self { name };
        namespace.ip("link set lo up");
        // Nothing comes but what a test asks for: a link-local address would come in its own time.
        namespace.set("ipv6/conf/default/addr_gen_mode", "1");
        namespace
    }

    /// Runs `ip ARGUMENTS` in it and returns the output; fails if `ip` does.
    pub(super) fn ip(&self, arguments: &str) -> String {
        let output = run(Command::new("ip").args(["-n", &self.name]).args(words(arguments)));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs `ip -j ARGUMENTS` and returns its entries.
    pub(super) fn json(&self, arguments: &str) -> Vec<serde_json::Value> {
        let text = self.ip(&format!("-j {arguments}"));
        serde_json::from_str(if text.trim().is_empty() { "[]" } else { &text }).unwrap()
    }

    /// Runs `ip ARGUMENTS`, which may fail.
    pub(super) fn try_ip(&self, arguments: &str) -> Output {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name]).args(words(arguments)).output().unwrap()
    }

    /// Runs `ip -batch` with one command a line, some of which may fail. A line can start with
    /// `-6`, which `ip` takes for a whole batch only.
    pub(super) fn batch(&self, commands: &str) {
        let path = std::env::temp_dir().join(format!("{}.batch", self.name));
        let family = |line: &str| line.starts_with("-6 ").then_some("-6");
        let commands: Vec<&str> = commands.lines().collect();
        for alike in commands.chunk_by(|one, next| family(one) == family(next)) {
            let lines: Vec<&str> =
                alike.iter().map(|line| line.trim_start_matches("-6 ")).collect();
            std::fs::write(&path, lines.join("\n") + "\n").unwrap();
            let mut command = Command::new("ip");
            command.args(["-n", &self.name]).args(family(alike[0]));
            command.args(["-force", "-batch"]).arg(&path).output().unwrap();
        }
        std::fs::remove_file(&path).unwrap();
    }

    /// Sets `net/NAME` of its sysctls.
    pub(super) fn set(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/net/{name}");
        self.enter(|| std::fs::write(&path, value).unwrap());
    }

    /// Runs `test` on a thread in this namespace.
    pub(super) fn enter<T: Send>(&self, test: impl FnOnce() -> T + Send) -> T {
        let file = std::fs::File::open(format!("/run/netns/{}", self.name)).unwrap();
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                rustix::thread::move_into_link_name_space(file.as_fd(), kind).unwrap();
                test()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A veth pair: `here` in this namespace, `there` in the other; both up.
    pub(super) fn veth(&self, here: &str, other: &Self, there: &str) {
        self.ip(&format!("link add {here} type veth peer name {there} netns {}", other.name));
        self.ip(&format!("link set {here} up"));
        other.ip(&format!("link set {there} up"));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A namespace that is left behind is seen by whoever looks; a panic here would hide why.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

fn words(arguments: &str) -> std::str::SplitWhitespace<'_> {
    arguments.split_whitespace()
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    output
}
