//! A network namespace of a test.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::Process;
use crate::{require_root, wait_until};

/// What every namespace's name starts with; the process id of the test follows.
const PREFIX: &str = "spwt-";

/// Where `ip netns` keeps the namespaces it has named.
const DIRECTORY: &str = "/run/netns";

/// A network namespace, `spwt-<pid>-<name>`, that lasts as long as this value.
///
/// It has its loopback up and IPv6 off, so that no frame is in it that the test did not send: a test
/// that needs IPv6 switches it on.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes the namespace. `name` must be unique in this process.
    ///
    /// # Panics
    ///
    /// Without root, and when `ip` fails.
    #[must_use]
    pub fn new(name: &str) -> Self {
        require_root();
        remove_stale(Path::new(DIRECTORY));
        let full = format!("{PREFIX}{}-{name}", std::process::id());
        run("ip", ["netns", "add", &full]);
        let namespace = Self { name: full };
        namespace.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
        namespace.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
        namespace.run(["ip", "link", "set", "lo", "up"]);
        namespace
    }

    /// Switches IPv6 on, for the devices that come. Their addresses can be used at once (no duplicate
    /// address detection), and nobody asks for a router or follows one. What is left is what joining
    /// a group says (RFC 3810).
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    pub fn enable_ipv6(&self) {
        for (parameter, value) in
            [("accept_dad", "0"), ("accept_ra", "0"), ("router_solicitations", "0")]
        {
            self.sysctl(&format!("net/ipv6/conf/default/{parameter}"), value);
        }
        self.sysctl("net/ipv6/conf/default/disable_ipv6", "0");
        self.sysctl("net/ipv6/conf/all/disable_ipv6", "0");
    }

    /// Waits until every device but the loopback has its link-local address and every address can be
    /// used: the kernel sees to that up to a second after a device has come up (linkwatch), and
    /// until then neither asks for a neighbour nor answers.
    ///
    /// # Panics
    ///
    /// When they do not within ten seconds.
    pub fn wait_for_ipv6(&self) {
        wait_until("IPv6 is ready on every device", Duration::from_secs(10), || {
            self.enter(ipv6_is_ready)
        });
    }

    /// The namespace's full name, as `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a command in the namespace to its end and returns what it printed.
    ///
    /// # Panics
    ///
    /// When the command fails; the message holds the command and its error output.
    pub fn run<I, S>(&self, command: I) -> String
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut arguments = vec!["netns".into(), "exec".into(), self.name.clone().into()];
        arguments.extend(command.into_iter().map(|word| word.as_ref().to_owned()));
        run("ip", arguments)
    }

    /// Starts a process in the namespace. It is killed when the returned value is dropped, and
    /// also when the thread that started it ends in any other way.
    ///
    /// # Panics
    ///
    /// When the process cannot be started.
    #[must_use]
    pub fn spawn<I, S>(&self, command: I) -> Process
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut wrapped = Command::new("setpriv");
        wrapped.args(["--pdeathsig", "KILL", "--", "ip", "netns", "exec", &self.name]);
        Process::start(wrapped.args(command))
    }

    /// Runs `work` on a thread of its own that has entered the namespace: sockets it opens and
    /// threads it starts belong there. A panic in it goes on in the caller.
    ///
    /// # Panics
    ///
    /// When the namespace cannot be entered.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = PathBuf::from(DIRECTORY).join(&self.name);
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                let file = File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .unwrap_or_else(|e| panic!("cannot enter {}: {e}", self.name));
                work()
            });
            entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Sets a kernel parameter of the namespace, for instance `net/ipv4/ip_forward` to `1`.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    pub fn sysctl(&self, parameter: &str, value: &str) {
        let path = format!("/proc/sys/{parameter}");
        self.enter(|| fs::write(&path, value).unwrap_or_else(|e| panic!("{path} = {value}: {e}")));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Tests end by panic too: a second panic here would hide the first.
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

/// Whether every device of the calling thread's namespace has a link-local address, and none is
/// tentative.
fn ipv6_is_ready() -> bool {
    const TENTATIVE: u32 = 0x40;
    let list = |name: &str| {
        let path = format!("/proc/thread-self/net/{name}");
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
    };
    // Address, interface, prefix length, scope, flags, device.
    let listed = list("if_inet6");
    let addresses: Vec<Vec<&str>> =
        listed.lines().map(|line| line.split_whitespace().collect()).collect();
    let is_tentative = |address: &Vec<&str>| {
        u32::from_str_radix(address[4], 16).is_ok_and(|flags| flags & TENTATIVE != 0)
    };
    let is_local_on =
        |address: &Vec<&str>, device| address[0].starts_with("fe80") && address[5] == device;
    let devices = list("dev");
    let mut devices = devices.lines().filter_map(|line| Some(line.split_once(':')?.0.trim()));
    !addresses.iter().any(is_tentative)
        && devices.all(|device| {
            device == "lo" || addresses.iter().any(|address| is_local_on(address, device))
        })
}

/// Removes the namespaces of tests that were killed before they could.
fn remove_stale(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let Some(owner) = owner.and_then(|pid| pid.parse::<u32>().ok()) else {
            continue;
        };
        if !Path::new(&format!("/proc/{owner}")).exists() {
            // Another test may be removing the same one.
            let _ =
                Command::new("ip").args(["netns", "delete", &name]).stderr(Stdio::null()).status();
        }
    }
}

/// Runs a command to its end and returns its standard output.
pub(crate) fn run<I, S>(program: &str, arguments: I) -> String
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(program);
    command.args(arguments);
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?} failed, {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_its_own_devices_and_is_gone_afterwards() {
        let namespace = Namespace::new("own");
        let path = Path::new(DIRECTORY).join(namespace.name());
        assert!(path.exists());
        let links = namespace.run(["ip", "-brief", "link"]);
        assert_eq!(links.lines().count(), 1, "only loopback: {links}");
        drop(namespace);
        assert!(!path.exists());
    }

    #[test]
    fn a_closure_runs_inside_and_its_thread_only() {
        let outside = fs::read_link("/proc/thread-self/ns/net").unwrap();
        let namespace = Namespace::new("enter");
        let inside = namespace.enter(|| fs::read_link("/proc/thread-self/ns/net").unwrap());
        assert_ne!(inside, outside);
        assert_eq!(fs::read_link("/proc/thread-self/ns/net").unwrap(), outside);
    }

    #[test]
    #[should_panic(expected = "from within")]
    fn a_panic_inside_reaches_the_test() {
        Namespace::new("panic").enter(|| panic!("from within"));
    }

    #[test]
    #[should_panic(expected = "eth0")]
    fn a_failing_command_fails_the_test_with_its_error() {
        Namespace::new("fails").run(["ip", "link", "show", "dev", "eth0"]);
    }

    #[test]
    fn a_namespace_of_a_dead_process_is_removed() {
        require_root();
        // No process can have this id: it is above every possible pid_max.
        let stale = format!("{PREFIX}4294967294-left");
        run("ip", ["netns", "add", &stale]);
        drop(Namespace::new("cleaner"));
        assert!(!Path::new(DIRECTORY).join(stale).exists());
    }
}
