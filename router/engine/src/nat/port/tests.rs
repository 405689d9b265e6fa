//! Leases against a set of leased ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::family::V4;
use crate::flow::Timeouts;

type Tuple = crate::flow::Tuple<Ipv4Addr>;

const SECOND: u64 = 1_000_000_000;

fn ports(worker: u8, owners: &[u8; CLASSES], seed: u64) -> Ports<V4> {
    let config = EngineConfig {
        worker,
        owners: (*owners).into(),
        blocks_per_pod: 0,
        flows_max: 1,
        flows_max_ipv6: 1,
        hash_key: [3, 5, 7, 11],
        seed,
        timeouts: Timeouts::default(),
        pod_flows: Arc::default(),
        mss_clamp: true,
        events: false,
    };
    Ports::new(&config, 1, Hasher::new(config.hash_key))
}

fn egress(port_first: u16, port_last: u16) -> EgressAddress {
    EgressAddress {
        address: Ipv4Addr::new(198, 51, 100, 7),
        port_first,
        port_last,
        own: true,
        announce: None,
    }
}

/// The reply tuple of a flow whose pod has this port.
fn reply(pod_port: u16) -> Tuple {
    Tuple {
        source: Ipv4Addr::new(203, 0, 113, 1),
        destination: Ipv4Addr::new(198, 51, 100, 7),
        source_port: 443,
        destination_port: pod_port,
        protocol: 6,
    }
}

const POD: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 40);
const OTHER_POD: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 41);

fn wish(pod_port: u16, pod: Ipv4Addr) -> Wish<V4> {
    Wish { reply: reply(pod_port), pod, now: 1000 * SECOND }
}

fn leased_if(is_leased: bool) -> Use {
    if is_leased { Use::Leased } else { Use::Free }
}

/// Leases for a pod's port, with these ports taken.
fn lease(
    ports: &mut Ports<V4>,
    egress: &EgressAddress,
    pod_port: u16,
    taken: &BTreeSet<u16>,
) -> Result<u16, DropReason> {
    let mut use_of = |reply: &Tuple| leased_if(taken.contains(&reply.destination_port));
    ports.lease(egress, &wish(pod_port, POD), &mut use_of)
}

#[test]
fn a_class_is_enumerated_whole() {
    for number in 0..=u8::MAX {
        let ports: BTreeSet<u16> = (0..=u8::MAX).map(|index| port_of(number, index)).collect();
        assert_eq!(ports.len(), 256);
        assert!(ports.iter().all(|port| class(*port) == number));
    }
}

#[test]
fn a_pods_own_port_is_kept_when_it_may_be() {
    let mut ports = ports(0, &[0; CLASSES], 1);
    assert_eq!(lease(&mut ports, &egress(1024, 65_535), 40_001, &BTreeSet::new()), Ok(40_001));
    let other = lease(&mut ports, &egress(1024, 65_535), 40_001, &[40_001].into()).unwrap();
    assert_ne!(other, 40_001);
    assert_eq!(class(other), class(40_001));
}

#[test]
fn a_replaced_port_is_a_random_one_of_its_class() {
    let all = egress(1024, 65_535);
    let lease = |seed| lease(&mut ports(0, &[0; CLASSES], seed), &all, 80, &BTreeSet::new());
    let leased: BTreeSet<u16> = (0..400).map(|seed| lease(seed).unwrap()).collect();
    assert!(leased.iter().all(|port| class(*port) == class(80)));
    assert!(leased.len() > 150, "{} of about 250 ports", leased.len());
}

/// Pearson's statistic for counts that should all be the same.
fn chi_square(counts: &[u32]) -> f64 {
    let mean = f64::from(counts.iter().sum::<u32>()) / counts.len() as f64;
    counts.iter().map(|count| (f64::from(*count) - mean).powi(2) / mean).sum()
}

/// Asserts that no port, or class, is much likelier than another: six standard deviations of the
/// statistic above what chance gives.
fn assert_fair(what: &str, counts: &[u32]) {
    let degrees = counts.len() as f64 - 1.0;
    let (found, limit) = (chi_square(counts), degrees + 6.0 * (2.0 * degrees).sqrt());
    assert!(found < limit, "{what}: {found:.0}, more than {limit:.0}, of {counts:?}");
}

/// How often each port, of those that are not taken, is leased to a pod whose own may not be.
fn spread(taken: &BTreeSet<u16>, of: impl Fn(u16) -> bool) -> Vec<u32> {
    let mut ports = ports(0, &[0; CLASSES], 1);
    let all = egress(1024, 65_535);
    let free = (1024..=65_535).filter(|port| of(*port) && !taken.contains(port));
    let mut counts: BTreeMap<u16, u32> = free.map(|port| (port, 0)).collect();
    for _ in 0..counts.len() * 100 {
        let leased = lease(&mut ports, &all, 80, taken).unwrap();
        *counts.get_mut(&leased).expect("a port of those that may be leased") += 1;
    }
    counts.into_values().collect()
}

#[test]
fn no_port_of_a_class_is_likelier_than_another() {
    let in_class = |port| class(port) == class(80);
    assert_fair("all free", &spread(&BTreeSet::new(), in_class));
    let every_other = (0..=u8::MAX).step_by(2).map(|number| port_of(class(80), number)).collect();
    assert_fair("every other is taken", &spread(&every_other, in_class));
    let mut half = BTreeSet::new();
    let mut others = ports(0, &[0; CLASSES], 2);
    while half.len() < 128 {
        half.insert(lease(&mut others, &egress(1024, 65_535), 80, &half).unwrap());
    }
    assert_fair("half are leased", &spread(&half, in_class));
}

#[test]
fn no_class_is_likelier_than_another_when_ones_own_is_full() {
    let mut ports = ports(0, &[0; CLASSES], 1);
    let taken: BTreeSet<u16> = (0..=u8::MAX).map(|number| port_of(class(80), number)).collect();
    let mut counts = [0; CLASSES];
    for _ in 0..CLASSES * 100 {
        let leased = lease(&mut ports, &egress(1024, 65_535), 80, &taken).unwrap();
        counts[usize::from(class(leased))] += 1;
    }
    let others: Vec<u32> = (0..=u8::MAX)
        .zip(counts)
        .filter(|(number, _)| *number != class(80))
        .map(|(_, count)| count)
        .collect();
    assert_eq!(counts[usize::from(class(80))], 0);
    assert_fair("classes", &others);
}

#[test]
fn an_exhausted_remote_costs_no_search_until_a_port_is_free() {
    let mut ports = ports(0, &[0; CLASSES], 1);
    let egress = egress(2000, 2001);
    let mut asked = 0;
    let mut never_free = |_: &Tuple| {
        asked += 1;
        Use::Leased
    };
    for _ in 0..10 {
        let refused = ports.lease(&egress, &wish(80, POD), &mut never_free);
        assert_eq!(refused, Err(DropReason::PortsExhausted));
    }
    assert_eq!(asked, 2);
    ports.released(&reply(2001), POD, 0);
    assert_eq!(lease(&mut ports, &egress, 80, &[2000].into()), Ok(2001));
}

/// Before newcomers are refused somebody hears of it, and of ports that are just not the address's nobody.
#[test]
fn leases_that_find_few_ports_are_counted() {
    let crowded = |first, last, taken: &BTreeSet<u16>| {
        let mut ports = ports(0, &[0; CLASSES], 1);
        for number in 0..1000 {
            // Refused or not: that is not what is counted.
            let _ = lease(&mut ports, &egress(first, last), 1024 + number * 64, taken);
        }
        ports.leases_crowded()
    };
    let of_ten = |taken: u16| -> BTreeSet<u16> {
        (1024..=u16::MAX).filter(|port| port % 10 < taken).collect()
    };
    assert_eq!(crowded(1024, 65_535, &BTreeSet::new()), 0);
    assert_eq!(crowded(1024, 65_535, &of_ten(5)), 0);
    assert!((1..200).contains(&crowded(1024, 65_535, &of_ten(9))));
    // Few of a class are in the range, and all of these are free.
    assert_eq!(crowded(16_384, 29_999, &BTreeSet::new()), 0);
    assert_eq!(crowded(2000, 2001, &[2000, 2001].into()), 1000, "each is refused");
}

#[test]
fn where_all_ports_are_mapped_no_remote_costs_a_search_until_a_mapping_ends() {
    let mut ports = ports(0, &[0; CLASSES], 1);
    let egress = egress(2000, 2001);
    let towards = |remote: u8| {
        let wish = wish(80, POD);
        Wish { reply: Tuple { source: Ipv4Addr::new(203, 0, 113, remote), ..wish.reply }, ..wish }
    };
    let mut asked = 0;
    let mut ask = |ports: &mut Ports<V4>, remote, other| {
        let before = asked;
        let lease = ports.lease(&egress, &towards(remote), &mut |reply| {
            asked += 1;
            if reply.destination_port == 2000 { Use::Mapped } else { other }
        });
        (lease.ok(), asked - before)
    };
    // A flow has one of the ports towards the first remote: that says nothing of the second.
    assert_eq!(ask(&mut ports, 1, Use::Leased), (None, 2));
    assert_eq!(ask(&mut ports, 2, Use::Mapped), (None, 2));
    assert_eq!(ask(&mut ports, 3, Use::Mapped), (None, 0));
    ports.forget_taken();
    assert_eq!(ask(&mut ports, 3, Use::Free).0, Some(2001));
}

#[test]
fn a_remembered_exhaustion_is_that_of_a_range() {
    let mut ports = ports(0, &[0; CLASSES], 1);
    let lease = |ports: &mut Ports<V4>, first, last| {
        ports.lease(&egress(first, last), &wish(80, POD), &mut |_| Use::Free)
    };
    assert!(lease(&mut ports, 2, 1).is_err());
    assert!(lease(&mut ports, 2, 1).is_err());
    assert!(lease(&mut ports, 2000, 2001).is_ok());
}

#[test]
fn the_last_ports_are_found_without_asking_for_all_others_again() {
    let mut ports = ports(0, &[0; CLASSES], 1);
    let all = egress(1024, 65_535);
    let mut taken: BTreeSet<u16> = (1024..=65_535).collect();
    let free = |ports: &mut Ports<V4>, taken: &mut BTreeSet<u16>, port| {
        taken.remove(&port);
        ports.released(&reply(port), POD, 0);
    };
    let lease = |ports: &mut Ports<V4>, taken: &BTreeSet<u16>| {
        let mut asked = 0;
        let leased = ports.lease(&all, &wish(80, POD), &mut |reply| {
            asked += 1;
            leased_if(taken.contains(&reply.destination_port))
        });
        (leased, asked)
    };
    let (leased, asked) = lease(&mut ports, &taken);
    assert_eq!(leased, Err(DropReason::PortsExhausted));
    assert!(asked >= 64_512, "{asked} ports were asked for");
    // It was not known to be crowded before.
    free(&mut ports, &mut taken, 30_000);
    assert_eq!(lease(&mut ports, &taken).0, Ok(30_000));
    for port in [40_000, 50_000, 60_000] {
        taken.insert(30_000);
        free(&mut ports, &mut taken, port);
        assert_eq!(lease(&mut ports, &taken).0, Ok(port));
        taken.insert(port);
    }
    free(&mut ports, &mut taken, 61_000);
    let (leased, asked) = lease(&mut ports, &taken);
    assert_eq!(leased, Ok(61_000));
    assert!(asked < 100, "{asked} ports were asked for");
}

#[test]
fn a_port_that_another_pod_had_lately_is_taken_last() {
    let (all, nobody) = (egress(1024, 65_535), &mut |_: &Tuple| Use::Free);
    let mut ports = ports(0, &[0; CLASSES], 1);
    let ended = 1000 * SECOND;
    ports.released(&reply(40_001), OTHER_POD, ended);
    let at = |now: u64, pod| Wish { now: now * SECOND, ..wish(40_001, pod) };
    let lease = ports.lease(&all, &at(1059, POD), nobody).unwrap();
    assert_ne!(lease, 40_001);
    assert_eq!(class(lease), class(40_001));
    assert_eq!(ports.lease(&all, &at(1059, OTHER_POD), nobody), Ok(40_001), "its own pod's");
    assert_eq!(ports.lease(&all, &at(1061, POD), nobody), Ok(40_001), "it has rested");
    let only = egress(40_001, 40_001);
    assert_eq!(ports.lease(&only, &at(1059, POD), nobody), Ok(40_001), "there is no other");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn leases_are_unique_and_complete(
        seed: u64,
        worker in 0..4_u8,
        workers in 1..=4_u8,
        first in 1024..60_000_u16,
        length in 1..3000_u16,
        pod_port: u16,
    ) {
        let owners = std::array::from_fn(|class| u8::try_from(class).unwrap() % workers);
        let worker = worker % workers;
        let egress = egress(first, first.saturating_add(length));
        let own = |port: &u16| owners[usize::from(class(*port))] == worker;
        let all: BTreeSet<u16> = (egress.port_first..=egress.port_last).filter(own).collect();
        let mut ports = ports(worker, &owners, seed);
        let mut taken = BTreeSet::new();
        // The pod's port belongs to this worker, as steering and engine see to.
        let pod_port = (0..=u16::MAX).map(|step| pod_port.wrapping_add(step)).find(own).unwrap();
        for _ in 0..all.len() {
            let port = lease(&mut ports, &egress, pod_port, &taken);
            prop_assert!(port.is_ok_and(|port| all.contains(&port) && taken.insert(port)));
        }
        let refused = lease(&mut ports, &egress, pod_port, &taken);
        prop_assert_eq!(refused, Err(DropReason::PortsExhausted));
    }

    /// With flows that end in between, whatever is known of the remote.
    #[test]
    fn no_free_port_is_overlooked(
        seed: u64,
        first in 1024..60_000_u16,
        length in 300..2000_u16,
        steps in prop::collection::vec((any::<u16>(), any::<bool>()), 1..200),
    ) {
        let egress = egress(first, first.saturating_add(length));
        let all: Vec<u16> = (egress.port_first..=egress.port_last).collect();
        let mut ports = ports(0, &[0; CLASSES], seed);
        let mut taken: BTreeSet<u16> = all.iter().copied().collect();
        for (choice, ends) in steps {
            let port = all[usize::from(choice) % all.len()];
            if ends && taken.remove(&port) {
                ports.released(&reply(port), POD, 0);
            }
            let leased = lease(&mut ports, &egress, 80, &taken);
            match taken.len() < all.len() {
                true => prop_assert!(leased.is_ok_and(|port| taken.insert(port))),
                false => prop_assert_eq!(leased, Err(DropReason::PortsExhausted)),
            }
        }
    }
}

proptest! {
    #[test]
    fn a_forecast_says_what_the_lease_finds(
        worker in 0_u8..3,
        pod_port: u16,
        (first, count) in (1024_u16..65_000, 1_u16..400),
        taken in prop::collection::btree_set(0_u16..400, 0..400),
    ) {
        let owners = std::array::from_fn(|class| u8::try_from(class % 3).unwrap());
        let mut ports = ports(worker, &owners, 1);
        let egress = egress(first, first + count);
        // Mostly a port of the range.
        let pod_port = if pod_port < 60_000 { first + pod_port % count } else { pod_port };
        let taken: BTreeSet<u16> = taken.iter().map(|offset| first + offset).collect();
        let is_free = |reply: &Tuple| !taken.contains(&reply.destination_port);
        let forecast = ports.forecast(&egress, &wish(pod_port, POD), &is_free);
        let leased = lease(&mut ports, &egress, pod_port, &taken);
        prop_assert_eq!(forecast, leased.map(|port| port == pod_port));
        prop_assert_eq!(forecast, ports.forecast(&egress, &wish(pod_port, POD), &is_free));
    }
}

#[test]
fn a_port_that_rests_is_foreseen_as_not_kept() {
    let mut ports = ports(0, &[0; CLASSES], 1);
    let all = egress(1024, 65_535);
    let wish = wish(40_001, POD);
    ports.released(&reply(40_001), OTHER_POD, wish.now);
    assert_eq!(ports.forecast(&all, &wish, &|_| true), Ok(false));
    assert_ne!(lease(&mut ports, &all, 40_001, &BTreeSet::new()), Ok(40_001));
}
