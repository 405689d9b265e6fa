//! The two entries of a flow: exactly one cache line each, of IPv6 two.

use std::net::Ipv4Addr;

use super::state::Progress;
use super::table::{Slot, SlotIndex};
use super::tuple::{Key, Tuple};
use crate::Traffic;
use crate::checksum::Delta;
use crate::engine::Nanos;
use crate::family::{Family, V4, V6};
use crate::nat::Change;
use crate::packet::{Segment, Transport, Wire};
use crate::policy::PolicyIndex;
use crate::tables::{AdjacencyIndex, PeerIndex};

/// Coarse time, in units of 2^24 ns (17 ms): 32 bits last for more than two years, and are
/// compared modulo 2^32.
pub(crate) type Tick = u32;

/// How many bits of a time in nanoseconds a tick leaves out.
pub(super) const TICK_SHIFT: u32 = 24;

/// How far beyond what the pod has acknowledged a RST may be: data may be under way. One guess in
/// 4,096 is right.
const RESET_WINDOW: u32 = 1 << 20;

/// Whether a sequence number is after another (RFC 9293, section 3.4).
fn is_later(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) < 1 << 31
}

/// The tick of a time.
#[expect(clippy::cast_possible_truncation, reason = "ticks are compared modulo 2^32")]
pub(crate) const fn tick(now: Nanos) -> Tick {
    (now >> TICK_SHIFT) as Tick
}

/// What packets from the pod find.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Original<F: Family> {
    /// Of the pod and the remote, as packets have them.
    addresses: F::Pair,
    ports: u32,
    protocol: u8,
    pub(crate) progress: Progress,
    egress_port: u16,
    egress: F::Address,
    ip_delta: Delta,
    transport_delta: Delta,
    /// Valid in `epoch`.
    pub(crate) adjacency: AdjacencyIndex,
    /// Valid in `epoch`.
    pub(crate) policy: PolicyIndex,
    /// The epoch in which policy and route were looked up.
    pub(crate) epoch: u32,
    pub(crate) twin: SlotIndex,
    /// What the twin has learned of the way back, in short: a keyed hash.
    pub(crate) way_back: u32,
    pub(crate) last_seen: Tick,
    pub(crate) created: Tick,
    /// TCP: the sequence number that the pod expects next, by its last acknowledgment. SCTP: the
    /// tag that its INIT asked for.
    pub(super) expected: u32,
    pub(crate) tally: Tally,
}

/// What replies from outside find.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Reply<F: Family> {
    /// Of the remote and the egress, as packets have them.
    addresses: F::Pair,
    ports: u32,
    protocol: u8,
    pub(crate) progress: Progress,
    pod_port: u16,
    pod: F::Address,
    ip_delta: Delta,
    transport_delta: Delta,
    /// The epoch in which policy and peer were looked up.
    pub(crate) epoch: u32,
    pub(crate) twin: SlotIndex,
    peer_key: Ipv4Addr,
    /// Valid in `epoch`.
    pub(crate) peer: PeerIndex,
    inner_mac: [u8; 6],
    vni: [u8; 3],
    pub(crate) last_seen: Tick,
    pub(crate) tally: Tally,
}

/// What was counted of one direction, in 12 bytes: 2^40 packets last for 12 days at a million each
/// second, 2^56 bytes for 66 days at 100 Gbit/s. Then they wrap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally {
    packets_low: u32,
    bytes_low: u32,
    /// The upper 8 bits of packets, then the upper 24 of bytes.
    high: u32,
}

impl Tally {
    pub(super) const NONE: Self = Self { packets_low: 0, bytes_low: 0, high: 0 };
    const BYTES_HIGH: u32 = 0x00ff_ffff;

    #[inline]
    fn count(&mut self, length: u16) {
        let (packets, packets_carry) = self.packets_low.overflowing_add(1);
        let (bytes, bytes_carry) = self.bytes_low.overflowing_add(u32::from(length));
        (self.packets_low, self.bytes_low) = (packets, bytes);
        if packets_carry {
            self.high = self.high.wrapping_add(Self::BYTES_HIGH + 1);
        }
        if bytes_carry {
            let bytes_high = self.high.wrapping_add(1) & Self::BYTES_HIGH;
            self.high = self.high & !Self::BYTES_HIGH | bytes_high;
        }
    }

    /// So much, as far as it fits.
    #[expect(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
    pub(super) fn of(Traffic { packets, bytes }: Traffic) -> Self {
        let packets_high = (packets >> 32) as u32;
        let bytes_high = (bytes >> 32) as u32 & Self::BYTES_HIGH;
        Self {
            packets_low: packets as u32,
            bytes_low: bytes as u32,
            high: packets_high << 24 | bytes_high,
        }
    }

    /// As plain numbers.
    pub(crate) fn traffic(self) -> Traffic {
        let high = u64::from(self.high);
        Traffic {
            packets: high >> 24 << 32 | u64::from(self.packets_low),
            bytes: (high & u64::from(Self::BYTES_HIGH)) << 32 | u64::from(self.bytes_low),
        }
    }
}

/// What a flow has learned from its own frames: where its replies go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WayBack {
    /// The outer source: the peer's key.
    pub(crate) peer_key: Ipv4Addr,
    /// The index of that peer in this epoch.
    pub(crate) peer: PeerIndex,
    /// The inner Ethernet source.
    pub(crate) inner_mac: [u8; 6],
    pub(crate) vni: [u8; 3],
}

const _: () = assert!(size_of::<Original<V4>>() == 64 && align_of::<Original<V4>>() == 64);
const _: () = assert!(size_of::<Reply<V4>>() == 64 && align_of::<Reply<V4>>() == 64);
const _: () = assert!(size_of::<Original<V6>>() == 128 && align_of::<Original<V6>>() == 64);
const _: () = assert!(size_of::<Reply<V6>>() == 128 && align_of::<Reply<V6>>() == 64);

/// How a new flow is translated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Translation<F: Family> {
    /// The pod's tuple.
    pub(crate) original: Tuple<F::Address>,
    pub(crate) egress: F::Address,
    pub(crate) egress_port: u16,
}

impl<F: Family> Translation<F> {
    /// The tuple of replies.
    pub(crate) fn reply(&self) -> Tuple<F::Address> {
        Tuple {
            source: self.original.destination,
            destination: self.egress,
            source_port: self.original.destination_port,
            destination_port: self.egress_port,
            protocol: self.original.protocol,
        }
    }
}

impl<F: Wire> Original<F> {
    pub(crate) fn new(translation: &Translation<F>, now: Tick) -> Self {
        let Translation { original, egress, egress_port } = *translation;
        let from = (original.source, original.source_port);
        let change = Change::<F>::new(original.protocol, from, (egress, egress_port));
        let (addresses, ports, protocol) = original.key().parts();
        Self {
            addresses,
            ports,
            protocol,
            egress_port,
            egress,
            ip_delta: change.ip,
            transport_delta: change.transport,
            last_seen: now,
            created: now,
            ..Self::EMPTY
        }
    }

    /// What its packets have.
    pub(crate) fn tuple(&self) -> Tuple<F::Address> {
        self.key().tuple()
    }

    /// The protocol number.
    #[inline]
    pub(crate) fn protocol(&self) -> u8 {
        self.protocol
    }

    /// How it is translated.
    pub(crate) fn translation(&self) -> Translation<F> {
        let Self { egress, egress_port, .. } = *self;
        Translation { original: self.tuple(), egress, egress_port }
    }

    /// Whether the outside sees the pod's own port.
    pub(crate) fn keeps_port(&self) -> bool {
        self.key().ports().0 == self.egress_port
    }

    /// The egress address that the flow keeps.
    pub(crate) fn egress(&self) -> F::Address {
        self.egress
    }

    /// Takes note of a packet that was forwarded. An ICMP error keeps no flow alive.
    #[inline(always)]
    pub(crate) fn note(&mut self, transport: Transport, length: u16, now: Tick) {
        if transport == Transport::Error {
            return;
        }
        match transport {
            Transport::Tcp(segment) => self.note_acknowledgment(segment),
            Transport::Sctp(chunk) if chunk.opens() => self.expected = chunk.initiate_tag,
            _ => {}
        }
        self.progress.note(transport);
        self.count(length, now);
    }

    /// Takes note of a usual packet that was forwarded, the same as [`Original::note`]; of TCP also
    /// [`Original::note_acknowledgment`].
    #[inline(always)]
    pub(crate) fn note_usual(&mut self, length: u16, now: Tick) {
        self.progress.note_usual();
        self.count(length, now);
    }

    #[inline(always)]
    fn count(&mut self, length: u16, now: Tick) {
        self.last_seen = now;
        self.tally.count(length);
    }

    /// Takes note of what a segment of the pod acknowledges; before the packet itself is noted.
    #[inline(always)]
    pub(crate) fn note_acknowledgment(&mut self, segment: Segment) {
        if let Some(expected) = segment.acknowledges()
            && (!self.progress.has_spoken() || is_later(expected, self.expected))
        {
            self.expected = expected;
        }
    }

    /// Whether the pod may believe a packet from outside (RFC 5961, section 3): of what ends a
    /// connection, whoever cannot see it has to guess a part. Before the pod has acknowledged
    /// anything on TCP there is nothing to go by.
    pub(crate) fn may_believe(&self, transport: Transport) -> bool {
        match transport {
            Transport::Tcp(segment) if segment.has_rst() => {
                !self.progress.has_spoken()
                    || segment.sequence.wrapping_sub(self.expected) < RESET_WINDOW
            }
            Transport::Sctp(chunk) if chunk.ends() => chunk.tag == self.expected,
            _ => true,
        }
    }

    /// What becomes of a packet's source.
    #[inline]
    pub(crate) fn change(&self) -> Change<F> {
        Change {
            address: self.egress,
            port: self.egress_port,
            ip: self.ip_delta,
            transport: self.transport_delta,
        }
    }
}

impl<F: Wire> Reply<F> {
    pub(crate) fn new(translation: &Translation<F>, now: Tick) -> Self {
        let Translation { original, egress, egress_port } = *translation;
        let to = (original.source, original.source_port);
        let change = Change::<F>::new(original.protocol, (egress, egress_port), to);
        let (addresses, ports, protocol) = translation.reply().key().parts();
        Self {
            addresses,
            ports,
            protocol,
            pod_port: original.source_port,
            pod: original.source,
            ip_delta: change.ip,
            transport_delta: change.transport,
            last_seen: now,
            ..Self::EMPTY
        }
    }

    /// What its packets have.
    pub(crate) fn tuple(&self) -> Tuple<F::Address> {
        self.key().tuple()
    }

    /// The protocol number.
    #[inline]
    pub(crate) fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Whether the outside sees the pod's own port.
    pub(crate) fn keeps_port(&self) -> bool {
        self.key().ports().1 == self.pod_port
    }

    /// Where replies go from now on.
    pub(crate) fn learn(&mut self, way_back: WayBack) {
        let WayBack { peer_key, peer, inner_mac, vni } = way_back;
        *self = Self { peer_key, peer, inner_mac, vni, ..*self };
    }

    /// Where replies go.
    #[inline]
    pub(crate) fn way_back(&self) -> WayBack {
        let Self { peer_key, peer, inner_mac, vni, .. } = *self;
        WayBack { peer_key, peer, inner_mac, vni }
    }

    /// What replies have inside of the tunnel: the link address that they go to, and the network
    /// identifier of the flow's own frames.
    #[inline]
    pub(crate) fn inner_link(&self) -> (&[u8; 6], &[u8; 3]) {
        (&self.inner_mac, &self.vni)
    }

    /// What becomes of a packet's destination.
    #[inline]
    pub(crate) fn change(&self) -> Change<F> {
        Change {
            address: self.pod,
            port: self.pod_port,
            ip: self.ip_delta,
            transport: self.transport_delta,
        }
    }

    /// Takes note of a packet that was forwarded. An ICMP error keeps no flow alive.
    #[inline(always)]
    pub(crate) fn note(&mut self, transport: Transport, length: u16, now: Tick) {
        if transport != Transport::Error {
            self.progress.note(transport);
            self.count(length, now);
        }
    }

    /// Takes note of a usual packet that was forwarded, the same as [`Reply::note`].
    #[inline(always)]
    pub(crate) fn note_usual(&mut self, length: u16, now: Tick) {
        self.progress.note_usual();
        self.count(length, now);
    }

    #[inline(always)]
    fn count(&mut self, length: u16, now: Tick) {
        self.last_seen = now;
        self.tally.count(length);
    }
}

impl<F: Wire> Slot for Original<F> {
    type Family = F;

    const EMPTY: Self = Self {
        addresses: F::PAIR_NONE,
        ports: 0,
        protocol: 0,
        progress: Progress::NONE,
        egress_port: 0,
        egress: F::UNSPECIFIED,
        ip_delta: Delta::NONE,
        transport_delta: Delta::NONE,
        adjacency: 0,
        policy: 0,
        epoch: 0,
        twin: SlotIndex::FIRST,
        way_back: 0,
        last_seen: 0,
        created: 0,
        expected: 0,
        tally: Tally::NONE,
    };

    #[inline]
    fn key(&self) -> Key<F> {
        Key::of_parts(self.addresses, self.ports, self.protocol)
    }
}

impl<F: Wire> Slot for Reply<F> {
    type Family = F;

    const EMPTY: Self = Self {
        addresses: F::PAIR_NONE,
        ports: 0,
        protocol: 0,
        progress: Progress::NONE,
        pod_port: 0,
        pod: F::UNSPECIFIED,
        ip_delta: Delta::NONE,
        transport_delta: Delta::NONE,
        epoch: 0,
        twin: SlotIndex::FIRST,
        peer_key: Ipv4Addr::UNSPECIFIED,
        peer: 0,
        inner_mac: [0; 6],
        vni: [0; 3],
        last_seen: 0,
        tally: Tally::NONE,
    };

    #[inline]
    fn key(&self) -> Key<F> {
        Key::of_parts(self.addresses, self.ports, self.protocol)
    }
}
