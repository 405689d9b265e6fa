//! What steering and the engine are given for a document.

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

fn numbers(document: &Document) -> Assigned {
    Assigned::default().after(document)
}

fn both_policies(document: &Document) -> (Policies<V4>, Policies<V6>) {
    policies(document, TimeoutsConfig::default(), &numbers(document))
}

fn steered(document: &Document) -> SteerTables {
    steer_tables(document, &both_policies(document), &numbers(document), &devices())
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
    let tables = steered(&document);
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
    let tables = steered(&document);
    assert_eq!(tables.v4.pods.len(), 1);
    assert_eq!(tables.v4.sets[0], [("203.0.113.0/24".parse().unwrap(), true)]);
    let pod = "fd00:10:0:1::40".parse().unwrap();
    let mut set = tables.v6.sets[tables.v6.pods[&pod]].clone();
    set.sort();
    let prefix = |text: &str| text.parse().unwrap();
    let expected = [(prefix("2001:db8:203::/64"), true), (prefix("2001:db8:203::20/128"), false)];
    assert_eq!(set, expected);
    let egress = "2001:db8:44::129".parse().unwrap();
    assert!(tables.v6.egress[&egress].own);
    assert_eq!(policies.1.policies()[0].egress_addresses, [egress]);
    assert_eq!(egress_addresses::<V6>(&document, &[])[0].address, egress);
    assert_eq!(egress_addresses::<V4>(&document, &[]).len(), 2);
}

/// Tunnels over IPv6, NAT64, and a pod with an address of each family.
fn ipv6() -> Document {
    Document::parse(include_str!("../api/tests/ipv6.yaml")).unwrap()
}

#[test]
fn nat64_steers_ipv4_destinations_and_has_ipv4_policies_decide() {
    let document = ipv6();
    let numbers = numbers(&document);
    let tables = steered(&document);
    let pod = "fd00:10:1::40".parse().unwrap();
    let mut set = tables.v6.sets[tables.v6.pods[&pod]].clone();
    set.sort();
    let prefix = |text: &str| text.parse().unwrap();
    let expected = [
        (prefix("64:ff9b::203.0.113.0/120"), true),
        (prefix("64:ff9b::203.0.113.20/128"), false),
        (prefix("2001:db8:203::/64"), true),
    ];
    assert_eq!(set, expected);

    let number = numbers.pods.number(pod).unwrap();
    let (v4, _) = both_policies(&document);
    assert_eq!(v4.lookup(number, Ipv4Addr::new(203, 0, 113, 10)), Some(0));
    assert_eq!(v4.lookup(number, Ipv4Addr::new(203, 0, 113, 20)), None);
    // No IPv4 destination is around it, so nobody decides for it.
    assert_eq!(v4.lookup(number, Ipv4Addr::new(198, 51, 100, 1)), None);
    let pods: Vec<_> = tables.v4.pods.keys().copied().collect();
    assert_eq!(pods, [Ipv4Addr::new(10, 0, 1, 40)], "steering knows no numbers");
    let Nat64Input { prefix, pods } = nat64(&document, &numbers).unwrap();
    assert_eq!((prefix, pods), (nat64::Prefix::WELL_KNOWN, vec![(number, pod)]));
}

#[test]
fn without_a_prefix_there_is_no_nat64() {
    let document = Document { nat64_prefix: None, ..ipv6() };
    assert!(nat64(&document, &numbers(&document)).is_none());
    let tables = steered(&document);
    assert_eq!(tables.v6.sets[0], [("2001:db8:203::/64".parse().unwrap(), true)]);
    let (v4, _) = both_policies(&document);
    assert_eq!(v4.pods().count(), 1);
    // Numbers of before give nothing away.
    let before = Assigned::default().after(&ipv6()).after(&document);
    assert_eq!(before.pods.present().count(), 0);
    let (v4, _) = policies(&document, TimeoutsConfig::default(), &before);
    assert_eq!(v4.pods().count(), 1);
}

/// Sets that only numbers have would take steering's room.
#[test]
fn steering_has_no_sets_of_numbers() {
    let text = include_str!("../api/tests/ipv6.yaml");
    let text = text.replacen(", 10.0.1.40]", "]", 1);
    let only_v6 = steered(&Document::parse(&text).unwrap()).v4;
    assert!(only_v6.pods.is_empty() && only_v6.sets.is_empty());
    assert_eq!(only_v6.egress.len(), 1);
    let other = "  - name: app2\n    egress_address: 192.168.44.129\n    \
                     destinations: [198.51.100.0/24]\n    pods: [10.0.1.41]\n";
    let tables = steered(&Document::parse(&(text + other)).unwrap()).v4;
    let set = &tables.sets[tables.pods[&Ipv4Addr::new(10, 0, 1, 41)]];
    assert_eq!(*set, [("198.51.100.0/24".parse().unwrap(), true)]);
    assert_eq!((tables.pods.len(), tables.sets.len()), (1, 1));
}

#[test]
fn peers_of_ipv6_have_keys() {
    let document = ipv6();
    let numbers = numbers(&document);
    let tables = steered(&document);
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    assert!(tables.tunnels.iter().all(IpAddr::is_ipv6) && tables.tunnels.len() == 2);
    let peers = peers(&document, &numbers, &["eth0", "spw-pods"]);
    for (peer, tunnel, at) in
        [("fd00:211::128", "fd00:44::128", 0), ("fd00:5077::1", "fd00:5077::2", 1)]
    {
        let key = numbers.key(address(peer)).unwrap();
        assert_eq!(key.octets()[0], 0);
        assert_eq!(numbers.peer(key), address(peer));
        let steered = SteerPeer { tunnel: address(tunnel), key };
        assert_eq!(tables.peers[&address(peer)], steered);
        let Peer { key: known, address: own, tunnel_address, .. } = peers[at];
        assert_eq!((known, own, tunnel_address), (key, address(peer), address(tunnel)));
    }
    assert_eq!(peers[1].direct, Some((1, [2, 0, 0xa9, 0xfe, 0x2c, 1])));
    let of_v4 = address("192.168.211.128");
    assert_eq!(numbers.key(of_v4), Some(Ipv4Addr::new(192, 168, 211, 128)));
    assert_eq!(numbers.peer(Ipv4Addr::new(192, 168, 211, 128)), of_v4);
}

/// The engine pairs by the number, and so does what is shown.
#[test]
fn a_pod_has_the_ipv4_address_of_its_number() {
    let document = ipv6();
    let numbers = numbers(&document);
    let egress: Vec<IpAddr> = (1..9).map(|last| [198, 51, 100, last].into()).collect();
    let pod: std::net::Ipv6Addr = "fd00:10:1::40".parse().unwrap();
    let number = numbers.pods.number(pod).unwrap();
    let expected = paired_address(number, &addresses::<V4>(&egress)).map(IpAddr::V4);
    assert!(expected.is_some());
    let found = pairing(&numbers, pod.into(), IpFamily::V4, &egress);
    assert_eq!(found, expected);
    assert_eq!(pairing(&numbers, pod.into(), IpFamily::V6, &egress), None);
    let unknown = "fd00::9".parse().unwrap();
    assert_eq!(pairing(&numbers, unknown, IpFamily::V4, &egress), None);
}

/// The document's arithmetic is for people, the engine's for packets: they must say the same.
#[test]
fn document_and_engine_embed_alike() {
    for text in [
        "2001:db8::/32",
        "2001:db8:100::/40",
        "2001:db8:122::/48",
        "2001:db8:122:300::/56",
        "2001:db8:122:344::/64",
        "2001:db8:122:344::/96",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
    ] {
        let of_document: spillway_api::Nat64Prefix = text.parse().unwrap();
        let of_engine = nat64::Prefix::new(of_document.net()).unwrap();
        for length in 0..=32 {
            let net = ipnet::Ipv4Net::new(Ipv4Addr::new(203, 255, 113, 77), length).unwrap();
            let embedded = of_document.embed(net.trunc());
            for address in [net.network(), net.broadcast(), net.addr()] {
                assert!(embedded.contains(&of_engine.embed(address)), "{text}, {net}, {address}");
            }
            let after = Ipv4Addr::from_bits(net.broadcast().to_bits().wrapping_add(1));
            let is_inside = embedded.contains(&of_engine.embed(after));
            assert_eq!(is_inside, length == 0, "{text}, {net}, {after}");
        }
    }
}

#[test]
fn a_policy_without_an_address_of_the_family_covers_all_the_same() {
    let only_v6 = DOCUMENT
        .replacen("policies:", "  - {address: '2001:db8::129', kind: own}\npolicies:", 1)
        .replacen("egress_address: 192.168.44.129", "egress_address: 2001:db8::129", 1);
    let document = Document::parse(&only_v6).unwrap();
    let (policies, _) = both_policies(&document);
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
        let (policies, _) = policies(&document, configured, &numbers(&document));
        policies.policies()[0].options.clone()
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
    let peers = peers(&document(), &Assigned::default(), &["eth0", "pods"]);
    assert_eq!(peers[0].direct, None);
    assert_eq!(peers[1].direct, Some((1, [2, 0, 0xa9, 0xfe, 0x2c, 1])));
}

#[test]
fn an_announced_address_has_its_device() {
    let document = announced();
    let steered = steered(&document).v4.egress;
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
    // What is reserved for others stays so.
    let others = HostPorts::parse("10000 60999", "8080,30000-30001").unwrap();
    let report = &reports(&document(), &both, &others)[0];
    assert!(report.contains("=8080-8080,30000-30001,16384-29999`"), "{report}");
}

#[test]
fn how_much_a_document_has_is_counted_without_the_numbers_that_stand_for_pods() {
    let text = DOCUMENT.replacen("generation: 1", "generation: 1\nnat64_prefix: 64:ff9b::/96", 1);
    let text = text.replacen("10.0.1.41]", "10.0.1.41, 'fd00:10:1::40']", 1);
    let document = Document::parse(&text).unwrap();
    let expected = Programmed {
        policies: 1,
        pods_ipv4: 2,
        pods_ipv6: 1,
        egress_addresses: 2,
        tunnels: 2,
        peers: 2,
    };
    assert_eq!(extent(&document, &both_policies(&document)), expected);
}
