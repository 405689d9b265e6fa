//! One family's part of the steering maps: its pods, their policy sets, its egress addresses.

use std::collections::{BTreeMap, HashMap};

use super::address::{Address, BLOCK_PODS};
use super::nodes::Nodes;
use super::plan::{Block, EGRESS_MAX, EgressPorts, Operation, PODS_MAX, TooMany, Underlay};
use super::tree::{NOT_COVERED, NOT_SELECTED, Reference, Tree};

/// A set's destinations: `true` where they are covered, `false` for a hole in a shorter prefix.
pub type DestinationSet<A = std::net::Ipv4Addr> = Vec<(<A as Address>::Net, bool)>;

/// What the steering program needs to know of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SteerFamily<A: Address> {
    /// Selected pods and their sets, as indexes of `sets`; [`PODS_MAX`] at most.
    pub pods: BTreeMap<A, usize>,
    /// The distinct sets.
    pub sets: Vec<DestinationSet<A>>,
    /// Egress addresses, [`EGRESS_MAX`] at most.
    pub egress: BTreeMap<A, EgressPorts>,
}

impl<A: Address> Default for SteerFamily<A> {
    fn default() -> Self {
        Self { pods: BTreeMap::new(), sets: Vec::new(), egress: BTreeMap::new() }
    }
}

/// What is in the maps of one family now.
#[derive(Clone, Debug)]
pub(crate) struct Programmed<A: Address> {
    pods: BTreeMap<A, Reference>,
    sets: HashMap<DestinationSet<A>, Placed>,
    /// `None` of those of which it is not known.
    egress: BTreeMap<A, Option<(EgressPorts, Underlay)>>,
}

/// Where a set's tree is.
#[derive(Clone, Debug)]
struct Placed {
    root: Reference,
    /// By their indices.
    nodes: Vec<u32>,
}

/// What a pod points to of which it is not known what it points to.
const UNKNOWN: Reference = NOT_COVERED - 1;

impl<A: Address> Default for Programmed<A> {
    fn default() -> Self {
        Self { pods: BTreeMap::new(), sets: HashMap::new(), egress: BTreeMap::new() }
    }
}

impl<A: Address> Programmed<A> {
    /// What is programmed after `tables`; the trees of new sets are written into new nodes.
    pub(crate) fn next(
        &self,
        tables: &SteerFamily<A>,
        underlay: Underlay,
        nodes: &mut Nodes,
        operations: &mut Vec<Operation>,
    ) -> Result<Self, TooMany> {
        let egress = tables.egress.iter();
        let egress = egress.map(|(address, ports)| (*address, Some((*ports, underlay))));
        let mut next = Self { egress: egress.collect(), ..Self::default() };
        let mut roots = Vec::with_capacity(tables.sets.len());
        for set in &tables.sets {
            let known = next.sets.get(set).or_else(|| self.sets.get(set)).cloned();
            let placed = match known {
                Some(placed) => placed,
                None => place::<A>(set, nodes, operations)?,
            };
            roots.push(placed.root);
            next.sets.insert(set.clone(), placed);
        }
        let pods = tables.pods.iter();
        next.pods = pods.filter_map(|(pod, set)| Some((*pod, *roots.get(*set)?))).collect();
        Ok(next)
    }

    /// Refuses what there would be too much of. Additions come first, so both the old and the new
    /// entries must find room.
    pub(crate) fn check_limits(&self, tables: &SteerFamily<A>) -> Result<(), TooMany> {
        let [pods, egress] = A::NAMES;
        let kept = self.pods.keys().filter(|pod| tables.pods.contains_key(pod)).count();
        TooMany::check(pods, self.pods.len() + tables.pods.len() - kept, PODS_MAX)?;
        let kept = self.egress.keys().filter(|a| tables.egress.contains_key(a)).count();
        TooMany::check(egress, self.egress.len() + tables.egress.len() - kept, EGRESS_MAX)
    }

    /// How many prefixes the old and the new sets have.
    pub(crate) fn destinations(&self, tables: &SteerFamily<A>) -> usize {
        let sets: std::collections::HashSet<&DestinationSet<A>> =
            self.sets.keys().chain(&tables.sets).collect();
        sets.iter().map(|set| set.len()).sum()
    }

    pub(crate) fn set_egress(&self, next: &Self, operations: &mut Vec<Operation>) {
        for (address, entry) in &next.egress {
            if let Some((ports, underlay)) = entry
                && self.egress.get(address) != Some(entry)
            {
                operations.push(Operation::SetEgress((*address).into(), *ports, *underlay));
            }
        }
    }

    pub(crate) fn remove_egress(&self, next: &Self, operations: &mut Vec<Operation>) {
        for address in self.egress.keys().filter(|a| !next.egress.contains_key(a)) {
            operations.push(Operation::RemoveEgress((*address).into()));
        }
    }

    pub(crate) fn set_pods(&self, next: &Self, operations: &mut Vec<Operation>) {
        let old = blocks(&self.pods);
        for (first, block) in blocks(&next.pods) {
            if old.get(&first) != Some(&block) {
                operations.push(Operation::SetPods(first.into(), block));
            }
        }
    }

    pub(crate) fn remove_pods(&self, next: &Self, operations: &mut Vec<Operation>) {
        let new = blocks(&next.pods);
        for first in blocks(&self.pods).into_keys().filter(|first| !new.contains_key(first)) {
            operations.push(Operation::RemovePods(first.into()));
        }
    }

    /// The nodes of all sets.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = u32> {
        self.sets.values().flat_map(|placed| placed.nodes.iter().copied())
    }

    /// The nodes of the sets that `other` does not have.
    pub(crate) fn nodes_missing_in(&self, other: &Self) -> impl Iterator<Item = u32> {
        let missing = self.sets.iter().filter(|(set, _)| !other.sets.contains_key(*set));
        missing.flat_map(|(_, placed)| placed.nodes.iter().copied())
    }

    /// It is not known whether these pods point to what they did, or to what `next` says; nor what
    /// egress addresses have.
    pub(crate) fn doubt(&mut self, next: &Self) {
        doubt(&mut self.egress, &next.egress);
        for (pod, set) in &next.pods {
            if self.pods.get(pod) != Some(set) {
                self.pods.insert(*pod, UNKNOWN);
            }
        }
        for (pod, set) in &mut self.pods {
            if !next.pods.contains_key(pod) {
                *set = UNKNOWN;
            }
        }
    }
}

/// Forgets what entries are that `next` has otherwise, or only one of them has.
pub(crate) fn doubt<K: Copy + Ord, V: PartialEq>(
    entries: &mut BTreeMap<K, Option<V>>,
    next: &BTreeMap<K, Option<V>>,
) {
    for (key, value) in entries.iter_mut() {
        if next.get(key) != Some(value) {
            *value = None;
        }
    }
    for key in next.keys() {
        entries.entry(*key).or_insert(None);
    }
}

/// Has the tree of a new set written.
fn place<A: Address>(
    set: &DestinationSet<A>,
    nodes: &mut Nodes,
    operations: &mut Vec<Operation>,
) -> Result<Placed, TooMany> {
    let Tree { root, nodes } = Tree::build::<A, _>(set, &mut || {
        let free = nodes.take();
        free.or_else(|| {
            // Only what has been retired is left.
            nodes.settle().then(|| operations.push(Operation::AwaitPrograms))?;
            nodes.take()
        })
        .ok_or_else(TooMany::nodes)
    })?;
    operations.extend(nodes.iter().map(|(index, node)| Operation::SetNode(*index, *node)));
    Ok(Placed { root, nodes: nodes.iter().map(|(index, _)| *index).collect() })
}

/// The entries of some pods, by the first address that has its place there.
fn blocks<A: Address>(pods: &BTreeMap<A, Reference>) -> BTreeMap<A, Block> {
    let mut blocks = BTreeMap::new();
    for (pod, set) in pods {
        let (first, place) = pod.block();
        let block = blocks.entry(first).or_insert([NOT_SELECTED; BLOCK_PODS]);
        block[place] = *set;
    }
    blocks
}
