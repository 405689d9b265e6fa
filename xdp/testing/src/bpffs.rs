//! A file system for pins of BPF objects.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::namespace::run;

/// A bpffs that every namespace sees, unmounted when dropped. What the router mounts itself is in a
/// mount namespace of its own, made by `ip netns exec`, and ends with it.
#[derive(Debug)]
pub struct Bpffs(PathBuf);

impl Bpffs {
    /// Mounts it on a directory, which is made if need be.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    #[must_use]
    pub fn mount(path: &Path) -> Self {
        std::fs::create_dir_all(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        run("mount", ["-t".as_ref(), "bpf".as_ref(), "bpf".as_ref(), path.as_os_str()]);
        Self(path.to_owned())
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        // A second panic would hide the first.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
