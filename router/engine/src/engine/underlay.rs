//! Tunnels over IPv6. The translators know tunnels over IPv4 alone: here a frame becomes one of those on
//! its way in, and a reply gets IPv6's headers in front on its way out. No packet is moved: what a
//! translator is shown of a reply begins 20 bytes later, in the room that steering has opened.
//!
//! ```text
//!  received:  steer header | 56 bytes ............ | 14 bytes Ethernet | IP packet
//!  shown:        20 bytes | steer header | 36 ..... | 14 bytes Ethernet | IP packet
//!  written:      20 bytes | Ethernet, IPv4, UDP, VXLAN, inner Ethernet  | IP packet
//!  sent:      Ethernet, IPv6 .............., UDP, VXLAN, inner Ethernet | IP packet
//! ```

use arrayvec::ArrayVec;

use super::{BURST_MAX, Engine, Nanos, Verdict};
use crate::DropReason;
use crate::encap::peer_key;
use crate::fragment::Fragments;
use crate::steer::{
    KIND_MASK, KIND_REPLY, KIND_TUNNEL, REPLY_IP_OFFSET, REPLY_IP_OFFSET_6, STEER_HEADER_LEN,
    UNDERLAY_6,
};
use crate::tables::{Tables, Underlay};

/// Where the headers over IPv4 begin in a reply.
pub(super) const LATER: usize = REPLY_IP_OFFSET_6 - REPLY_IP_OFFSET;

/// Where the translators' part of a frame begins.
type Start = usize;

impl Engine {
    /// A burst of frames whose tunnels go over IPv6. Not inline: its room on the stack is what no other
    /// burst should pay for.
    #[inline(never)]
    pub(super) fn burst_over_ipv6<const PREFETCH: bool>(
        &mut self,
        now: Nanos,
        (tables, underlay): (&Tables, &Underlay),
        frames: &mut [&mut [u8]],
        verdicts: &mut [Verdict],
    ) {
        let count = verdicts.len().min(BURST_MAX);
        let mut starts: ArrayVec<Start, BURST_MAX> = ArrayVec::new();
        let mut shown: ArrayVec<&mut [u8], BURST_MAX> = ArrayVec::new();
        for frame in frames.iter_mut().take(count) {
            let start = enter(frame);
            starts.push(start);
            shown.push(show(frame, start));
        }
        self.burst::<PREFETCH>(now, tables, &mut shown, verdicts);
        drop(shown);
        for ((frame, start), verdict) in frames.iter_mut().zip(starts).zip(verdicts) {
            *verdict = leave(underlay, frame, start, *verdict);
        }
    }
}

/// Shows a single frame to `process`, whatever tunnels go over.
pub(super) fn through(
    tables: &Tables,
    frame: &mut [u8],
    process: impl FnOnce(&mut [u8]) -> Verdict,
) -> Verdict {
    let Some(underlay) = tables.underlay() else { return process(frame) };
    let start = enter(frame);
    let verdict = process(show(frame, start));
    leave(underlay, frame, start, verdict)
}

/// Shows a single frame that stays as it is, whatever tunnels go over.
pub(super) fn look<T>(tables: &Tables, frame: &mut [u8], look: impl FnOnce(&[u8]) -> T) -> T {
    if tables.underlay().is_none() {
        return look(frame);
    }
    let start = enter(frame);
    let seen = look(show(frame, start));
    restore(frame, start);
    seen
}

/// What is shown of a frame whose tunnel goes over IPv6, but for the steer header.
pub(super) fn seen(frame: &[u8]) -> &[u8] {
    match frame.first() {
        Some(first) if is_reply(*first) => frame.get(LATER..).unwrap_or_default(),
        _ => frame,
    }
}

/// Whether this is the first byte of a reply with room for a tunnel over IPv6.
fn is_reply(first: u8) -> bool {
    first & (KIND_MASK | UNDERLAY_6) == KIND_REPLY | UNDERLAY_6
}

/// Makes a frame one whose tunnel is IPv4's; gives where that begins.
fn enter(frame: &mut [u8]) -> Start {
    let Some(header) = reply_header(frame) else {
        turn(frame);
        return 0;
    };
    match frame.get_mut(LATER..LATER + STEER_HEADER_LEN) {
        Some(room) => {
            room.copy_from_slice(&header);
            turn(room);
            LATER
        }
        // Nothing of it is shown, which is too short.
        None => frame.len(),
    }
}

/// The steer header of a reply with room for a tunnel over IPv6.
fn reply_header(frame: &[u8]) -> Option<[u8; STEER_HEADER_LEN]> {
    frame.first_chunk().copied().filter(|header: &[u8; STEER_HEADER_LEN]| is_reply(header[0]))
}

/// Takes the underlay's bit from a frame of the tunnels, or gives it to one that has none: this one came
/// before the tables changed, and no translator knows it then.
fn turn(frame: &mut [u8]) {
    if let Some(first) = frame.first_mut()
        && matches!(*first & KIND_MASK, KIND_TUNNEL | KIND_REPLY)
    {
        *first ^= UNDERLAY_6;
    }
}

fn show(frame: &mut [u8], start: Start) -> &mut [u8] {
    frame.get_mut(start..).unwrap_or_default()
}

/// Takes back what [`enter`] has done.
fn restore(frame: &mut [u8], start: Start) {
    if start == 0 {
        turn(frame);
    }
}

/// What becomes of a frame of which the translators say this.
fn leave(underlay: &Underlay, frame: &mut [u8], start: Start, verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Transmit { .. } | Verdict::Fragment { .. } if start != LATER => verdict,
        Verdict::Transmit { device, length } => {
            let length = encapsulate(underlay, frame, length);
            length.map_or(NOWHERE, |length| Verdict::Transmit { device, length })
        }
        Verdict::Fragment { device, fragments } => {
            let fragments = encapsulate_unfinished(underlay, frame, fragments);
            fragments.map_or(NOWHERE, |fragments| Verdict::Fragment { device, fragments })
        }
        Verdict::Hold { .. }
        | Verdict::Await { .. }
        | Verdict::HandOff { .. }
        | Verdict::Drop(_) => {
            restore(frame, start);
            verdict
        }
    }
}

/// No reply is written to a peer that there is no way to.
const NOWHERE: Verdict = Verdict::Drop(DropReason::UnknownPeer);

/// Puts IPv6's headers in front of a reply that is to be sent, so many bytes of it; gives how many they
/// are then.
pub(super) fn encapsulate(underlay: &Underlay, frame: &mut [u8], length: u16) -> Option<u16> {
    underlay.outer(peer_key(frame)?)?.write_whole(frame, length)
}

/// The same for a reply that is to be cut.
fn encapsulate_unfinished(
    underlay: &Underlay,
    frame: &mut [u8],
    fragments: Fragments,
) -> Option<Fragments> {
    underlay.outer(peer_key(frame)?)?.write_unfinished(frame)?;
    Some(Fragments { ip_offset: REPLY_IP_OFFSET_6, ..fragments })
}
