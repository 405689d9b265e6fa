//! Trees are walked as the program walks them, and compared with the longest match.

use std::collections::HashMap;
use std::convert::Infallible;

use super::*;

/// The trees of some sets, where the program would find them.
struct Walked {
    nodes: HashMap<Reference, Node>,
    root: Reference,
}

impl Walked {
    fn new(set: &DestinationSet) -> Self {
        let mut index = 0;
        let tree = Tree::build(set, &mut || {
            index += 1;
            Ok::<_, Infallible>(index)
        });
        let Ok(Tree { root, nodes }) = tree;
        let count = nodes.len();
        let nodes: HashMap<_, _> = nodes.into_iter().collect();
        assert_eq!(nodes.len(), count, "each node has a place of its own");
        // As many as there must be, and no more.
        assert_eq!(count, (ranges(set).len() - 1).div_ceil(CHILDREN - 1));
        Self { nodes, root }
    }

    /// Whether a destination is covered, and after how many nodes that is known.
    fn walk(&self, destination: u32) -> (bool, usize) {
        let (mut reference, mut levels) = (self.root, 0);
        while reference < NOT_COVERED {
            let node = &self.nodes[&reference];
            let child = node.last.iter().filter(|last| **last < destination).count();
            reference = node.next[child];
            levels += 1;
        }
        (reference == COVERED, levels)
    }
}

fn longest_match(set: &DestinationSet, destination: Ipv4Addr) -> bool {
    let matching = set.iter().filter(|(net, _)| net.contains(&destination));
    matching.max_by_key(|(net, _)| net.prefix_len()).is_some_and(|(_, covered)| *covered)
}

/// Every address at which a set's verdict could change.
fn boundaries(set: &DestinationSet) -> Vec<u32> {
    let ends = set.iter().flat_map(|(net, _)| [net.network(), net.broadcast()]);
    let near = ends.map(u32::from).flat_map(|end| [end.wrapping_sub(1), end, end.wrapping_add(1)]);
    near.chain([0, u32::MAX]).collect()
}

fn check(set: &DestinationSet) {
    let walked = Walked::new(set);
    for destination in boundaries(set) {
        let address = Ipv4Addr::from(destination);
        let expected = longest_match(set, address);
        assert_eq!(walked.walk(destination).0, expected, "{address} in {set:?}");
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

#[test]
fn a_tree_says_what_the_longest_match_says_at_every_boundary() {
    let mut state = 1;
    for count in 0..400 {
        check(&random_set(count % 40, &mut state));
    }
    for count in [200, 1_000, 3_000] {
        check(&random_set(count, &mut state));
    }
}

#[test]
fn sets_that_say_one_thing_of_all_addresses_need_no_node() {
    let all = |covered| vec![("0.0.0.0/0".parse().unwrap(), covered)];
    let halves = vec![("0.0.0.0/1".parse().unwrap(), true), ("128.0.0.0/1".parse().unwrap(), true)];
    for (set, root) in
        [(vec![], NOT_COVERED), (all(false), NOT_COVERED), (all(true), COVERED), (halves, COVERED)]
    {
        let walked = Walked::new(&set);
        assert_eq!((walked.root, walked.nodes.len()), (root, 0), "{set:?}");
    }
}

#[test]
fn the_ends_of_the_addresses_are_addresses_like_others() {
    let nets = ["0.0.0.0/32", "255.255.255.255/32", "255.255.255.0/24", "0.0.0.0/8"];
    for subset in 0..1 << nets.len() {
        let chosen = nets.iter().enumerate().filter(|(bit, _)| subset >> bit & 1 == 1);
        let set: DestinationSet =
            chosen.map(|(bit, net)| (net.parse().unwrap(), bit != 2)).collect();
        check(&set);
    }
}

/// `NODES_LEVELS` of steer.h, and the limit of destinations.
#[test]
fn the_largest_set_is_as_deep_as_the_program_walks() {
    let single = |index: usize| Ipv4Addr::from(u32::try_from(2 * index + 1).unwrap());
    let set: DestinationSet =
        (0..super::super::DESTINATIONS_MAX).map(|index| (single(index).into(), true)).collect();
    let walked = Walked::new(&set);
    let mut deepest = 0;
    for index in (0..set.len()).step_by(97).chain([0, set.len() - 1]) {
        let address = u32::from(single(index));
        let (covered, levels) = walked.walk(address);
        assert!(covered && !walked.walk(address + 1).0, "{index}");
        deepest = deepest.max(levels);
    }
    assert_eq!(deepest, 8);
}
