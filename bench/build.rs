//! Compiles the crate's BPF programs into `OUT_DIR`: the binary carries them.

use std::env;
use std::path::{Path, PathBuf};

use libbpf_cargo::SkeletonBuilder;

fn main() {
    println!("cargo:rerun-if-changed=src/pktgen/label.h");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    // Debian keeps <asm/types.h> in a directory of the architecture, which clang's bpf target
    // does not look into.
    let multiarch = format!("/usr/include/{arch}-linux-gnu");
    // v3: divisions of 32 bits, which are most of what a packet's fields cost (Linux 5.1).
    let mut arguments = vec!["-O2".into(), "-mcpu=v3".into(), "-Wall".into(), "-Werror".into()];
    if Path::new(&multiarch).exists() {
        arguments.push(format!("-I{multiarch}"));
    }
    for (folder, name) in [
        ("l2_forward", "redirect"),
        ("pktgen", "generate"),
        ("pktgen", "sink"),
        ("steering", "replay"),
    ] {
        let source = format!("src/{folder}/{name}.bpf.c");
        println!("cargo:rerun-if-changed={source}");
        SkeletonBuilder::new()
            .source(&source)
            .obj(out.join(format!("{name}.bpf.o")))
            .clang_args(arguments.clone())
            .build()
            .unwrap_or_else(|error| {
                panic!("cannot compile {source} (is clang installed? `make packages`): {error:#}")
            });
    }
}
