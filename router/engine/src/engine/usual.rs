//! The usual packet's short way: of a known flow that was confirmed in this epoch, and that goes on as
//! before. Nothing is decided for it: all is in its flow's entry, one cache line. Whatever is not so
//! takes the long way (`life.rs`), the frame untouched; for a usual packet that would do the same.
//!
//! A burst goes through in stages, so that while one packet waits for memory the others do, too.

use super::Verdict;
use super::life::Context;
use super::translator::Translator;
use crate::counters::Traffic;
use crate::encap::Label;
use crate::nat::{Change, Side, rewrite_tcp, rewrite_udp};
use crate::packet::{Direction, Segment, TCP, Usual, Wire, prefetch_headers, tunnel_tos};
use crate::tables::DeviceIndex;

/// Out of which device a packet leaves, and how many bytes.
type Sent = (DeviceIndex, u16);

/// Packets and bytes of a burst: summed up here, counted once.
#[derive(Default)]
struct Sum {
    // Of different sizes, or the compiler makes vectors of them: three times the instructions.
    packets: u32,
    bytes: u64,
}

impl Sum {
    #[inline(always)]
    fn count(&mut self, length: u16) {
        self.packets += 1;
        self.bytes += u64::from(length);
    }

    fn traffic(&self) -> Traffic {
        Traffic { packets: self.packets.into(), bytes: self.bytes }
    }
}

impl<F: Wire> Translator<F> {
    /// Stage 1: recognises the usual packets; starts to load the tags that find their flows.
    #[inline(never)]
    pub(super) fn glance<const PREFETCH: bool>(
        &self,
        frames: &[&mut [u8]],
        glances: &mut [Usual<F>],
    ) {
        if PREFETCH {
            frames.iter().for_each(|frame| prefetch_headers(frame));
        }
        for (frame, usual) in frames.iter().zip(glances) {
            usual.glance(frame, &self.hasher);
            match usual.direction {
                Some(Direction::Forward) if PREFETCH => {
                    self.flows.originals.prefetch_group(usual.hash);
                }
                Some(Direction::Reply) if PREFETCH => {
                    self.flows.replies.prefetch_group(usual.hash);
                }
                _ => {}
            }
        }
    }

    /// Stage 2: looks for the likely entries of their flows, which start to load.
    #[inline(never)]
    pub(super) fn seek<const PREFETCH: bool>(&self, glances: &mut [Usual<F>]) {
        for usual in glances {
            usual.candidate = match usual.direction {
                Some(Direction::Forward) => self.flows.originals.candidate::<PREFETCH>(usual.hash),
                Some(Direction::Reply) => self.flows.replies.candidate::<PREFETCH>(usual.hash),
                None => continue,
            };
        }
    }

    /// Stage 3: sends each packet on its way, in the order in which they came; gives how many are
    /// of the other family: their glances say so.
    #[inline(never)]
    pub(super) fn send_each(
        &mut self,
        context: Context<'_, F>,
        frames: &mut [&mut [u8]],
        glances: &mut [Usual<F>],
        verdicts: &mut [Verdict],
    ) -> usize {
        let (mut forward, mut reply, mut left) = (Sum::default(), Sum::default(), 0);
        for ((frame, verdict), usual) in frames.iter_mut().zip(verdicts).zip(glances) {
            let sent = match usual.direction {
                Some(Direction::Forward) => self.forward_usual(context, frame, usual, &mut forward),
                Some(Direction::Reply) => self.reply_usual(context, frame, usual, &mut reply),
                None => None,
            };
            match sent {
                Some((device, length)) => *verdict = Verdict::Transmit { device, length },
                None => {
                    let is_left = !self.unusual(context, frame, verdict);
                    usual.set_left(is_left);
                    left += usize::from(is_left);
                }
            }
        }
        let (forward, reply) = (forward.traffic(), reply.traffic());
        self.counters.transmitted += forward.packets + reply.packets;
        self.counters.forward.add(forward);
        self.counters.reply.add(reply);
        left
    }

    /// From a pod; `None` leaves the frame as it was, for the long way.
    #[inline(always)]
    fn forward_usual(
        &mut self,
        Context { tables, now, .. }: Context<'_, F>,
        frame: &mut [u8],
        usual: &Usual<F>,
        sum: &mut Sum,
    ) -> Option<Sent> {
        let original = self.flows.originals.get_near(&usual.key, usual.hash, usual.candidate)?;
        let is_confirmed = original.epoch == tables.epoch() && original.way_back == usual.way_back;
        let adjacency = tables.adjacency(original.adjacency).ok()?;
        if !is_confirmed || usual.length > adjacency.mtu {
            return None;
        }
        let change = original.change();
        let (ethernet, packet) = frame.split_first_chunk_mut()?;
        let header = rewrite::<F>(packet, original.protocol(), Side::Source, &change, |segment| {
            original.note_acknowledgment(segment);
        })?;
        original.note_usual(usual.length, now);
        F::renew_usual(header, &mut self.identifications, &self.hasher);
        *ethernet = adjacency.ethernet;
        sum.count(usual.length);
        Some((adjacency.device, Direction::Forward.frame_length(usual.length)))
    }

    /// From outside, in the same way.
    #[inline(always)]
    fn reply_usual(
        &mut self,
        Context { tables, now, .. }: Context<'_, F>,
        frame: &mut [u8],
        usual: &Usual<F>,
        sum: &mut Sum,
    ) -> Option<Sent> {
        let reply = self.flows.replies.get_near(&usual.key, usual.hash, usual.candidate)?;
        let overlay = tables.overlay_to(reply.peer).ok()?;
        if reply.epoch != tables.epoch() || usual.length > overlay.usual_mtu {
            return None;
        }
        let change = reply.change();
        let (head, packet) = frame.split_first_chunk_mut()?;
        let header = rewrite::<F>(packet, reply.protocol(), Side::Destination, &change, |_| ())?;
        reply.note_usual(usual.length, now);
        let (inner_mac, flow_vni) = reply.inner_link();
        let label = Label {
            hash: usual.hash,
            flow_vni,
            inner_mac,
            inner_length: usual.length,
            tos: tunnel_tos(F::tos(header)),
        };
        overlay.write(head, &label);
        sum.count(usual.length);
        Some((overlay.device, Direction::Reply.frame_length(usual.length)))
    }
}

/// Changes the headers of a usual packet, of which `note` is shown what TCP has; gives that of IP.
/// `None` leaves them as they were.
#[inline(always)]
fn rewrite<'a, F: Wire>(
    packet: &'a mut [u8],
    protocol: u8,
    side: Side,
    change: &Change<F>,
    note: impl FnOnce(Segment),
) -> Option<&'a mut F::Header> {
    let (header, payload) = F::split_usual(packet)?;
    if protocol == TCP {
        let segment = payload.first_chunk_mut()?;
        rewrite_tcp(segment, side, change);
        note(Segment::parse(segment));
    } else {
        rewrite_udp(payload.first_chunk_mut()?, side, change);
    }
    F::rewrite_header(header, side, change);
    Some(header)
}

#[cfg(test)]
mod tests;
