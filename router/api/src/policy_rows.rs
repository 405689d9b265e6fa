//! A document as `spillway policies` shows it: one row for each pod and prefix, in pages. A large
//! document has millions of rows, so a page is found by arithmetic, not by counting from the start.

use std::net::Ipv4Addr;

use crate::document::{Document, Policy};
use crate::limits::PAGE_ROWS_MAX;
use crate::message::{PolicyPage, PolicyRow};

/// What `cilium-dbg` shows as the gateway of an excluded prefix.
const EXCLUDED: &str = "Excluded CIDR";

/// Which of a policy's egress addresses a pod has: the router knows.
pub type Pairing = fn(Ipv4Addr, &[Ipv4Addr]) -> Option<Ipv4Addr>;

/// The rows of `document` from row `cursor` on, `limit` or [`PAGE_ROWS_MAX`] at most. The gateway
/// shown is the first tunnel address, which is the node's own.
#[must_use]
pub fn policy_page(document: &Document, cursor: u64, limit: u32, pairing: Pairing) -> PolicyPage {
    let limit = limit.clamp(1, PAGE_ROWS_MAX);
    let gateway = document.tunnels.first().map_or("none".to_owned(), |t| t.address.to_string());
    let groups = document.groups();
    let mut rows = Vec::new();
    let mut skip = cursor;
    for policy in &document.policies {
        for pods in policy.pod_lists(&groups) {
            let count = pods.len() as u64 * prefix_count(policy);
            while skip < count {
                if rows.len() as u64 == u64::from(limit) {
                    return PolicyPage { rows, next: Some(cursor + u64::from(limit)) };
                }
                rows.extend(row(policy, pods, skip, (&gateway, pairing)));
                skip += 1;
            }
            skip -= count;
        }
    }
    PolicyPage { rows, next: None }
}

fn prefix_count(policy: &Policy) -> u64 {
    (policy.destinations.len() + policy.excluded_destinations.len()) as u64
}

fn row(
    policy: &Policy,
    pods: &[Ipv4Addr],
    index: u64,
    (gateway, pairing): (&str, Pairing),
) -> Option<PolicyRow> {
    let pod = usize::try_from(index / prefix_count(policy)).ok()?;
    let prefix = usize::try_from(index % prefix_count(policy)).ok()?;
    let (destination_cidr, gateway_ip) = match policy.destinations.get(prefix) {
        Some(destination) => (*destination, gateway),
        None => {
            let excluded = prefix - policy.destinations.len();
            (*policy.excluded_destinations.get(excluded)?, EXCLUDED)
        }
    };
    let source_ip = *pods.get(pod)?;
    Some(PolicyRow {
        source_ip,
        destination_cidr,
        egress_ip: pairing(source_ip, policy.egress_list())?,
        gateway_ip: gateway_ip.to_owned(),
        policy: policy.name.clone(),
    })
}
