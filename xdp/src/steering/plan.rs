//! How the steering maps get from one state to the next: a list of single operations, in an order
//! that is safe after each of them.
//!
//! A policy set that changes gets a new tree, in nodes that nobody uses; pods are moved to it once
//! all of it is there, each by one operation, and only then are the old tree's nodes anybody's
//! again. So no pod is ever without the verdicts of either its old or its new set. Additions come
//! before removals.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::address::BLOCK_PODS;
use super::family::{self, SteerFamily};
use super::nodes::Nodes;
use super::tree::{Node, Reference};

/// The ports of an egress address that are ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EgressPorts {
    /// First port or echo identifier.
    pub first: u16,
    /// Last port or echo identifier, inclusive.
    pub last: u16,
    /// Not shared with the host: fragments and every protocol are ours too.
    pub own: bool,
    /// The index of the device on which ARP requests or neighbour solicitations for it are ours;
    /// then pings are ours too, and nothing is the host's. `None` when the host answers for it.
    pub announce: Option<u32>,
}

/// A tunnel peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SteerPeer {
    /// The one of our tunnel addresses that it sends to, of its own family.
    pub tunnel: IpAddr,
    /// What stands for the peer's address in the steer header: of an IPv4 peer the address itself.
    pub key: Ipv4Addr,
}

/// What the steering program needs to know, as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SteerTables {
    /// Our tunnel addresses, [`TUNNELS_MAX`] at most, and all of one family: if any is IPv6,
    /// replies get room in front for tunnels over IPv6.
    pub tunnels: BTreeSet<IpAddr>,
    /// Tunnel peers by their addresses, [`PEERS_MAX`] at most.
    pub peers: BTreeMap<IpAddr, SteerPeer>,
    /// IPv4's pods, sets and egress addresses.
    pub v4: SteerFamily<Ipv4Addr>,
    /// IPv6's pods, sets and egress addresses.
    pub v6: SteerFamily<Ipv6Addr>,
}

/// Limit of the map `tunnels`.
pub const TUNNELS_MAX: usize = 256;
/// Limit of the map `peers`.
pub const PEERS_MAX: usize = 4096;
/// Limit of the map `pods`, and of `pods_ipv6`.
pub const PODS_MAX: usize = 65_536;
/// Prefixes of all sets of both families: while sets change, the old and the new ones are both
/// there. Of IPv6, the nodes may be used up earlier: see `NODES_MAX`.
pub const DESTINATIONS_MAX: usize = 1_048_576;
/// Limit of the map `egress`, and of `egress_ipv6`.
pub const EGRESS_MAX: usize = 256;

/// Limit of the map `nodes`, `NODES_MAX` of steer.h.
///
/// An IPv4 set of p prefixes divides the addresses into 2 p + 1 ranges at most and so has (2 p + 6) / 7
/// nodes at most. Every pod can have a set of its own and get another one, and node 0 is not used:
/// (2 × `DESTINATIONS_MAX` + 6 × 2 × [`PODS_MAX`]) / 7 + 1 nodes are enough for all IPv4 tables within
/// the other limits.
///
/// Of an IPv6 prefix each word that it reaches into behind the first one can take another node: (23 p
/// + 6) / 7 nodes at most, and (9 p + 6) / 7 for prefixes of 64 bits and less.
pub(crate) const NODES_MAX: u32 = 425_984;
const _: () = assert!((2 * DESTINATIONS_MAX + 12 * PODS_MAX) / 7 < NODES_MAX as usize);
const _: () = assert!(NODES_MAX <= 1 << super::tree::WORD_SHIFT);

/// The family of the tunnels: replies get as much room in front as they need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Underlay {
    V4,
    V6,
}

impl Underlay {
    /// That of a document without tunnels, whose replies go nowhere, is IPv4.
    fn of(tunnels: &BTreeSet<IpAddr>) -> Self {
        if tunnels.iter().any(IpAddr::is_ipv6) { Self::V6 } else { Self::V4 }
    }
}

/// The sets of the pods of an entry.
pub(crate) type Block = [Reference; BLOCK_PODS];

/// One operation on one map; on that of the address's family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    SetTunnel(IpAddr),
    RemoveTunnel(IpAddr),
    SetPeer(IpAddr, SteerPeer),
    RemovePeer(IpAddr),
    /// Waits until every program that runs now has ended.
    AwaitPrograms,
    SetNode(u32, Node),
    /// By the first address of those that share the entry.
    SetPods(IpAddr, Block),
    RemovePods(IpAddr),
    SetEgress(IpAddr, EgressPorts, Underlay),
    RemoveEgress(IpAddr),
}

/// What is in the maps now.
#[derive(Clone, Debug)]
pub(crate) struct Programmed {
    tunnels: BTreeSet<IpAddr>,
    /// `None` of those of which it is not known.
    peers: BTreeMap<IpAddr, Option<SteerPeer>>,
    v4: family::Programmed<Ipv4Addr>,
    v6: family::Programmed<Ipv6Addr>,
    nodes: Nodes,
    /// Nodes of plans that were interrupted: pods may point to them until the next plan is done.
    abandoned: Vec<u32>,
}

/// A limit that new tables would pass: what, how many, and how many there may be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{count} {what} do not fit: the steering program has room for {max}")]
pub struct TooMany {
    /// What there are too many of.
    pub what: &'static str,
    /// How many there would be, at least.
    pub count: usize,
    /// How many there may be.
    pub max: usize,
}

impl Default for Programmed {
    fn default() -> Self {
        Self::with_nodes(NODES_MAX)
    }
}

impl Programmed {
    /// Nothing yet, in maps with room for so many nodes.
    fn with_nodes(max: u32) -> Self {
        Self {
            tunnels: BTreeSet::new(),
            peers: BTreeMap::new(),
            v4: family::Programmed::default(),
            v6: family::Programmed::default(),
            nodes: Nodes::new(max),
            abandoned: Vec::new(),
        }
    }

    /// The operations that lead from here to `tables`, and what is programmed after them.
    pub(crate) fn plan(&self, tables: &SteerTables) -> Result<(Vec<Operation>, Self), TooMany> {
        self.check_limits(tables)?;
        let mut operations = Vec::new();
        let mut nodes = self.nodes.clone();
        let underlay = Underlay::of(&tables.tunnels);
        let mut next = Self {
            tunnels: tables.tunnels.clone(),
            peers: tables.peers.iter().map(|(address, peer)| (*address, Some(*peer))).collect(),
            v4: self.v4.next(&tables.v4, underlay, &mut nodes, &mut operations)?,
            v6: self.v6.next(&tables.v6, underlay, &mut nodes, &mut operations)?,
            nodes,
            abandoned: Vec::new(),
        };
        self.additions(&next, &mut operations);
        self.removals(&next, &mut operations);
        next.nodes.retire(self.v4.nodes_missing_in(&next.v4));
        next.nodes.retire(self.v6.nodes_missing_in(&next.v6));
        next.nodes.retire(self.abandoned.iter().copied());
        Ok((operations, next))
    }

    /// Some of a plan's operations have been carried out, but not all: what the pods point to, and what
    /// egress addresses and peers have, is unknown now, and the nodes of the plan's trees may be in
    /// use as well as those from before.
    pub(crate) fn interrupted(&mut self, next: Self) {
        self.abandoned.extend(next.v4.nodes_missing_in(&self.v4));
        self.abandoned.extend(next.v6.nodes_missing_in(&self.v6));
        family::doubt(&mut self.peers, &next.peers);
        self.v4.doubt(&next.v4);
        self.v6.doubt(&next.v6);
        let placed = self.v4.nodes().chain(self.v6.nodes());
        let busy: HashSet<u32> = placed.chain(self.abandoned.iter().copied()).collect();
        self.nodes = next.nodes;
        self.nodes.doubt(&busy);
    }

    fn check_limits(&self, tables: &SteerTables) -> Result<(), TooMany> {
        // Additions come first, so both the old and the new entries must find room: each family's in
        // maps of its own.
        for is_ipv6 in [false, true] {
            let of = |address: &&IpAddr| address.is_ipv6() == is_ipv6;
            let tunnels = self.tunnels.union(&tables.tunnels).filter(of).count();
            TooMany::check("tunnel addresses", tunnels, TUNNELS_MAX)?;
            let gone = self.peers.keys().filter(|peer| !tables.peers.contains_key(peer));
            let peers = tables.peers.keys().chain(gone).filter(of).count();
            TooMany::check("tunnel peers", peers, PEERS_MAX)?;
        }
        self.v4.check_limits(&tables.v4)?;
        self.v6.check_limits(&tables.v6)?;
        let destinations = self.v4.destinations(&tables.v4) + self.v6.destinations(&tables.v6);
        TooMany::check("destinations, old and new", destinations, DESTINATIONS_MAX)
    }

    /// Whatever else a frame needs to be steered: peers first, pods last.
    fn additions(&self, next: &Self, operations: &mut Vec<Operation>) {
        self.v4.set_egress(&next.v4, operations);
        self.v6.set_egress(&next.v6, operations);
        for (address, peer) in &next.peers {
            if let Some(known) = peer
                && self.peers.get(address) != Some(peer)
            {
                operations.push(Operation::SetPeer(*address, *known));
            }
        }
        for address in next.tunnels.difference(&self.tunnels) {
            operations.push(Operation::SetTunnel(*address));
        }
        self.v4.set_pods(&next.v4, operations);
        self.v6.set_pods(&next.v6, operations);
    }

    fn removals(&self, next: &Self, operations: &mut Vec<Operation>) {
        self.v4.remove_pods(&next.v4, operations);
        self.v6.remove_pods(&next.v6, operations);
        for address in self.tunnels.difference(&next.tunnels) {
            operations.push(Operation::RemoveTunnel(*address));
        }
        for peer in self.peers.keys().filter(|peer| !next.peers.contains_key(peer)) {
            operations.push(Operation::RemovePeer(*peer));
        }
        self.v4.remove_egress(&next.v4, operations);
        self.v6.remove_egress(&next.v6, operations);
    }
}

impl TooMany {
    pub(crate) fn check(what: &'static str, count: usize, max: usize) -> Result<(), Self> {
        if count > max { Err(Self { what, count, max }) } else { Ok(()) }
    }

    /// Of IPv4 alone there is always room, unless there are sets without pods.
    pub(crate) fn nodes() -> Self {
        let max = NODES_MAX as usize;
        Self { what: "nodes of the policy sets' search trees", count: max + 1, max }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
