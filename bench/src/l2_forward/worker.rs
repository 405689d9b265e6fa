//! A worker without an engine: the loop of the router's, less everything that looks at packets.

use arrayvec::ArrayVec;
use rustix::event::{PollFd, PollFlags, Timespec};
use spillway_xdp::device::BURST_MAX;
use spillway_xdp::{Frame, Lane, LaneStatistics};

/// How long an idle worker sleeps at most, in nanoseconds, as in the router.
const IDLE_NS_MAX: i64 = 100_000_000;

/// How long it sleeps at most while frames wait on a transmit ring.
const BUSY_NS_MAX: i64 = 1_000_000;

/// The Ethernet addresses, in bytes.
const ADDRESSES: usize = 12;

/// Where the frames of a device go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hop {
    pub(crate) device: u16,
    pub(crate) source: [u8; 6],
    /// Without one, frames go back to their sender.
    pub(crate) next_hop: Option<[u8; 6]>,
}

/// One worker thread's state.
pub(crate) struct Worker {
    lane: Lane,
    hops: Vec<Hop>,
    spin: bool,
    burst: ArrayVec<Frame, BURST_MAX>,
}

impl Worker {
    pub(crate) fn new(lane: Lane, hops: Vec<Hop>, spin: bool) -> Self {
        Self { lane, hops, spin, burst: ArrayVec::new() }
    }

    pub(crate) fn number(&self) -> u8 {
        self.lane.worker()
    }

    /// Forwards until it shall end; says what it has done.
    pub(crate) fn run(mut self, shall_end: impl Fn() -> bool) -> LaneStatistics {
        while !shall_end() {
            let received = self.breathe();
            if received == 0 && !self.spin {
                self.sleep();
            }
        }
        self.lane.statistics()
    }

    /// One round: receive a burst, address it, send it, give frames back.
    fn breathe(&mut self) -> usize {
        let received = self.lane.receive(&mut self.burst);
        for mut frame in self.burst.drain(..) {
            match address(&self.hops, frame.bytes_mut()) {
                Some((device, length)) => self.lane.transmit(device, frame, length),
                None => self.lane.recycle(frame),
            }
        }
        self.lane.flush();
        received
    }

    /// Sleeps until a frame comes.
    fn sleep(&mut self) {
        let tv_nsec = if self.lane.transmit_pending() { BUSY_NS_MAX } else { IDLE_NS_MAX };
        let timeout = Timespec { tv_sec: 0, tv_nsec };
        let mut fds: Vec<PollFd<'_>> =
            self.lane.wait_fds().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        // An interrupted or failed poll only means that the worker looks for itself.
        let _ = rustix::event::poll(&mut fds, Some(&timeout));
    }
}

/// Addresses a frame to the next hop of the device that received it, which redirect.bpf.c has put in
/// its first byte. Says where to send it, and its length.
fn address(hops: &[Hop], frame: &mut [u8]) -> Option<(u16, u16)> {
    let length = u16::try_from(frame.len()).ok()?;
    let (addresses, _) = frame.split_first_chunk_mut::<ADDRESSES>()?;
    let hop = hops.get(usize::from(addresses[0]))?;
    let [_, _, _, _, _, _, sender @ ..] = *addresses;
    addresses[..6].copy_from_slice(&hop.next_hop.unwrap_or(sender));
    addresses[6..].copy_from_slice(&hop.source);
    Some((hop.device, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_goes_on_from_the_device_that_its_first_byte_names() {
        let source = [2, 0, 0, 0, 0, 9];
        let back = Hop { device: 1, source, next_hop: None };
        let on = Hop { device: 0, source, next_hop: Some([2, 0, 0, 0, 0, 7]) };
        let mut frame = *b"\x00desti\x02send1payload";
        assert_eq!(address(&[back, on], &mut frame), Some((1, 19)));
        assert_eq!(frame, *b"\x02send1\x02\0\0\0\0\x09payload");
        frame[0] = 1;
        assert_eq!(address(&[back, on], &mut frame), Some((0, 19)));
        assert_eq!(frame[..6], [2, 0, 0, 0, 0, 7]);
        frame[0] = 2;
        assert_eq!(address(&[back, on], &mut frame), None);
        assert_eq!(address(&[back, on], &mut frame[..11]), None);
    }
}
