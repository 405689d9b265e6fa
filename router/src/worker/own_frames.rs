//! Frames that a worker makes itself: the pieces of a packet that is too large, errors that are owed, and
//! announcements.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use spillway_engine::tables::DeviceIndex;
use spillway_engine::{Answer, DropReason, Fragments, Nanos};
use spillway_xdp::Frame;

use super::{Worker, WorkerParts};

/// Fragments of one packet, at most: of the largest frame, on the narrowest way.
const FRAGMENTS_MAX: usize = 96;

impl Worker {
    /// Sends what is made of a frame: all its pieces or, when there are not enough frames, none.
    pub(super) fn transmit_fragments(
        &mut self,
        now: Nanos,
        device: DeviceIndex,
        fragments: Fragments,
        frame: Frame,
    ) {
        let WorkerParts { lane, tables, .. } = &mut self.parts;
        let count = fragments.count(tables, frame.bytes());
        let mut pieces: ArrayVec<Frame, FRAGMENTS_MAX> = ArrayVec::new();
        while pieces.len() < count.min(FRAGMENTS_MAX)
            && let Some(piece) = lane.allocate()
        {
            pieces.push(piece);
        }
        let is_enough = pieces.len() == count;
        for (number, mut piece) in pieces.into_iter().enumerate() {
            let length = fragments.write(tables, frame.bytes(), number, piece.bytes_mut());
            match length.filter(|_| is_enough) {
                Some(length) => {
                    if let Some(tap) = &mut self.tap {
                        tap.send(now, start_of(&piece, length), device);
                    }
                    lane.transmit(device, piece, length);
                }
                None => lane.recycle(piece),
            }
        }
        lane.recycle(frame);
    }

    /// Tells the sender of a dropped frame why, if it is owed that.
    pub(super) fn answer(&mut self, now: Nanos, reason: DropReason, frame: &mut Frame) {
        let WorkerParts { engine, lane, tables, .. } = &mut self.parts;
        let Some(owed) = engine.owed_error(now, tables, reason, frame.bytes_mut()) else { return };
        let Some(mut error) = lane.allocate() else { return };
        match owed.write(frame.bytes(), error.bytes_mut()) {
            Some(Answer { device, length }) => {
                if let Some(tap) = &mut self.tap {
                    tap.answer(now, start_of(&error, length), device);
                }
                lane.transmit(device, error, length);
            }
            None => lane.recycle(error),
        }
    }

    /// Announces addresses that Spillway itself has.
    pub(super) fn announce(&mut self, now: Nanos, addresses: &[IpAddr]) {
        let WorkerParts { engine, lane, tables, .. } = &mut self.parts;
        for address in addresses {
            let Some(mut frame) = lane.allocate() else { break };
            match engine.announce(tables, *address, frame.bytes_mut()) {
                Some(Answer { device, length }) => {
                    if let Some(tap) = &mut self.tap {
                        tap.own();
                        tap.send(now, start_of(&frame, length), device);
                    }
                    lane.transmit(device, frame, length);
                }
                None => lane.recycle(frame),
            }
        }
        lane.flush();
    }
}

/// The first bytes of a frame; all it has, if those are fewer.
fn start_of(frame: &Frame, length: u16) -> &[u8] {
    frame.bytes().get(..usize::from(length)).unwrap_or(frame.bytes())
}
