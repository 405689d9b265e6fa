//! What a state document says of a packet, in words: the decision itself is the steering maps'. Pure.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv6Net};
use spillway_api::{Document, EgressAddressKind, Policy};

/// Policies that are told of, at most.
const POLICIES_TOLD_MAX: usize = 8;

/// What the document says: in a word, and why.
pub(super) type Said = (&'static str, String);

/// What one policy says of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Statement {
    Covers(IpNet),
    Excludes(IpNet),
    Silent,
}

/// Whether some policy selects a pod's packet to a destination, written as the pod does.
pub(super) fn of_pod(document: &Document, pod: IpAddr, destination: IpAddr) -> Said {
    let groups = document.groups();
    let selects = |policy: &&Policy| policy.pod_lists(&groups).any(|pods| pods.contains(&pod));
    let selecting: Vec<&Policy> = document.policies.iter().filter(selects).collect();
    if selecting.is_empty() {
        let count = document.policies.len();
        return ("not selected", format!("none of {count} policies selects {pod}"));
    }
    let outside = outside(document, destination);
    let said: Vec<_> = selecting.iter().map(|policy| statement(policy, outside)).collect();
    let verdict = match said.iter() {
        all if all.clone().any(|said| matches!(said, Statement::Covers(_))) => "covered",
        all if all.clone().any(|said| matches!(said, Statement::Excludes(_))) => "excluded",
        _ => "not covered",
    };
    let mut words: Vec<String> = selecting
        .iter()
        .zip(&said)
        .take(POLICIES_TOLD_MAX)
        .map(|(Policy { name, .. }, said)| match said {
            Statement::Covers(prefix) => format!("policy {name} covers {prefix}"),
            Statement::Excludes(prefix) => format!("policy {name} excludes {prefix}"),
            Statement::Silent => format!("policy {name} has no destination around {outside}"),
        })
        .collect();
    if selecting.len() > POLICIES_TOLD_MAX {
        words.push(format!("{} more select the pod", selecting.len() - POLICIES_TOLD_MAX));
    }
    (verdict, words.join("; "))
}

/// What is ours of an egress address.
pub(super) fn of_egress(document: &Document, address: IpAddr) -> Said {
    let mut listed = document.egress_addresses.iter();
    let Some(egress) = listed.find(|egress| egress.address == address) else {
        return ("not listed", format!("{address} is no egress address"));
    };
    match (egress.kind, &egress.announce) {
        (EgressAddressKind::Shared, _) => (
            "shared",
            format!("ports {} are Spillway's, all else is the host's", egress.port_range()),
        ),
        (EgressAddressKind::Own, Some(device)) => {
            ("own", format!("Spillway itself answers for the address, on {device}"))
        }
        (EgressAddressKind::Own, None) => {
            ("own", format!("ports {} are Spillway's", egress.port_range()))
        }
    }
}

/// The destination as policies know it: IPv4's where it is one in the NAT64 prefix.
pub(super) fn outside(document: &Document, destination: IpAddr) -> IpAddr {
    let embedded = match destination {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => {
            document.nat64_prefix.and_then(|prefix| prefix.extract(Ipv6Net::from(address)))
        }
    };
    embedded.map_or(destination, |found| found.addr().into())
}

/// The longest of its prefixes decides; an exclusion, where a policy says both of one.
fn statement(policy: &Policy, destination: IpAddr) -> Statement {
    let of = |prefixes: &[IpNet]| -> Option<IpNet> {
        let around = prefixes.iter().filter(|prefix| prefix.contains(&destination));
        around.max_by_key(|prefix| prefix.prefix_len()).copied()
    };
    let covered = of(&policy.destinations);
    let excluded = of(&policy.excluded_destinations);
    match (covered, excluded) {
        (None, _) => Statement::Silent,
        (Some(covered), Some(excluded)) if excluded.prefix_len() >= covered.prefix_len() => {
            Statement::Excludes(excluded)
        }
        (Some(covered), _) => Statement::Covers(covered),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
generation: 1
tunnels: [{address: 192.0.2.1, peers: [{address: 192.0.2.2}]}]
nat64_prefix: 64:ff9b::/96
egress_addresses:
  - {address: 198.51.100.7, kind: own}
  - {address: 198.51.100.8, kind: shared, ports: 20000-29999}
  - {address: 198.51.100.9, kind: own, announce: eth0}
pod_groups: [{name: web, pods: [10.0.1.41]}]
policies:
  - name: app1
    egress_address: 198.51.100.7
    destinations: [203.0.113.0/24, 203.0.113.20/32]
    excluded_destinations: [203.0.113.16/28, 203.0.113.20/32]
    pod_groups: []
    pods: [10.0.1.40, 'fd00::40']
  - name: app2
    egress_address: 198.51.100.8
    destinations: [203.0.113.20/32, '2001:db8::/32']
    pod_groups: [web]
    pods: ['fd00::40']
";

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_document_says_whose_a_packet_is_and_why() {
        let document = Document::parse(TEXT).unwrap();
        for (pod, destination, verdict, why) in [
            ("10.0.1.40", "203.0.113.10", "covered", "policy app1 covers 203.0.113.0/24"),
            ("10.0.1.40", "203.0.113.17", "excluded", "policy app1 excludes 203.0.113.16/28"),
            ("10.0.1.40", "203.0.113.20", "excluded", "policy app1 excludes 203.0.113.20/32"),
            (
                "10.0.1.40",
                "8.8.8.8",
                "not covered",
                "policy app1 has no destination around 8.8.8.8",
            ),
            ("10.0.1.41", "203.0.113.20", "covered", "policy app2 covers 203.0.113.20/32"),
            ("10.0.1.42", "203.0.113.20", "not selected", "none of 2 policies selects 10.0.1.42"),
            (
                "fd00::40",
                "64:ff9b::203.0.113.20",
                "covered",
                "policy app1 excludes 203.0.113.20/32; policy app2 covers 203.0.113.20/32",
            ),
            (
                "fd00::40",
                "2001:db8::1",
                "covered",
                "policy app1 has no destination around 2001:db8::1; policy app2 covers 2001:db8::/32",
            ),
        ] {
            let said = of_pod(&document, address(pod), address(destination));
            assert_eq!(said, (verdict, why.to_owned()), "{pod} to {destination}");
        }
    }

    #[test]
    fn the_document_says_what_is_ours_of_an_egress_address() {
        let document = Document::parse(TEXT).unwrap();
        let shared = "ports 20000-29999 are Spillway's, all else is the host's";
        for (egress, verdict, why) in [
            ("198.51.100.7", "own", "ports 1024-65535 are Spillway's"),
            ("198.51.100.8", "shared", shared),
            ("198.51.100.9", "own", "Spillway itself answers for the address, on eth0"),
            ("198.51.100.10", "not listed", "198.51.100.10 is no egress address"),
        ] {
            assert_eq!(of_egress(&document, address(egress)), (verdict, why.to_owned()));
        }
    }
}
