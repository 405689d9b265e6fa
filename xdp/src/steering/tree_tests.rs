//! Trees are walked as the program walks them, and compared with the longest match.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::*;

/// The trees of some sets, where the program would find them.
struct Walked {
    nodes: HashMap<u32, Node>,
    root: Reference,
}

impl Walked {
    fn new<A: Address>(set: &DestinationSet<A>) -> Self {
        let mut index = 0;
        let tree = Tree::build::<A, _>(set, &mut || {
            index += 1;
            Ok::<_, Infallible>(index)
        });
        let Ok(Tree { root, nodes }) = tree;
        let count = nodes.len();
        let nodes: HashMap<_, _> = nodes.into_iter().collect();
        assert_eq!(nodes.len(), count, "each node has a place of its own");
        Self { nodes, root }
    }

    /// Whether a destination is covered, and after how many nodes that is known. Words are looked at
    /// in their order.
    fn walk(&self, destination: u128) -> (bool, usize) {
        let (mut reference, mut levels, mut word) = (self.root, 0, 0);
        while reference < NOT_COVERED {
            let next = reference >> WORD_SHIFT;
            assert!(word <= next && next <= word + 1 && next < 4);
            word = next;
            let node = &self.nodes[&(reference % (1 << WORD_SHIFT))];
            let value = word_of(destination, word);
            let child = node.last.iter().filter(|last| **last < value).count();
            reference = node.next[child];
            levels += 1;
        }
        (reference == COVERED, levels)
    }
}

/// A prefix as its range: of two that hold an address, the longer one is the smaller range.
fn longest_match<A: Address>(set: &DestinationSet<A>, destination: u128) -> bool {
    let ranges = set.iter().map(|(net, covered)| (A::range(net), *covered));
    let matching = ranges.filter(|((first, last), _)| (*first..=*last).contains(&destination));
    matching.min_by_key(|((first, last), _)| last - first).is_some_and(|(_, covered)| covered)
}

/// Every address at which a set's verdict could change.
fn boundaries<A: Address>(set: &DestinationSet<A>) -> Vec<u128> {
    let ends = set.iter().flat_map(|(net, _)| <[u128; 2]>::from(A::range(net)));
    let near = ends.flat_map(|end| [end.wrapping_sub(1), end, end.wrapping_add(1)]);
    near.chain([0, u128::MAX]).collect()
}

fn check<A: Address>(set: &DestinationSet<A>) {
    let walked = Walked::new::<A>(set);
    for destination in boundaries::<A>(set) {
        let expected = longest_match::<A>(set, destination);
        assert_eq!(walked.walk(destination).0, expected, "{destination:x} in {set:?}");
    }
}

/// The numbers of a linear congruential generator, high bits first.
fn random(state: &mut u64) -> u32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 32) as u32
}

/// Prefixes of any length in a corner of the addresses, so that many lie in others and side by side.
fn random_set(count: u32, state: &mut u64) -> DestinationSet {
    let corners = [0, 0xcb00_7100, 0xffff_ff00];
    let mut set: HashMap<Ipv4Net, bool> = HashMap::new();
    for _ in 0..count {
        let corner = corners[random(state) as usize % corners.len()];
        let spread = (random(state) % 0x100)
            | (u32::from(random(state) > 0xc000_0000) << (random(state) % 32));
        let length =
            if random(state) < 0x2000_0000 { random(state) % 33 } else { 24 + random(state) % 9 };
        let net = Ipv4Net::new(Ipv4Addr::from(corner ^ spread), u8::try_from(length).unwrap());
        let net = net.unwrap().trunc();
        set.insert(net, random(state) > 0x5555_5555);
    }
    set.into_iter().collect()
}

/// The same of IPv6: in corners of each word, with bits beside them anywhere.
fn random_ipv6_set(count: u32, state: &mut u64) -> DestinationSet<Ipv6Addr> {
    let corners = [0, 0x2001_0db8 << 96, (0x2001_0db8 << 96) | (0xffff_fff0 << 64), u128::MAX << 8];
    let mut set: HashMap<Ipv6Net, bool> = HashMap::new();
    for _ in 0..count {
        let corner: u128 = corners[random(state) as usize % corners.len()];
        let word = 32 * (random(state) % 4);
        let spread = (u128::from(random(state) % 0x20) << word)
            | (u128::from(random(state) > 0x8000_0000) << (random(state) % 128));
        let length = if random(state) < 0x4000_0000 {
            random(state) % 129
        } else {
            (128 - word).saturating_sub(random(state) % 9)
        };
        let address = Ipv6Addr::from(corner ^ spread);
        let net = Ipv6Net::new(address, u8::try_from(length).unwrap()).unwrap().trunc();
        set.insert(net, random(state) > 0x5555_5555);
    }
    set.into_iter().collect()
}

#[test]
fn a_tree_says_what_the_longest_match_says_at_every_boundary() {
    let mut state = 1;
    for count in (0..400).map(|count| count % 40).chain([200, 1_000, 3_000]) {
        let set = random_set(count, &mut state);
        check::<Ipv4Addr>(&set);
        // As many nodes as there must be, and no more.
        let nodes = Walked::new::<Ipv4Addr>(&set).nodes.len();
        assert_eq!(nodes, (ranges::<Ipv4Addr>(&set).len() - 1).div_ceil(CHILDREN - 1));
    }
}

#[test]
fn an_ipv6_tree_says_what_the_longest_match_says_at_every_boundary() {
    let mut state = 1;
    let mut deepest = 0;
    for count in (0..1_000).map(|count| count % 50).chain([200, 1_000]) {
        let set = random_ipv6_set(count, &mut state);
        check::<Ipv6Addr>(&set);
        let walked = Walked::new::<Ipv6Addr>(&set);
        // `NODES_MAX` counts on it.
        assert!(
            walked.nodes.len() <= (23 * set.len()).div_ceil(7),
            "{} of {set:?}",
            walked.nodes.len()
        );
        let references = walked.nodes.values().flat_map(|node| node.next);
        let words = references.filter(|next| *next < NOT_COVERED).map(|next| next >> WORD_SHIFT);
        deepest = deepest.max(words.max().unwrap_or(0));
    }
    assert_eq!(deepest, 3, "all words are looked at");
}

#[test]
fn sets_that_say_one_thing_of_all_addresses_need_no_node() {
    let all = |covered| vec![("0.0.0.0/0".parse().unwrap(), covered)];
    let halves = vec![("0.0.0.0/1".parse().unwrap(), true), ("128.0.0.0/1".parse().unwrap(), true)];
    for (set, root) in
        [(vec![], NOT_COVERED), (all(false), NOT_COVERED), (all(true), COVERED), (halves, COVERED)]
    {
        let walked = Walked::new::<Ipv4Addr>(&set);
        assert_eq!((walked.root, walked.nodes.len()), (root, 0), "{set:?}");
    }
    let halves: DestinationSet<Ipv6Addr> =
        ["::/1", "8000::/1"].map(|net| (net.parse().unwrap(), true)).to_vec();
    let walked = Walked::new::<Ipv6Addr>(&halves);
    assert_eq!((walked.root, walked.nodes.len()), (COVERED, 0));
}

#[test]
fn an_ipv6_prefix_needs_a_node_for_each_word_that_it_reaches_into() {
    for (text, expected) in [
        ("2001::/16", 1),
        ("2001:db8::/32", 1),
        ("2001:db8:1::/48", 2),
        ("2001:db8:1:2::/64", 2),
        ("2001:db8:1:2::/65", 3),
        ("2001:db8::1/128", 4),
        ("::/128", 4),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", 4),
    ] {
        let set: DestinationSet<Ipv6Addr> = vec![(text.parse().unwrap(), true)];
        check::<Ipv6Addr>(&set);
        assert_eq!(Walked::new::<Ipv6Addr>(&set).nodes.len(), expected, "{text}");
    }
}

#[test]
fn the_ends_of_the_addresses_are_addresses_like_others() {
    let nets = ["0.0.0.0/32", "255.255.255.255/32", "255.255.255.0/24", "0.0.0.0/8"];
    let ipv6 = ["::/128", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", "ffff::/16", "::/8"];
    for subset in 0..1 << nets.len() {
        let chosen = |bit: &usize| subset >> bit & 1 == 1;
        let bits = || (0..nets.len()).filter(chosen);
        let set: DestinationSet =
            bits().map(|bit| (nets[bit].parse().unwrap(), bit != 2)).collect();
        check::<Ipv4Addr>(&set);
        let set: DestinationSet<Ipv6Addr> =
            bits().map(|bit| (ipv6[bit].parse().unwrap(), bit != 2)).collect();
        check::<Ipv6Addr>(&set);
    }
}

/// `NODES_LEVELS` of steer.h, and the limit of destinations.
#[test]
fn the_largest_set_is_as_deep_as_the_program_walks() {
    let single = |index: usize| Ipv4Addr::from(u32::try_from(2 * index + 1).unwrap());
    let set: DestinationSet =
        (0..super::super::DESTINATIONS_MAX).map(|index| (single(index).into(), true)).collect();
    let walked = Walked::new::<Ipv4Addr>(&set);
    let mut deepest = 0;
    for index in (0..set.len()).step_by(97).chain([0, set.len() - 1]) {
        let (address, _) = Ipv4Addr::range(&single(index).into());
        let (covered, levels) = walked.walk(address);
        assert!(covered && !walked.walk(address + (1 << 96)).0, "{index}");
        deepest = deepest.max(levels);
    }
    assert_eq!(deepest, 8);
}
