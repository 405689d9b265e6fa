//! What is steered after changes, one address at a time, against what was covered lately.

use ipnet::{Ipv4Net, Ipv6Net};
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn pod(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, number)
}

/// Tables in which each pod has the set of its place.
fn tables(sets: &[&[(&str, bool)]]) -> SteerTables {
    let set = |set: &&[(&str, bool)]| set.iter().map(|(text, on)| (net(text), *on)).collect();
    let v4 = SteerFamily {
        pods: (0..sets.len()).map(|place| (pod(u8::try_from(place).unwrap()), place)).collect(),
        sets: sets.iter().map(set).collect(),
        ..SteerFamily::default()
    };
    SteerTables { v4, ..SteerTables::default() }
}

/// Tables with one egress address.
fn with_egress(address: Ipv4Addr, ports: EgressPorts) -> SteerTables {
    let v4 = SteerFamily { egress: [(address, ports)].into(), ..SteerFamily::default() };
    SteerTables { v4, ..SteerTables::default() }
}

/// Longest-prefix match, as the steering program does it.
fn covers(tables: &SteerTables, pod: Ipv4Addr, to: Ipv4Addr) -> bool {
    let set = tables.v4.pods.get(&pod).map(|index| tables.v4.sets[*index].as_slice());
    let containing = set.unwrap_or_default().iter().filter(|(prefix, _)| prefix.contains(&to));
    containing.max_by_key(|(prefix, _)| prefix.prefix_len()).is_some_and(|(_, covered)| *covered)
}

/// The families are remembered apart, in the same way.
#[test]
fn an_ipv6_pod_that_is_deselected_is_steered_for_the_grace_time() {
    let start = Instant::now();
    let pod = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    let net = |text: &str| text.parse::<Ipv6Net>().unwrap();
    let mut before = tables(&[&[("203.0.113.0/24", true)]]);
    before.v6.sets =
        vec![vec![(net("2001:db8:203::/48"), true), (net("2001:db8:203::20/128"), false)]];
    before.v6.pods = [(pod, 0)].into();
    let mut after = tables(&[&[("203.0.113.0/24", true)]]);
    after.v6.sets = vec![vec![(net("2001:db8:198::/48"), true)]];
    after.v6.pods = [(pod, 0)].into();
    let grace = Grace::default().after(before.clone(), start).after(after.clone(), start);
    assert_eq!(grace.ends(), Some(start + GRACE));
    let both = grace.tables();
    assert_eq!(both.v4, after.v4);
    let mut expected = [after.v6.sets[0].clone(), before.v6.sets[0].clone()].concat();
    expected.sort_unstable();
    assert_eq!(both.v6.sets[both.v6.pods[&pod]], expected);
    assert_eq!(grace.at(start + GRACE).tables(), after);
}

#[test]
fn a_pod_that_is_deselected_is_steered_for_the_grace_time() {
    let (start, to) = (Instant::now(), Ipv4Addr::new(203, 0, 113, 1));
    let covered: &[(&str, bool)] = &[("203.0.113.0/24", true)];
    let grace = Grace::default().after(tables(&[covered, covered]), start);
    assert_eq!(grace.ends(), None);
    let grace = grace.after(tables(&[covered]), start);
    assert_eq!(grace.ends(), Some(start + GRACE));
    assert!(covers(&grace.tables(), pod(1), to));
    // A change of something else neither prolongs nor ends it.
    let grace = grace.after(tables(&[covered]), start + 20 * SECOND);
    assert_eq!(grace.ends(), Some(start + GRACE));
    assert!(covers(&grace.tables(), pod(1), to));
    let grace = grace.at(start + GRACE);
    assert_eq!((grace.ends(), grace.tables()), (None, tables(&[covered])));
}

#[test]
fn a_destination_that_is_taken_away_is_steered_for_the_grace_time() {
    let start = Instant::now();
    let before: &[(&str, bool)] = &[("203.0.113.0/24", true), ("203.0.113.20/32", false)];
    let after: &[(&str, bool)] = &[("198.51.100.0/24", true)];
    let grace = Grace::default().after(tables(&[before]), start).after(tables(&[after]), start);
    for (to, expected) in [([203, 0, 113, 1], true), ([203, 0, 113, 20], false)] {
        assert_eq!(covers(&grace.tables(), pod(0), to.into()), expected, "{to:?}");
    }
    assert!(covers(&grace.tables(), pod(0), Ipv4Addr::new(198, 51, 100, 1)));
}

#[test]
fn a_policy_that_only_grows_leaves_nothing_to_remember() {
    let start = Instant::now();
    let before: &[(&str, bool)] = &[("203.0.113.0/25", true)];
    let after: &[(&str, bool)] = &[("203.0.113.0/24", true)];
    let grace = Grace::default().after(tables(&[before]), start).after(tables(&[after]), start);
    assert_eq!(grace.ends(), None);
}

#[test]
fn an_egress_address_is_watched_for_the_grace_time() {
    let start = Instant::now();
    let address = Ipv4Addr::new(192, 0, 2, 7);
    let ports = EgressPorts { first: 1024, last: 65_535, own: true, announce: None };
    // Nobody answers for it in that time.
    let announced = EgressPorts { announce: Some(2), ..ports };
    let with = with_egress(address, announced);
    let grace = Grace::default().after(with.clone(), start);
    let gone = grace.after(SteerTables::default(), start);
    assert_eq!(gone.tables().v4.egress.get(&address), Some(&ports));
    let shared = EgressPorts { first: 16_384, last: 29_999, own: false, announce: None };
    let other = with_egress(address, shared);
    assert_eq!(gone.clone().after(other, start).tables().v4.egress.get(&address), Some(&shared));
    assert_eq!(gone.at(start + GRACE).tables(), SteerTables::default());
}

#[test]
fn a_pod_that_changes_all_the_time_is_remembered_in_bounded_memory() {
    let start = Instant::now();
    let mut grace = Grace::default();
    for third in 0..100 {
        let text = format!("203.0.{third}.0/24");
        grace = grace.after(tables(&[&[(&text, true)]]), start);
    }
    assert_eq!(grace.v4.pods[&pod(0)].len(), FORMER_MAX);
    for third in 0..100 {
        assert!(covers(&grace.tables(), pod(0), Ipv4Addr::new(203, 0, third, 1)));
    }
}

#[test]
fn what_is_forgotten_is_the_past_alone() {
    let start = Instant::now();
    let covered: &[(&str, bool)] = &[("203.0.113.0/24", true)];
    let grace = Grace::default().after(tables(&[covered, covered]), start);
    let grace = grace.after(tables(&[covered]), start).forget();
    assert_eq!((grace.ends(), grace.tables()), (None, tables(&[covered])));
}

prop_compose! {
    fn any_set()(
        prefixes in prop::collection::btree_map((0..16_u32, 28..=32_u8), any::<bool>(), 0..5),
    ) -> DestinationSet {
        let mut set: DestinationSet = prefixes.into_iter().map(|((low, length), covered)| {
            (Ipv4Net::new(Ipv4Addr::from_bits(0xcb00_7100 | low), length).unwrap().trunc(), covered)
        }).collect();
        set.sort_unstable();
        set.dedup_by_key(|(prefix, _)| *prefix);
        set
    }
}

proptest! {
    #[test]
    fn what_was_covered_lately_is_steered_and_nothing_else(
        history in prop::collection::vec(
            (prop::collection::btree_map(0..3_u8, any_set(), 0..3), 0..20_u32), 1..6),
    ) {
        let mut now = Instant::now();
        let mut grace = Grace::default();
        // What each document covered, and until when that counts.
        let mut past: Vec<(SteerTables, Instant)> = Vec::new();
        for (sets, seconds) in history {
            let v4 = SteerFamily {
                pods: sets.keys().zip(0..).map(|(number, index)| (pod(*number), index)).collect(),
                sets: sets.values().cloned().collect(),
                ..SteerFamily::default()
            };
            let tables = SteerTables { v4, ..SteerTables::default() };
            if let Some((_, until)) = past.last_mut() {
                *until = now + GRACE;
            }
            grace = grace.after(tables.clone(), now);
            past.push((tables, now + 1000 * GRACE));
            now += seconds * SECOND;
            grace = grace.at(now);
            for low in 0..18 {
                let to = Ipv4Addr::from_bits(0xcb00_7100 + low);
                for pod in (0..3).map(pod) {
                    let mut lately = past.iter().filter(|(_, until)| *until > now);
                    let expected = lately.any(|(tables, _)| covers(tables, pod, to));
                    prop_assert_eq!(covers(&grace.tables(), pod, to), expected);
                }
            }
        }
    }
}
