//! How the steering maps get from one state to the next: a list of single operations, in an order
//! that is safe after each of them.
//!
//! A policy set that changes gets a new tree, in nodes that nobody uses; pods are moved to it once
//! all of it is there, each by one operation, and only then are the old tree's nodes anybody's
//! again. So no pod is ever without the verdicts of either its old or its new set. Additions come
//! before removals.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::nodes::Nodes;
use super::tree::{NOT_SELECTED, Node, Reference, Tree};

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
    /// Tunnel peers and the one of `tunnels` each sends to, [`PEERS_MAX`] at most.
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
/// Prefixes of all sets: while sets change, the old and the new ones are both there.
pub const DESTINATIONS_MAX: usize = 1_048_576;
/// Limit of the map `egress`.
pub const EGRESS_MAX: usize = 256;

/// Limit of the map `nodes`, `NODES_MAX` of steer.h. A set of p prefixes divides the addresses into
/// 2 p + 1 ranges at most and so has (2 p + 6) / 7 nodes at most. Every pod can have a set of its own
/// and get another one, and node 0 is not used: (2 × `DESTINATIONS_MAX` + 6 × 2 × [`PODS_MAX`]) / 7 + 1
/// nodes are enough for all tables within the other limits.
pub(crate) const NODES_MAX: u32 = 425_984;
const _: () = assert!((2 * DESTINATIONS_MAX + 12 * PODS_MAX) / 7 < NODES_MAX as usize);

/// Pods whose addresses differ only in as many low bits share an entry: `BLOCK_BITS` of steer.h.
const BLOCK_BITS: u32 = 4;
/// How many pods share an entry.
pub(crate) const BLOCK_PODS: usize = 1 << BLOCK_BITS;
/// The sets of the pods of an entry.
pub(crate) type Block = [Reference; BLOCK_PODS];

/// What a pod points to of which it is not known what it points to.
const UNKNOWN: Reference = super::tree::NOT_COVERED - 1;

/// One operation on one map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    SetTunnel(Ipv4Addr),
    RemoveTunnel(Ipv4Addr),
    SetPeer(Ipv4Addr, Ipv4Addr),
    RemovePeer(Ipv4Addr),
    /// Waits until every program that runs now has ended.
    AwaitPrograms,
    SetNode(Reference, Node),
    SetPods(u32, Block),
    RemovePods(u32),
    SetEgress(Ipv4Addr, EgressPorts),
    RemoveEgress(Ipv4Addr),
}

/// What is in the maps now.
#[derive(Clone, Debug)]
pub(crate) struct Programmed {
    tunnels: BTreeSet<Ipv4Addr>,
    peers: BTreeMap<Ipv4Addr, Ipv4Addr>,
    pods: BTreeMap<Ipv4Addr, Reference>,
    sets: HashMap<DestinationSet, Placed>,
    egress: BTreeMap<Ipv4Addr, EgressPorts>,
    nodes: Nodes,
    /// Nodes of plans that were interrupted: pods may point to them until the next plan is done.
    abandoned: Vec<Reference>,
}

/// Where a set's tree is.
#[derive(Clone, Debug)]
struct Placed {
    root: Reference,
    nodes: Vec<Reference>,
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
            pods: BTreeMap::new(),
            sets: HashMap::new(),
            egress: BTreeMap::new(),
            nodes: Nodes::new(max),
            abandoned: Vec::new(),
        }
    }

    /// The operations that lead from here to `tables`, and what is programmed after them.
    pub(crate) fn plan(&self, tables: &SteerTables) -> Result<(Vec<Operation>, Self), TooMany> {
        self.check_limits(tables)?;
        let mut operations = Vec::new();
        let mut next = Self {
            tunnels: tables.tunnels.clone(),
            peers: tables.peers.clone(),
            pods: BTreeMap::new(),
            sets: HashMap::new(),
            egress: tables.egress.clone(),
            nodes: self.nodes.clone(),
            abandoned: Vec::new(),
        };
        let roots = self.place_sets(tables, &mut next, &mut operations)?;
        let pods = tables.pods.iter();
        next.pods = pods.filter_map(|(pod, set)| Some((*pod, *roots.get(*set)?))).collect();
        self.additions(&next, &mut operations);
        self.removals(&next, &mut operations);
        let gone = self.sets.iter().filter(|(set, _)| !next.sets.contains_key(*set));
        next.nodes.retire(gone.flat_map(|(_, placed)| placed.nodes.iter().copied()));
        next.nodes.retire(self.abandoned.iter().copied());
        Ok((operations, next))
    }

    /// Some of a plan's operations have been carried out, but not all: what the pods point to is
    /// unknown now, and the nodes of the plan's trees may be in use as well as those from before.
    pub(crate) fn interrupted(&mut self, next: Self) {
        let pods: BTreeSet<_> = self.pods.keys().chain(next.pods.keys()).copied().collect();
        for pod in pods {
            if self.pods.get(&pod) != next.pods.get(&pod) {
                self.pods.insert(pod, UNKNOWN);
            }
        }
        let begun = next.sets.iter().filter(|(set, _)| !self.sets.contains_key(*set));
        self.abandoned.extend(begun.flat_map(|(_, placed)| placed.nodes.iter().copied()));
        let placed = self.sets.values().flat_map(|placed| &placed.nodes);
        let busy: HashSet<Reference> = placed.chain(&self.abandoned).copied().collect();
        self.nodes = next.nodes;
        self.nodes.doubt(&busy);
    }

    /// Has the trees of new sets written. Returns what the pods of each of the tables' sets point to.
    fn place_sets(
        &self,
        tables: &SteerTables,
        next: &mut Self,
        operations: &mut Vec<Operation>,
    ) -> Result<Vec<Reference>, TooMany> {
        let mut roots = Vec::with_capacity(tables.sets.len());
        for set in &tables.sets {
            let known = next.sets.get(set).or_else(|| self.sets.get(set)).cloned();
            let placed = match known {
                Some(placed) => placed,
                None => {
                    let Tree { root, nodes } = Tree::build(set, &mut || {
                        let free = next.nodes.take();
                        free.or_else(|| {
                            // Only what has been retired is left.
                            next.nodes
                                .settle()
                                .then(|| operations.push(Operation::AwaitPrograms))?;
                            next.nodes.take()
                        })
                        .ok_or_else(TooMany::nodes)
                    })?;
                    let writes =
                        nodes.iter().map(|(index, node)| Operation::SetNode(*index, *node));
                    operations.extend(writes);
                    Placed { root, nodes: nodes.iter().map(|(index, _)| *index).collect() }
                }
            };
            roots.push(placed.root);
            next.sets.insert(set.clone(), placed);
        }
        Ok(roots)
    }

    fn check_limits(&self, next: &SteerTables) -> Result<(), TooMany> {
        // Additions come first, so both the old and the new entries must find room.
        let union = |old: usize, new: usize, kept: usize| old + new - kept;
        let pods = self.pods.keys().filter(|pod| next.pods.contains_key(pod)).count();
        let peers = self.peers.keys().filter(|peer| next.peers.contains_key(peer)).count();
        let tunnels = self.tunnels.intersection(&next.tunnels).count();
        let egress = self.egress.keys().filter(|a| next.egress.contains_key(a)).count();
        let sets: HashSet<&DestinationSet> = self.sets.keys().chain(&next.sets).collect();
        let limits = [
            (
                "tunnel addresses",
                union(self.tunnels.len(), next.tunnels.len(), tunnels),
                TUNNELS_MAX,
            ),
            ("tunnel peers", union(self.peers.len(), next.peers.len(), peers), PEERS_MAX),
            ("pods", union(self.pods.len(), next.pods.len(), pods), PODS_MAX),
            ("egress addresses", union(self.egress.len(), next.egress.len(), egress), EGRESS_MAX),
            ("destinations, old and new", sets.iter().map(|set| set.len()).sum(), DESTINATIONS_MAX),
        ];
        for (what, count, max) in limits {
            if count > max {
                return Err(TooMany { what, count, max });
            }
        }
        Ok(())
    }

    /// Whatever else a frame needs to be steered: peers first, pods last.
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
        let old = blocks(&self.pods);
        for (number, block) in blocks(&next.pods) {
            if old.get(&number) != Some(&block) {
                operations.push(Operation::SetPods(number, block));
            }
        }
    }

    fn removals(&self, next: &Self, operations: &mut Vec<Operation>) {
        let new = blocks(&next.pods);
        for number in blocks(&self.pods).into_keys().filter(|number| !new.contains_key(number)) {
            operations.push(Operation::RemovePods(number));
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

impl TooMany {
    /// Can only be when there are sets without pods.
    fn nodes() -> Self {
        let max = NODES_MAX as usize;
        Self { what: "nodes of the policy sets' search trees", count: max + 1, max }
    }
}

/// The entries of some pods, by the high bits of their addresses.
fn blocks(pods: &BTreeMap<Ipv4Addr, Reference>) -> BTreeMap<u32, Block> {
    let mut blocks = BTreeMap::new();
    for (pod, set) in pods {
        let address = u32::from(*pod);
        let block = blocks.entry(address >> BLOCK_BITS).or_insert([NOT_SELECTED; BLOCK_PODS]);
        block[address as usize % BLOCK_PODS] = *set;
    }
    blocks
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
