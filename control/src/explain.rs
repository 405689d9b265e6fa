//! Why a pod's traffic to a destination leaves as it does. Pure.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;
use spillway_api::{IpFamily, Nat64Prefix};

use crate::cluster::{Cluster, PodKey};
use crate::family::Addresses;
use crate::gateway::{candidates, choose};
use crate::policy::Policy;
use crate::ranges;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The policy that decides, if one does.
    pub policy: Option<String>,
    /// The destination of it that matches.
    pub destination: Option<IpNet>,
    /// The range of the cluster that it is in, which no policy decides about.
    pub in_cluster: Option<IpNet>,
    /// The gateway that Cilium sends the pod's traffic to.
    pub gateway: Option<String>,
    /// The address that the policy names for it; without one, the gateway's own choice.
    pub egress_address: Option<IpAddr>,
    /// How this was found, step by step.
    pub why: Vec<String>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".into());
        let policy = self.policy.clone();
        let address = self.egress_address.map(|address| address.to_string());
        writeln!(f, "policy:         {}", or_none(policy))?;
        writeln!(f, "gateway:        {}", or_none(self.gateway.clone()))?;
        let by_gateway = self.gateway.as_ref().map(|_| "chosen by the gateway".to_owned());
        writeln!(f, "egress address: {}", or_none(address.or(by_gateway)))?;
        self.why.iter().try_for_each(|step| writeln!(f, "  - {step}"))
    }
}

/// Explains.
#[must_use]
pub fn explain(cluster: &Cluster, key: &PodKey, destination: IpAddr) -> Explanation {
    let mut found = Explanation::default();
    let (namespace, name) = key;
    let Some(pod) = cluster.pod(key) else {
        found.why.push(format!("there is no pod {name} in namespace {namespace}"));
        return found;
    };
    let family = IpFamily::of(destination);
    let prefix = cluster.network().nat64_prefix;
    if pod.addresses.get(family).is_none() {
        found.why.extend(without_address(pod.addresses, destination, prefix));
        return found;
    }
    let destination = untranslated(prefix, destination, &mut found);
    if let Some((range, origin)) = ranges::around(cluster, destination) {
        found.in_cluster = Some(range);
        found.why.push(format!(
            "{destination} is in the cluster ({range}: {origin}): it is never translated, whatever \
             policies say"
        ));
        return found;
    }
    let family = IpFamily::of(destination);
    // Priority first, then the longest destination; of equals the first by name.
    let mut best: Option<(i32, u8, IpNet, &str, &Policy)> = None;
    for (policy_name, object) in cluster.policies() {
        let step = match &object.policy {
            Err(faults) => {
                let first = faults.first().map(ToString::to_string).unwrap_or_default();
                format!("is refused: {first}")
            }
            Ok(policy) if !cluster.selects(policy, key, pod) => "does not select the pod".into(),
            Ok(policy) => match longest(policy, destination) {
                Err(why) => why,
                Ok(prefix) => {
                    let rank = (policy.priority, prefix.prefix_len());
                    if best.is_none_or(|(priority, length, ..)| rank > (priority, length)) {
                        best = Some((rank.0, rank.1, prefix, policy_name, policy));
                    }
                    format!("covers {destination} by {prefix}, priority {}", policy.priority)
                }
            },
        };
        found.why.push(format!("policy {policy_name} {step}"));
    }
    let Some((.., prefix, policy_name, policy)) = best else {
        found.why.push("no policy applies: the traffic leaves with its node's address".into());
        return found;
    };
    found
        .why
        .push(format!("{policy_name} decides: priority, then the longer prefix, then the name"));
    found.policy = Some(policy_name.to_owned());
    found.destination = Some(prefix);
    let candidates = candidates(cluster, policy);
    match choose(&candidates, || cluster.spread_key(key, pod)) {
        None => found.why.push("no node matches its egressGateway: the traffic is dropped".into()),
        Some(candidate) => {
            found.gateway = Some(candidate.node.to_owned());
            let named = policy.gateways[candidate.entry].address;
            found.egress_address = named.filter(|address| IpFamily::of(*address) == family);
            found.why.push(format!(
                "Cilium sends it to {} ({}), one of {} gateways",
                candidate.node,
                candidate.address,
                candidates.len()
            ));
        }
    }
    found
}

/// Why nothing applies to a pod without an address of the destination's family.
fn without_address(
    pod: Addresses,
    destination: IpAddr,
    prefix: Option<Nat64Prefix>,
) -> Vec<String> {
    let family = IpFamily::of(destination);
    let reason = match pod.is_empty() {
        true => "it is not running, or on the host's network",
        false => "its address is of the other family",
    };
    let why = format!("the pod has no {family} address of its own: {reason}. No policy applies");
    let mut all = vec![why];
    if let (IpAddr::V4(ipv4), Some(prefix), Some(_)) = (destination, prefix, pod.v6) {
        let embedded = prefix.embed(ipv4.into()).addr();
        all.push(format!("with NAT64 it reaches {ipv4} as {embedded}: ask for that"));
    }
    all
}

/// The destination as policies have it: that of an address in the NAT64 prefix is IPv4's.
fn untranslated(
    prefix: Option<Nat64Prefix>,
    destination: IpAddr,
    found: &mut Explanation,
) -> IpAddr {
    let IpAddr::V6(inside) = destination else { return destination };
    let Some(meant) = prefix.and_then(|prefix| prefix.extract(inside.into())) else {
        return destination;
    };
    let meant = meant.addr();
    found.why.push(format!("{inside} is {meant} in the NAT64 prefix: its IPv4 policies decide"));
    meant.into()
}

/// The destination that covers an address, or why none does.
fn longest(policy: &Policy, address: IpAddr) -> Result<IpNet, String> {
    let longest = |prefixes: &[IpNet]| {
        let around = prefixes.iter().filter(|prefix| prefix.contains(&address));
        around.max_by_key(|prefix| prefix.prefix_len()).copied()
    };
    match (longest(&policy.destinations), longest(&policy.exclusions)) {
        (None, _) => Err(format!("selects the pod, but {address} is none of its destinations")),
        (Some(destination), Some(excluded))
            if excluded.prefix_len() >= destination.prefix_len() =>
        {
            Err(format!("selects the pod, but excludes {address} by {excluded}"))
        }
        (Some(destination), _) => Ok(destination),
    }
}
