//! What a policy may ask of the NAT beyond an egress address.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use spillway_engine::policy::{NatOptions, Policies, Policy};
use spillway_engine::tables::{EgressAddress, TablesInput};
use spillway_engine::{DropReason, EngineConfig, FlowState, Timeouts};

use crate::common::build::{Body, End, packet};
use crate::common::gateway::*;

const REMOTE_END: End = (REMOTE, 443);
const OTHER_REMOTE_END: End = (Ipv4Addr::new(203, 0, 113, 51), 443);
const NET: &str = "203.0.113.0/24";

/// Tables with these policies.
fn with_policies(policies: Vec<Policy>) -> TablesInput {
    let mut input = tables();
    input.v4.policies = Policies::new(policies, &[]);
    input
}

fn from(pod: Ipv4Addr, port: u16, remote: End) -> Vec<u8> {
    tunnel_frame(&packet(Body::Udp, (pod, port), remote, 64))
}

/// The source that the outside sees of a UDP or TCP packet.
fn source(sent: &[u8]) -> End {
    let address = <[u8; 4]>::try_from(&sent[26..30]).unwrap();
    (address.into(), u16::from_be_bytes([sent[34], sent[35]]))
}

/// A policy of 20 pods with both egress addresses.
fn paired() -> (Vec<Ipv4Addr>, Policy) {
    let pods: Vec<Ipv4Addr> = (1..=20).map(|last| Ipv4Addr::new(10, 0, 3, last)).collect();
    let mut policy = policy(EGRESS, &pods, &[NET]);
    policy.egress_addresses.push(OTHER_EGRESS);
    (pods, policy)
}

/// RFC 4787, REQ-2.
#[test]
fn a_pod_has_one_of_its_policys_addresses_on_every_worker_and_after_a_restart() {
    let (pods, policy) = paired();
    let gateway = |worker, seed| {
        let config = EngineConfig { worker, owners: [worker; 256].into(), seed, ..config() };
        Gateway::with(config, with_policies(vec![policy.clone()]))
    };
    let mut gateways = [gateway(0, 1), gateway(1, 2)];
    let mut used = BTreeSet::new();
    for pod in pods {
        let mut of_pod = BTreeSet::new();
        for gateway in &mut gateways {
            for (port, remote) in [(4000, REMOTE_END), (4001, REMOTE_END), (4000, OTHER_REMOTE_END)]
            {
                of_pod.insert(source(&gateway.sent(from(pod, port, remote)).1).0);
            }
        }
        assert_eq!(of_pod.len(), 1, "{pod}: {of_pod:?}");
        used.extend(of_pod);
    }
    assert_eq!(used, [EGRESS, OTHER_EGRESS].into());
}

/// Paired means paired: the pod's packets do not leave with an address that its peers do not expect.
#[test]
fn a_pod_whose_address_has_no_port_left_does_not_get_another() {
    let (pods, policy) = paired();
    let mut input = with_policies(vec![policy]);
    let narrow = |address| EgressAddress {
        address,
        port_first: 2000,
        port_last: 2000,
        own: true,
        announce: None,
    };
    input.v4.egress_addresses = vec![narrow(EGRESS), narrow(OTHER_EGRESS)];
    let mut gateway = Gateway::with(config(), input);
    for pod in &pods {
        // Two of them are sent, as the counters say below.
        let _ = gateway.process(from(*pod, 2000, REMOTE_END));
    }
    let counters = gateway.engine.counters();
    assert_eq!(counters.flows_live, 2);
    assert_eq!(counters.dropped_for(DropReason::PortsExhausted), 18);
}

#[test]
fn a_flow_keeps_its_address_when_the_list_changes_as_long_as_it_is_listed() {
    let (pods, policy) = paired();
    let mut gateway = Gateway::with(config(), with_policies(vec![policy.clone()]));
    let before: Vec<End> =
        pods.iter().map(|pod| source(&gateway.sent(from(*pod, 4000, REMOTE_END)).1)).collect();
    assert!(before.iter().any(|(address, _)| *address == OTHER_EGRESS));
    let one = Policy { egress_addresses: vec![EGRESS], ..policy };
    gateway.change(|input| input.v4.policies = Policies::new(vec![one], &[]));
    for (pod, before) in pods.iter().zip(before) {
        assert_eq!(source(&gateway.sent(from(*pod, 4000, REMOTE_END)).1), before);
        assert_eq!(source(&gateway.sent(from(*pod, 4001, REMOTE_END)).1).0, EGRESS);
    }
    gateway.change(|input| input.v4.egress_addresses.retain(|egress| egress.address == EGRESS));
    let pod = pods.iter().find(|pod| {
        gateway
            .flows()
            .iter()
            .any(|f| f.original.source == **pod && f.reply.destination == OTHER_EGRESS)
    });
    assert_eq!(gateway.dropped(from(*pod.unwrap(), 4000, REMOTE_END)), DropReason::Deselected);
}

/// Two policies of one pod: towards [`REMOTE`] with these options, towards the rest of its net
/// without.
fn two_policies(options: NatOptions) -> Vec<Policy> {
    let one = Policy { options, ..policy(EGRESS, &[POD, OTHER_POD], &["203.0.113.50/32"]) };
    vec![one, Policy { name: "rest".to_owned(), ..policy(EGRESS, &[POD, OTHER_POD], &[NET]) }]
}

/// Which of two flows live: the one with the options, the one without.
fn live(gateway: &Gateway) -> (bool, bool) {
    let flows = gateway.flows();
    let to = |remote: End| flows.iter().any(|flow| flow.original.destination == remote.0);
    (to(REMOTE_END), to(OTHER_REMOTE_END))
}

#[test]
fn a_policys_timeouts_hold_for_its_flows_alone() {
    for (udp_s, expected) in [(20, (false, true)), (900, (true, false))] {
        let timeouts = Timeouts { udp_ns: udp_s * SECOND, ..Timeouts::default() };
        let options = NatOptions { timeouts: Some(timeouts), ..NatOptions::default() };
        let mut gateway = Gateway::with(config(), with_policies(two_policies(options)));
        gateway.sent(from(POD, 4000, REMOTE_END));
        gateway.sent(from(POD, 4000, OTHER_REMOTE_END));
        gateway.pass(udp_s.min(300) - 1);
        assert_eq!(live(&gateway), (true, true), "{udp_s}");
        gateway.pass(4);
        assert_eq!(live(&gateway), expected, "{udp_s}");
        gateway.pass(udp_s.max(300));
        assert_eq!(live(&gateway), (false, false), "{udp_s}");
    }
}

/// An idle flow looks nothing up: the sweep does.
#[test]
fn new_timeouts_reach_flows_that_are_idle() {
    let timeouts = Timeouts { udp_ns: 20 * SECOND, ..Timeouts::default() };
    let options = NatOptions { timeouts: Some(timeouts), ..NatOptions::default() };
    let mut gateway = Gateway::with(config(), with_policies(two_policies(NatOptions::default())));
    gateway.sent(from(POD, 4000, REMOTE_END));
    gateway.sent(from(POD, 4000, OTHER_REMOTE_END));
    gateway.pass(60);
    // The policies change their places, too.
    let mut policies = two_policies(options);
    policies.insert(0, policy(EGRESS, &[OTHER_POD], &[NET]));
    gateway.change(|input| input.v4.policies = Policies::new(policies, &[]));
    gateway.pass(4);
    assert_eq!(live(&gateway), (false, true));
    assert_eq!(gateway.engine.counters().flows_expired, 1);
}

fn tcp(body: Body) -> Vec<u8> {
    tunnel_frame(&packet(body, (POD, 4000), REMOTE_END, 64))
}

#[test]
fn a_connection_that_is_under_way_is_picked_up_where_the_policy_says_so() {
    let options = NatOptions { midstream_pickup: true, ..NatOptions::default() };
    for (first, answer, state) in [
        (Body::Ack, Body::Ack, FlowState::Established),
        (Body::AckOf(77), Body::Ack, FlowState::Established),
        (Body::Fin, Body::Ack, FlowState::HalfClosed),
        (Body::Fin, Body::Fin, FlowState::Closing),
        (Body::AckOf(1000), Body::RstAt(1000), FlowState::Closing),
    ] {
        let mut gateway = Gateway::with(config(), with_policies(two_policies(options.clone())));
        assert_eq!(source(&gateway.sent(tcp(first)).1), (EGRESS, 4000));
        assert_eq!(gateway.flows()[0].state, FlowState::Opening);
        gateway.sent(reply_frame(&packet(answer, REMOTE_END, (EGRESS, 4000), 64)));
        assert_eq!(gateway.flows()[0].state, state, "{first:?}, {answer:?}");
        let elsewhere = tunnel_frame(&packet(first, (POD, 4000), OTHER_REMOTE_END, 64));
        assert_eq!(gateway.dropped(elsewhere), DropReason::TcpNotSyn);
    }
}

#[test]
fn what_is_no_part_of_a_connection_under_way_picks_nothing_up() {
    let options = NatOptions { midstream_pickup: true, ..NatOptions::default() };
    let mut gateway = Gateway::with(config(), with_policies(two_policies(options)));
    for body in [Body::Rst, Body::RstAt(5), Body::SynAck] {
        assert_eq!(gateway.dropped(tcp(body)), DropReason::TcpNotSyn, "{body:?}");
    }
    let sctp = tunnel_frame(&packet(Body::SctpData, (POD, 4000), REMOTE_END, 64));
    assert_eq!(gateway.dropped(sctp), DropReason::SctpNotInit);
    assert!(gateway.flows().is_empty());
}

fn limited(max: u32) -> NatOptions {
    NatOptions { flows_per_pod_max: Some(max), ..NatOptions::default() }
}

/// RFC 6888, REQ-4.
#[test]
fn a_pod_at_its_limit_is_refused_new_flows_and_keeps_its_own() {
    let mut gateway = Gateway::with(config(), with_policies(two_policies(limited(3))));
    for port in 4000..4003 {
        gateway.sent(from(POD, port, REMOTE_END));
    }
    assert_eq!(gateway.dropped(from(POD, 4003, REMOTE_END)), DropReason::PodFlowLimit);
    gateway.sent(from(OTHER_POD, 4003, REMOTE_END));
    gateway.sent(from(POD, 4003, OTHER_REMOTE_END));
    gateway.pass(200);
    for port in 4000..4003 {
        gateway.sent(from(POD, port, REMOTE_END));
    }
    gateway.pass(200);
    assert_eq!(gateway.dropped(from(POD, 4003, REMOTE_END)), DropReason::PodFlowLimit);
    gateway.pass(104);
    assert_eq!(gateway.engine.counters().flows_live, 0);
    for port in 5000..5003 {
        gateway.sent(from(POD, port, REMOTE_END));
    }
    assert_eq!(gateway.dropped(from(POD, 5003, REMOTE_END)), DropReason::PodFlowLimit);
}

#[test]
fn a_refused_flow_and_one_that_was_deselected_count_no_more() {
    let mut input = with_policies(two_policies(limited(2)));
    input.v4.egress_addresses = vec![EgressAddress {
        address: EGRESS,
        port_first: 2000,
        port_last: 2000,
        own: true,
        announce: None,
    }];
    let mut gateway = Gateway::with(config(), input.clone());
    gateway.sent(from(POD, 4000, REMOTE_END));
    for port in 4001..4010 {
        assert_eq!(gateway.dropped(from(POD, port, REMOTE_END)), DropReason::PortsExhausted);
    }
    let elsewhere = (REMOTE, 444);
    gateway.sent(from(POD, 4000, elsewhere));
    assert_eq!(gateway.dropped(from(POD, 4001, (REMOTE, 445))), DropReason::PodFlowLimit);
    gateway.change(|input| input.v4.policies = Policies::default());
    assert_eq!(gateway.dropped(from(POD, 4000, elsewhere)), DropReason::Deselected);
    gateway.change(|to| to.v4.policies = input.v4.policies);
    gateway.sent(from(POD, 4001, (REMOTE, 445)));
    assert_eq!(gateway.dropped(from(POD, 4001, (REMOTE, 446))), DropReason::PodFlowLimit);
}

#[test]
fn workers_count_a_pods_flows_together_and_flows_of_other_documents_too() {
    let pod_flows = Arc::default();
    let gateway = |worker| {
        let pod_flows = Arc::clone(&pod_flows);
        let config = EngineConfig { worker, owners: [worker; 256].into(), pod_flows, ..config() };
        Gateway::with(config, with_policies(two_policies(limited(3))))
    };
    let (mut one, mut other) = (gateway(0), gateway(1));
    one.sent(from(POD, 4000, REMOTE_END));
    one.sent(from(POD, 4001, REMOTE_END));
    other.sent(from(POD, 4002, REMOTE_END));
    assert_eq!(other.dropped(from(POD, 4003, REMOTE_END)), DropReason::PodFlowLimit);
    // The policy has another place in the document, and a higher limit.
    let mut policies = two_policies(limited(4));
    policies.insert(0, Policy { name: "new".to_owned(), ..policy(EGRESS, &[], &[NET]) });
    one.change(|input| input.v4.policies = Policies::new(policies, &[]));
    one.sent(from(POD, 4004, REMOTE_END));
    assert_eq!(one.dropped(from(POD, 4005, REMOTE_END)), DropReason::PodFlowLimit);
    assert_eq!(other.dropped(from(POD, 4003, REMOTE_END)), DropReason::PodFlowLimit);
}

fn independent() -> NatOptions {
    NatOptions { endpoint_independent: true, ..NatOptions::default() }
}

/// A gateway with few ports, so that the pods' own are always replaced.
fn with_mappings(ports: u16) -> Gateway {
    let all = Policy { options: independent(), ..policy(EGRESS, &[POD, OTHER_POD], &[NET]) };
    let mut input = with_policies(vec![all]);
    let port_last = 2000 + ports - 1;
    input.v4.egress_addresses = vec![EgressAddress {
        address: EGRESS,
        port_first: 2000,
        port_last,
        own: true,
        announce: None,
    }];
    Gateway::with(config(), input)
}

/// RFC 4787, REQ-1.
#[test]
fn a_pods_port_has_one_port_outside_whatever_the_remote() {
    for (body, at) in [(Body::Udp, 34), (Body::Syn, 34), (Body::EchoRequest, 38)] {
        let mut gateway = with_mappings(1000);
        let mut public = |pod, port, remote| {
            let sent = gateway.sent(tunnel_frame(&packet(body, (pod, port), remote, 64))).1;
            u16::from_be_bytes([sent[at], sent[at + 1]])
        };
        let remotes: Vec<End> =
            (21..40).map(|last| (Ipv4Addr::new(203, 0, 113, last), 443)).collect();
        let of = |pod, port, public: &mut dyn FnMut(Ipv4Addr, u16, End) -> u16| {
            remotes.iter().map(|remote| public(pod, port, *remote)).collect::<BTreeSet<_>>()
        };
        let first = of(POD, 5000, &mut public);
        let second = of(POD, 5001, &mut public);
        let third = of(OTHER_POD, 5000, &mut public);
        assert_eq!([first.len(), second.len(), third.len()], [1; 3], "{body:?}");
        assert_eq!((&(&first | &second) | &third).len(), 3, "{body:?}: nobody shares a port");
    }
}

/// Filtering is as without: address and port-dependent (RFC 4787, section 5).
#[test]
fn a_mapping_lets_in_only_remotes_that_the_pod_has_addressed() {
    let mut gateway = with_mappings(1000);
    let public = source(&gateway.sent(from(POD, 5000, REMOTE_END)).1);
    gateway.sent(reply_frame(&packet(Body::Udp, REMOTE_END, public, 64)));
    let stranger = packet(Body::Udp, OTHER_REMOTE_END, public, 64);
    assert_eq!(gateway.dropped(reply_frame(&stranger)), DropReason::NoFlow);
    assert_eq!(source(&gateway.sent(from(POD, 5000, OTHER_REMOTE_END)).1), public);
    gateway.sent(reply_frame(&stranger));
}

#[test]
fn a_mapping_lives_as_long_as_one_of_its_flows() {
    let mut gateway = with_mappings(1);
    let other = from(OTHER_POD, 5000, (REMOTE, 444));
    gateway.sent(from(POD, 5000, REMOTE_END));
    gateway.pass(200);
    gateway.sent(from(POD, 5000, OTHER_REMOTE_END));
    gateway.pass(104);
    assert_eq!(gateway.engine.counters().flows_live, 1);
    assert_eq!(gateway.dropped(other.clone()), DropReason::PortsExhausted);
    assert_eq!(source(&gateway.sent(from(POD, 5000, REMOTE_END)).1), (EGRESS, 2000));
    gateway.pass(304);
    assert_eq!(source(&gateway.sent(other).1), (EGRESS, 2000));
    assert_eq!(gateway.dropped(from(POD, 5000, REMOTE_END)), DropReason::PortsExhausted);
}

#[test]
fn flows_without_the_option_leave_a_mappings_port_alone_until_it_ends() {
    let mut input = with_policies(two_policies(independent()));
    input.v4.egress_addresses = vec![EgressAddress {
        address: EGRESS,
        port_first: 2000,
        port_last: 2001,
        own: true,
        announce: None,
    }];
    let mut gateway = Gateway::with(config(), input);
    let mapped = source(&gateway.sent(from(POD, 5000, REMOTE_END)).1);
    let plain = source(&gateway.sent(from(OTHER_POD, 5000, OTHER_REMOTE_END)).1);
    assert_ne!(mapped, plain);
    let third = from(POD, 5000, OTHER_REMOTE_END);
    assert_eq!(gateway.dropped(third.clone()), DropReason::PortsExhausted);
    gateway.pass(200);
    gateway.sent(from(OTHER_POD, 5000, OTHER_REMOTE_END));
    gateway.pass(104);
    // The mapping has ended, towards another remote than the one that was exhausted.
    assert_eq!(source(&gateway.sent(third).1), mapped);
}

/// One that began before the mapping: it keeps its port, and the mapping does not share it.
#[test]
fn a_mapping_does_not_share_the_port_of_an_older_flow() {
    let mut gateway = Gateway::with(config(), with_policies(two_policies(NatOptions::default())));
    gateway.sent(from(OTHER_POD, 5000, REMOTE_END));
    gateway.sent(from(POD, 5000, (REMOTE, 445)));
    let mut policies = two_policies(independent());
    policies.iter_mut().for_each(|policy| policy.options = independent());
    gateway.change(|input| input.v4.policies = Policies::new(policies, &[]));
    let mapped = from(POD, 5000, OTHER_REMOTE_END);
    assert_eq!(source(&gateway.sent(mapped).1), (EGRESS, 5000));
    assert_eq!(gateway.dropped(from(POD, 5000, REMOTE_END)), DropReason::MappingConflict);
    assert_eq!(source(&gateway.sent(from(OTHER_POD, 5000, REMOTE_END)).1), (EGRESS, 5000));
    // The older ones are no flows of a mapping: their end ends none.
    gateway.pass(200);
    gateway.sent(from(POD, 5000, OTHER_REMOTE_END));
    gateway.pass(104);
    assert_eq!(gateway.engine.counters().flows_live, 1);
    assert_ne!(source(&gateway.sent(from(OTHER_POD, 5000, (REMOTE, 444))).1), (EGRESS, 5000));
    assert_eq!(source(&gateway.sent(from(POD, 5000, REMOTE_END)).1), (EGRESS, 5000));
}

#[test]
fn protocols_without_ports_have_no_mapping() {
    let mut gateway = with_mappings(1);
    let gre = |pod, remote| tunnel_frame(&packet(Body::Gre, (pod, 0), (remote, 0), 64));
    gateway.sent(gre(POD, REMOTE));
    gateway.sent(gre(OTHER_POD, OTHER_REMOTE_END.0));
    assert_eq!(gateway.dropped(gre(OTHER_POD, REMOTE)), DropReason::AddressTaken);
}

#[test]
fn a_worker_has_so_many_mappings_at_most() {
    let all = Policy { options: independent(), ..policy(EGRESS, &[POD], &[NET]) };
    let input = with_policies(vec![all]);
    let config = EngineConfig { flows_max: 1 << 17, ..config() };
    let mut gateway = Gateway::with(config, input);
    let ports = (1024..=u16::MAX).flat_map(|port| [Body::Udp, Body::Syn].map(|body| (body, port)));
    let mut mapped = 0;
    for (body, port) in ports {
        let frame = tunnel_frame(&packet(body, (POD, port), REMOTE_END, 64));
        if mapped == 65_536 {
            assert_eq!(gateway.dropped(frame), DropReason::MappingsExhausted);
            return;
        }
        gateway.sent(frame);
        mapped += 1;
    }
    panic!("{mapped} mappings");
}
