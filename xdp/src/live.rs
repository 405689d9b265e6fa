//! Frames that a BPF program sends: cheaper than sockets, and free of what the kernel insists on.
//!
//! `BPF_PROG_TEST_RUN` runs an XDP program on frames in the kernel's own pages and does with each
//! what the program returns; `XDP_TX` sends it on the device that it pretends to come from (5.18).

use std::io;

use libbpf_rs::{ErrorKind, ProgramInput, ProgramMut};
use rustix::thread::{Pid, gettid};

/// From linux/bpf.h: what the program returns is done with the frame.
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;

/// Runs the program on `count` copies of a frame, as if the device `ifindex` of the calling
/// thread's network namespace had received them. Up to 64, no copy has been another one before;
/// then frames come back as whoever had them last has left them.
///
/// A call takes milliseconds, whatever the count: the kernel waits for RCU. A signal to the calling
/// thread ends it early ([`Interrupt`]); then it returns false.
///
/// # Errors
///
/// When the kernel refuses, for instance because it is older than 5.18.
pub fn run_on_live_frames(
    program: &ProgramMut<'_>,
    ifindex: u32,
    frame: &[u8],
    count: u32,
) -> libbpf_rs::Result<bool> {
    let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context = [0, length, 0, ifindex, 0, 0];
    let mut context: Vec<u8> = context.into_iter().flat_map(u32::to_ne_bytes).collect();
    let input = ProgramInput {
        context_in: Some(&mut context),
        data_in: Some(frame),
        flags: BPF_F_TEST_XDP_LIVE_FRAMES,
        repeat: count,
        ..ProgramInput::default()
    };
    match program.test_run(input) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error),
    }
}

/// What ends a thread's system call: a signal to that thread alone.
#[derive(Clone, Copy, Debug)]
pub struct Interrupt {
    thread: Pid,
}

impl Interrupt {
    /// For the calling thread. The process must handle SIGUSR1, or the signal ends it.
    #[must_use]
    pub fn of_this_thread() -> Self {
        Self { thread: gettid() }
    }

    /// Sends the signal. It does nothing to a call that begins afterwards: send it until the thread
    /// has noticed.
    ///
    /// # Errors
    ///
    /// When the thread has ended.
    pub fn send(self) -> io::Result<()> {
        let process = rustix::process::getpid().as_raw_nonzero().get();
        let thread = self.thread.as_raw_nonzero().get();
        // SAFETY: the arguments are numbers. A thread's number that is used again is that of
        // another thread of this very process, which handles the signal as well.
        let result = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
