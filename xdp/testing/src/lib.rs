//! Network namespaces, veth pairs, sockets, processes and BPF programs for tests that need root.
//!
//! Everything a test makes here carries its process id in its name and is removed when it is
//! dropped. A test that cannot run fails and says why: none is skipped silently. Failures panic, as
//! tests do.
#![forbid(unsafe_code)]

mod bpf;
mod bpffs;
mod namespace;
mod process;
mod udp;
mod veth;

use std::time::{Duration, Instant};

pub use bpf::{Redirect, compile_bpf};
pub use bpffs::Bpffs;
pub use namespace::Namespace;
pub use process::Process;
pub use udp::bind_udp;
pub use veth::{checksum_offload_off, veth_pair};

/// Fails the test unless it runs as root.
///
/// # Panics
///
/// When the effective user is not root.
pub fn require_root() {
    assert!(rustix::process::geteuid().is_root(), "needs root: run `make test`");
}

/// Waits until `condition` holds, asking every millisecond, and fails the test after `limit`.
///
/// # Panics
///
/// When `limit` has passed; `what` says what was waited for.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {limit:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
