//! What the program makes of a frame that nobody has sent: a copy of it with the same policy maps, but
//! with counters of its own, is run on the frame (`BPF_PROG_TEST_RUN`). Such a run redirects nothing: the
//! kernel says what the program wants, and gives the frame back.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use libbpf_rs::libbpf_sys;

use super::program::Program;
use super::{SteerOutcome, Steering, SteeringError};

/// How much of a frame the program is shown: more than all headers that it follows, and less than a
/// test run takes on any kernel, whose frames have to find room in a page.
const HEAD_MAX: usize = 2_048;

/// Room in front for what the program opens there.
const OPENED_MAX: usize = 256;

/// A copy of the steering program to try frames with. Frames on devices never come to it.
#[derive(Debug)]
pub struct Trial {
    program: Program,
}

/// What became of a frame that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// The way out that it took.
    pub outcome: SteerOutcome,
    /// The frame as it would go on: of one that is steered, what its worker would be given.
    pub frame: Vec<u8>,
}

impl Steering {
    /// Loads a copy of the program that follows all tables that are applied, now and later. `sockets` are
    /// one of each worker, of any device and queue.
    ///
    /// # Errors
    /// When the kernel refuses the program or a socket.
    pub fn trial<'a>(
        &self,
        sockets: impl IntoIterator<Item = (u8, BorrowedFd<'a>)>,
    ) -> Result<Trial, SteeringError> {
        // Test runs are of queue 0.
        let slots = u32::from(self.config.workers);
        let program = Program::load(&self.config, slots, Some(&self.maps))?;
        for (worker, socket) in sockets {
            program.set_socket(u32::from(worker), socket)?;
        }
        Ok(Trial { program })
    }
}

impl Trial {
    /// Says what steering would do with a frame, the Ethernet header first, if it came now. It does not
    /// come from one of our devices: ARP and neighbour solicitations are nobody's here.
    ///
    /// # Errors
    /// When the kernel does not run the program.
    pub fn run(&self, frame: &[u8]) -> Result<Tried, SteeringError> {
        let (head, rest) = frame.split_at(frame.len().min(HEAD_MAX));
        let before = self.program.outcomes()?;
        let (_, mut moved) = test_run(self.program.as_fd(), head)
            .map_err(|source| SteeringError::Trial { source })?;
        let after = self.program.outcomes()?;
        let counted = before.iter().zip(&after).position(|(before, after)| before != after);
        let outcome = counted.and_then(|index| SteerOutcome::ALL.get(index)).copied();
        let nothing = || SteeringError::Trial { source: io::ErrorKind::UnexpectedEof.into() };
        moved.extend_from_slice(rest);
        Ok(Tried { outcome: outcome.ok_or_else(nothing)?, frame: moved })
    }
}

/// Runs a program once on a frame; gives its `enum xdp_action`, and the frame as the program leaves it.
/// Its counters count.
///
/// # Errors
/// When the kernel does not, such as with a frame that is shorter than an Ethernet header, or does not
/// find room in a page.
pub fn test_run(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<(u32, Vec<u8>)> {
    let mut out = vec![0; frame.len() + OPENED_MAX];
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut options = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
        data_in: frame.as_ptr().cast(),
        data_size_in: length(frame),
        data_out: out.as_mut_ptr().cast(),
        data_size_out: length(&out),
        repeat: 1,
        ..Default::default()
    };
    // SAFETY: both buffers outlive the call, and `options` says their lengths and its own.
    let result =
        unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut options) };
    if result != 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    out.truncate(options.data_size_out as usize);
    Ok((options.retval, out))
}
