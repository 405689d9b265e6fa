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
//!
//! A node compares one word of 32 bits. An IPv4 address has no other one. Where a range ends within
//! the addresses that have a word in common, that value of the word gets a range of its own, which
//! leads to a tree over the next word:
//!
//! ```text
//!     word 0   last   2001:db7 │ 2001:db8 │ …
//!              next   not      │ ↓        │ not
//!     word 1   last              ffff │ 1:ffff  │ …          2001:db8:1::/48 is covered
//!              next              not  │ covered │ not
//! ```

use super::address::Address;
use super::family::DestinationSet;

/// How many ranges a node tells apart: `NODE_CHILDREN` of steer.h.
pub(crate) const CHILDREN: usize = 8;

/// What a pod, or a node, points to: another node, or one of the values below. A node's reference is
/// its index, and above [`WORD_SHIFT`] the word of the address that it compares, 0 to 3.
pub(crate) type Reference = u32;
/// `NODE_WORD_SHIFT` of steer.h.
pub(crate) const WORD_SHIFT: u32 = 28;
/// Of a pod that is not selected.
pub(crate) const NOT_SELECTED: Reference = 0;
/// Of destinations that are the kernel's.
pub(crate) const NOT_COVERED: Reference = 0xffff_fffe;
/// Of destinations that are ours.
pub(crate) const COVERED: Reference = 0xffff_ffff;

/// `struct node` of steer.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// The last value of each range but the last one, ascending.
    pub(crate) last: [u32; CHILDREN - 1],
    /// What each range points to.
    pub(crate) next: [Reference; CHILDREN],
}

/// A set, ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tree {
    /// What its pods point to.
    pub(crate) root: Reference,
    /// Its nodes and the index of each.
    pub(crate) nodes: Vec<(u32, Node)>,
}

/// A range of addresses from the end of the one before up to `last`, inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    last: u128,
    covered: bool,
}

/// A range of one word's values from the end of the one before up to `last`, inclusive.
#[derive(Clone, Copy, Debug)]
struct Leaf<'a> {
    last: u32,
    content: Content<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Content<'a> {
    /// Whether all addresses with these values are covered.
    Verdict(bool),
    /// The addresses with this value, which begin with the first one here, are divided so.
    Divided(u128, &'a [Range]),
}

/// A tree in the making. `place` says where the next node goes.
struct Builder<'a, P> {
    nodes: Vec<(u32, Node)>,
    place: &'a mut P,
}

impl Tree {
    /// Builds the tree of a set. `place` says where the next node goes.
    ///
    /// # Errors
    /// What `place` fails with.
    pub(crate) fn build<A: Address, E>(
        set: &DestinationSet<A>,
        place: &mut impl FnMut() -> Result<u32, E>,
    ) -> Result<Self, E> {
        let mut builder = Builder { nodes: Vec::new(), place };
        let root = builder.word(&ranges::<A>(set), 0, 0)?;
        Ok(Self { root, nodes: builder.nodes })
    }
}

impl<E, P: FnMut() -> Result<u32, E>> Builder<'_, P> {
    /// The tree of some ranges, at least one, over the addresses from `first` on that have all words
    /// before `word` in common. The last range may go on behind them.
    fn word(&mut self, ranges: &[Range], first: u128, word: u32) -> Result<Reference, E> {
        let leaves = leaves(ranges, first, word);
        let mut capacity = 1;
        while capacity < leaves.len() {
            capacity *= CHILDREN;
        }
        self.subtree(&leaves, capacity, word)
    }

    /// The tree of some leaves, at least one and `capacity` at most, a power of [`CHILDREN`].
    /// Children are as full as they can be, and what is left for the last ones stands in the node
    /// itself: no tree of as many leaves has fewer nodes.
    fn subtree(&mut self, leaves: &[Leaf<'_>], capacity: usize, word: u32) -> Result<Reference, E> {
        if let [leaf] = leaves {
            return match leaf.content {
                Content::Verdict(true) => Ok(COVERED),
                Content::Verdict(false) => Ok(NOT_COVERED),
                Content::Divided(first, ranges) => self.word(ranges, first, word + 1),
            };
        }
        let index = (self.place)()?;
        // Ranges that are not there are never reached: nothing lies behind the last value.
        let mut node = Node { last: [u32::MAX; CHILDREN - 1], next: [NOT_COVERED; CHILDREN] };
        let mut rest = leaves;
        for child in 0..CHILDREN {
            let later = CHILDREN - 1 - child;
            let count = rest.len().saturating_sub(later).clamp(1, capacity / CHILDREN);
            let (these, others) = rest.split_at(count.min(rest.len()));
            let Some(end) = these.last() else { break };
            if let Some(last) = node.last.get_mut(child) {
                *last = end.last;
            }
            node.next[child] = self.subtree(these, capacity / CHILDREN, word)?;
            rest = others;
        }
        self.nodes.push((index, node));
        Ok(index | word << WORD_SHIFT)
    }
}

/// What some ranges say of a word's values. The addresses begin with `first`, with all words before
/// this one in common; the last range may go on behind them.
fn leaves(ranges: &[Range], first: u128, word: u32) -> Vec<Leaf<'_>> {
    let shift = 96 - 32 * word;
    // The bits of the words behind this one; and the last of the addresses.
    let behind = (1 << shift) - 1;
    let end = first | behind | u128::from(u32::MAX) << shift;
    let value = |address| word_of(address, word);
    let mut leaves = Vec::new();
    let (mut rest, mut start) = (ranges, first);
    while let Some((range, others)) = rest.split_first() {
        let last = range.last.min(end);
        if last & behind == behind {
            leaves.push(Leaf { last: value(last), content: Content::Verdict(range.covered) });
            if last == end {
                break;
            }
            (rest, start) = (others, last + 1);
            continue;
        }
        // It ends within a value, and what it says of those before is said first.
        let divided = last & !behind;
        if let Some(before) = divided.checked_sub(1).filter(|_| start < divided) {
            leaves.push(Leaf { last: value(before), content: Content::Verdict(range.covered) });
        }
        let over = rest.iter().take_while(|range| range.last < divided | behind).count();
        let these = &rest[..rest.len().min(over + 1)];
        leaves.push(Leaf { last: value(last), content: Content::Divided(divided, these) });
        if divided | behind == end {
            break;
        }
        // The last one of these may say something of later values, too.
        let done = these.last().is_some_and(|range| range.last == divided | behind);
        (rest, start) = (&rest[over + usize::from(done)..], (divided | behind) + 1);
    }
    leaves
}

/// One of an address's words, 0 to 3.
pub(crate) fn word_of(address: u128, word: u32) -> u32 {
    (address >> (96 - 32 * word) & 0xffff_ffff) as u32
}

/// What a set says of all addresses, in order. Neighbours differ, and the last one ends with the
/// last address.
fn ranges<A: Address>(set: &DestinationSet<A>) -> Vec<Range> {
    let mut prefixes: Vec<(u128, u128, bool)> = set
        .iter()
        .map(|(net, covered)| {
            let (first, last) = A::range(net);
            (first, last, *covered)
        })
        .collect();
    // Each prefix comes behind those around it.
    prefixes.sort_by_key(|(first, last, _)| (*first, std::cmp::Reverse(*last)));
    let mut ranges = Ranges(Vec::new());
    let mut around: Vec<(u128, bool)> = Vec::new();
    for (first, last, covered) in prefixes {
        while let Some((outer, outer_covered)) = around.pop_if(|(outer, _)| *outer < first) {
            ranges.extend(outer, outer_covered);
        }
        if let Some(before) = first.checked_sub(1) {
            let covered = around.last().is_some_and(|(_, covered)| *covered);
            ranges.extend(before, covered);
        }
        around.push((last, covered));
    }
    while let Some((outer, covered)) = around.pop() {
        ranges.extend(outer, covered);
    }
    ranges.extend(u128::MAX, false);
    ranges.0
}

struct Ranges(Vec<Range>);

impl Ranges {
    /// What follows the last range, up to `last`, is this; it may be nothing.
    fn extend(&mut self, last: u128, covered: bool) {
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
