//! From the state document and the kernel's tables to what steering and the engine are given.
//! Pure: what goes in is read by others, what comes out is programmed by others.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use spillway_api::{Document, EgressAddressKind, IpFamily, ReplyVni};
use spillway_engine::policy::{NatOptions, Policies, Policy, paired_address};
use spillway_engine::tables::{self, Device, DeviceIndex, EgressAddress, Peer};
use spillway_engine::{Family, V4, V6};
use spillway_xdp::SteerTables;
use spillway_xdp::device::DeviceInfo;
use spillway_xdp::steering::{self, EgressPorts, SteerFamily, SteerPeer};

use crate::config::TimeoutsConfig;
use crate::kernel::LocalAddress;

/// The addresses of a list that are of one family.
fn addresses<F: Family>(list: &[IpAddr]) -> Vec<F::Address> {
    list.iter().filter_map(|address| F::address(*address)).collect()
}

/// The prefixes of a list that are of one family.
fn prefixes<F: Family>(list: &[IpNet]) -> Vec<F::Net> {
    list.iter().filter_map(|prefix| F::net(*prefix)).collect()
}

/// The egress address of a pod among those of its policy, of its own family.
pub(crate) fn pairing(pod: IpAddr, egress: &[IpAddr]) -> Option<IpAddr> {
    match pod {
        IpAddr::V4(pod) => paired_address(pod, &addresses::<V4>(egress)).map(IpAddr::V4),
        IpAddr::V6(pod) => paired_address(pod, &addresses::<V6>(egress)).map(IpAddr::V6),
    }
}

/// What a document's policies say of one family, flattened. One whose egress addresses are all of
/// the other family is among them, without any: its traffic is dropped. `timeouts` are the
/// configuration's.
pub(crate) fn policies<F: Family>(document: &Document, timeouts: TimeoutsConfig) -> Policies<F> {
    let groups: Vec<_> = document.pod_groups.iter().map(|g| addresses::<F>(&g.pods)).collect();
    let groups: Vec<_> = groups.iter().map(Vec::as_slice).collect();
    let names = document.pod_groups.iter().map(|group| group.name.as_str());
    let indices: HashMap<_, _> = names.zip(0..).collect();
    let policies = document.policies.iter().map(|policy| Policy {
        name: policy.name.clone(),
        egress_addresses: addresses::<F>(policy.egress_list()),
        destinations: prefixes::<F>(&policy.destinations),
        excluded: prefixes::<F>(&policy.excluded_destinations),
        pods: addresses::<F>(&policy.pods),
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
    devices: &[DeviceInfo],
) -> SteerTables {
    let peers = document.tunnels.iter().flat_map(|tunnel| {
        let tunnel_address = tunnel.address.into();
        tunnel.peers.iter().map(move |peer| {
            (peer.address.into(), SteerPeer { tunnel: tunnel_address, key: peer.address })
        })
    });
    SteerTables {
        tunnels: document.tunnels.iter().map(|tunnel| tunnel.address.into()).collect(),
        peers: peers.collect(),
        v4: steer_family(document, &policies.0, devices),
        v6: steer_family(document, &policies.1, devices),
    }
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
pub(crate) fn peers(document: &Document, names: &[&str]) -> Vec<Peer> {
    let index = |name: &str| device_index(names, name);
    let peers = document.tunnels.iter().flat_map(|tunnel| {
        tunnel.peers.iter().map(move |peer| Peer {
            key: peer.address,
            address: peer.address.into(),
            tunnel_address: tunnel.address.into(),
            direct: peer.direct().and_then(|(device, mac)| Some((index(device)?, mac.0))),
        })
    });
    peers.collect()
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
                 then break: `sysctl -w net.ipv4.ip_local_reserved_ports={}-{}`",
                ports.first, ports.last
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

    /// Whether the kernel gives none of these ports out by itself.
    fn keeps_off(&self, first: u16, last: u16) -> bool {
        (first..=last).all(|port| {
            let local = (self.local.0..=self.local.1).contains(&port);
            !local || self.reserved.iter().any(|(first, last)| (*first..=*last).contains(&port))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use spillway_engine::Timeouts;

    use super::*;

    const DOCUMENT: &str = "
generation: 1
tunnels:
  - address: 192.168.44.128
    peers:
      - address: 192.168.211.128
  - address: 169.254.44.2
    peers:
      - {address: 169.254.44.1, device: pods, mac: 02:00:a9:fe:2c:01}
egress_addresses:
  - {address: 192.168.44.129, kind: own}
  - {address: 192.168.44.128, kind: shared}
policies:
  - name: app1
    egress_address: 192.168.44.129
    destinations: [203.0.113.0/24]
    excluded_destinations: [203.0.113.20/32]
    pods: [10.0.1.40, 10.0.1.41]
";

    fn document() -> Document {
        Document::parse(DOCUMENT).unwrap()
    }

    fn both_policies(document: &Document) -> (Policies<V4>, Policies<V6>) {
        let timeouts = TimeoutsConfig::default();
        (policies(document, timeouts), policies(document, timeouts))
    }

    /// The own address announced by Spillway itself.
    fn announced() -> Document {
        let text = DOCUMENT.replacen("kind: own", "kind: own, announce: pods", 1);
        Document::parse(&text).unwrap()
    }

    fn devices() -> Vec<DeviceInfo> {
        let device = |(name, ifindex): (&str, u32)| DeviceInfo {
            name: name.to_owned(),
            ifindex,
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            queues: 1,
            combined: true,
            driver: "veth".to_owned(),
        };
        [("eth0", 7), ("pods", 9)].map(device).into()
    }

    #[test]
    fn steering_gets_peers_pods_and_holes() {
        let document = document();
        let tables = steer_tables(&document, &both_policies(&document), &devices());
        assert_eq!(tables.tunnels.len(), 2);
        let key = Ipv4Addr::new(169, 254, 44, 1);
        let tunnel = Ipv4Addr::new(169, 254, 44, 2).into();
        assert_eq!(tables.peers.get(&key.into()), Some(&SteerPeer { tunnel, key }));
        let tables = tables.v4;
        assert_eq!(tables.pods.len(), 2);
        let mut set = tables.sets[tables.pods[&Ipv4Addr::new(10, 0, 1, 40)]].clone();
        set.sort();
        let prefix = |text: &str| text.parse().unwrap();
        assert_eq!(set, [(prefix("203.0.113.0/24"), true), (prefix("203.0.113.20/32"), false)]);
        let own = tables.egress[&Ipv4Addr::new(192, 168, 44, 129)];
        assert_eq!(own, EgressPorts { first: 1024, last: 65535, own: true, announce: None });
        let shared = tables.egress[&Ipv4Addr::new(192, 168, 44, 128)];
        assert_eq!(shared, EgressPorts { first: 16_384, last: 29_999, own: false, announce: None });
    }

    #[test]
    fn each_family_gets_its_part_of_a_mixed_document() {
        let mixed = DOCUMENT
            .replacen("policies:", "  - {address: '2001:db8:44::129', kind: own}\npolicies:", 1)
            .replacen(
                "egress_address: 192.168.44.129",
                "egress_addresses: [192.168.44.129, '2001:db8:44::129']",
                1,
            )
            .replacen("[203.0.113.0/24]", "[203.0.113.0/24, '2001:db8:203::/64']", 1)
            .replacen("[203.0.113.20/32]", "['2001:db8:203::20/128']", 1)
            .replacen("10.0.1.41]", "'fd00:10:0:1::40']", 1);
        let document = Document::parse(&mixed).unwrap();
        let policies = both_policies(&document);
        let tables = steer_tables(&document, &policies, &devices());
        assert_eq!(tables.v4.pods.len(), 1);
        assert_eq!(tables.v4.sets[0], [("203.0.113.0/24".parse().unwrap(), true)]);
        let pod = "fd00:10:0:1::40".parse().unwrap();
        let mut set = tables.v6.sets[tables.v6.pods[&pod]].clone();
        set.sort();
        let prefix = |text: &str| text.parse().unwrap();
        let expected =
            [(prefix("2001:db8:203::/64"), true), (prefix("2001:db8:203::20/128"), false)];
        assert_eq!(set, expected);
        let egress = "2001:db8:44::129".parse().unwrap();
        assert!(tables.v6.egress[&egress].own);
        assert_eq!(policies.1.policies()[0].egress_addresses, [egress]);
        assert_eq!(egress_addresses::<V6>(&document, &[])[0].address, egress);
        assert_eq!(egress_addresses::<V4>(&document, &[]).len(), 2);
    }

    #[test]
    fn a_policy_without_an_address_of_the_family_covers_all_the_same() {
        let only_v6 = DOCUMENT
            .replacen("policies:", "  - {address: '2001:db8::129', kind: own}\npolicies:", 1)
            .replacen("egress_address: 192.168.44.129", "egress_address: 2001:db8::129", 1);
        let document = Document::parse(&only_v6).unwrap();
        let policies = policies::<V4>(&document, TimeoutsConfig::default());
        assert_eq!(policies.policies()[0].egress_addresses, [Ipv4Addr::UNSPECIFIED; 0]);
        let pod = Ipv4Addr::new(10, 0, 1, 40);
        assert_eq!(policies.lookup(pod, Ipv4Addr::new(203, 0, 113, 10)), Some(0));
    }

    #[test]
    fn a_policys_options_reach_the_engine_and_what_it_leaves_out_is_the_configurations() {
        let configured = crate::config::Config::parse(
            "devices: [{name: eth0}]\ntimeouts: {tcp_established: 9000, icmp: 90}",
        );
        let configured = configured.unwrap().timeouts;
        let of = |options: &str| {
            let document = Document::parse(&format!("{DOCUMENT}{options}")).unwrap();
            policies::<V4>(&document, configured).policies()[0].options.clone()
        };
        assert_eq!(of(""), NatOptions::default());
        let some = of("    timeouts: {udp: 30, icmp: 10}\n    midstream_pickup: true\n    \
                       flows_per_pod_max: 500\n    endpoint_independent: true\n");
        let engine = configured.to_engine();
        let timeouts = Timeouts { udp_ns: 30_000_000_000, icmp_ns: 10_000_000_000, ..engine };
        assert_eq!(timeouts.tcp_established_ns, 9_000_000_000_000);
        let expected = NatOptions {
            timeouts: Some(timeouts),
            midstream_pickup: true,
            flows_per_pod_max: Some(500),
            endpoint_independent: true,
        };
        assert_eq!(some, expected);
        let all = "    timeouts: {tcp_opening: 1, tcp_established: 2, tcp_half_closed: 3, \
                   tcp_closing: 4, udp: 5, icmp: 6}\n";
        let Timeouts {
            tcp_opening_ns,
            tcp_established_ns,
            tcp_half_closed_ns,
            tcp_closing_ns,
            udp_ns,
            icmp_ns,
        } = of(all).timeouts.unwrap();
        let tcp = [tcp_opening_ns, tcp_established_ns, tcp_half_closed_ns, tcp_closing_ns];
        let all = [tcp.as_slice(), &[udp_ns, icmp_ns]].concat();
        assert_eq!(all, [1, 2, 3, 4, 5, 6].map(|seconds| seconds * 1_000_000_000));
    }

    /// The engine has room for what a document and the configuration may ask.
    #[test]
    fn the_documents_limits_are_the_engines() {
        let timeout_ns = spillway_api::limits::TIMEOUT_S_MAX * 1_000_000_000;
        assert_eq!(timeout_ns, spillway_engine::TIMEOUT_NS_MAX);
        let engine = u64::from(spillway_engine::FLOWS_PER_POD_MAX);
        assert_eq!(spillway_api::limits::FLOWS_PER_POD_MAX, engine);
    }

    #[test]
    fn a_direct_peer_has_its_device_and_link_address() {
        let peers = peers(&document(), &["eth0", "pods"]);
        assert_eq!(peers[0].direct, None);
        assert_eq!(peers[1].direct, Some((1, [2, 0, 0xa9, 0xfe, 0x2c, 1])));
    }

    #[test]
    fn an_announced_address_has_its_device() {
        let document = announced();
        let policies = both_policies(&document);
        let steered = steer_tables(&document, &policies, &devices()).v4.egress;
        assert_eq!(steered[&Ipv4Addr::new(192, 168, 44, 129)].announce, Some(9));
        assert_eq!(steered[&Ipv4Addr::new(192, 168, 44, 128)].announce, None);
        let addresses = egress_addresses::<V4>(&document, &["eth0", "pods"]);
        let announced: Vec<_> = addresses.iter().map(|address| address.announce).collect();
        assert_eq!(announced, [Some(1), None]);
    }

    #[test]
    fn an_announced_address_is_reported_when_the_host_has_it_too() {
        let host = HostPorts::parse("32768\t60999\n", "\n").unwrap();
        let local = |address: &str| LocalAddress { ifindex: 1, address: address.parse().unwrap() };
        let both = [local("192.168.44.128/24"), local("192.168.44.129/32")];
        assert_eq!(reports(&announced(), &both[..1], &host), Vec::<String>::new());
        let reported = reports(&announced(), &both, &host);
        assert_eq!(reported.len(), 1);
        assert!(reported[0].contains("192.168.44.129 is on this host, and"), "{reported:?}");
    }

    #[test]
    fn an_egress_address_that_is_not_here_is_reported() {
        let host = HostPorts::parse("32768\t60999\n", "\n").unwrap();
        let local = |address: &str| LocalAddress { ifindex: 1, address: address.parse().unwrap() };
        let both = [local("192.168.44.128/24"), local("192.168.44.129/32")];
        assert_eq!(reports(&document(), &both, &host), Vec::<String>::new());
        let reported = reports(&document(), &both[..1], &host);
        assert_eq!(reported.len(), 1);
        assert!(reported[0].contains("192.168.44.129 is not on this host"), "{reported:?}");
    }

    #[test]
    fn the_report_has_the_command_of_the_addresss_family() {
        let four = nobody_answers("192.0.2.1".parse().unwrap());
        assert!(four.contains("answers ARP for it"), "{four}");
        assert!(four.contains("`ip address add 192.0.2.1/32 dev DEVICE`"), "{four}");
        let six = nobody_answers("2001:db8::1".parse().unwrap());
        assert!(six.contains("answers neighbour solicitations for it"), "{six}");
        let command = "`ip -6 address add 2001:db8::1/128 dev DEVICE nodad preferred_lft 0`";
        assert!(six.contains(command), "{six}");
    }

    #[test]
    fn shared_ports_that_the_kernel_may_give_away_are_reported() {
        let local = |address: &str| LocalAddress { ifindex: 1, address: address.parse().unwrap() };
        let both = [local("192.168.44.128/24"), local("192.168.44.129/32")];
        let wide = HostPorts::parse("10000 60999", "").unwrap();
        assert_eq!(reports(&document(), &both, &wide).len(), 1);
        let reserved = HostPorts::parse("10000 60999", "8080,16384-29999\n").unwrap();
        assert_eq!(reports(&document(), &both, &reserved), Vec::<String>::new());
        let hole = HostPorts::parse("10000 60999", "16384-20000,20002-29999").unwrap();
        assert_eq!(reports(&document(), &both, &hole).len(), 1);
    }
}
