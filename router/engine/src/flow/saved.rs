//! Flows as they outlive their engine: written down when it ends, and taken up by a later one.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::record::nanos;
use super::slot::{Original, Reply, Tally, Translation, WayBack, tick};
use super::state::Progress;
use super::{Flows, SlotIndex, Tuple};
use crate::Traffic;
use crate::engine::Nanos;
use crate::packet::Wire;
use crate::steer::STEER_HEADER_LEN;

/// All that another engine needs to go on with a flow: nothing of it depends on an epoch, on a hash
/// key or on the number of workers. Times are those of the clock that the engine is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedFlow {
    /// From the pod to the remote, as the pod sends.
    pub original: Tuple,
    /// The address that the outside sees.
    pub egress: IpAddr,
    /// The port, or echo identifier, that the outside sees; 0 of a protocol without ports.
    pub egress_port: u16,
    /// When its first packet came, to 17 ms.
    pub created_ns: Nanos,
    /// TCP: the sequence number that the pod expects next. SCTP: the tag that its INIT asked for.
    pub expected: u32,
    /// From the pod.
    pub forward: SavedDirection,
    /// From the remote.
    pub reply: SavedDirection,
    /// The tunnel peer that replies go to, by its key.
    pub peer: Ipv4Addr,
    /// The link address that they have inside of the tunnel.
    pub inner_mac: [u8; 6],
    /// The network identifier of the flow's own frames.
    pub vni: [u8; 3],
}

/// One direction of a [`SavedFlow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedDirection {
    /// What it has shown: the engine's own bits.
    pub progress: u8,
    /// When its last packet came, to 17 ms; before the first one, when the flow began.
    pub last_seen_ns: Nanos,
    /// What was forwarded.
    pub traffic: Traffic,
}

/// Why a flow was not taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NotRestored {
    /// No engine has written it.
    Malformed,
    /// Its replies come to another worker.
    WrongWorker,
    /// Another flow has one of its tuples.
    Taken,
    /// There is no room.
    TableFull,
    /// Its pod's packets come to another worker, which cannot send more of them on.
    RedirectsFull,
    /// Its port is in a block that is another pod's, or in one block more than its pod can have.
    PortBlock,
}

impl fmt::Display for NotRestored {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Malformed => "no flow of this engine",
            Self::WrongWorker => "another worker owns its port",
            Self::Taken => "another flow has its tuple",
            Self::TableFull => "flows_max is reached",
            Self::RedirectsFull => "too many are not with the worker of their pod's packets",
            Self::PortBlock => "another pod has the block of its port, or its pod has too many",
        })
    }
}

impl<F: Wire> Flows<F> {
    /// Every live flow. `now` is not before any packet of theirs.
    pub(crate) fn saved(&self, now: Nanos) -> impl Iterator<Item = SavedFlow> + '_ {
        let groups = 0..self.originals.groups();
        groups.flat_map(|group| self.originals.entries(group)).map(move |at| self.save(at, now))
    }

    /// One live flow. `now` is not before any packet of it.
    pub(crate) fn save(&self, index: SlotIndex, now: Nanos) -> SavedFlow {
        let original = &self.originals[index];
        let reply = &self.replies[original.twin];
        let change = original.change();
        let WayBack { peer_key, inner_mac, vni, .. } = reply.way_back();
        let direction = |progress: Progress, last_seen, tally: Tally| SavedDirection {
            progress: progress.bits(),
            last_seen_ns: nanos(last_seen, now),
            traffic: tally.traffic(),
        };
        SavedFlow {
            original: original.tuple().of_any_family(),
            egress: change.address.into(),
            egress_port: change.port,
            created_ns: nanos(original.created, now),
            expected: original.expected,
            forward: direction(original.progress, original.last_seen, original.tally),
            reply: direction(reply.progress, reply.last_seen, reply.tally),
            peer: peer_key,
            inner_mac,
            vni,
        }
    }

    /// Adds a flow as it was saved. It looks up policy, route and peer with its next packet.
    pub(crate) fn restore(&mut self, now: Nanos, flow: &SavedFlow) -> Result<(), NotRestored> {
        let (original, reply) = self.entries(now, flow).ok_or(NotRestored::Malformed)?;
        let tuple = original.tuple();
        let is_known = self.originals.find(&tuple, self.hasher.tuple(&tuple)).is_some();
        if is_known || !self.is_free(&reply.tuple()) {
            return Err(NotRestored::Taken);
        }
        self.insert(original, reply).map(|_| ()).ok_or(NotRestored::TableFull)
    }

    /// Its two entries, in the epoch in which nothing is programmed; `None` when no engine can have
    /// saved it.
    fn entries(&self, now: Nanos, flow: &SavedFlow) -> Option<(Original<F>, Reply<F>)> {
        let SavedFlow { egress_port, created_ns, .. } = *flow;
        let tuple = flow.original.of_family()?;
        let egress = F::address(flow.egress)?;
        let SavedFlow { forward, reply: backward, peer: peer_key, inner_mac, vni, .. } = *flow;
        let times = [created_ns, forward.last_seen_ns, backward.last_seen_ns];
        // What seems to come would never grow old; protocol 0 is what an empty slot has.
        if times.iter().any(|time| *time > now) || tuple.protocol == 0 {
            return None;
        }
        let translation = Translation { original: tuple, egress, egress_port };
        let mut original = Original::new(&translation, tick(created_ns));
        original.progress = Progress::from_bits(forward.progress)?;
        original.last_seen = tick(forward.last_seen_ns);
        original.expected = flow.expected;
        original.tally = Tally::of(forward.traffic);
        original.way_back = self.hasher.way_back(&steer_header(peer_key, inner_mac, vni));
        let mut reply = Reply::new(&translation, tick(backward.last_seen_ns));
        reply.progress = Progress::from_bits(backward.progress)?;
        reply.tally = Tally::of(backward.traffic);
        reply.learn(WayBack { peer_key, peer: 0, inner_mac, vni });
        Some((original, reply))
    }
}

/// The steer header of frames that come this way, without its first byte: the kind has no part in
/// what a flow learns.
fn steer_header(peer: Ipv4Addr, mac: [u8; 6], vni: [u8; 3]) -> [u8; STEER_HEADER_LEN] {
    let ([v0, v1, v2], [p0, p1, p2, p3], [m0, m1, m2, m3, m4, m5]) = (vni, peer.octets(), mac);
    [0, v0, v1, v2, p0, p1, p2, p3, m0, m1, m2, m3, m4, m5]
}
