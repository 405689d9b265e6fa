//! The state document of the policies that this gateway carries out. Pure.
//!
//! Where policies overlap for a pod, priority decides, then the longest destination, then the
//! policy's name. The document has no priorities: a policy's destinations are taken out of those of
//! lower priority, for the pods that both select.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use spillway_api::{
    Document, EgressAddress, EgressAddressKind, IpFamily, Peer, PodGroup, Policy as DocumentPolicy,
    Tunnel,
};

use crate::cluster::{Cluster, Network, Underlay};
use crate::family::{Addresses, PerFamily};
use crate::plan::Here;
use crate::pod_names::pod_names;
use crate::policy::Policy;
use crate::prefixes::{covered, exclude};

/// A policy that this gateway carries out: with which address for which pods.
pub(crate) struct Carried<'a> {
    pub(crate) name: &'a str,
    pub(crate) policy: &'a Policy,
    pub(crate) destinations: Vec<IpNet>,
    pub(crate) exclusions: Vec<IpNet>,
    /// By egress addresses: the pods' numbers. Where that of a family is missing, its traffic is
    /// dropped.
    pub(crate) pods: BTreeMap<Addresses, Vec<usize>>,
}

/// A policy of the document, still without pods, and their numbers.
type Part = (DocumentPolicy, Vec<usize>);

/// The document, of generation 0.
pub(crate) fn document(cluster: &Cluster, here: &Here, carried: &[Carried<'_>]) -> Document {
    let node = cluster.node(&here.node);
    let Network { underlay, nat64_prefix, .. } = *cluster.network();
    let own = node.and_then(|node| underlay.address(node));
    // All of this node's own family, whatever else other nodes have.
    let others = cluster.nodes().filter(|(name, _)| *name != here.node);
    let family = own.map(IpFamily::of);
    let peers = others.filter_map(|(_, node)| match family? {
        IpFamily::V4 => Underlay::Ipv4.address(node),
        IpFamily::V6 => Underlay::Ipv6.address(node),
    });
    let peers = peers.collect::<BTreeSet<_>>();
    let peer = |address| Peer { address, device: None, mac: None };
    let tunnels =
        own.map(|address| Tunnel { address, peers: peers.into_iter().map(peer).collect() });

    let addresses: BTreeSet<IpAddr> =
        carried.iter().flat_map(|policy| policy.pods.keys().flat_map(Addresses::iter)).collect();
    let egress = |address: IpAddr| {
        let shared = node.is_some_and(|node| node.internal.contains(&address))
            || (here.host.is_first(address) && !here.own_addresses.contains(&address));
        let kind = if shared { EgressAddressKind::Shared } else { EgressAddressKind::Own };
        let announce = here.announce_on.clone().filter(|_| !shared && !here.host.has(address));
        EgressAddress { address, kind, ports: None, announce }
    };
    let parts = carried.iter().flat_map(|policy| flatten(cluster, policy, carried)).collect();
    let (policies, pod_groups) = name_pods(cluster, parts);
    let pods = policies.iter().map(|policy| &policy.pods);
    let pods = pods.chain(pod_groups.iter().map(|group| &group.pods)).flatten().copied().collect();
    Document {
        generation: 0,
        pod_names: pod_names(cluster, carried, &pods),
        tunnels: tunnels.into_iter().chain(here.own_pods.clone()).collect(),
        reply_vni: here.reply_vni,
        reply_vni_ipv6: here.reply_vni_ipv6,
        nat64_prefix,
        egress_addresses: addresses.iter().copied().map(egress).collect(),
        pod_groups,
        policies,
    }
}

/// A policy as the document has it: one for each pair of egress addresses and each set of policies
/// of higher priority that its pods are under, without what those cover.
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
    let mut groups: BTreeMap<(Addresses, Vec<usize>), Vec<usize>> = BTreeMap::new();
    for (egress, pods) in &carried.pods {
        let under_none = groups.entry((*egress, Vec::new())).or_default();
        if sets.is_empty() {
            under_none.extend(pods);
            continue;
        }
        for number in pods {
            let selects = |index: &usize| sets[*index].is_some_and(|set| set.contains(*number));
            let above: Vec<usize> = (0..higher.len()).filter(selects).collect();
            groups.entry((*egress, above)).or_default().push(*number);
        }
    }
    // A policy without pods stays in the document: its addresses are watched.
    let empty = groups.values().all(Vec::is_empty);
    groups.retain(|_, pods| empty || !pods.is_empty());
    let mut parts = Vec::new();
    for ((egress, above), pods) in groups {
        let mut destinations = carried.destinations.clone();
        let mut excluded_destinations = carried.exclusions.clone();
        for index in above {
            // As its author wrote it: the cluster's own ranges are out of every policy already, and
            // around them a set falls into many pieces.
            let policy = higher[index].policy;
            let holes = covered(&policy.destinations, &policy.exclusions);
            exclude(&mut destinations, &mut excluded_destinations, &holes);
        }
        if destinations.is_empty() {
            continue;
        }
        let name = match parts.len() {
            0 => carried.name.to_owned(),
            others => format!("{}#{}", carried.name, others + 1),
        };
        let mut addresses: Vec<IpAddr> = egress.iter().collect();
        let only = if addresses.len() == 1 { addresses.pop() } else { None };
        let policy = DocumentPolicy {
            name,
            egress_address: only,
            egress_addresses: only.is_none().then_some(addresses),
            destinations,
            excluded_destinations,
            ..DocumentPolicy::default()
        };
        parts.push((policy, pods));
    }
    parts
}

/// The families that there are among prefixes.
pub(crate) fn families(prefixes: &[IpNet]) -> PerFamily<bool> {
    PerFamily::of(|family| prefixes.iter().any(|prefix| IpFamily::of_prefix(*prefix) == family))
}

/// Names each address of a pod once: in its policy, or, when several select it, in the group of all
/// that just these select; not in policies without a destination that it reaches. Numbers of pods
/// depend on history; none of this does.
fn name_pods(cluster: &Cluster, parts: Vec<Part>) -> (Vec<DocumentPolicy>, Vec<PodGroup>) {
    let mut by_number: Vec<Vec<usize>> = Vec::new();
    for (part, (_, numbers)) in parts.iter().enumerate() {
        for number in numbers {
            by_number.resize_with(by_number.len().max(number + 1), Vec::new);
            by_number[*number].push(part);
        }
    }
    // Two pods may have one address for a moment: that of one that ends is given to another.
    let covered: Vec<_> = parts.iter().map(|(policy, _)| families(&policy.destinations)).collect();
    let mut by_address: BTreeMap<IpAddr, Vec<usize>> = BTreeMap::new();
    for (number, selecting) in by_number.into_iter().enumerate() {
        for address in cluster.addresses(number).iter() {
            let alone = Addresses::first_of([address].into_iter());
            let reached = IpFamily::ALL.map(|family| (family, cluster.reaches(alone, family)));
            let covers = |part: &PerFamily<bool>| {
                reached.iter().any(|(family, reached)| *reached && *part.get(*family))
            };
            let selecting = selecting.iter().filter(|part| covers(&covered[**part]));
            by_address.entry(address).or_default().extend(selecting);
        }
    }
    let mut by_selection: BTreeMap<Vec<usize>, Vec<IpAddr>> = BTreeMap::new();
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
