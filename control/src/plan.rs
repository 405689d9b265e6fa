//! From the cluster to what this gateway's router shall do, and to what is said of each policy.
//! Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use spillway_api::limits::PREFIXES_PER_POLICY_MAX;
use spillway_api::{Document, IpFamily, ReplyVni, Tunnel};

use crate::cluster::{Cluster, Node, PolicyObject};
use crate::document::{Carried, document};
use crate::egress::Egress;
use crate::family::Addresses;
use crate::gateway::{Host, candidates, choose};
use crate::policy::Policy;
use crate::prefixes::exclude;
use crate::ranges;

/// The label of nodes that Spillway runs on.
pub const GATEWAY_LABEL: &str = "spillway.io/gateway";

/// What planning depends on beside the cluster.
#[derive(Clone, Debug, Default)]
pub struct Here {
    /// The name of this node.
    pub node: String,
    /// Its addresses.
    pub host: Host,
    /// Addresses that are Spillway's alone although they are the first of their interface.
    pub own_addresses: BTreeSet<IpAddr>,
    /// The device on which Spillway itself announces egress addresses that the host does not have.
    pub announce_on: Option<String>,
    /// The tunnel through which this node's own pods come, if they do.
    pub own_pods: Option<Tunnel>,
    /// The VXLAN network identifier of replies.
    pub reply_vni: ReplyVni,
    /// That of IPv6 replies, where it is another.
    pub reply_vni_ipv6: Option<ReplyVni>,
}

/// Whether something is so, and why: a condition without its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether it is so.
    pub holds: bool,
    /// In one word, for programs. Stable.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Finding {
    /// It is so.
    pub fn yes(reason: &'static str, message: impl Into<String>) -> Self {
        Self { holds: true, reason, message: message.into() }
    }

    /// It is not so.
    pub fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self { holds: false, reason, message: message.into() }
    }
}

/// What is said of a policy on this gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The policy's name.
    pub policy: String,
    /// The object's unique identifier.
    pub uid: String,
    /// The generation that this is about.
    pub generation: i64,
    /// The addresses that the outside sees, when this gateway carries the policy out: one of each
    /// family that has one.
    pub egress_addresses: Vec<IpAddr>,
    /// Pods with an address that it selects.
    pub pods: usize,
    /// Those of them that Cilium sends to this gateway.
    pub pods_sent_here: usize,
    /// Whether it is understood.
    pub accepted: Finding,
    /// Whether this gateway can carry it out; the router's answer comes later.
    pub carried: Finding,
    /// Whether another policy takes some of its traffic.
    pub conflicted: Finding,
}

/// What the router shall do, and what is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its generation is 0: whoever sends it knows the next.
    pub document: Document,
    /// In the order of the policies' names.
    pub reports: Vec<Report>,
    /// The names of all gateways, if this one removes what former gateways have said.
    pub gateways: Option<BTreeSet<String>>,
}

/// Plans.
#[must_use]
pub fn plan(cluster: &Cluster, here: &Here) -> Plan {
    let ranges = ranges::aggregated(cluster);
    let conflicts = conflicts(cluster);
    let (mut carried, mut reports) = (Vec::new(), Vec::new());
    for (name, object) in cluster.policies() {
        let mut report = new_report(cluster, name, object);
        if let Some(finding) = conflicts.get(name) {
            report.conflicted = finding.clone();
        }
        let Ok(policy) = &object.policy else {
            report.carried = Finding::no("Refused", "the policy is refused: see Accepted");
            if is_first_gateway(cluster, here) {
                reports.push(report);
            }
            continue;
        };
        match carry(cluster, here, &ranges, name, policy, &mut report) {
            Ok(policy) => carried.push(policy),
            Err(_) if !concerns(cluster, here, policy) => continue,
            Err(finding) => report.carried = finding,
        }
        reports.push(report);
    }
    let gateways = is_first_gateway(cluster, here).then(|| {
        gateways(cluster).map(|(name, _)| name).chain([&*here.node]).map(Into::into).collect()
    });
    Plan { document: document(cluster, here, &carried), reports, gateways }
}

fn new_report(cluster: &Cluster, name: &str, object: &PolicyObject) -> Report {
    let accepted = match &object.policy {
        Ok(policy) if policy.warnings.is_empty() => {
            Finding::yes("Accepted", "the policy is understood")
        }
        Ok(policy) => Finding::yes("AcceptedWithWarnings", join(&policy.warnings)),
        Err(faults) => Finding::no("Invalid", join(faults)),
    };
    Report {
        policy: name.to_owned(),
        uid: object.uid.clone(),
        generation: object.generation,
        egress_addresses: Vec::new(),
        pods: cluster.selected_numbers(name).map_or(0, |pods| pods.count_ones(..)),
        pods_sent_here: 0,
        accepted,
        carried: Finding::yes("Programmed", "the router forwards as this policy says"),
        conflicted: Finding::no("NoConflict", "no other policy has its destinations for its pods"),
    }
}

fn join(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Whether this gateway says something of a policy that it does not carry out: it is one of the
/// policy's nodes, or the policy has none and somebody must say so.
fn concerns(cluster: &Cluster, here: &Here, policy: &Policy) -> bool {
    let own = cluster.node(&here.node).is_some_and(|node| {
        policy.gateways.iter().any(|gateway| gateway.nodes.matches_labels(&node.labels))
    });
    own || (candidates(cluster, policy).is_empty() && is_first_gateway(cluster, here))
}

/// Whether this gateway speaks for those that are not there: it is the first by name of those that
/// are ready. It reports policies without a gateway and removes reports of former gateways.
fn is_first_gateway(cluster: &Cluster, here: &Here) -> bool {
    let first = gateways(cluster).find(|(name, node)| node.ready || *name == here.node);
    first.is_none_or(|(name, _)| name == here.node)
}

fn gateways(cluster: &Cluster) -> impl Iterator<Item = (&str, &Node)> {
    cluster.nodes().filter(|(_, node)| node.labels.contains_key(GATEWAY_LABEL))
}

/// Carries a policy out on this gateway, for all pods that it selects: who sends them here is not
/// for us to decide, but nothing that is sent here may leave with another address.
fn carry<'a>(
    cluster: &'a Cluster,
    here: &Here,
    ranges: &[IpNet],
    name: &'a str,
    policy: &'a Policy,
    report: &mut Report,
) -> Result<Carried<'a>, Finding> {
    let Some(Node { labels, .. }) = cluster.node(&here.node) else {
        let message = format!("the cluster has no node {}: is --node right?", here.node);
        return Err(Finding::no("NodeUnknown", message));
    };
    let candidates = candidates(cluster, policy);
    let egress = Egress::find(here, policy, labels, &candidates);
    if egress.is_elsewhere() {
        let message = "no node matches the nodeSelector of egressGateway: label one";
        return Err(Finding::no("NoGateway", message));
    }
    if egress.default.is_empty() {
        let why = IpFamily::ALL.into_iter().find_map(|family| egress.missing(family));
        return Err(Finding::no("EgressAddressMissing", why.unwrap_or_default()));
    }
    let (destinations, exclusions) = outside(policy, ranges)?;
    report.egress_addresses = egress.default.iter().collect();
    let mut pods: BTreeMap<Addresses, Vec<usize>> = BTreeMap::new();
    let mut refused = None;
    for (number, key, pod) in cluster.selected(name) {
        let chosen = choose(&candidates, || cluster.spread_key(key, pod));
        let chosen = chosen.filter(|candidate| candidate.node == here.node);
        report.pods_sent_here += usize::from(chosen.is_some());
        let its_egress = chosen.map_or(egress.default, |chosen| egress.of_entry(chosen.entry));
        pods.entry(its_egress).or_default().push(number);
        let missing = |family: &IpFamily| {
            cluster.reaches(pod.addresses, *family) && egress.missing(*family).is_some()
        };
        refused = refused.or_else(|| IpFamily::ALL.into_iter().find(missing));
    }
    // Without pods the addresses are still ours: late replies die by name instead of reaching the
    // host.
    pods.entry(egress.default).or_default();
    // A policy for both families is good where pods have one only.
    if let Some(family) = refused {
        let why = egress.missing(family).unwrap_or_default();
        let message = format!("{family} is refused, and only that family: {why}");
        report.carried = Finding::no("FamilyRefused", message);
    }
    Ok(Carried { name, policy, destinations, exclusions, pods })
}

/// A policy's destinations and exclusions, without what lies in the cluster.
fn outside(policy: &Policy, ranges: &[IpNet]) -> Result<(Vec<IpNet>, Vec<IpNet>), Finding> {
    let (mut destinations, mut exclusions) =
        (policy.destinations.clone(), policy.exclusions.clone());
    exclude(&mut destinations, &mut exclusions, ranges);
    if destinations.is_empty() {
        let message = "all its destinations are in the cluster: pods, nodes, services";
        return Err(Finding::no("NothingOutside", message));
    }
    // One policy too large must not make the router refuse the document of all.
    let prefixes = destinations.len() + exclusions.len();
    if prefixes > PREFIXES_PER_POLICY_MAX {
        let message = format!(
            "{prefixes} prefixes, those of the cluster included; at most {PREFIXES_PER_POLICY_MAX}: \
             make two policies of it"
        );
        return Err(Finding::no("TooManyPrefixes", message));
    }
    Ok((destinations, exclusions))
}

/// Policies of the same priority with the same destination that select the same pod: the first by
/// name has it, and the others are told.
fn conflicts(cluster: &Cluster) -> BTreeMap<&str, Finding> {
    let mut groups: BTreeMap<(i32, IpNet), Vec<&str>> = BTreeMap::new();
    for (name, object) in cluster.policies() {
        let Ok(policy) = &object.policy else { continue };
        for destination in &policy.destinations {
            groups.entry((policy.priority, *destination)).or_default().push(name);
        }
    }
    let mut conflicts = BTreeMap::new();
    for ((_, destination), names) in groups {
        let all: Vec<_> = names
            .iter()
            .filter_map(|name| Some((*name, cluster.selected_numbers(name)?)))
            .collect();
        let family = IpFamily::of_prefix(destination);
        let has_address = |number: &usize| cluster.reaches(cluster.addresses(*number), family);
        for (index, (name, pods)) in all.iter().enumerate() {
            let contested = all[..index].iter().find_map(|(holder, holds)| {
                let both = pods.intersection(holds).filter(has_address);
                cluster.first_by_name(both).map(|pod| (holder, pod))
            });
            let Some((holder, pod)) = contested else { continue };
            let message = format!(
                "policy {holder} has {destination} for pod {}/{} and others: it comes first by \
                 name. Give one of them the annotation spillway.io/priority",
                pod.0, pod.1
            );
            let finding = || Finding::yes("SameDestination", message);
            conflicts.entry(*name).or_insert_with(finding);
        }
    }
    conflicts
}
