//! BPF programs that only a test needs.

use std::path::Path;
use std::process::Command;

/// Compiles a BPF program of a test; returns the object file's bytes.
///
/// # Panics
///
/// When clang is not installed or finds a fault; the message holds its output.
#[must_use]
pub fn compile_bpf(source: &Path) -> Vec<u8> {
    let output = Command::new("clang")
        .args(["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-c"])
        // Debian keeps <asm/types.h> there, where clang's bpf target does not look.
        .arg(format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH))
        .arg(source)
        .args(["-o", "-"])
        .output()
        .expect("clang is installed: run `make test`");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
