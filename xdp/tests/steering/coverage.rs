//! Which pods and destinations are ours: the program in the kernel against the longest match.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use spillway_xdp::steering::{
    Address, DestinationSet, SteerFamily, SteerOutcome, SteerTables, Unclassified,
};

use crate::frames::{tcp, tunnel};
use crate::rig::{POD, POD_6, REMOTE_6, Rig, tables};

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

/// IPv6 prefixes of 16 to 128 bits, side by side and one in another.
fn random_ipv6_set(count: usize, state: &mut u64) -> DestinationSet<Ipv6Addr> {
    let mut set = BTreeMap::new();
    while set.len() < count {
        let low = |state: &mut u64| u128::from(random(state)) >> (random(state) % 40).min(31);
        let address =
            (0x2001_0db8_u128 << 96) ^ (low(state) << 64) ^ (low(state) << 32) ^ low(state);
        let length = 128 - ((random(state) % 12) * (random(state) % 12)).min(112) as u8;
        let net = ipnet::Ipv6Net::new(Ipv6Addr::from(address), length).unwrap().trunc();
        set.insert(net, random(state) > 0x5555_5555);
    }
    set.into_iter().collect()
}

/// Of two prefixes that hold an address, the longer one is the smaller range.
fn longest_match<A: Address>(set: &DestinationSet<A>, destination: u128) -> bool {
    let ranges = set.iter().map(|(net, covered)| (A::range(net), *covered));
    let matching = ranges.filter(|((first, last), _)| (*first..=*last).contains(&destination));
    matching.min_by_key(|((first, last), _)| last - first).is_some_and(|(_, covered)| covered)
}

/// Runs the program for every address at which a set's verdict could change. An address of the
/// family is the upper bits of a number, above `step`.
fn check<A: Address + std::fmt::Display>(
    pod: A,
    any_set: impl Fn(usize, &mut u64) -> DestinationSet<A>,
    family: impl Fn(&mut SteerTables) -> &mut SteerFamily<A>,
    address: impl Fn(u128) -> A,
    step: u128,
) {
    let mut rig = Rig::new(Unclassified::Drop, &[0, 1]);
    let mut state = 1;
    let mut seen = [0; 2];
    for count in [0, 1, 2, 3, 4, 7, 8, 30, 60, 300, 1000] {
        let set = any_set(count, &mut state);
        let mut tables = tables();
        family(&mut tables).sets = vec![set.clone()];
        rig.steering.apply(&tables).unwrap();
        let ends = set.iter().flat_map(|(net, _)| <[u128; 2]>::from(A::range(net)));
        let near = ends.flat_map(|end| [end.wrapping_sub(step), end, end.wrapping_add(step)]);
        for destination in near.chain([step, u128::MAX >> 1]) {
            let covered = longest_match::<A>(&set, destination);
            let expected = if covered { SteerTunnel } else { PassNotCovered };
            let destination = address(destination);
            let frame = tunnel(&tcp((pod, 40_001), (destination, 443)));
            assert_eq!(rig.run(&frame).outcome, expected, "{destination} of {set:?}");
            seen[usize::from(covered)] += 1;
        }
    }
    assert!(seen.iter().all(|count| *count > 1000), "both happen: {seen:?}");
}

#[test]
fn a_destination_is_covered_as_the_longest_match_says() {
    let address = |number: u128| Ipv4Addr::from((number >> 96) as u32);
    check(POD, random_set, |tables| &mut tables.v4, address, 1 << 96);
}

#[test]
fn an_ipv6_destination_is_covered_as_the_longest_match_says() {
    check(POD_6, random_ipv6_set, |tables| &mut tables.v6, Ipv6Addr::from, 1);
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
        tables.v4.sets = vec![all(true), all(false)];
        tables.v4.pods = pods.clone().filter_map(|pod| Some((pod, set_of(&pod, step)?))).collect();
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

#[test]
fn neighbouring_ipv6_pods_have_sets_of_their_own() {
    let mut rig = Rig::new(Unclassified::Drop, &[0, 1]);
    let all = |covered| vec![("::/0".parse().unwrap(), covered)];
    let mut tables = tables();
    tables.v6.sets = vec![all(true), all(false)];
    let pods = (0..40).map(|index| Ipv6Addr::from(u128::from(POD_6) - 20 + index));
    let set_of = |pod: Ipv6Addr| [Some(0), Some(1), None][pod.octets()[15] as usize % 3];
    tables.v6.pods = pods.clone().filter_map(|pod| Some((pod, set_of(pod)?))).collect();
    rig.steering.apply(&tables).unwrap();
    for pod in pods {
        let expected = match set_of(pod) {
            Some(0) => SteerTunnel,
            Some(_) => PassNotCovered,
            None => PassTunnelOther,
        };
        let frame = tunnel(&tcp((pod, 40_001), (REMOTE_6, 443)));
        assert_eq!(rig.run(&frame).outcome, expected, "{pod}");
    }
}
