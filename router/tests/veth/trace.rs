//! What `spillway trace` says of a packet, and what becomes of it when it is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::Command;
use std::time::Duration;

use etherparse::IpHeaders;
use rustix::net::{SendFlags, sendto};
use spillway_api::{Flow, IpFamily, Trace, TraceProtocol, TraceRequest, Worker};
use spillway_testing::{bind_udp, wait_until};

use crate::packets::{INNER_IP, frame_between, ip_header, tunnelled_from};
use crate::{GATEWAY, NODE, Rig, raw_socket, wait_for_every_frame};

const WITHIN: Duration = Duration::from_secs(10);

const POD: &str = "10.0.5.40";
const OTHER_POD: &str = "10.0.5.41";
const POD_IPV6: &str = "fd00:db8:5::40";
/// One of the document before.
const DESELECTED: &str = "10.0.1.40";
const EGRESS: &str = "192.168.2.3";
/// The host uses it too.
const SHARED: &str = "192.168.2.2";
const SERVER: &str = "203.0.113.10";
const SERVER_PORT: u16 = 443;
const POD_PORT: u16 = 40_000;
const NAT64_PORT: u16 = 444;
const NAT64: &str = "64:ff9b::203.0.113.10";
const ANSWERED: &str = "Spillway itself answers the ping, out of out";
/// No peer of the document.
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 9);

const STATE: &str = "
generation: 2
tunnels: [{address: 192.168.2.2, peers: [{address: 192.168.1.2}]}]
nat64_prefix: 64:ff9b::/96
egress_addresses:
  - {address: 192.168.2.3, kind: own}
  - {address: 192.168.2.2, kind: shared, ports: 20000-29999}
policies:
  - name: app
    egress_address: 192.168.2.3
    destinations: [203.0.113.0/24, 198.51.100.0/24, '2001:db8:203::/64']
    excluded_destinations: [203.0.113.20/32]
    pods: [10.0.5.40, 'fd00:db8:5::40']
  - name: narrow
    egress_address: 192.168.2.2
    destinations: [203.0.113.0/24]
    pods: [10.0.5.41]
";

/// A packet, and what is said of it: what steering does, and in the end.
struct Case {
    what: &'static str,
    request: TraceRequest,
    steering: &'static str,
    /// The verdict, and the reason of a drop.
    end: (&'static str, &'static str),
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A packet of UDP.
fn packet(from: &str, from_port: u16, to: &str, to_port: u16) -> TraceRequest {
    TraceRequest {
        from: address(from),
        to: address(to),
        protocol: TraceProtocol::Udp,
        from_port: Some(from_port),
        to_port: Some(to_port),
        size: None,
        peer: None,
        may_fragment: false,
    }
}

fn from_pod(to: &str) -> TraceRequest {
    packet(POD, POD_PORT, to, SERVER_PORT)
}

fn case(
    what: &'static str,
    request: TraceRequest,
    steering: &'static str,
    end: (&'static str, &'static str),
) -> Case {
    Case { what, request, steering, end }
}

/// In this order: later ones know the flows of earlier ones.
fn cases() -> Vec<Case> {
    let (tunnel, reply) = ("steer-tunnel", "steer-reply");
    let (kernel, sent) = (("kernel", ""), ("sent", ""));
    let dropped = |reason| ("dropped", reason);
    let stranger = TraceRequest { peer: Some(STRANGER.into()), ..from_pod(SERVER) };
    let other_pod = packet(OTHER_POD, POD_PORT, SERVER, SERVER_PORT);
    let answer = |to, to_port| packet(SERVER, SERVER_PORT, to, to_port);
    vec![
        case("not selected", packet("10.0.5.99", 1, SERVER, 2), "pass-tunnel-other", kernel),
        case("deselected", packet(DESELECTED, 1, SERVER, 2), tunnel, dropped("no-policy")),
        case("excluded", from_pod("203.0.113.20"), "pass-not-covered", kernel),
        case("not covered", from_pod("8.8.8.8"), "pass-not-covered", kernel),
        case("no peer", stranger, "drop-unknown-peer", dropped("drop-unknown-peer")),
        case("no flow", answer(EGRESS, POD_PORT), reply, dropped("no-flow")),
        case("sent", from_pod(SERVER), tunnel, sent),
        case("known", from_pod(SERVER), tunnel, sent),
        case("answered", answer(EGRESS, POD_PORT), reply, sent),
        case("another remote", packet(SERVER, 9, EGRESS, POD_PORT), reply, dropped("no-flow")),
        case("a low port", answer(EGRESS, 80), "pass-host", kernel),
        case("the host's port", answer(SHARED, POD_PORT), "pass-host", kernel),
        case("a shared port", answer(SHARED, 20_000), reply, dropped("no-flow")),
        case("from a shared address", other_pod, tunnel, sent),
        case("no route", from_pod("198.51.100.1"), tunnel, dropped("no-route")),
        case("the host itself", from_pod("203.0.113.1"), tunnel, dropped("local-destination")),
        case("nobody there", from_pod("203.0.113.99"), tunnel, ("held", "neighbour-unresolved")),
        case("NAT64", packet(POD_IPV6, POD_PORT, NAT64, NAT64_PORT), tunnel, sent),
        case("NAT64, answered", packet(SERVER, NAT64_PORT, EGRESS, POD_PORT), reply, sent),
        case(
            "no egress address",
            packet(POD_IPV6, 1, "2001:db8:203::10", 2),
            tunnel,
            dropped("no-egress-address"),
        ),
    ]
}

/// The verdict of a step; none when there is no such step.
fn verdict<'a>(trace: &'a Trace, step: &str) -> Option<&'a str> {
    trace.steps.iter().find(|of| of.step == step).map(|of| of.verdict.as_str())
}

fn detail<'a>(trace: &'a Trace, step: &str) -> &'a str {
    trace.steps.iter().find(|of| of.step == step).map_or("", |of| &of.detail)
}

/// What the router counts, but what other hosts of the links say by themselves.
fn counts(rig: &Rig) -> BTreeMap<String, u64> {
    let drops = rig.client().drops().unwrap();
    let mut counts = BTreeMap::new();
    for outcome in drops.steering.into_iter().filter(|outcome| outcome.outcome != "pass-other") {
        *counts.entry(outcome.outcome).or_default() += outcome.packets;
    }
    counts.extend(drops.engine.into_iter().map(|drop| (drop.reason, drop.packets)));
    let workers = rig.client().status().unwrap().workers;
    counts.insert("sent".to_owned(), workers.iter().map(|worker| worker.transmitted).sum());
    counts
}

/// What has been counted once since then.
fn moved(rig: &Rig, before: &BTreeMap<String, u64>) -> BTreeSet<String> {
    let moved = counts(rig).into_iter().filter(|(name, count)| before.get(name) != Some(count));
    moved
        .map(
            |(name, count)| {
                if count == before[&name] + 1 { name } else { format!("{count} {name}") }
            },
        )
        .collect()
}

/// Sends the packet as it would come.
fn send(rig: &Rig, request: &TraceRequest) {
    let ports = [request.from_port.unwrap(), request.to_port.unwrap()];
    let headers = if request.from.is_ipv4() { 28 } else { 48 };
    let payload = vec![0; usize::from(request.size.unwrap_or(100)) - headers];
    let mut header = ip_header(request.from, request.to, 63);
    if let IpHeaders::Ipv4(header, _) = &mut header {
        header.dont_fragment = !request.may_fragment;
    }
    let frame = frame_between(header, ports, &payload);
    let (host, packet, to) = match (request.to, request.peer) {
        (IpAddr::V4(to), _) if request.from == address(SERVER) => {
            (&rig.outside, frame[INNER_IP..].to_vec(), to)
        }
        (_, Some(IpAddr::V4(peer))) => (&rig.node, tunnelled_from(peer, 50_000, &frame), GATEWAY),
        _ => (&rig.node, tunnelled_from(NODE, 50_000, &frame), GATEWAY),
    };
    let socket = host.enter(|| raw_socket(IpFamily::V4));
    sendto(&socket, &packet, SendFlags::empty(), &SocketAddrV4::new(to, 0)).unwrap();
}

/// Traces a packet, sends it, and holds what was counted against what was said.
fn check(rig: &Rig, case: &Case) -> Trace {
    let Case { what, request, steering, end: (end, reason) } = case;
    let before = counts(rig);
    let trace = rig.client().trace(*request).unwrap();
    assert_eq!(moved(rig, &before), BTreeSet::new(), "{what}: a trace counts nothing");
    assert_eq!(verdict(&trace, "steering"), Some(*steering), "{what}: {trace:#?}");
    let last = trace.steps.last().unwrap();
    assert_eq!(
        (last.step.as_str(), last.verdict.as_str()),
        ("verdict", *end),
        "{what}: {trace:#?}"
    );
    assert!(last.detail.contains(reason), "{what}: {trace:#?}");

    let counted = match *end {
        "sent" => Some("sent"),
        "dropped" | "held" => Some(*reason),
        _ => None,
    };
    let expected: BTreeSet<String> =
        [Some(*steering), counted].into_iter().flatten().map(str::to_owned).collect();
    send(rig, request);
    wait_until(what, WITHIN, || moved(rig, &before).is_superset(&expected));
    assert_eq!(moved(rig, &before), expected, "{what}: {trace:#?}");
    trace
}

/// A rig with a document of its own, and sockets that answer nobody: whoever gets a packet to a closed port
/// sends an error, which counts.
fn rig(name: &str) -> (Rig, [UdpSocket; 3]) {
    let rig = Rig::new(name, true);
    rig.client().put_state(STATE.to_owned()).unwrap();
    let server = |port| rig.outside.enter(|| bind_udp((SERVER, port)));
    let node = rig.node.enter(|| bind_udp((NODE, 8472)));
    let sockets = [server(SERVER_PORT), server(NAT64_PORT), node];
    // The link address of whom packets go to is known from here on.
    rig.gateway.run(["ping", "-n", "-q", "-c", "1", "-W", "5", SERVER]);
    rig.gateway.run(["ping", "-n", "-q", "-c", "1", "-W", "5", &NODE.to_string()]);
    for destination in [SERVER, "192.168.1.2"] {
        wait_until("the router knows the neighbours", WITHIN, || {
            let known = rig.gateway.run(["ip", "neigh", "show", destination]);
            known.contains("lladdr")
        });
    }
    (rig, sockets)
}

#[test]
fn what_a_trace_says_is_what_happens() {
    let (rig, _sockets) = rig("trace");
    let mut traces = BTreeMap::new();
    for case in cases() {
        traces.insert(case.what, check(&rig, &case));
    }
    let of = |what, step| (verdict(&traces[what], step), detail(&traces[what], step));
    assert_eq!(of("not selected", "document").0, Some("not selected"));
    assert_eq!(
        of("excluded", "document"),
        (Some("excluded"), "policy app excludes 203.0.113.20/32")
    );
    assert_eq!(of("sent", "policy"), (Some("app"), "the egress address is 192.168.2.3"));
    let new = "would leave as 192.168.2.3:40000: the pod's own port is free";
    assert_eq!(of("sent", "flow"), (Some("new"), new));
    let known = of("known", "flow");
    assert_eq!(known.0, Some("known"));
    let flow = "10.0.5.40:40000 to 203.0.113.10:443 as 192.168.2.3:40000, peer 192.168.1.2";
    assert!(known.1.ends_with(flow), "{known:?}");
    assert!(of("answered", "flow").1.ends_with(flow));
    let drawn = "from a free port of 20000-29999: the pod's own, 40000, is not in there";
    assert!(of("from a shared address", "flow").1.ends_with(drawn));
    assert_eq!(of("no route", "route").0, Some("no-route"));
    let (device, hop) = of("sent", "route");
    assert_eq!(device, Some("out"));
    assert_eq!(hop, "next hop 203.0.113.10, link address 22:00:00:00:00:0a");
    let nat64 = of("NAT64", "nat64");
    let meant = "in 64:ff9b::/96, 64:ff9b::cb00:710a is 203.0.113.10";
    assert_eq!(nat64, (Some("translated"), meant));
    let pod = "[fd00:db8:5::40]:40000 to [64:ff9b::cb00:710a]:444 as 192.168.2.3:";
    assert!(of("NAT64, answered", "flow").1.contains(pod), "{:?}", of("NAT64, answered", "flow"));
    wait_for_every_frame(&rig);
}

#[test]
fn what_does_not_fit_is_told_as_it_happens() {
    let (rig, _sockets) = rig("tracemtu");
    rig.gateway.run(["ip", "link", "set", "out", "mtu", "1300"]);
    wait_until("the router sees the MTU", WITHIN, || {
        let devices = rig.client().status().unwrap().devices;
        devices.iter().any(|device| device.name == "out" && device.mtu == 1300)
    });
    let large = |may_fragment| TraceRequest { size: Some(1400), may_fragment, ..from_pod(SERVER) };
    let tunnel = "steer-tunnel";
    let too_large = rig.client().trace(large(false)).unwrap();
    assert_eq!(verdict(&too_large, "mtu"), Some("exceeds-mtu"));
    let why = &too_large.steps.last().unwrap().detail;
    assert!(why.starts_with("exceeds-mtu: ") && why.contains("hears of it by ICMP"), "{why}");
    let trace = check(&rig, &case("cut", large(true), tunnel, ("sent", "")));
    assert_eq!(verdict(&trace, "mtu"), Some("2 fragments"));
    let small = TraceRequest { size: Some(1300), ..from_pod(SERVER) };
    let trace = check(&rig, &case("fits", small, tunnel, ("sent", "")));
    assert_eq!(detail(&trace, "mtu"), "1300 bytes; out carries 1300");
}

#[test]
fn a_drained_gateway_is_told_of_new_flows_only() {
    let (rig, _sockets) = rig("tracedrain");
    let tunnel = "steer-tunnel";
    check(&rig, &case("before", from_pod(SERVER), tunnel, ("sent", "")));
    rig.client().drain(true).unwrap();
    let new = packet(POD, 1, SERVER, SERVER_PORT);
    check(&rig, &case("new", new, tunnel, ("dropped", "draining")));
    check(&rig, &case("known", from_pod(SERVER), tunnel, ("sent", "")));
}

/// What may not change.
fn everything(rig: &Rig) -> (BTreeMap<String, u64>, Vec<Worker>, Vec<Flow>) {
    (counts(rig), rig.client().status().unwrap().workers, rig.flows())
}

#[test]
fn a_trace_changes_nothing() {
    let (rig, _sockets) = rig("tracenone");
    let before = everything(&rig);
    let mut client = rig.client();
    for case in cases() {
        for protocol in [TraceProtocol::Tcp, TraceProtocol::Udp, TraceProtocol::Icmp] {
            client.trace(TraceRequest { protocol, ..case.request }).unwrap();
        }
    }
    assert_eq!(everything(&rig), before);
    let too_large = TraceRequest { size: Some(1451), ..from_pod(SERVER) };
    let refused = client.trace(too_large).unwrap_err().to_string();
    assert!(
        refused.starts_with("no packet of 1501 bytes, 50 of them the tunnel's, comes"),
        "{refused}"
    );
    let refused = client.trace(packet(POD, 1, "2001:db8::1", 2)).unwrap_err().to_string();
    assert_eq!(refused, "there is no packet from 10.0.5.40 to 2001:db8::1: their families differ");
}

#[test]
fn what_pings_an_address_of_spillways_own_is_answered() {
    let (rig, _sockets) = rig("traceping");
    let announced = "203.0.113.77";
    let listed =
        format!("egress_addresses:\n  - {{address: {announced}, kind: own, announce: out}}");
    let state = STATE.replace("generation: 2", "generation: 3");
    rig.client().put_state(state.replace("egress_addresses:", &listed)).unwrap();
    let ping = TraceRequest {
        protocol: TraceProtocol::Icmp,
        to_port: None,
        ..packet(SERVER, 7, announced, 0)
    };
    let trace = rig.client().trace(ping).unwrap();
    assert_eq!(verdict(&trace, "steering"), Some("steer-ping"));
    let last = trace.steps.last().unwrap();
    assert_eq!((last.verdict.as_str(), last.detail.as_str()), ("sent", ANSWERED));
    assert_eq!(counts(&rig)["steer-ping"], 0);
    rig.outside.run(["ping", "-n", "-q", "-c", "1", "-W", "5", announced]);
    assert_eq!(counts(&rig)["steer-ping"], 1);
}

#[test]
fn the_command_line_tells_the_steps() {
    let (rig, _sockets) = rig("tracecli");
    let socket = rig.directory.path().join("spillway.sock");
    let trace = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_spillway"))
            .arg("trace")
            .args(arguments)
            .arg("--socket")
            .arg(&socket)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let table = trace(&["--from", POD, "--to", "203.0.113.10:443"]);
    println!("{table}");
    let steps: Vec<&str> = table.lines().filter_map(|line| line.split(' ').next()).collect();
    let expected = [
        "Step", "packet", "tunnel", "document", "steering", "worker", "policy", "flow", "route",
        "mtu", "verdict",
    ];
    assert_eq!(steps, expected);
    let json = trace(&["--from", SERVER, "--to", "192.168.2.3:40000", "-o", "json"]);
    let read: Trace = serde_json::from_str(&json).unwrap();
    assert_eq!(verdict(&read, "flow"), Some("none"));
}
