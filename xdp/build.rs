//! Compiles the steering program and generates its libbpf skeleton and the enum of its outcomes
//! into `OUT_DIR`.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use libbpf_cargo::SkeletonBuilder;

fn main() {
    println!("cargo:rerun-if-changed=src/steer.bpf.c");
    for header in fs::read_dir("src").expect("src is there").flatten() {
        let path = header.path();
        if path.extension().is_some_and(|extension| extension == "h") {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    // Debian keeps <asm/types.h> in a directory of the architecture, which clang's bpf target
    // does not look into.
    let multiarch = format!("/usr/include/{arch}-linux-gnu");
    let mut arguments = vec!["-O2".into(), "-Wall".into(), "-Werror".into()];
    if Path::new(&multiarch).exists() {
        arguments.push(format!("-I{multiarch}"));
    }
    let header = fs::read_to_string("src/steer.h").expect("steer.h lies beside steer.bpf.c");
    fs::write(out.join("outcomes.rs"), outcomes(&header)).expect("OUT_DIR is writable");
    SkeletonBuilder::new()
        .source("src/steer.bpf.c")
        .clang_args(arguments)
        .build_and_generate(out.join("steer.skel.rs"))
        .unwrap_or_else(|error| {
            panic!("cannot compile steer.bpf.c (is clang installed? `make packages`): {error:#}")
        });
}

/// The Rust twin of `enum steer_outcome`, made of its list in steer.h:
/// `OUTCOME(SYMBOL, "name", verdict, "Description.")`.
fn outcomes(header: &str) -> String {
    let mut rust = String::from("steer_outcomes! {\n");
    for entry in header.replace('\\', " ").split("OUTCOME(").skip(1) {
        let mut parts = entry.splitn(4, ',').map(str::trim);
        let (Some(symbol), Some(name), Some(verdict), Some(rest)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        // The definitions that use the list match `OUTCOME(` too, without a string.
        let Some(description) = rest.split('"').nth(1).filter(|_| name.starts_with('"')) else {
            continue;
        };
        let variant: String = symbol
            .split('_')
            .map(|word| word[..1].to_string() + &word[1..].to_lowercase())
            .collect();
        let verdict = verdict[..1].to_uppercase() + &verdict[1..];
        writeln!(rust, "    #[doc = {description:?}]\n    {variant} = ({name}, {verdict}),")
            .expect("a String takes all");
    }
    rust + "}\n"
}
