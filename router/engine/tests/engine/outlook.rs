//! What an engine says of a packet that nobody has sent: what happens when somebody does.

use std::net::{IpAddr, Ipv4Addr};

use spillway_engine::policy::{NatOptions, Policies, Policy};
use spillway_engine::steer::{KIND_MASK, KIND_REPLY, REPLY_IP_OFFSET_6, UNDERLAY_6};
use spillway_engine::{DropReason, Engine, EngineConfig, Outlook, PortOutlook, Verdict};

use crate::common::build::{Body, End, packet};
use crate::common::cluster::Cluster;
use crate::common::gateway::*;

const POD_END: End = (POD, 5000);
const REMOTE_END: End = (REMOTE, 53);

fn request() -> Vec<u8> {
    tunnel_frame(&packet(Body::Udp, POD_END, REMOTE_END, 64))
}

fn reply() -> Vec<u8> {
    reply_frame(&packet(Body::Udp, REMOTE_END, (EGRESS, 5000), 64))
}

/// Looks, which changes nothing.
fn look(gateway: &mut Gateway, frame: &[u8]) -> Outlook {
    let (counters, flows) = (gateway.engine.counters(), gateway.flows());
    let mut looked_at = frame.to_vec();
    let outlook = gateway.engine.outlook(gateway.now, &gateway.tables, &mut looked_at);
    // In front of a reply over IPv6 there is room that may be used.
    let has_room = frame[0] & (KIND_MASK | UNDERLAY_6) == KIND_REPLY | UNDERLAY_6;
    let packet = if has_room { REPLY_IP_OFFSET_6 } else { 0 };
    assert_eq!(looked_at[packet..], frame[packet..], "it stays as it is");
    assert_eq!((gateway.engine.counters(), gateway.flows()), (counters, flows));
    outlook
}

/// Looks at a packet of a new flow, then sends it; gives what was said of its port.
#[track_caller]
fn foreseen(gateway: &mut Gateway, frame: Vec<u8>, next_hop: IpAddr) -> PortOutlook {
    let outlook = look(gateway, &frame);
    let known = gateway.flows();
    let verdict = gateway.process(frame).0;
    let Verdict::Transmit { device, .. } = verdict else { panic!("not sent, but {verdict:?}") };
    let flow = gateway.flows().into_iter().find(|flow| !known.contains(flow)).unwrap();
    let port = outlook.port.unwrap().unwrap();
    let expected = Outlook {
        policy: Some(flow.policy),
        egress: Some(flow.reply.destination),
        way: Some(Ok((device, next_hop))),
        port: Some(Ok(port)),
        ..Outlook::default()
    };
    assert_eq!(outlook, expected);
    let (own, leased) = (flow.original.source_port, flow.reply.destination_port);
    match port {
        PortOutlook::Own => assert_eq!(leased, own),
        PortOutlook::Mapped(port) => assert_eq!(leased, port),
        PortOutlook::Drawn => assert_ne!(leased, own),
    }
    port
}

#[test]
fn a_new_flow_is_foreseen_in_both_families_and_between_them() {
    let mut gateway = Gateway::with(config(), nat64_tables());
    for (frame, next_hop) in [
        (request(), ROUTER.into()),
        (tunnel_frame(&packet(Body::Syn, (POD6, 5000), (REMOTE6, 443), 64)), ROUTER6.into()),
        (
            tunnel_frame(&packet(Body::Syn, (POD6, 5001), (embedded(REMOTE), 443), 64)),
            ROUTER.into(),
        ),
        (tunnel_frame(&packet(Body::EchoRequest, (POD, 2005), (REMOTE, 0), 64)), ROUTER.into()),
    ] {
        assert_eq!(foreseen(&mut gateway, frame, next_hop), PortOutlook::Own);
    }
    // Taken by the first pod.
    let other = tunnel_frame(&packet(Body::Udp, (OTHER_POD, 5000), REMOTE_END, 64));
    assert_eq!(foreseen(&mut gateway, other, ROUTER.into()), PortOutlook::Drawn);
    let low = tunnel_frame(&packet(Body::Udp, (OTHER_POD, 80), REMOTE_END, 64));
    assert_eq!(foreseen(&mut gateway, low, ROUTER.into()), PortOutlook::Drawn);
}

#[test]
fn it_is_the_same_with_tunnels_over_ipv6() {
    let mut gateway = Gateway::with(config(), tables_over_ipv6());
    let from_peer = |body, pod, remote| {
        over_ipv6(tunnel_frame_from(KEY, POD_MAC, VNI, &packet(body, pod, remote, 64)))
    };
    let frame = from_peer(Body::Udp, POD_END, REMOTE_END);
    assert_eq!(foreseen(&mut gateway, frame, ROUTER.into()), PortOutlook::Own);
    let flow = look(&mut gateway, &over_ipv6(reply())).flow.unwrap();
    assert_eq!(flow.0, gateway.flows()[0]);
}

#[test]
fn a_known_flow_is_told_by_either_end_and_goes_on_elsewhere() {
    let mut gateway = Gateway::new();
    assert_eq!(look(&mut gateway, &reply()), Outlook::default());
    let sent = gateway.sent(request());
    let flow = gateway.flows()[0].clone();
    let outlook = look(&mut gateway, &request());
    let (record, saved) = outlook.flow.unwrap();
    assert_eq!(record, flow);
    assert_eq!((outlook.port, outlook.egress), (None, Some(EGRESS.into())));
    assert_eq!(look(&mut gateway, &reply()).flow, Some((flow, saved)));

    let answer = gateway.sent(reply());
    let mut alone = Gateway::with(EngineConfig { flows_max: 1, ..config() }, tables());
    alone.engine.restore(alone.now, &saved).unwrap();
    assert_eq!(alone.sent(request()).0, sent.0);
    assert_eq!(alone.sent(reply()), answer);
}

#[test]
fn what_stops_a_packet_is_foreseen() {
    let to = |remote| tunnel_frame(&packet(Body::Udp, POD_END, (remote, 53), 64));
    for (last, reason) in [
        (200, DropReason::LocalDestination),
        (201, DropReason::RouteUnreachable),
        (202, DropReason::ForeignDevice),
    ] {
        let mut gateway = Gateway::new();
        let frame = to(Ipv4Addr::new(203, 0, 113, last));
        assert_eq!(look(&mut gateway, &frame).way, Some(Err(reason)));
        assert_eq!(gateway.dropped(frame), reason);
    }
    let mut gateway = Gateway::new();
    let excluded = to(Ipv4Addr::new(203, 0, 113, 20));
    assert_eq!(look(&mut gateway, &excluded), Outlook::default());
    assert_eq!(gateway.dropped(excluded), DropReason::NoPolicy);
}

/// One pod's packets from its ports from one on to one remote, until one is refused: that was foreseen.
fn refused(
    gateway: &mut Gateway,
    first: u16,
) -> (DropReason, Option<Result<PortOutlook, DropReason>>) {
    for port in first..first + 4000 {
        let frame = tunnel_frame(&packet(Body::Udp, (POD, port), REMOTE_END, 64));
        let foreseen = look(gateway, &frame).port;
        match gateway.process(frame).0 {
            Verdict::Transmit { .. } => assert!(foreseen.unwrap().is_ok()),
            Verdict::Drop(reason) => return (reason, foreseen),
            verdict => panic!("{verdict:?}"),
        }
    }
    panic!("none was refused")
}

fn with_options(options: NatOptions) -> Policies {
    let policy = policy(EGRESS, &[POD, OTHER_POD], &["203.0.113.0/24"]);
    Policies::new(vec![Policy { options, ..policy }], &[])
}

#[test]
fn a_refusal_is_foreseen_with_its_reason() {
    let full = Gateway::with(EngineConfig { flows_max: 3, ..config() }, tables());
    let mut input = tables();
    let limited = NatOptions { flows_per_pod_max: Some(3), ..NatOptions::default() };
    input.v4.policies = with_options(limited);
    let limited = Gateway::with(config(), input);
    let mut input = tables();
    input.v4.egress_addresses[0].port_first = 40_000;
    input.v4.egress_addresses[0].port_last = 40_003;
    let narrow = Gateway::with(config(), input);
    for (mut gateway, reason) in [
        (full, DropReason::FlowTableFull),
        (limited, DropReason::PodFlowLimit),
        (narrow, DropReason::PortsExhausted),
    ] {
        assert_eq!(refused(&mut gateway, 2000), (reason, Some(Err(reason))));
        // Now it is known.
        assert_eq!(refused(&mut gateway, 8000), (reason, Some(Err(reason))));
    }
    let mut shared = tables();
    shared.v4.egress_addresses[0].own = false;
    let mut gateway = Gateway::with(config(), shared);
    let gre = tunnel_frame(&packet(Body::Gre, (POD, 0), (REMOTE, 0), 64));
    assert_eq!(look(&mut gateway, &gre).port, Some(Err(DropReason::NeedsOwnAddress)));
    assert_eq!(gateway.dropped(gre), DropReason::NeedsOwnAddress);
}

#[test]
fn the_port_of_a_mapping_is_foreseen() {
    let mut input = tables();
    let options = NatOptions { endpoint_independent: true, ..NatOptions::default() };
    input.v4.policies = with_options(options);
    let mut gateway = Gateway::with(config(), input);
    let from =
        |pod, remote_port| tunnel_frame(&packet(Body::Udp, (pod, 5000), (REMOTE, remote_port), 64));
    gateway.sent(from(OTHER_POD, 1));
    assert_eq!(foreseen(&mut gateway, from(POD, 2), ROUTER.into()), PortOutlook::Drawn);
    let mapped = gateway.flows().iter().find(|flow| flow.original.source == POD).unwrap().reply;
    let port = PortOutlook::Mapped(mapped.destination_port);
    assert_eq!(foreseen(&mut gateway, from(POD, 3), ROUTER.into()), port);
}

#[test]
fn who_has_adopted_a_flow_is_told() {
    let mut input = tables();
    input.v4.egress_addresses[0].port_first = 40_000;
    input.v4.egress_addresses[0].port_last = 40_003;
    let mut cluster = Cluster::new(2, config(), input);
    let owner = cluster.worker(40_000);
    let of_pods = |pod, port| {
        let remote: End = (REMOTE, 443);
        tunnel_frame(&packet(Body::Syn, (pod, port), remote, 64))
    };
    let look = |cluster: &mut Cluster, worker: usize| {
        let Cluster { engines, tables, now, .. } = cluster;
        let engine: &mut Engine = &mut engines[worker];
        engine.outlook(*now, tables, &mut of_pods(OTHER_POD, 40_000))
    };
    let own: Vec<u16> = (40_000..=40_003).filter(|port| cluster.worker(*port) == owner).collect();
    for port in &own {
        cluster.process(owner, of_pods(POD, *port)).unwrap();
    }
    let exhausted = Some(Err(DropReason::PortsExhausted));
    assert_eq!(look(&mut cluster, owner).port, exhausted);
    assert_eq!(look(&mut cluster, 1 - owner).port, Some(Ok(PortOutlook::Drawn)));
    cluster.process(owner, of_pods(OTHER_POD, 40_000)).unwrap();
    let outlook = look(&mut cluster, owner);
    assert_eq!((outlook.flow, outlook.handed_to), (None, Some(u8::try_from(1 - owner).unwrap())));
    assert!(look(&mut cluster, 1 - owner).flow.is_some());
}
