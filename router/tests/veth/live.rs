//! Frames that a BPF program sends out of eth0: cheaper than sockets, and free of what the kernel
//! insists on.

use libbpf_rs::{Object, ObjectBuilder, ProgramInput, ProgramMut};
use spillway_testing::compile_bpf;
use spillway_xdp::device::probe;

/// From linux/bpf.h: what the program returns is done with the frame.
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;

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

/// Runs the program on `count` copies of a frame, as if eth0 of the calling thread's namespace had
/// received them: `XDP_TX` sends them there. Up to 64, no copy has been another one before.
///
/// A call takes milliseconds, whatever the count: the kernel waits for RCU.
pub(crate) fn send(program: &ProgramMut<'_>, frame: &[u8], count: u32) {
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context = [0, frame.len() as u32, 0, probe("eth0").unwrap().ifindex, 0, 0];
    let mut context: Vec<u8> = context.into_iter().flat_map(u32::to_ne_bytes).collect();
    let input = ProgramInput {
        context_in: Some(&mut context),
        data_in: Some(frame),
        flags: BPF_F_TEST_XDP_LIVE_FRAMES,
        repeat: count,
        ..Default::default()
    };
    program.test_run(input).expect("the kernel runs XDP programs on live frames (5.18)");
}
