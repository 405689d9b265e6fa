//! BPF programs that only a test needs.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Command;

use libbpf_rs::{MapCore, MapFlags, ObjectBuilder};

/// Compiles a BPF program of a test; returns the object file's bytes.
///
/// # Panics
///
/// When clang is not installed or finds a fault; the message holds its output.
#[must_use]
pub fn compile_bpf(source: &Path) -> Vec<u8> {
    compile(source, &[])
}

/// `defines` are the macros that the program leaves open, and their values.
fn compile(source: &Path, defines: &[(&str, u32)]) -> Vec<u8> {
    let output = Command::new("clang")
        .args(["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-c"])
        // Debian keeps <asm/types.h> there, where clang's bpf target does not look.
        .arg(format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH))
        .args(defines.iter().map(|(name, value)| format!("-D{name}={value}")))
        .arg(source)
        .args(["-o", "-"])
        .output()
        .expect("clang is installed: run `make test`");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A program that gives frames of one EtherType to AF_XDP sockets: a worker's, of those that each
/// queue has.
#[derive(Clone, Debug)]
pub struct Redirect {
    object: Vec<u8>,
    workers: u32,
}

impl Redirect {
    /// Compiles it. Of several workers a frame's is named by the frame's first payload byte.
    ///
    /// # Panics
    ///
    /// As [`compile_bpf`].
    #[must_use]
    pub fn new(ether_type: u16, workers: u8) -> Self {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/redirect.bpf.c");
        let workers = u32::from(workers);
        let defines = [("ETHER_TYPE", ether_type.into()), ("WORKERS", workers)];
        Self { object: compile(source.as_ref(), &defines), workers }
    }

    /// Attaches it to a device of this network namespace, until the returned link is closed.
    /// `sockets` are the device's: queue, worker and the socket itself.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    #[must_use]
    pub fn attach<'a>(
        &self,
        ifindex: u32,
        sockets: impl IntoIterator<Item = (u32, u8, BorrowedFd<'a>)>,
    ) -> OwnedFd {
        let open = ObjectBuilder::default().open_memory(&self.object).expect("it is an object");
        let object = open.load().expect("the kernel takes the program: needs root");
        let map = object.maps().find(|map| map.name() == "xsks").expect("it has its map");
        for (queue, worker, socket) in sockets {
            let slot = queue * self.workers + u32::from(worker);
            map.update(&slot.to_ne_bytes(), &socket.as_raw_fd().to_ne_bytes(), MapFlags::ANY)
                .expect("the map has room for the socket");
        }
        let program = object.progs_mut().next().expect("it has a program");
        let link = program.attach_xdp(ifindex.try_into().expect("an index")).expect("it attaches");
        link.as_fd().try_clone_to_owned().expect("a descriptor is left")
    }
}
