//! Which pods and destinations are ours: the program in the kernel against the longest match.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use spillway_xdp::steering::{DestinationSet, SteerOutcome, Unclassified};

use crate::frames::{tcp, tunnel};
use crate::rig::{POD, Rig, tables};

use SteerOutcome::*;

/// The numbers of a linear congruential generator, high bits first.
fn random(state: &mut u64) -> u32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 32) as u32
}

/// Prefixes of 8 to 32 bits, side by side and one in another.
fn random_set(count: usize, state: &mut u64) -> DestinationSet {
    let mut set = BTreeMap::new();
    while set.len() < count {
        let address = Ipv4Addr::from(0xcb00_0000 ^ (random(state) >> (random(state) % 24)));
        let length = 32 - ((random(state) % 12) * (random(state) % 25)).min(24) as u8;
        let net = ipnet::Ipv4Net::new(address, length).unwrap().trunc();
        set.insert(net, random(state) > 0x5555_5555);
    }
    set.into_iter().collect()
}

fn longest_match(set: &DestinationSet, destination: Ipv4Addr) -> bool {
    let matching = set.iter().filter(|(net, _)| net.contains(&destination));
    matching.max_by_key(|(net, _)| net.prefix_len()).is_some_and(|(_, covered)| *covered)
}

#[test]
fn a_destination_is_covered_as_the_longest_match_says() {
    let mut rig = Rig::new(Unclassified::Drop, &[0, 1]);
    let mut state = 1;
    let mut seen = [0; 2];
    for count in [0, 1, 2, 3, 4, 7, 8, 30, 60, 300, 1000] {
        let set = random_set(count, &mut state);
        let mut tables = tables();
        tables.sets = vec![set.clone()];
        rig.steering.apply(&tables).unwrap();
        let ends = set.iter().flat_map(|(net, _)| [net.network(), net.broadcast()]);
        let near =
            ends.map(u32::from).flat_map(|end| [end.wrapping_sub(1), end, end.wrapping_add(1)]);
        for destination in near.chain([0, u32::MAX]).map(Ipv4Addr::from) {
            let covered = longest_match(&set, destination);
            let expected = if covered { SteerTunnel } else { PassNotCovered };
            let frame = tunnel(&tcp((POD, 40_001), (destination, 443)));
            assert_eq!(rig.run(&frame).outcome, expected, "{destination} of {set:?}");
            seen[usize::from(covered)] += 1;
        }
    }
    assert!(seen.iter().all(|count| *count > 1000), "both happen: {seen:?}");
}

#[test]
fn neighbouring_pods_have_sets_of_their_own() {
    let mut rig = Rig::new(Unclassified::Drop, &[0, 1]);
    let all = |covered| vec![("0.0.0.0/0".parse().unwrap(), covered)];
    let pods = (0..100).map(|index| Ipv4Addr::from(u32::from(POD) - 50 + index));
    let set_of = |pod: &Ipv4Addr, step: u32| match u32::from(*pod).wrapping_mul(step) % 7 {
        0 | 5 => Some(0),
        1 => Some(1),
        _ => None,
    };
    // Pods come, go, and get another set, next to others that stay.
    for step in [1, 2, 2, 3, 7, 5] {
        let mut tables = tables();
        tables.sets = vec![all(true), all(false)];
        tables.pods = pods.clone().filter_map(|pod| Some((pod, set_of(&pod, step)?))).collect();
        rig.steering.apply(&tables).unwrap();
        for pod in pods.clone() {
            let expected = match set_of(&pod, step) {
                Some(0) => SteerTunnel,
                Some(_) => PassNotCovered,
                None => PassTunnelOther,
            };
            let frame = tunnel(&tcp((pod, 40_001), (Ipv4Addr::new(8, 8, 8, 8), 443)));
            assert_eq!(rig.run(&frame).outcome, expected, "{pod}, step {step}");
        }
    }
}
