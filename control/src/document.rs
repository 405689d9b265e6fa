//! The state document of the policies that this gateway carries out. Pure.
//!
//! Where policies overlap for a pod, priority decides, then the longest destination, then the
//! policy's name. The document has no priorities: a policy's destinations are taken out of those of
//! lower priority, for the pods that both select.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use spillway_api::{
    Document, EgressAddress, EgressAddressKind, Peer, PodGroup, Policy as DocumentPolicy, ReplyVni,
    Tunnel,
};

use crate::cluster::Cluster;
use crate::plan::Here;
use crate::policy::Policy;
use crate::prefixes::{covered, exclude};

/// A policy that this gateway carries out: with which address for which pods.
pub(crate) struct Carried<'a> {
    pub(crate) name: &'a str,
    pub(crate) policy: &'a Policy,
    pub(crate) destinations: Vec<Ipv4Net>,
    pub(crate) exclusions: Vec<Ipv4Net>,
    /// By egress address: the pods' numbers.
    pub(crate) pods: BTreeMap<Ipv4Addr, Vec<usize>>,
}

/// A policy of the document, still without pods, and their numbers.
type Part = (DocumentPolicy, Vec<usize>);

/// The document, of generation 0.
pub(crate) fn document(cluster: &Cluster, here: &Here, carried: &[Carried<'_>]) -> Document {
    let own = cluster.node(&here.node).and_then(|node| node.address);
    let others = cluster.nodes().filter(|(name, _)| *name != here.node);
    let peers = others.filter_map(|(_, node)| node.address).collect::<BTreeSet<_>>();
    let peer = |address| Peer { address, device: None, mac: None };
    let tunnels =
        own.map(|address| Tunnel { address, peers: peers.into_iter().map(peer).collect() });

    let addresses: BTreeSet<Ipv4Addr> =
        carried.iter().flat_map(|policy| policy.pods.keys().copied()).collect();
    let egress = |address: Ipv4Addr| {
        let shared = Some(address) == own
            || (here.host.is_first(address) && !here.own_addresses.contains(&address));
        let kind = if shared { EgressAddressKind::Shared } else { EgressAddressKind::Own };
        let announce = here.announce_on.clone().filter(|_| !shared && !here.host.has(address));
        EgressAddress { address, kind, ports: None, announce }
    };
    let parts = carried.iter().flat_map(|policy| flatten(cluster, policy, carried)).collect();
    let (policies, pod_groups) = name_pods(cluster, parts);
    Document {
        generation: 0,
        tunnels: tunnels.into_iter().chain(here.own_pods.clone()).collect(),
        reply_vni: ReplyVni::default(),
        egress_addresses: addresses.iter().copied().map(egress).collect(),
        pod_groups,
        policies,
    }
}

/// A policy as the document has it: one for each egress address and each set of policies of higher
/// priority that its pods are under, without what those cover.
fn flatten(cluster: &Cluster, carried: &Carried<'_>, all: &[Carried<'_>]) -> Vec<Part> {
    let overlaps = |other: &&Carried<'_>| {
        other.policy.priority > carried.policy.priority
            && other
                .destinations
                .iter()
                .any(|a| carried.destinations.iter().any(|b| a.contains(b) || b.contains(a)))
    };
    let higher: Vec<&Carried<'_>> = all.iter().filter(overlaps).collect();
    let sets: Vec<_> = higher.iter().map(|other| cluster.selected_numbers(other.name)).collect();
    let mut groups: BTreeMap<(Ipv4Addr, Vec<usize>), Vec<usize>> = BTreeMap::new();
    for (egress_address, pods) in &carried.pods {
        let under_none = groups.entry((*egress_address, Vec::new())).or_default();
        if sets.is_empty() {
            under_none.extend(pods);
            continue;
        }
        for number in pods {
            let selects = |index: &usize| sets[*index].is_some_and(|set| set.contains(*number));
            let above: Vec<usize> = (0..higher.len()).filter(selects).collect();
            groups.entry((*egress_address, above)).or_default().push(*number);
        }
    }
    // A policy without pods stays in the document: its address is watched.
    let empty = groups.values().all(Vec::is_empty);
    groups.retain(|_, pods| empty || !pods.is_empty());
    let mut parts = Vec::new();
    for ((egress_address, above), pods) in groups {
        let mut destinations = carried.destinations.clone();
        let mut excluded_destinations = carried.exclusions.clone();
        for index in above {
            let holes = covered(&higher[index].destinations, &higher[index].exclusions);
            exclude(&mut destinations, &mut excluded_destinations, &holes);
        }
        if destinations.is_empty() {
            continue;
        }
        let name = match parts.len() {
            0 => carried.name.to_owned(),
            others => format!("{}#{}", carried.name, others + 1),
        };
        let policy = DocumentPolicy {
            name,
            egress_address: Some(egress_address),
            destinations,
            excluded_destinations,
            ..DocumentPolicy::default()
        };
        parts.push((policy, pods));
    }
    parts
}

/// Names each pod once, by its address: in its policy, or, when several select it, in the group of
/// all pods that just these select. Numbers of pods depend on history; none of this does.
fn name_pods(cluster: &Cluster, parts: Vec<Part>) -> (Vec<DocumentPolicy>, Vec<PodGroup>) {
    let mut by_number: Vec<Vec<usize>> = Vec::new();
    for (part, (_, numbers)) in parts.iter().enumerate() {
        for number in numbers {
            by_number.resize_with(by_number.len().max(number + 1), Vec::new);
            by_number[*number].push(part);
        }
    }
    // Two pods may have one address for a moment: that of one that ends is given to another.
    let mut by_address: BTreeMap<Ipv4Addr, Vec<usize>> = BTreeMap::new();
    for (number, selecting) in by_number.into_iter().enumerate() {
        let Some(address) = cluster.address(number) else { continue };
        by_address.entry(address).or_default().extend(selecting);
    }
    let mut by_selection: BTreeMap<Vec<usize>, Vec<Ipv4Addr>> = BTreeMap::new();
    for (address, mut selecting) in by_address {
        selecting.sort_unstable();
        selecting.dedup();
        by_selection.entry(selecting).or_default().push(address);
    }
    let mut policies: Vec<DocumentPolicy> = parts.into_iter().map(|(policy, _)| policy).collect();
    let mut groups = Vec::new();
    for (selecting, pods) in by_selection {
        match selecting[..] {
            [] => {}
            [part] => policies[part].pods = pods,
            _ => {
                let name = format!("pods-{}", groups.len() + 1);
                for part in selecting {
                    policies[part].pod_groups.get_or_insert_default().push(name.clone());
                }
                groups.push(PodGroup { name, pods });
            }
        }
    }
    if !groups.is_empty() {
        for policy in &mut policies {
            policy.pod_groups.get_or_insert_default();
        }
    }
    (policies, groups)
}
