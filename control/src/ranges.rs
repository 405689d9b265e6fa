//! What lies in the cluster: no policy's traffic, whatever the policy says. Pure.

use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use spillway_api::IpFamily;

use crate::cluster::Cluster;

/// Never a destination outside of the cluster (RFC 3927; RFC 4291, 2.5.6).
const LINK_LOCAL: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::new(169, 254, 0, 0), 16)),
    IpNet::V6(Ipv6Net::new_assert(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10)),
];

/// Why a range is one of the cluster's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin<'a> {
    /// Somebody has said so.
    Named,
    /// It is of a link.
    LinkLocal,
    /// The pods of this node have addresses from it.
    Pods(&'a str),
    /// It is an address of this node.
    Node(&'a str),
    /// It is an address of the API server.
    ApiServer,
    /// It is around services' addresses.
    Services,
}

impl fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named => f.write_str("one of --cluster-ranges"),
            Self::LinkLocal => f.write_str("link-local addresses"),
            Self::Pods(node) => write!(f, "the pods of node {node}"),
            Self::Node(node) => write!(f, "node {node}"),
            Self::ApiServer => f.write_str("the API server"),
            Self::Services => f.write_str("services"),
        }
    }
}

/// The ranges of the cluster, each with its origin. They may overlap.
pub(crate) fn ranges(cluster: &Cluster) -> Vec<(IpNet, Origin<'_>)> {
    let named = cluster.network().cluster_ranges.iter().map(|range| (*range, Origin::Named));
    let mut ranges: Vec<_> = named.collect();
    ranges.extend(LINK_LOCAL.map(|range| (range, Origin::LinkLocal)));
    for (name, node) in cluster.nodes() {
        ranges.extend(node.pod_ranges.iter().map(|range| (*range, Origin::Pods(name))));
        let internal = node.internal.iter().copied();
        ranges.extend(internal.map(|address| (address.into(), Origin::Node(name))));
    }
    ranges.extend(cluster.api_servers().map(|address| (address.into(), Origin::ApiServer)));
    for family in IpFamily::ALL {
        let services = around_all(family, cluster.services());
        ranges.extend(services.into_iter().map(|range| (range, Origin::Services)));
    }
    ranges
}

/// The same as few prefixes.
pub(crate) fn aggregated(cluster: &Cluster) -> Vec<IpNet> {
    let ranges: Vec<IpNet> = ranges(cluster).into_iter().map(|(range, _)| range).collect();
    IpNet::aggregate(&ranges)
}

/// The smallest range of the cluster that an address is in; of several origins the first.
pub(crate) fn around(cluster: &Cluster, address: IpAddr) -> Option<(IpNet, Origin<'_>)> {
    let around = ranges(cluster).into_iter().filter(|(range, _)| range.contains(&address));
    // Of equals it gives the last.
    around.rev().max_by_key(|(range, _)| range.prefix_len())
}

/// The range of a family's services: the smallest prefix around their addresses, which is within the
/// one that the API server gives them from. If that is wider than ranges of services are, there are
/// several, and each address stands for itself.
fn around_all(family: IpFamily, addresses: impl Iterator<Item = IpAddr>) -> Vec<IpNet> {
    let length_min = match family {
        IpFamily::V4 => 12,
        IpFamily::V6 => 64,
    };
    let of_family = addresses.filter(|address| IpFamily::of(*address) == family);
    let single: Vec<IpNet> = of_family.map(IpNet::from).collect();
    let Some(first) = single.first() else { return single };
    let mut around = *first;
    while around.prefix_len() >= length_min && !single.iter().all(|one| around.contains(one)) {
        let Some(wider) = around.supernet() else { break };
        around = wider;
    }
    if around.prefix_len() >= length_min { vec![around] } else { single }
}
