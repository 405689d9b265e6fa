//! A document as `spillway policies` shows it: one row for each pod and prefix of its family, in
//! pages. A pod's IPv6 address has the IPv4 prefixes too, where NAT64 has them. A large document has
//! millions of rows, so a page is found by counting pods, not rows.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::document::{Document, Policy};
use crate::family::IpFamily;
use crate::limits::PAGE_ROWS_MAX;
use crate::message::{PolicyPage, PolicyRow};
use crate::nat64::Nat64Prefix;

/// What `cilium-dbg` shows as the gateway of an excluded prefix.
const EXCLUDED: &str = "Excluded CIDR";

/// Which of a policy's egress addresses a pod has towards destinations of a family, if one of them is
/// of that family: the router knows.
pub type Pairing<'a> = &'a dyn Fn(IpAddr, IpFamily, &[IpAddr]) -> Option<IpAddr>;

/// The rows of `document` from row `cursor` on, `limit` or [`PAGE_ROWS_MAX`] at most. The gateway
/// shown is the first tunnel address, which is the node's own.
#[must_use]
pub fn policy_page(
    document: &Document,
    cursor: u64,
    limit: u32,
    pairing: Pairing<'_>,
) -> PolicyPage {
    let limit = limit.clamp(1, PAGE_ROWS_MAX);
    let gateway = document.tunnels.first().map_or("none".to_owned(), |t| t.address.to_string());
    let groups = document.groups();
    // Many policies may select one group: its pods are counted once.
    let mut counted: HashMap<*const [IpAddr], [u64; 2]> = HashMap::new();
    let mut rows = Vec::new();
    let mut skip = cursor;
    for policy in &document.policies {
        let prefixes = Prefixes::of(policy, document.nat64_prefix);
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
                for prefix in &of_pod[first..] {
                    if rows.len() as u64 == u64::from(limit) {
                        return PolicyPage { rows, next: Some(cursor + u64::from(limit)) };
                    }
                    let gateway = if prefix.excluded { EXCLUDED } else { &gateway };
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

/// A prefix of a policy as pods' addresses of one family have it.
#[derive(Clone, Copy)]
struct Prefix {
    /// As the pod sends to it.
    shown: IpNet,
    /// The family that the outside sees.
    outside: IpFamily,
    excluded: bool,
}

/// A policy's prefixes by the family of the pods' addresses; excluded ones come last.
struct Prefixes([Vec<Prefix>; 2]);

impl Prefixes {
    fn of(policy: &Policy, nat64_prefix: Option<Nat64Prefix>) -> Self {
        let [mut v4, mut v6] = [Vec::new(), Vec::new()];
        let lists = [(&policy.destinations, false), (&policy.excluded_destinations, true)];
        for (list, excluded) in lists {
            let of = |shown, outside| Prefix { shown, outside, excluded };
            let (four, six): (Vec<IpNet>, Vec<IpNet>) =
                list.iter().partition(|prefix| prefix.addr().is_ipv4());
            v4.extend(four.iter().map(|prefix| of(*prefix, IpFamily::V4)));
            v6.extend(six.iter().map(|prefix| of(*prefix, IpFamily::V6)));
            let embedded = four.iter().filter_map(|prefix| match prefix {
                IpNet::V4(prefix) => Some(nat64_prefix?.embed(*prefix)),
                IpNet::V6(_) => None,
            });
            v6.extend(embedded.map(|prefix| of(prefix.into(), IpFamily::V4)));
        }
        Self([v4, v6])
    }

    fn of_family(&self, family: IpFamily) -> &[Prefix] {
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
    prefix: Prefix,
    gateway: &str,
    pairing: Pairing<'_>,
) -> PolicyRow {
    let egress_ip = pairing(pod, prefix.outside, policy.egress_list());
    PolicyRow {
        source_ip: pod,
        destination_cidr: prefix.shown,
        egress_ip: egress_ip.unwrap_or_else(|| prefix.outside.unspecified()),
        gateway_ip: gateway.to_owned(),
        policy: policy.name.clone(),
    }
}
