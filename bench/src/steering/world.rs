//! Worlds of different sizes, and frames whose fate in them is known.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, bail};
use etherparse::PacketBuilder;
use ipnet::{Ipv4Net, Ipv6Net};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use spillway_xdp::steering::{
    DestinationSet, EgressPorts, SteerFamily, SteerOutcome, SteerPeer, SteerTables,
};

use super::replay::{FRAME_LEN, FRAMES_MAX, Frame};

const TUNNEL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PEERS: u32 = 100;
const EGRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 129);
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const REMOTE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub(super) const TUNNEL_PORT: u16 = 8472;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const VXLAN: [u8; 8] = [0x08, 0, 0, 0, 0, 0x9c, 0x40, 0];
/// Ethernet, IPv4, UDP and VXLAN.
const TUNNEL_OVERHEAD: usize = 50;

/// How large a world is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    /// Selected pods.
    pub(super) pods: u32,
    /// Different policy sets, each of as many pods.
    pub(super) sets: usize,
    /// Prefixes of each set.
    pub(super) cidrs: usize,
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Tunnel,
    Reply,
    NotCovered,
    NotSelected,
    Foreign,
}

impl Kind {
    pub(super) const ALL: [Self; 5] =
        [Self::Tunnel, Self::Reply, Self::NotCovered, Self::NotSelected, Self::Foreign];

    /// What the program shall say of each frame.
    pub(super) fn outcome(self) -> SteerOutcome {
        match self {
            Self::Tunnel => SteerOutcome::SteerTunnel,
            Self::Reply => SteerOutcome::SteerReply,
            Self::NotCovered => SteerOutcome::PassNotCovered,
            Self::NotSelected => SteerOutcome::PassTunnelOther,
            Self::Foreign => SteerOutcome::PassOther,
        }
    }

    /// Whether it is decided by what there may be many of: pods and destinations.
    pub(super) fn depends_on_size(self) -> bool {
        !matches!(self, Self::Reply | Self::Foreign)
    }

    pub(super) fn describe(self, family: Family) -> &'static str {
        match (family, self) {
            (Family::V4, Self::Tunnel) => "steered, from a tunnel",
            (Family::V4, Self::Reply) => "steered, a reply",
            (Family::V4, Self::NotCovered) => "passed, destination not covered",
            (Family::V4, Self::NotSelected) => "passed, pod not selected",
            (Family::V4, Self::Foreign) => "passed, not to Spillway at all",
            (Family::V6, Self::Tunnel) => "IPv6 steered, from a tunnel",
            (Family::V6, Self::Reply) => "IPv6 steered, a reply",
            (Family::V6, Self::NotCovered) => "IPv6 passed, destination not covered",
            (Family::V6, Self::NotSelected) => "IPv6 passed, pod not selected",
            (Family::V6, Self::Foreign) => "IPv6 passed, not to Spillway at all",
        }
    }
}

/// Of which family the pods' packets are, and the replies. Every world has both: that of IPv6 is an
/// image of that of IPv4.
#[derive(Clone, Copy, Debug)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// A pod's address. Neighbours are neighbours.
    fn pod(self, address: Ipv4Addr) -> IpAddr {
        match self {
            Self::V4 => address.into(),
            Self::V6 => ipv6_pod(address).into(),
        }
    }

    /// Any other address.
    fn remote(self, address: Ipv4Addr) -> IpAddr {
        match self {
            Self::V4 => address.into(),
            Self::V6 => ipv6_remote(address).into(),
        }
    }
}

fn ipv6_pod(address: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(0x2001_0db8_0010_0000 << 64 | u128::from(address.to_bits()))
}

/// How many bits an IPv6 address has in front of the IPv4 address that it is the image of.
const FRONT_BITS: u8 = 20;

/// The bits are where those of networks are: a prefix of 16 to 24 bits becomes one of 36 to 44.
fn ipv6_remote(address: Ipv4Addr) -> Ipv6Addr {
    let bits = u128::from(address.to_bits()) << (96 - u32::from(FRONT_BITS));
    Ipv6Addr::from_bits(0x2a000 << (128 - u32::from(FRONT_BITS)) | bits)
}

fn ipv6_set(set: &DestinationSet) -> DestinationSet<Ipv6Addr> {
    let net =
        |net: &Ipv4Net| Ipv6Net::new_assert(ipv6_remote(net.addr()), net.prefix_len() + FRONT_BITS);
    set.iter().map(|(prefix, on)| (net(prefix), *on)).collect()
}

/// A world of some size.
pub(super) struct World {
    pub(super) tables: SteerTables,
    selected: Vec<Ipv4Addr>,
    others: Vec<Ipv4Addr>,
    random: SmallRng,
}

impl World {
    /// The same for the same size.
    pub(super) fn new(size: Size) -> Self {
        let mut random = SmallRng::seed_from_u64(5);
        let sets: Vec<_> = (0..size.sets).map(|_| set(size.cidrs, &mut random)).collect();
        let [selected, others] = pods(size.pods, &mut random);
        let own = EgressPorts { first: 1024, last: 65535, own: true, announce: None };
        let v6 = SteerFamily {
            pods: selected.iter().copied().map(ipv6_pod).zip((0..size.sets).cycle()).collect(),
            sets: sets.iter().map(ipv6_set).collect(),
            egress: [(ipv6_remote(EGRESS), own)].into(),
        };
        let v4 = SteerFamily {
            pods: selected.iter().copied().zip((0..size.sets).cycle()).collect(),
            sets,
            egress: [(EGRESS, own)].into(),
        };
        let tables = SteerTables {
            tunnels: [TUNNEL.into()].into(),
            peers: (0..PEERS)
                .map(|index| {
                    let key = peer(index);
                    (key.into(), SteerPeer { tunnel: TUNNEL.into(), key })
                })
                .collect(),
            v4,
            v6,
        };
        Self { tables, selected, others, random }
    }

    /// Frames of one kind: of random pods, peers, destinations and ports.
    pub(super) fn frames(&mut self, kind: Kind, family: Family) -> Result<Vec<Frame>> {
        (0..FRAMES_MAX).map(|_| self.frame(kind, family)).collect()
    }

    fn frame(&mut self, kind: Kind, family: Family) -> Result<Frame> {
        let port = self.random.random_range(1024..=u16::MAX);
        let index = self.random.random_range(0..self.selected.len());
        let (pod, other) = (family.pod(self.selected[index]), family.pod(self.others[index]));
        let remote = (family.remote(REMOTE), 443);
        match kind {
            Kind::Tunnel => {
                let destination = family.remote(self.destination(index, true));
                self.tunnel((pod, port), (destination, 443))
            }
            Kind::NotCovered => {
                let destination = family.remote(self.destination(index, false));
                self.tunnel((pod, port), (destination, 443))
            }
            Kind::NotSelected => self.tunnel((other, port), remote),
            Kind::Reply => {
                udp_frame(remote, (family.remote(EGRESS), port), FRAME_LEN).and_then(whole)
            }
            Kind::Foreign => {
                udp_frame(remote, (family.remote(HOST), port), FRAME_LEN).and_then(whole)
            }
        }
    }

    fn tunnel(&mut self, pod: Socket, destination: Socket) -> Result<Frame> {
        let peer = (peer(self.random.random_range(0..PEERS)).into(), 50_000);
        let mut frame = udp_frame(peer, (TUNNEL.into(), TUNNEL_PORT), FRAME_LEN)?;
        let inner = udp_frame(pod, destination, FRAME_LEN - TUNNEL_OVERHEAD)?;
        let (head, rest) = frame.split_at_mut(TUNNEL_OVERHEAD);
        head[TUNNEL_OVERHEAD - VXLAN.len()..].copy_from_slice(&VXLAN);
        rest.copy_from_slice(&inner);
        whole(frame)
    }

    /// A destination that the pod's set covers, or one that it does not: there, half of them lie in
    /// a hole if the set has any.
    fn destination(&mut self, pod: usize, covered: bool) -> Ipv4Addr {
        let set = &self.tables.v4.sets[pod % self.tables.v4.sets.len()];
        loop {
            let (net, on) = set[self.random.random_range(0..set.len())];
            let anywhere = !covered && self.random.random();
            let address = if anywhere {
                Ipv4Addr::from(self.random.random::<u32>())
            } else if on == covered {
                let (first, last) = (u32::from(net.network()), u32::from(net.broadcast()));
                Ipv4Addr::from(self.random.random_range(first..=last))
            } else {
                continue;
            };
            if covers(set, address) == covered {
                return address;
            }
        }
    }
}

/// The selected pods are a random half of all: a node's pods, selected and not, are neighbours.
fn pods(count: u32, random: &mut SmallRng) -> [Vec<Ipv4Addr>; 2] {
    let first = u32::from(Ipv4Addr::new(10, 0, 0, 0));
    let mut all: Vec<_> = (0..2 * count).map(|index| Ipv4Addr::from(first + index)).collect();
    all.shuffle(random);
    let others = all.split_off(count as usize);
    [all, others]
}

fn peer(index: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 1)) + index)
}

/// Prefixes all over the address space, most of them of 16 to 24 bits; each tenth is a hole in
/// another one.
fn set(cidrs: usize, random: &mut SmallRng) -> DestinationSet {
    let mut set: DestinationSet = Vec::new();
    while set.len() < cidrs {
        let (length, address) = (random.random_range(16..=24), random.random());
        let net = Ipv4Net::new_assert(Ipv4Addr::from_bits(address), length).trunc();
        if set.iter().any(|(other, _)| other.contains(&net) || net.contains(other)) {
            continue;
        }
        set.push((net, true));
        if set.len() % 10 == 9 && set.len() < cidrs {
            let inside = u32::from(net.network()) | address & u32::from(net.hostmask());
            set.push((Ipv4Net::new_assert(Ipv4Addr::from(inside), 28).trunc(), false));
        }
    }
    set
}

fn covers(set: &DestinationSet, address: Ipv4Addr) -> bool {
    let matching = set.iter().filter(|(net, _)| net.contains(&address));
    matching.max_by_key(|(net, _)| net.prefix_len()).is_some_and(|(_, on)| *on)
}

type Socket = (IpAddr, u16);

/// An Ethernet frame of so many bytes.
fn udp_frame(source: Socket, target: Socket, length: usize) -> Result<Vec<u8>> {
    let headers = PacketBuilder::ethernet2(MAC, MAC);
    let headers = match (source.0, target.0) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            headers.ipv4(source.octets(), target.octets(), 64)
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            headers.ipv6(source.octets(), target.octets(), 64)
        }
        (source, target) => bail!("{source} and {target} are of two families"),
    };
    let packet = headers.udp(source.1, target.1);
    let payload = length.checked_sub(packet.size(0)).context("no room for the headers")?;
    let mut frame = Vec::with_capacity(length);
    packet.write(&mut frame, &vec![0; payload])?;
    Ok(frame)
}

fn whole(frame: Vec<u8>) -> Result<Frame> {
    frame.try_into().ok().with_context(|| format!("frames have {FRAME_LEN} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_what_they_are_said_to_be() {
        let mut world = World::new(Size { pods: 10, sets: 2, cidrs: 50 });
        for pod in 0..10 {
            for covered in [true, false] {
                let address = world.destination(pod, covered);
                let set = &world.tables.v4.sets[pod % 2];
                assert_eq!(covers(set, address), covered, "{address}");
            }
        }
    }

    /// What an IPv4 set covers, its image covers.
    #[test]
    fn the_ipv6_world_is_an_image() {
        let mut world = World::new(Size { pods: 10, sets: 2, cidrs: 50 });
        for pod in 0..10 {
            for covered in [true, false] {
                let address = ipv6_remote(world.destination(pod, covered));
                let set = &world.tables.v6.sets[pod % 2];
                let matching = set.iter().filter(|(net, _)| net.contains(&address));
                let longest = matching.max_by_key(|(net, _)| net.prefix_len());
                assert_eq!(longest.is_some_and(|(_, on)| *on), covered, "{address}");
            }
        }
    }

    #[test]
    fn every_set_has_its_prefixes_and_some_are_holes() {
        let world = World::new(Size { pods: 10, sets: 3, cidrs: 100 });
        for set in &world.tables.v4.sets {
            assert_eq!(set.len(), 100);
            assert_eq!(set.iter().filter(|(_, on)| !on).count(), 10);
        }
    }
}
