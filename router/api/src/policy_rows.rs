//! A document as `spillway policies` shows it: one row for each pod and prefix of its family, in
//! pages. A large document has millions of rows, so a page is found by counting pods, not rows.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::document::{Document, Policy};
use crate::family::IpFamily;
use crate::limits::PAGE_ROWS_MAX;
use crate::message::{PolicyPage, PolicyRow};

/// What `cilium-dbg` shows as the gateway of an excluded prefix.
const EXCLUDED: &str = "Excluded CIDR";

/// Which of a policy's egress addresses a pod has, if one of them is of its family: the router
/// knows.
pub type Pairing = fn(IpAddr, &[IpAddr]) -> Option<IpAddr>;

/// The rows of `document` from row `cursor` on, `limit` or [`PAGE_ROWS_MAX`] at most. The gateway
/// shown is the first tunnel address, which is the node's own.
#[must_use]
pub fn policy_page(document: &Document, cursor: u64, limit: u32, pairing: Pairing) -> PolicyPage {
    let limit = limit.clamp(1, PAGE_ROWS_MAX);
    let gateway = document.tunnels.first().map_or("none".to_owned(), |t| t.address.to_string());
    let groups = document.groups();
    // Many policies may select one group: its pods are counted once.
    let mut counted: HashMap<*const [IpAddr], [u64; 2]> = HashMap::new();
    let mut rows = Vec::new();
    let mut skip = cursor;
    for policy in &document.policies {
        let prefixes = Prefixes::of(policy);
        for pods in policy.pod_lists(&groups) {
            let pod_counts = *counted.entry(pods).or_insert_with(|| count(pods));
            let row_count: u64 = pod_counts.iter().zip(prefixes.counts()).map(|(p, n)| p * n).sum();
            if skip >= row_count {
                skip -= row_count;
                continue;
            }
            for pod in pods {
                let of_pod = prefixes.of_family(IpFamily::of(*pod));
                let first = usize::try_from(skip).unwrap_or(usize::MAX).min(of_pod.len());
                skip -= first as u64;
                for (prefix, excluded) in &of_pod[first..] {
                    if rows.len() as u64 == u64::from(limit) {
                        return PolicyPage { rows, next: Some(cursor + u64::from(limit)) };
                    }
                    let gateway = if *excluded { EXCLUDED } else { &gateway };
                    rows.push(row(policy, *pod, *prefix, gateway, pairing));
                }
            }
        }
    }
    PolicyPage { rows, next: None }
}

/// How many of the addresses are of each family.
fn count(addresses: &[IpAddr]) -> [u64; 2] {
    let v4 = addresses.iter().filter(|address| address.is_ipv4()).count() as u64;
    [v4, addresses.len() as u64 - v4]
}

/// A policy's prefixes by family, each with whether it is an excluded one; those come last.
struct Prefixes([Vec<(IpNet, bool)>; 2]);

impl Prefixes {
    fn of(policy: &Policy) -> Self {
        Self(IpFamily::ALL.map(|family| {
            let destinations = policy.destinations.iter().map(|prefix| (*prefix, false));
            let excluded = policy.excluded_destinations.iter().map(|prefix| (*prefix, true));
            let all = destinations.chain(excluded);
            all.filter(|(prefix, _)| IpFamily::of_prefix(*prefix) == family).collect()
        }))
    }

    fn of_family(&self, family: IpFamily) -> &[(IpNet, bool)] {
        let Self([v4, v6]) = self;
        match family {
            IpFamily::V4 => v4,
            IpFamily::V6 => v6,
        }
    }

    fn counts(&self) -> [u64; 2] {
        self.0.each_ref().map(|prefixes| prefixes.len() as u64)
    }
}

fn row(
    policy: &Policy,
    pod: IpAddr,
    destination_cidr: IpNet,
    gateway: &str,
    pairing: Pairing,
) -> PolicyRow {
    let egress_ip = pairing(pod, policy.egress_list());
    PolicyRow {
        source_ip: pod,
        destination_cidr,
        egress_ip: egress_ip.unwrap_or_else(|| IpFamily::of(pod).unspecified()),
        gateway_ip: gateway.to_owned(),
        policy: policy.name.clone(),
    }
}
