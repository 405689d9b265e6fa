//! What a policy may ask of the NAT beyond an egress address.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use spillway_engine::policy::{Policies, Policy};
use spillway_engine::tables::{EgressAddress, TablesInput};
use spillway_engine::{DropReason, EngineConfig};

use crate::common::build::{Body, End, packet};
use crate::common::gateway::*;

const REMOTE_END: End = (REMOTE, 443);
const OTHER_REMOTE_END: End = (Ipv4Addr::new(203, 0, 113, 51), 443);
const NET: &str = "203.0.113.0/24";

/// Tables with these policies.
fn with_policies(policies: Vec<Policy>) -> TablesInput {
    TablesInput { policies: Policies::new(policies, &[]), ..tables() }
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
        let config = EngineConfig { worker, owners: [worker; 256], seed, ..config() };
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
    let narrow = |address| EgressAddress { address, port_first: 2000, port_last: 2000, own: true };
    input.egress_addresses = vec![narrow(EGRESS), narrow(OTHER_EGRESS)];
    let mut gateway = Gateway::with(config(), input);
    for pod in &pods {
        let (verdict, _) = gateway.process(from(*pod, 2000, REMOTE_END));
        drop(verdict);
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
    gateway.change(|input| input.policies = Policies::new(vec![one], &[]));
    for (pod, before) in pods.iter().zip(before) {
        assert_eq!(source(&gateway.sent(from(*pod, 4000, REMOTE_END)).1), before);
        assert_eq!(source(&gateway.sent(from(*pod, 4001, REMOTE_END)).1).0, EGRESS);
    }
    gateway.change(|input| input.egress_addresses.retain(|egress| egress.address == EGRESS));
    let pod = pods.iter().find(|pod| {
        gateway
            .flows()
            .iter()
            .any(|f| f.original.source == **pod && f.reply.destination == OTHER_EGRESS)
    });
    assert_eq!(gateway.dropped(from(*pod.unwrap(), 4000, REMOTE_END)), DropReason::Deselected);
}
