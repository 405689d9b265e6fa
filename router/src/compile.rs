//! From the state document and the kernel's tables to what steering and the engine are given.
//! Pure: what goes in is read by others, what comes out is programmed by others.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use spillway_api::{Document, EgressAddressKind, IpFamily, Programmed, ReplyVni};
use spillway_engine::policy::{NatOptions, Policies, Policy, paired_address};
use spillway_engine::tables::{self, Device, DeviceIndex, EgressAddress, Nat64Input, Peer};
use spillway_engine::{Family, V4, V6, nat64};
use spillway_xdp::SteerTables;
use spillway_xdp::device::DeviceInfo;
use spillway_xdp::steering::{self, EgressPorts, SteerFamily, SteerPeer};

use crate::config::TimeoutsConfig;
use crate::kernel::LocalAddress;
use crate::numbers::{self, Assigned};

/// The addresses of a list that are of one family.
fn addresses<F: Family>(list: &[IpAddr]) -> Vec<F::Address> {
    list.iter().filter_map(|address| F::address(*address)).collect()
}

/// The prefixes of a list that are of one family.
fn prefixes<F: Family>(list: &[IpNet]) -> Vec<F::Net> {
    list.iter().filter_map(|prefix| F::net(*prefix)).collect()
}

/// The egress address of a pod among those of its policy, of the family that its destination has
/// outside. A pod's IPv6 address that reaches IPv4 destinations is known by its number.
pub(crate) fn pairing(
    numbers: &Assigned,
    pod: IpAddr,
    outside: IpFamily,
    egress: &[IpAddr],
) -> Option<IpAddr> {
    let v4 = |pod| paired_address(pod, &addresses::<V4>(egress)).map(IpAddr::V4);
    match (pod, outside) {
        (IpAddr::V4(pod), IpFamily::V4) => v4(pod),
        (IpAddr::V6(pod), IpFamily::V4) => v4(numbers.pods.number(pod)?),
        (IpAddr::V6(pod), IpFamily::V6) => {
            paired_address(pod, &addresses::<V6>(egress)).map(IpAddr::V6)
        }
        (IpAddr::V4(_), IpFamily::V6) => None,
    }
}

/// What a document's policies say of each family, flattened. One whose egress addresses are all of
/// the other family is among them, without any: its traffic is dropped. `timeouts` are the
/// configuration's.
///
/// With NAT64, IPv6's have the IPv4 destinations as well, as the pods write them: what goes there is
/// steered. IPv4's decide about it, and know the pods by their numbers.
pub(crate) fn policies(
    document: &Document,
    timeouts: TimeoutsConfig,
    numbers: &Assigned,
) -> (Policies<V4>, Policies<V6>) {
    let nat64 = document.nat64_prefix;
    let pods = |list: &[IpAddr]| {
        let numbered = list.iter().filter_map(|pod| match pod {
            IpAddr::V6(pod) => nat64.and_then(|_| numbers.pods.number(*pod)),
            IpAddr::V4(_) => None,
        });
        addresses::<V4>(list).into_iter().chain(numbered).collect()
    };
    let destinations = |list: &[IpNet]| {
        let embedded = list.iter().filter_map(|prefix| match prefix {
            IpNet::V4(prefix) => Some(nat64?.embed(*prefix)),
            IpNet::V6(_) => None,
        });
        prefixes::<V6>(list).into_iter().chain(embedded).collect()
    };
    (
        family_policies(document, timeouts, pods, prefixes::<V4>),
        family_policies(document, timeouts, addresses::<V6>, destinations),
    )
}

/// How much a document has of what.
pub(crate) fn extent(document: &Document, policies: &(Policies<V4>, Policies<V6>)) -> Programmed {
    let count = |items: usize| items as u64;
    let pods_ipv4 = policies.0.pods().filter(|(pod, _)| !numbers::is_pod(*pod));
    Programmed {
        policies: count(document.policies.len()),
        pods_ipv4: count(pods_ipv4.count()),
        pods_ipv6: count(policies.1.pods().count()),
        egress_addresses: count(document.egress_addresses.len()),
        tunnels: count(document.tunnels.len()),
        peers: document.tunnels.iter().map(|tunnel| count(tunnel.peers.len())).sum(),
    }
}

/// Those of one family, with what `pods` and `prefixes` take from each list.
fn family_policies<F: Family>(
    document: &Document,
    timeouts: TimeoutsConfig,
    pods: impl Fn(&[IpAddr]) -> Vec<F::Address>,
    prefixes: impl Fn(&[IpNet]) -> Vec<F::Net>,
) -> Policies<F> {
    let groups: Vec<_> = document.pod_groups.iter().map(|group| pods(&group.pods)).collect();
    let groups: Vec<_> = groups.iter().map(Vec::as_slice).collect();
    let names = document.pod_groups.iter().map(|group| group.name.as_str());
    let indices: HashMap<_, _> = names.zip(0..).collect();
    let policies = document.policies.iter().map(|policy| Policy {
        name: policy.name.clone(),
        egress_addresses: addresses::<F>(policy.egress_list()),
        destinations: prefixes(&policy.destinations),
        excluded: prefixes(&policy.excluded_destinations),
        pods: pods(&policy.pods),
        pod_groups: {
            let names = policy.pod_groups.iter().flatten();
            names.filter_map(|name| indices.get(name.as_str()).copied()).collect()
        },
        options: options(policy, timeouts),
    });
    Policies::new(policies.collect(), &groups)
}

/// What a policy asks of the NAT.
fn options(policy: &spillway_api::Policy, timeouts: TimeoutsConfig) -> NatOptions {
    let own = timeouts.overridden(&policy.timeouts);
    NatOptions {
        timeouts: (own != timeouts).then(|| own.to_engine()),
        midstream_pickup: policy.midstream_pickup,
        flows_per_pod_max: policy.flows_per_pod_max,
        endpoint_independent: policy.endpoint_independent,
    }
}

/// What the steering program needs of a document.
pub(crate) fn steer_tables(
    document: &Document,
    policies: &(Policies<V4>, Policies<V6>),
    numbers: &Assigned,
    devices: &[DeviceInfo],
) -> SteerTables {
    let peers = document.tunnels.iter().flat_map(|tunnel| {
        tunnel.peers.iter().filter_map(|peer| {
            let key = numbers.key(peer.address)?;
            Some((peer.address, SteerPeer { tunnel: tunnel.address, key }))
        })
    });
    SteerTables {
        tunnels: document.tunnels.iter().map(|tunnel| tunnel.address).collect(),
        peers: peers.collect(),
        v4: without_numbers(&steer_family(document, &policies.0, devices)),
        v6: steer_family(document, &policies.1, devices),
    }
}

/// No packet has a number as its source: to take one that claims it would be a hole. Sets that no
/// other pod has are of no use either.
fn without_numbers(all: &SteerFamily<Ipv4Addr>) -> SteerFamily<Ipv4Addr> {
    let mut kept = SteerFamily { egress: all.egress.clone(), ..SteerFamily::default() };
    let mut places: HashMap<usize, usize> = HashMap::new();
    for (pod, set) in all.pods.iter().filter(|(pod, _)| !numbers::is_pod(**pod)) {
        let place = *places.entry(*set).or_insert_with(|| {
            kept.sets.extend(all.sets.get(*set).cloned());
            kept.sets.len() - 1
        });
        kept.pods.insert(*pod, place);
    }
    kept
}

/// What it needs of one family.
fn steer_family<F: Family>(
    document: &Document,
    policies: &Policies<F>,
    devices: &[DeviceInfo],
) -> SteerFamily<F::Address>
where
    F::Address: steering::Address<Net = F::Net>,
{
    let egress = document.egress_addresses.iter().filter_map(|egress| {
        let ports = egress.port_range();
        let own = egress.kind == EgressAddressKind::Own;
        let device = egress.announce.as_ref();
        let announce = device.and_then(|name| devices.iter().find(|device| device.name == *name));
        let announce = announce.map(|device| device.ifindex);
        let ports = EgressPorts { first: ports.first, last: ports.last, own, announce };
        Some((F::address(egress.address)?, ports))
    });
    let sets = policies
        .sets()
        .iter()
        .map(|set| set.iter().map(|(prefix, policy)| (*prefix, policy.is_some())).collect());
    SteerFamily { pods: policies.pods().collect(), sets: sets.collect(), egress: egress.collect() }
}

/// The place of a device in the configuration; a document that names another was refused before.
fn device_index(names: &[&str], name: &str) -> Option<DeviceIndex> {
    let position = names.iter().position(|known| *known == name)?;
    DeviceIndex::try_from(position).ok()
}

/// The engine's egress addresses of one family. `names` are the devices' names, by index.
pub(crate) fn egress_addresses<F: Family>(
    document: &Document,
    names: &[&str],
) -> Vec<EgressAddress<F>> {
    let addresses = document.egress_addresses.iter().filter_map(|egress| {
        let ports = egress.port_range();
        Some(EgressAddress {
            address: F::address(egress.address)?,
            port_first: ports.first,
            port_last: ports.last,
            own: egress.kind == EgressAddressKind::Own,
            announce: egress.announce.as_ref().and_then(|name| device_index(names, name)),
        })
    });
    addresses.collect()
}

/// The engine's peers. `names` are the devices' names, by index.
pub(crate) fn peers(document: &Document, numbers: &Assigned, names: &[&str]) -> Vec<Peer> {
    let index = |name: &str| device_index(names, name);
    let peers = document.tunnels.iter().flat_map(|tunnel| {
        tunnel.peers.iter().filter_map(move |peer| {
            Some(Peer {
                key: numbers.key(peer.address)?,
                address: peer.address,
                tunnel_address: tunnel.address,
                direct: peer.direct().and_then(|(device, mac)| Some((index(device)?, mac.0))),
            })
        })
    });
    peers.collect()
}

/// How pods' IPv6 addresses reach IPv4 destinations, where the document says so.
pub(crate) fn nat64(document: &Document, numbers: &Assigned) -> Option<Nat64Input> {
    let prefix = nat64::Prefix::new(document.nat64_prefix?.net())?;
    Some(Nat64Input { prefix, pods: numbers.pods.present().collect() })
}

/// How replies of a family are labelled.
pub(crate) fn reply_vni(document: &Document, family: IpFamily) -> tables::ReplyVni {
    match document.reply_vni_of(family) {
        ReplyVni::Fixed(vni) => tables::ReplyVni::Fixed(vni),
        ReplyVni::Flow => tables::ReplyVni::Flow,
    }
}

/// A device as the engine must know it. No frame is larger than what a UMEM's frame has room for,
/// which was checked against the MTU at start.
pub(crate) fn device(mac: [u8; 6], mtu: u32, mtu_at_start: u32) -> Device {
    let mtu = u16::try_from(mtu.min(mtu_at_start)).unwrap_or(u16::MAX);
    Device { mac, mtu }
}

/// What an operator should know about a document on this host: egress addresses that nobody
/// answers for, and shared ports that the kernel may give to others.
pub(crate) fn reports(
    document: &Document,
    local: &[LocalAddress],
    host_ports: &HostPorts,
) -> Vec<String> {
    let is_local = |address: IpAddr| local.iter().any(|l| l.address.addr() == address);
    let mut reports = Vec::new();
    for egress in &document.egress_addresses {
        let address = egress.address;
        match (&egress.announce, is_local(address)) {
            (None, false) => reports.push(nobody_answers(address)),
            (Some(device), true) => reports.push(format!(
                "egress address {address} is on this host, and Spillway announces it on {device} \
                 too: what the host itself uses it for gets no replies. `ip address del` it, or \
                 leave announce out"
            )),
            (None, true) | (Some(_), false) => {}
        }
        let ports = egress.port_range();
        if egress.kind == EgressAddressKind::Shared
            && !host_ports.keeps_off(ports.first, ports.last)
        {
            reports.push(format!(
                "the kernel may give ports {ports} of {address} to its own connections, which \
                 then break: `{}`",
                host_ports.reserve(ports.first, ports.last)
            ));
        }
    }
    reports
}

/// An egress address that is neither the host's nor announced. The host had better not take an
/// IPv6 address for its own connections: one that is deprecated it does not.
fn nobody_answers(address: IpAddr) -> String {
    let (asked, command) = match address {
        IpAddr::V4(_) => ("ARP", format!("ip address add {address}/32 dev DEVICE")),
        IpAddr::V6(_) => (
            "neighbour solicitations",
            format!("ip -6 address add {address}/128 dev DEVICE nodad preferred_lft 0"),
        ),
    };
    format!(
        "egress address {address} is not on this host, so nobody answers {asked} for it and \
         replies will not come: `{command}`, or announce it in the state document"
    )
}

/// The ports that the host's kernel gives to its own connections, of either family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPorts {
    /// `net.ipv4.ip_local_port_range`: first and last, inclusive.
    pub(crate) local: (u16, u16),
    /// `net.ipv4.ip_local_reserved_ports`: ranges that it leaves out.
    pub(crate) reserved: Vec<(u16, u16)>,
}

impl HostPorts {
    /// Reads what `/proc/sys/net/ipv4` has in these two files.
    pub(crate) fn parse(local_port_range: &str, reserved_ports: &str) -> Option<Self> {
        let mut bounds = local_port_range.split_whitespace().map(str::parse);
        let local = (bounds.next()?.ok()?, bounds.next()?.ok()?);
        let reserved = reserved_ports.trim().split(',').filter(|range| !range.is_empty());
        let reserved = reserved.map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some((first.parse().ok()?, last.parse().ok()?))
        });
        Some(Self { local, reserved: reserved.collect::<Option<_>>()? })
    }

    /// The command that makes the kernel keep off these ports, besides those that it leaves out now.
    pub(crate) fn reserve(&self, first: u16, last: u16) -> String {
        let ranges = self.reserved.iter().copied().chain([(first, last)]);
        let ranges: Vec<_> = ranges.map(|(first, last)| format!("{first}-{last}")).collect();
        format!("sysctl -w net.ipv4.ip_local_reserved_ports={}", ranges.join(","))
    }

    /// Whether the kernel gives none of these ports out by itself.
    pub(crate) fn keeps_off(&self, first: u16, last: u16) -> bool {
        (first..=last).all(|port| {
            let local = (self.local.0..=self.local.1).contains(&port);
            !local || self.reserved.iter().any(|(first, last)| (*first..=*last).contains(&port))
        })
    }
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
