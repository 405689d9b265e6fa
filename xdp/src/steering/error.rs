//! What can go wrong with the steering program, and what to do about it.

use std::io;
use std::path::PathBuf;

use super::plan::TooMany;

/// Why the steering program could not be loaded, attached or changed.
#[derive(Debug, thiserror::Error)]
pub enum SteeringError {
    /// The kernel or libbpf refused the program or a map.
    #[error(
        "{what}: {source}. Spillway needs root (CAP_BPF, CAP_NET_ADMIN) and Linux 5.15 or newer"
    )]
    Load {
        /// What was tried.
        what: &'static str,
        /// What libbpf said.
        source: libbpf_rs::Error,
    },
    /// A map refused an entry.
    #[error("cannot change the steering map `{map}`: {source}")]
    Map {
        /// The map's name.
        map: &'static str,
        /// What the kernel said.
        source: libbpf_rs::Error,
    },
    /// New tables that do not fit; the old ones are still in force.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// A queue would receive frames that nobody takes.
    #[error("receive queue {queue} of {device} has no socket of worker {worker}: not attached")]
    MissingSocket {
        /// The device's name.
        device: String,
        /// The receive queue.
        queue: u32,
        /// The worker.
        worker: u8,
    },
    /// Somebody else's program is on the device.
    #[error(
        "{device} already runs XDP program {program}, not Spillway's. See it with `bpftool prog show \
         id {program}`; remove it with `ip link set dev {device} xdp off`"
    )]
    Occupied {
        /// The device's name.
        device: String,
        /// The number of that program.
        program: u32,
    },
    /// The device cannot run an XDP program, at least not in the mode that was asked for.
    #[error("cannot attach the steering program to {device} in {mode} mode: {source}")]
    Attach {
        /// The device's name.
        device: String,
        /// `native` or `generic`.
        mode: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel does not say what runs on a device.
    #[error("cannot ask the kernel about XDP on {device}: {source}")]
    Query {
        /// The device's name.
        device: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another Spillway drives the device.
    #[error(
        "{device} is driven by another spillway, process {pid} (lock {path}). Stop that one first, \
         or give this one other devices", path = path.display()
    )]
    Locked {
        /// The device's name.
        device: String,
        /// The process that holds the lock; `unknown` when it has not written its number yet.
        pid: String,
        /// The lock file.
        path: PathBuf,
    },
    /// A copy of the program was not run on a frame.
    #[error("the kernel does not try a frame with the steering program: {source}")]
    Trial {
        /// What the kernel said.
        source: io::Error,
    },
    /// A file, a mount or a pin.
    #[error("{what} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl SteeringError {
    pub(crate) fn file(what: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::File { what, path: path.into(), source }
    }
}
