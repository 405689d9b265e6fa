//! Policy sets as search trees: what the program walks down to find out whether a set covers a
//! destination.
//!
//! A set's prefixes, nested as they may be, divide the addresses into ranges that are covered and
//! ranges that are not. The ranges are a tree's leaves, and stand in the nodes as references of
//! their own. A node has the ends of up to eight ranges and takes a cache line:
//!
//! ```text
//!              last   203.0.112.255 │ 203.0.113.19 │ 203.0.113.20 │ 203.0.113.255 │ …
//!              next   not covered   │ covered      │ not covered  │ covered       │ not covered
//! ```

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::plan::DestinationSet;

/// How many ranges a node tells apart: `NODE_CHILDREN` of steer.h.
pub(crate) const CHILDREN: usize = 8;

/// What a pod, or a node, points to: another node, or one of the values below.
pub(crate) type Reference = u32;
/// Of a pod that is not selected.
pub(crate) const NOT_SELECTED: Reference = 0;
/// Of destinations that are the kernel's.
pub(crate) const NOT_COVERED: Reference = 0xffff_fffe;
/// Of destinations that are ours.
pub(crate) const COVERED: Reference = 0xffff_ffff;

/// `struct node` of steer.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// The last address of each range but the last one, ascending.
    pub(crate) last: [u32; CHILDREN - 1],
    /// What each range points to.
    pub(crate) next: [Reference; CHILDREN],
}

/// A set, ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tree {
    /// What its pods point to.
    pub(crate) root: Reference,
    /// Its nodes and where each goes.
    pub(crate) nodes: Vec<(Reference, Node)>,
}

/// A range from the end of the one before up to `last`, inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    last: u32,
    covered: bool,
}

impl Tree {
    /// Builds the tree of a set. `place` says where the next node goes.
    ///
    /// # Errors
    /// What `place` fails with.
    pub(crate) fn build<E>(
        set: &DestinationSet,
        place: &mut impl FnMut() -> Result<Reference, E>,
    ) -> Result<Self, E> {
        let ranges = ranges(set);
        let mut capacity = 1;
        while capacity < ranges.len() {
            capacity *= CHILDREN;
        }
        let mut nodes = Vec::new();
        let root = subtree(&ranges, capacity, &mut nodes, place)?;
        Ok(Self { root, nodes })
    }
}

/// Builds the tree of some ranges, at least one and `capacity` at most, a power of [`CHILDREN`].
/// Children are as full as they can be, and what is left for the last ones stands in the node itself:
/// no tree of as many ranges has fewer nodes.
fn subtree<E>(
    ranges: &[Range],
    capacity: usize,
    nodes: &mut Vec<(Reference, Node)>,
    place: &mut impl FnMut() -> Result<Reference, E>,
) -> Result<Reference, E> {
    if let [range] = ranges {
        return Ok(if range.covered { COVERED } else { NOT_COVERED });
    }
    let index = place()?;
    // Ranges that are not there are never reached: nothing lies behind the last address.
    let mut node = Node { last: [u32::MAX; CHILDREN - 1], next: [NOT_COVERED; CHILDREN] };
    let mut rest = ranges;
    for child in 0..CHILDREN {
        let later = CHILDREN - 1 - child;
        let count = rest.len().saturating_sub(later).clamp(1, capacity / CHILDREN);
        let (these, others) = rest.split_at(count.min(rest.len()));
        let Some(end) = these.last() else { break };
        if let Some(last) = node.last.get_mut(child) {
            *last = end.last;
        }
        node.next[child] = subtree(these, capacity / CHILDREN, nodes, place)?;
        rest = others;
    }
    nodes.push((index, node));
    Ok(index)
}

/// What a set says of all addresses, in order. Neighbours differ, and the last one ends with the
/// last address.
fn ranges(set: &DestinationSet) -> Vec<Range> {
    let mut prefixes: Vec<(Ipv4Net, bool)> =
        set.iter().map(|(net, on)| (net.trunc(), *on)).collect();
    // Each prefix comes behind those around it.
    prefixes.sort_by_key(|(net, _)| (net.addr(), net.prefix_len()));
    let mut ranges = Ranges(Vec::new());
    let mut around: Vec<(Ipv4Net, bool)> = Vec::new();
    for (net, covered) in prefixes {
        while let Some((outer, outer_covered)) = around.pop_if(|(outer, _)| !outer.contains(&net)) {
            ranges.extend(outer.broadcast(), outer_covered);
        }
        if let Some(before) = u32::from(net.addr()).checked_sub(1) {
            let covered = around.last().is_some_and(|(_, covered)| *covered);
            ranges.extend(before.into(), covered);
        }
        around.push((net, covered));
    }
    while let Some((outer, covered)) = around.pop() {
        ranges.extend(outer.broadcast(), covered);
    }
    ranges.extend(Ipv4Addr::BROADCAST, false);
    ranges.0
}

struct Ranges(Vec<Range>);

impl Ranges {
    /// What follows the last range, up to `last`, is this; it may be nothing.
    fn extend(&mut self, last: Ipv4Addr, covered: bool) {
        let last = u32::from(last);
        match self.0.last_mut() {
            Some(range) if range.last >= last => {}
            Some(range) if range.covered == covered => range.last = last,
            _ => self.0.push(Range { last, covered }),
        }
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
