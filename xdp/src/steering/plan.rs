//! How the steering maps get from one state to the next: a list of single operations, in an order
//! that is safe after each of them.
//!
//! A policy set that changes gets a new number; pods are moved to it one by one once all its
//! destinations are there, and the old set's destinations go last. So no pod is ever without the
//! verdicts of either its old or its new set. Additions come before removals.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// A set's destinations: `true` where they are covered, `false` for a hole in a shorter prefix.
pub type DestinationSet = Vec<(Ipv4Net, bool)>;

/// The ports of an egress address that are ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EgressPorts {
    /// First port or echo identifier.
    pub first: u16,
    /// Last port or echo identifier, inclusive.
    pub last: u16,
    /// Not shared with the host: fragments and every protocol are ours too.
    pub own: bool,
    /// The index of the device on which ARP requests for it are ours; then pings are ours too, and
    /// nothing is the host's. `None` when the host answers for it.
    pub announce: Option<u32>,
}

/// What the steering program needs to know, as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SteerTables {
    /// Our tunnel addresses, [`TUNNELS_MAX`] at most.
    pub tunnels: BTreeSet<Ipv4Addr>,
    /// Tunnel peers and the tunnel address each sends to, [`PEERS_MAX`] at most.
    pub peers: BTreeMap<Ipv4Addr, Ipv4Addr>,
    /// Selected pods and their sets, as indexes of `sets`; [`PODS_MAX`] at most.
    pub pods: BTreeMap<Ipv4Addr, usize>,
    /// The distinct sets, [`DESTINATIONS_MAX`] prefixes at most, old and new ones together.
    pub sets: Vec<DestinationSet>,
    /// Egress addresses, [`EGRESS_MAX`] at most.
    pub egress: BTreeMap<Ipv4Addr, EgressPorts>,
}

/// Limit of the map `tunnels`.
pub const TUNNELS_MAX: usize = 256;
/// Limit of the map `peers`.
pub const PEERS_MAX: usize = 4096;
/// Limit of the map `pods`.
pub const PODS_MAX: usize = 65_536;
/// Limit of the map `destinations`: while sets change, the old and the new ones are both there.
pub const DESTINATIONS_MAX: usize = 1_048_576;
/// Limit of the map `egress`.
pub const EGRESS_MAX: usize = 256;

/// One operation on one map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    SetTunnel(Ipv4Addr),
    RemoveTunnel(Ipv4Addr),
    SetPeer(Ipv4Addr, Ipv4Addr),
    RemovePeer(Ipv4Addr),
    SetDestination(u32, Ipv4Net, bool),
    RemoveDestination(u32, Ipv4Net),
    SetPod(Ipv4Addr, u32),
    RemovePod(Ipv4Addr),
    SetEgress(Ipv4Addr, EgressPorts),
    RemoveEgress(Ipv4Addr),
}

/// What is in the maps now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Programmed {
    tunnels: BTreeSet<Ipv4Addr>,
    peers: BTreeMap<Ipv4Addr, Ipv4Addr>,
    pods: BTreeMap<Ipv4Addr, u32>,
    sets: BTreeMap<u32, DestinationSet>,
    egress: BTreeMap<Ipv4Addr, EgressPorts>,
    next_set: u32,
}

/// A limit that new tables would pass: what, how many, and how many there may be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{count} {what} do not fit: the steering program has room for {max}")]
pub struct TooMany {
    /// What there are too many of.
    pub what: &'static str,
    /// How many there would be.
    pub count: usize,
    /// How many there may be.
    pub max: usize,
}

impl Programmed {
    /// The operations that lead from here to `tables`, and what is programmed after them.
    pub(crate) fn plan(&self, tables: &SteerTables) -> Result<(Vec<Operation>, Self), TooMany> {
        let (sets, numbers, next_set) = self.number(&tables.sets);
        let pods: BTreeMap<Ipv4Addr, u32> = tables
            .pods
            .iter()
            .filter_map(|(pod, index)| Some((*pod, *numbers.get(*index)?)))
            .collect();
        let next = Self {
            tunnels: tables.tunnels.clone(),
            peers: tables.peers.clone(),
            pods,
            sets,
            egress: tables.egress.clone(),
            next_set,
        };
        self.check_limits(&next)?;
        let mut operations = Vec::new();
        self.additions(&next, &mut operations);
        self.removals(&next, &mut operations);
        Ok((operations, next))
    }

    /// Gives each set its number: the one it has, or the next free one.
    fn number(&self, sets: &[DestinationSet]) -> (BTreeMap<u32, DestinationSet>, Vec<u32>, u32) {
        let known: HashMap<&DestinationSet, u32> =
            self.sets.iter().map(|(number, set)| (set, *number)).collect();
        let mut next_set = self.next_set;
        let mut numbered = BTreeMap::new();
        let mut numbers = Vec::with_capacity(sets.len());
        for set in sets {
            let number = known.get(set).copied().unwrap_or_else(|| {
                next_set = next_set.wrapping_add(1);
                next_set
            });
            numbered.insert(number, set.clone());
            numbers.push(number);
        }
        (numbered, numbers, next_set)
    }

    fn check_limits(&self, next: &Self) -> Result<(), TooMany> {
        // Additions come first, so both the old and the new entries must find room.
        let union = |old: usize, new: usize, kept: usize| old + new - kept;
        let pods = self.pods.keys().filter(|pod| next.pods.contains_key(pod)).count();
        let peers = self.peers.keys().filter(|peer| next.peers.contains_key(peer)).count();
        let tunnels = self.tunnels.intersection(&next.tunnels).count();
        let egress = self.egress.keys().filter(|a| next.egress.contains_key(a)).count();
        let prefixes = |sets: &BTreeMap<u32, DestinationSet>| sets.values().map(Vec::len).sum();
        let kept = self.sets.iter().filter(|(number, _)| next.sets.contains_key(number));
        let kept: usize = kept.map(|(_, set)| set.len()).sum();
        let limits = [
            (
                "tunnel addresses",
                union(self.tunnels.len(), next.tunnels.len(), tunnels),
                TUNNELS_MAX,
            ),
            ("tunnel peers", union(self.peers.len(), next.peers.len(), peers), PEERS_MAX),
            ("pods", union(self.pods.len(), next.pods.len(), pods), PODS_MAX),
            ("egress addresses", union(self.egress.len(), next.egress.len(), egress), EGRESS_MAX),
            (
                "destinations, old and new",
                union(prefixes(&self.sets), prefixes(&next.sets), kept),
                DESTINATIONS_MAX,
            ),
        ];
        for (what, count, max) in limits {
            if count > max {
                return Err(TooMany { what, count, max });
            }
        }
        Ok(())
    }

    /// Whatever a frame needs to be steered: peers and destinations first, pods last.
    fn additions(&self, next: &Self, operations: &mut Vec<Operation>) {
        for (address, ports) in &next.egress {
            if self.egress.get(address) != Some(ports) {
                operations.push(Operation::SetEgress(*address, *ports));
            }
        }
        for (peer, tunnel) in &next.peers {
            if self.peers.get(peer) != Some(tunnel) {
                operations.push(Operation::SetPeer(*peer, *tunnel));
            }
        }
        for address in next.tunnels.difference(&self.tunnels) {
            operations.push(Operation::SetTunnel(*address));
        }
        for (number, set) in &next.sets {
            if !self.sets.contains_key(number) {
                let set = set.iter();
                operations
                    .extend(set.map(|(net, on)| Operation::SetDestination(*number, *net, *on)));
            }
        }
        for (pod, set) in &next.pods {
            if self.pods.get(pod) != Some(set) {
                operations.push(Operation::SetPod(*pod, *set));
            }
        }
    }

    fn removals(&self, next: &Self, operations: &mut Vec<Operation>) {
        for pod in self.pods.keys().filter(|pod| !next.pods.contains_key(pod)) {
            operations.push(Operation::RemovePod(*pod));
        }
        for (number, set) in &self.sets {
            if !next.sets.contains_key(number) {
                let set = set.iter();
                operations.extend(set.map(|(net, _)| Operation::RemoveDestination(*number, *net)));
            }
        }
        for address in self.tunnels.difference(&next.tunnels) {
            operations.push(Operation::RemoveTunnel(*address));
        }
        for peer in self.peers.keys().filter(|peer| !next.peers.contains_key(peer)) {
            operations.push(Operation::RemovePeer(*peer));
        }
        for address in self.egress.keys().filter(|a| !next.egress.contains_key(a)) {
            operations.push(Operation::RemoveEgress(*address));
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
