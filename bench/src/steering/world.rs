//! Worlds of different sizes, and frames whose fate in them is known.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use etherparse::PacketBuilder;
use ipnet::Ipv4Net;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use spillway_xdp::steering::{DestinationSet, EgressPorts, SteerOutcome, SteerTables};

use super::replay::{FRAME_LEN, FRAMES_MAX, Frame};

const TUNNEL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PEERS: u32 = 100;
const EGRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 129);
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const REMOTE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub(super) const TUNNEL_PORT: u16 = 8472;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

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

    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Tunnel => "steered, from a tunnel",
            Self::Reply => "steered, a reply",
            Self::NotCovered => "passed, destination not covered",
            Self::NotSelected => "passed, pod not selected",
            Self::Foreign => "passed, not to Spillway at all",
        }
    }
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
        let tables = SteerTables {
            tunnels: [TUNNEL].into(),
            peers: (0..PEERS).map(|index| (peer(index), TUNNEL)).collect(),
            pods: selected.iter().copied().zip((0..size.sets).cycle()).collect(),
            sets,
            egress: [(EGRESS, own)].into(),
        };
        Self { tables, selected, others, random }
    }

    /// Frames of one kind: of random pods, peers, destinations and ports.
    pub(super) fn frames(&mut self, kind: Kind) -> Result<Vec<Frame>> {
        (0..FRAMES_MAX).map(|_| self.frame(kind)).collect()
    }

    fn frame(&mut self, kind: Kind) -> Result<Frame> {
        let port = self.random.random_range(1024..=u16::MAX);
        let index = self.random.random_range(0..self.selected.len());
        match kind {
            Kind::Tunnel => {
                let destination = self.destination(index, true);
                self.tunnel(self.selected[index], port, destination)
            }
            Kind::NotCovered => {
                let destination = self.destination(index, false);
                self.tunnel(self.selected[index], port, destination)
            }
            Kind::NotSelected => self.tunnel(self.others[index], port, REMOTE),
            Kind::Reply => udp((REMOTE, 443), (EGRESS, port), &[0; 72]),
            Kind::Foreign => udp((REMOTE, 443), (HOST, port), &[0; 72]),
        }
    }

    fn tunnel(&mut self, pod: Ipv4Addr, port: u16, destination: Ipv4Addr) -> Result<Frame> {
        let mut payload = vec![0x08, 0, 0, 0, 0, 0x9c, 0x40, 0];
        payload.extend(udp_frame((pod, port), (destination, 443), &[0; 22])?);
        let source = (peer(self.random.random_range(0..PEERS)), 50_000);
        udp(source, (TUNNEL, TUNNEL_PORT), &payload)
    }

    /// A destination that the pod's set covers, or one that it does not: there, half of them lie in
    /// a hole if the set has any.
    fn destination(&mut self, pod: usize, covered: bool) -> Ipv4Addr {
        let set = &self.tables.sets[pod % self.tables.sets.len()];
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
    let mut set = DestinationSet::new();
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

type Socket = (Ipv4Addr, u16);

fn udp(source: Socket, target: Socket, payload: &[u8]) -> Result<Frame> {
    let frame = udp_frame(source, target, payload)?;
    frame.try_into().ok().with_context(|| format!("frames have {FRAME_LEN} bytes"))
}

fn udp_frame(source: Socket, target: Socket, payload: &[u8]) -> Result<Vec<u8>> {
    let mut frame = Vec::with_capacity(FRAME_LEN);
    PacketBuilder::ethernet2(MAC, MAC)
        .ipv4(source.0.octets(), target.0.octets(), 64)
        .udp(source.1, target.1)
        .write(&mut frame, payload)?;
    Ok(frame)
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
                let set = &world.tables.sets[pod % 2];
                assert_eq!(covers(set, address), covered, "{address}");
            }
        }
    }

    #[test]
    fn every_set_has_its_prefixes_and_some_are_holes() {
        let world = World::new(Size { pods: 10, sets: 3, cidrs: 100 });
        for set in &world.tables.sets {
            assert_eq!(set.len(), 100);
            assert_eq!(set.iter().filter(|(_, on)| !on).count(), 10);
        }
    }
}
