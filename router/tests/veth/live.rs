//! BPF programs of tests, and the frames that they send out of eth0.

use libbpf_rs::{Object, ObjectBuilder, ProgramMut};
use spillway_testing::compile_bpf;
use spillway_xdp::device::probe;
use spillway_xdp::live::run_on_live_frames;

/// Compiles and loads a file beside this one.
pub(crate) fn load(file: &str) -> Object {
    let source = format!("{}/tests/veth/{file}", env!("CARGO_MANIFEST_DIR"));
    let object = compile_bpf(source.as_ref());
    ObjectBuilder::default().open_memory(&object).unwrap().load().unwrap()
}

/// The program of that name.
pub(crate) fn program<'a>(object: &'a Object, name: &str) -> ProgramMut<'a> {
    object.progs_mut().find(|program| program.name() == name).unwrap()
}

/// Sends `count` frames from eth0 of the calling thread's namespace: what the program makes of this
/// one, which returns `XDP_TX`.
pub(crate) fn send(program: &ProgramMut<'_>, frame: &[u8], count: u32) {
    let ifindex = probe("eth0").unwrap().ifindex;
    let whole = run_on_live_frames(program, ifindex, frame, count);
    assert!(whole.expect("the kernel runs XDP programs on live frames (5.18)"), "interrupted");
}
