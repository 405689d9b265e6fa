//! The steer header: what the steering program tells the engine about a frame.
//!
//! The XDP program moves the head of every frame that it steers, so that the frame starts exactly
//! where the forwarded frame will start, and writes these 14 bytes there, where the forwarded
//! frame's Ethernet header will be. `xdp/src/steer.h` is the same layout in C; a test in `router`
//! holds the two against each other.
//!
//! ```text
//!  0      1          4                     8                    14
//!  +------+----------+---------------------+---------------------+
//!  | kind |   VNI    |    outer source     |  inner source MAC   |
//!  +------+----------+---------------------+---------------------+
//!
//!  tunnel frame:     steer header | inner IP packet
//!  reply frame:      steer header | 36 bytes | 14 bytes Ethernet | IP packet
//!  over IPv6:        steer header | 56 bytes | 14 bytes Ethernet | IP packet
//!  ARP, ping, neighbour solicitation:  steer header | ARP or IP packet
//! ```
//!
//! The first byte: outer ECN field (2 bits), IPv6 underlay (1), IPv6 (1), kind (4).

use std::net::Ipv4Addr;

/// Length of the steer header in bytes: that of an Ethernet header.
pub const STEER_HEADER_LEN: usize = 14;

/// Bytes that VXLAN over IPv4 puts in front of a frame: Ethernet 14, IPv4 20, UDP 8, VXLAN 8.
pub const TUNNEL_OVERHEAD: usize = 50;

/// The same over IPv6, whose header has 40.
pub const TUNNEL_OVERHEAD_6: usize = 70;

/// Where the inner IP header of a tunnel frame starts.
pub const TUNNEL_IP_OFFSET: usize = STEER_HEADER_LEN;

/// Where the IP header of a reply frame starts.
pub const REPLY_IP_OFFSET: usize = TUNNEL_OVERHEAD + 14;

/// Where it starts when tunnels go over IPv6.
pub const REPLY_IP_OFFSET_6: usize = TUNNEL_OVERHEAD_6 + 14;

/// The low bits of the first byte hold the kind, the two high bits the outer ECN field.
pub const KIND_MASK: u8 = 0x0f;

/// The bit of the first byte that says that the steered packet is IPv6.
pub const FAMILY_6: u8 = 0x20;

/// The bit of the first byte that says that tunnels go over IPv6: the frame came through one, or has
/// room in front for one. The outer source is a peer's key then.
pub const UNDERLAY_6: u8 = 0x10;

/// All of the first byte but the ECN field.
pub(crate) const KIND_AND_FAMILY_MASK: u8 = KIND_MASK | FAMILY_6 | UNDERLAY_6;

/// How far to shift the first byte right for the outer ECN field (RFC 6040).
pub const ECN_SHIFT: u32 = 6;

/// `kind` of a frame that a selected pod sent through the tunnel.
pub const KIND_TUNNEL: u8 = 1;

/// `kind` of a frame that came from outside to an egress address.
pub const KIND_REPLY: u8 = 2;

/// `kind` of an ARP request for an egress address that Spillway announces. The steer header has the
/// place of its Ethernet header, and the inner source MAC is the sender's.
pub const KIND_ARP: u8 = 3;

/// `kind` of a ping of an egress address that Spillway announces, in the same way.
pub const KIND_PING: u8 = 4;

/// `kind` of a neighbour solicitation (RFC 4861) for an egress address that Spillway announces, in the
/// same way; with [`FAMILY_6`].
pub const KIND_NEIGHBOUR: u8 = 5;

/// The most extension headers of an IPv6 packet that are looked past …
pub const EXTENSIONS_MAX: u16 = 6;

/// … and the most bytes of them all.
pub const EXTENSION_BYTES_MAX: u16 = 256;

/// How many classes the 65,536 ports fall into.
pub const CLASSES: usize = 256;

/// The multiplier of [`class`]: odd, so that multiplying by it permutes the 65,536 ports, and
/// close to 2^16 / golden ratio, so that neighbouring ports and ports of one parity spread evenly.
pub const CLASS_MULTIPLIER: u16 = 0x9e37;

/// The class of a port or echo identifier, where neighbours are of different classes: which worker owns
/// the flow is decided by the class alone, in both directions. Every class has exactly 256 ports.
#[must_use]
pub const fn class(port: u16) -> u8 {
    (port.wrapping_mul(CLASS_MULTIPLIER) >> 8) as u8
}

/// `CLASS_MULTIPLIER` times this is 1, modulo 2^16.
const CLASS_INVERSE: u16 = inverse(CLASS_MULTIPLIER);

/// The inverse of an odd number modulo 2^16, by Newton's iteration.
const fn inverse(odd: u16) -> u16 {
    let mut inverse = odd;
    let mut step = 0;
    while step < 4 {
        inverse = inverse.wrapping_mul(2_u16.wrapping_sub(odd.wrapping_mul(inverse)));
        step += 1;
    }
    inverse
}

const _: () = assert!(CLASS_INVERSE.wrapping_mul(CLASS_MULTIPLIER) == 1);

/// The port of a class with this number in it; each class has 256.
pub(crate) const fn port_of(class: u8, number: u8) -> u16 {
    u16::from_be_bytes([class, number]).wrapping_mul(CLASS_INVERSE)
}

/// How many ports in a row are of one class: a power of two, 1 to 256. A run starts at a multiple of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The bits of a port that tell its run.
    mask: u16,
}

impl Run {
    /// Neighbours are of different classes.
    pub const ONE: Self = Self { mask: u16::MAX };

    /// A run of so many ports, if there can be one.
    #[must_use]
    pub const fn of(ports: u16) -> Option<Self> {
        let is_run = ports.is_power_of_two() && ports <= 256;
        if is_run { Some(Self { mask: !(ports - 1) }) } else { None }
    }

    /// The bits of a port that tell its run.
    #[must_use]
    pub const fn mask(self) -> u16 {
        self.mask
    }

    /// The class of a port: that of the first one of its run.
    #[must_use]
    pub const fn class(self, port: u16) -> u8 {
        class(port & self.mask)
    }

    /// How many ports a run has.
    const fn ports_of_one(self) -> u16 {
        !self.mask + 1
    }

    /// How many runs a class has.
    pub(crate) const fn in_class(self) -> u16 {
        256 / self.ports_of_one()
    }

    /// The first port of the run of a class with this number in it.
    pub(crate) fn of_class(self, class: u8, number: u16) -> u16 {
        let [_, number] = (number * self.ports_of_one()).to_be_bytes();
        port_of(class, number)
    }

    /// The first port of the run that a port is in.
    pub(crate) const fn first(self, port: u16) -> u16 {
        port & self.mask
    }

    /// The last port of the run that begins with this one.
    pub(crate) const fn last(self, first: u16) -> u16 {
        first | !self.mask
    }

    /// One of the run that begins with `first`: where counting to `number` ends that starts anew after each
    /// round.
    pub(crate) const fn at(self, first: u16, number: u16) -> u16 {
        first | number & !self.mask
    }

    /// The ports of the run that begins with this one.
    pub(crate) fn ports(self, first: u16) -> impl Iterator<Item = u16> + use<> {
        first..=self.last(first)
    }
}

/// Which worker owns which ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owners {
    /// The worker of each class.
    pub of_class: [u8; CLASSES],
    /// How many ports in a row are of one class.
    pub run: Run,
}

impl From<[u8; CLASSES]> for Owners {
    fn from(of_class: [u8; CLASSES]) -> Self {
        Self { of_class, run: Run::ONE }
    }
}

impl Owners {
    /// The worker that frames with this port of ours come to.
    #[must_use]
    pub fn owner(&self, port: u16) -> u8 {
        // Every class has its place.
        self.of_class.get(usize::from(self.run.class(port))).copied().unwrap_or_default()
    }

    /// The highest number of a worker.
    pub(crate) fn last(&self) -> u8 {
        self.of_class.iter().copied().max().unwrap_or_default()
    }
}

/// The steer header, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SteerHeader {
    /// The kind, with the bits of the families ([`FAMILY_6`], [`UNDERLAY_6`]).
    pub kind: u8,
    /// The outer ECN field.
    pub ecn: u8,
    /// The VXLAN network identifier, of a tunnel frame.
    pub vni: [u8; 3],
    /// The tunnel peer's address or key, of a tunnel frame.
    pub outer_source: Ipv4Addr,
    /// The inner source MAC address, of a tunnel frame; of what came without a tunnel and is no reply, the
    /// sender's.
    pub inner_mac: [u8; 6],
}

impl SteerHeader {
    /// Takes it apart; nothing is checked.
    #[must_use]
    pub fn parse(bytes: &[u8; STEER_HEADER_LEN]) -> Self {
        let [first, v0, v1, v2, s0, s1, s2, s3, inner_mac @ ..] = *bytes;
        Self {
            kind: first & KIND_AND_FAMILY_MASK,
            ecn: first >> ECN_SHIFT,
            vni: [v0, v1, v2],
            outer_source: Ipv4Addr::new(s0, s1, s2, s3),
            inner_mac,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_256_ports() {
        let mut sizes = [0_u32; CLASSES];
        for port in 0..=u16::MAX {
            sizes[usize::from(class(port))] += 1;
        }
        assert_eq!(sizes, [256; CLASSES]);
    }

    #[test]
    fn runs_part_the_ports_of_each_class() {
        for run in (0..=8).map(|bits| Run::of(1 << bits).unwrap()) {
            let mut seen = vec![false; 1 << 16];
            for (class, number) in
                (0..=u8::MAX).flat_map(|it| (0..run.in_class()).map(move |k| (it, k)))
            {
                let first = run.of_class(class, number);
                for port in run.ports(first) {
                    assert_eq!((run.class(port), run.first(port)), (class, first));
                    assert!(!std::mem::replace(&mut seen[usize::from(port)], true), "{port} twice");
                }
            }
            assert!(seen.iter().all(|seen| *seen), "{run:?}");
        }
        assert!((0..=u16::MAX).all(|port| Run::ONE.class(port) == class(port)));
        assert_eq!([0, 3, 96, 512].map(Run::of), [None; 4]);
    }

    #[test]
    fn the_header_is_laid_out_as_drawn() {
        let header = SteerHeader::parse(&[0xc1, 0, 0x9c, 0x40, 192, 0, 2, 1, 2, 3, 4, 5, 6, 7]);
        let expected = SteerHeader {
            kind: KIND_TUNNEL,
            ecn: 3,
            vni: [0, 0x9c, 0x40],
            outer_source: Ipv4Addr::new(192, 0, 2, 1),
            inner_mac: [2, 3, 4, 5, 6, 7],
        };
        assert_eq!(header, expected);
    }
}
