//! The flattened policies against what the rules of precedence say, word by word.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use proptest::prelude::*;

use super::*;

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn nets(texts: &[&str]) -> Vec<Ipv4Net> {
    texts.iter().map(|text| net(text)).collect()
}

fn address(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn policy(destinations: &[&str], excluded: &[&str], pods: &[&str]) -> Policy {
    Policy {
        name: String::new(),
        egress_addresses: vec![Ipv4Addr::new(192, 0, 2, 1)],
        destinations: nets(destinations),
        excluded: nets(excluded),
        pods: pods.iter().map(|pod| address(pod)).collect(),
        pod_groups: Vec::new(),
        options: NatOptions::default(),
    }
}

#[test]
fn precedence_is_as_documented() {
    let a = "10.0.0.1";
    let policies = Policies::new(
        vec![
            policy(&["203.0.113.0/24"], &["203.0.113.20/32"], &[a, "10.0.0.2"]),
            policy(&["203.0.113.0/25", "198.51.100.0/24"], &["203.0.113.20/32"], &[a]),
            policy(&["203.0.113.0/24", "0.0.0.0/0"], &[], &["10.0.0.3", a]),
            policy(&["192.0.2.0/24"], &["192.0.2.0/24", "192.0.2.8/32"], &["10.0.0.4"]),
        ],
        &[],
    );
    for (pod, destination, expected, why) in [
        (a, "203.0.113.1", Some(1), "the longer prefix wins over the earlier policy"),
        (a, "203.0.113.200", Some(0), "of equal prefixes the earlier policy wins"),
        (a, "203.0.113.20", Some(2), "exclusions make holes in their own policy only"),
        (a, "198.51.100.1", Some(1), "a destination of one policy"),
        (a, "8.8.8.8", Some(2), "the default destination"),
        ("10.0.0.2", "203.0.113.1", Some(0), "a pod of one policy"),
        ("10.0.0.2", "203.0.113.20", None, "an excluded destination"),
        ("10.0.0.2", "8.8.8.8", None, "no destination"),
        ("10.0.0.9", "203.0.113.1", None, "no pod"),
        ("10.0.0.4", "192.0.2.1", None, "a tie within a policy excludes"),
    ] {
        assert_eq!(policies.lookup(address(pod), address(destination)), expected, "{why}");
    }
}

#[test]
fn pods_that_the_same_policies_select_share_a_set() {
    let policies = Policies::new(
        vec![
            policy(&["203.0.113.0/24"], &[], &["10.0.0.3", "10.0.0.1", "10.0.0.1"]),
            policy(&["198.51.100.0/24"], &[], &["10.0.0.2", "10.0.0.1", "10.0.0.3"]),
        ],
        &[],
    );
    let pods: Vec<_> = policies.pods().collect();
    let set_of = |pod: &str| pods.iter().find(|(each, _)| *each == address(pod)).unwrap().1;
    assert_eq!(policies.sets().len(), 2);
    assert_eq!(set_of("10.0.0.1"), set_of("10.0.0.3"));
    assert_ne!(set_of("10.0.0.1"), set_of("10.0.0.2"));
    assert!(pods.is_sorted());
}

#[test]
fn a_set_keeps_no_prefix_that_says_nothing_new() {
    let destinations = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/16", "10.2.0.0/16"];
    let policies =
        Policies::new(vec![policy(&destinations, &["10.2.0.0/16"], &["192.0.2.1"])], &[]);
    let expected = vec![(net("10.0.0.0/8"), Some(0)), (net("10.2.0.0/16"), None)];
    assert_eq!(policies.sets(), [expected]);
}

#[test]
fn ten_thousand_pods_and_a_thousand_destinations_build_fast() {
    let pods = (0..10_000).map(|index| Ipv4Addr::from_bits(0x0a00_0000 + index)).collect();
    let network = |index: u32| Ipv4Net::new(Ipv4Addr::from_bits(index << 12), 24).unwrap();
    let mut policy = policy(&[], &[], &[]);
    policy.pods = pods;
    policy.destinations = (0..1000).map(network).collect();
    let started = Instant::now();
    let policies = Policies::new(vec![policy], &[]);
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(policies.sets().len(), 1);
    assert_eq!(policies.lookup(Ipv4Addr::new(10, 0, 39, 15), Ipv4Addr::new(0, 0, 16, 9)), Some(0));
}

/// Not 4,096 times 65,536 entries.
#[test]
fn a_group_that_every_policy_names_costs_what_it_has() {
    let pods: Vec<Ipv4Addr> = (0..65_536).map(|n| Ipv4Addr::from_bits(0x0a00_0000 + n)).collect();
    let one = Policy { pod_groups: vec![0], ..policy(&["203.0.113.0/24"], &[], &[]) };
    let all = vec![one; 4096];
    let ways = ways(&all, &[&pods]);
    assert!(ways.values().all(|way| way.groups.len() == 1 && way.policies.is_empty()));
    let policies = Policies::new(all, &[&pods]);
    assert_eq!((policies.sets().len(), policies.pods().count()), (1, 65_536));
}

/// The rules of precedence, said once more in another way.
fn naive(
    policies: &[Policy],
    groups: &[&[Ipv4Addr]],
    pod: Ipv4Addr,
    destination: Ipv4Addr,
) -> Option<PolicyIndex> {
    let longest = |prefixes: &[Ipv4Net]| {
        let containing = prefixes.iter().filter(|prefix| prefix.contains(&destination));
        containing.map(Ipv4Net::prefix_len).max()
    };
    let mut best: Option<(u8, PolicyIndex)> = None;
    for (index, policy) in (0..).zip(policies) {
        let in_group = policy.pod_groups.iter().any(|group| groups[*group].contains(&pod));
        if !policy.pods.contains(&pod) && !in_group {
            continue;
        }
        let Some(covered) = longest(&policy.destinations) else { continue };
        let hole = longest(&policy.excluded).is_some_and(|excluded| excluded >= covered);
        if !hole && best.is_none_or(|(length, _)| covered > length) {
            best = Some((covered, index));
        }
    }
    best.map(|(_, index)| index)
}

prop_compose! {
    fn any_prefix()(low in 0..64_u32, length in prop_oneof![Just(0_u8), 24..=32_u8]) -> Ipv4Net {
        Ipv4Net::new(Ipv4Addr::from_bits(0xcb00_7100 | low), length).unwrap()
    }
}

prop_compose! {
    fn any_pods()(pods in prop::collection::vec(0..4_u8, 0..4)) -> Vec<Ipv4Addr> {
        pods.into_iter().map(|pod| Ipv4Addr::new(10, 0, 0, pod)).collect()
    }
}

prop_compose! {
    fn any_policy()(
        destinations in prop::collection::vec(any_prefix(), 0..5),
        excluded in prop::collection::vec(any_prefix(), 0..4),
        pods in any_pods(),
        pod_groups in prop::sample::subsequence(vec![0, 1, 2], 0..=2),
    ) -> Policy {
        Policy { destinations, excluded, pods, pod_groups, ..policy(&[], &[], &[]) }
    }
}

/// Longest-prefix match over a set, as the steering program does it.
fn in_set(set: &PolicySet, destination: Ipv4Addr) -> Option<PolicyIndex> {
    let containing = set.iter().filter(|(prefix, _)| prefix.contains(&destination));
    containing.max_by_key(|(prefix, _)| prefix.prefix_len()).and_then(|(_, policy)| *policy)
}

proptest! {
    #[test]
    fn flattened_policies_say_what_the_rules_say(
        list in prop::collection::vec(any_policy(), 0..6),
        groups in [any_pods(), any_pods(), any_pods()],
    ) {
        let groups = groups.each_ref().map(Vec::as_slice);
        let policies = Policies::new(list.clone(), &groups);
        for pod in (0..4).map(|pod| Ipv4Addr::new(10, 0, 0, pod)) {
            let set = policies.pods().find(|(each, _)| *each == pod).map(|(_, set)| set);
            for low in (0..70_u32).chain([255, 256]) {
                let destination = Ipv4Addr::from_bits(0xcb00_7100 + low);
                let expected = naive(&list, &groups, pod, destination);
                prop_assert_eq!(policies.lookup(pod, destination), expected);
                let steered = set.and_then(|set| in_set(&policies.sets()[set], destination));
                prop_assert_eq!(steered, expected);
            }
        }
    }
}
