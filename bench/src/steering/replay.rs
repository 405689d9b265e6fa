//! Runs of a program in the kernel on many frames, by `BPF_PROG_TEST_RUN`.
//!
//! The kernel gives the time of a run as whole nanoseconds per frame.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use anyhow::{Context as _, Result, ensure};
use libbpf_rs::{MapCore as _, MapFlags, MapHandle, Object, ProgramInput};

use crate::bpf;

/// The length of each frame in bytes: a frame of 64 in a tunnel.
pub(crate) const FRAME_LEN: usize = 114;
/// How many frames fit, a power of two.
pub(crate) const FRAMES_MAX: u32 = 16_384;
/// A frame's place in the map.
const SLOT_LEN: usize = 128;

static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/replay.bpf.o"));

/// One frame.
pub(crate) type Frame = [u8; FRAME_LEN];

/// The program that hands out frames, and the maps that say which, to whom.
pub(crate) struct Replay {
    object: Object,
    frames: MapHandle,
    turns: MapHandle,
    tested: MapHandle,
    given: u32,
}

impl Replay {
    /// Loads the programs.
    pub(crate) fn load() -> Result<Self> {
        let loaded = bpf::open(OBJECT)?.load();
        let object = loaded.context("the kernel refuses the replaying program (is this root?)")?;
        let [frames, turns, tested] =
            ["frames", "turns", "tested"].map(|name| bpf::map(&object, name));
        Ok(Self { frames: frames?, turns: turns?, tested: tested?, object, given: 0 })
    }

    /// Puts frames where the next runs take them from.
    pub(crate) fn fill(&self, frames: &[Frame]) -> Result<()> {
        let count = u32::try_from(frames.len())?;
        ensure!(count <= FRAMES_MAX, "{count} frames, {FRAMES_MAX} fit");
        let mut slots = Vec::with_capacity(frames.len() * SLOT_LEN);
        let mut keys = Vec::with_capacity(frames.len() * 4);
        for (index, frame) in (0u32..).zip(frames) {
            keys.extend(index.to_ne_bytes());
            slots.extend(frame);
            slots.resize(slots.len() + SLOT_LEN - FRAME_LEN, 0);
        }
        let (any, none) = (MapFlags::ANY, MapFlags::empty());
        self.frames.update_batch(&keys, &slots, count, any, none).context("cannot write frames")
    }

    /// Nanoseconds per frame with `program`, over `repeat` frames taken in turn from the first
    /// `distinct` ones, a power of two. The next run goes on where this one ends.
    pub(crate) fn run(
        &mut self,
        program: BorrowedFd<'_>,
        distinct: u32,
        repeat: u32,
    ) -> Result<f64> {
        ensure!(distinct.is_power_of_two() && distinct <= FRAMES_MAX, "{distinct} frames");
        let mask = distinct - 1;
        let turn = [mask.to_ne_bytes(), self.given.to_ne_bytes()].concat();
        self.given = self.given.wrapping_add(repeat);
        self.turns.update(&0u32.to_ne_bytes(), &turn, MapFlags::ANY)?;
        let tested = program.as_raw_fd().to_ne_bytes();
        self.tested
            .update(&0u32.to_ne_bytes(), &tested, MapFlags::ANY)
            .context("cannot call the program under test")?;
        let replay = self.object.progs_mut().find(|program| program.name() == "replay");
        let replay = replay.context("no program `replay`")?;
        let frame = [0; FRAME_LEN];
        let input = ProgramInput { data_in: Some(&frame), repeat, ..ProgramInput::default() };
        let output = replay.test_run(input).context("the test run fails")?;
        ensure!(output.return_value != 0, "a frame could not be put in its place");
        Ok(output.duration.as_secs_f64() * 1e9)
    }

    /// The same with the program that does nothing.
    pub(crate) fn run_empty(&mut self, distinct: u32, repeat: u32) -> Result<f64> {
        let empty = self.object.progs().find(|program| program.name() == "empty");
        let empty = empty.context("no program `empty`")?.as_fd().try_clone_to_owned()?;
        self.run(empty.as_fd(), distinct, repeat)
    }
}
