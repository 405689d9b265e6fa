//! What the engine and its peers are measured with: tables like those of a cluster, and flows that are
//! known by a number alone, so that no measurement waits for a list of them.

use std::net::Ipv4Addr;
use std::sync::Arc;

use spillway_engine::fib::{Fib, NextHop, Route, RouteTarget, Rule, RuleAction};
use spillway_engine::policy::{NatOptions, Policies, Policy};
use spillway_engine::tables::{
    Device, EgressAddress, FamilyInput, Neighbour, Peer, Tables, TablesInput,
};
use spillway_engine::{Engine, EngineConfig, Nanos, Timeouts};

/// The address that all flows leave with.
pub(super) const EGRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// The next hop's link address, and that of the device that leads to it.
pub(super) const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub(super) const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(super) const SECOND: Nanos = 1_000_000_000;

const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const TUNNEL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);
const UPLINK: u16 = 0;
const UNDERLAY: u16 = 1;

/// Nodes whose pods send.
const NODES: u32 = 16;
/// Flows of each pod, as in CSIT's NAT suites.
const FLOWS_PER_POD: u32 = 63;
/// Remote addresses: a power of two.
const REMOTES: u32 = 1024;
/// The first address of the pods, and of the remotes (RFC 2544's network).
const FIRST_POD: u32 = 0x0a00_0001;
const FIRST_REMOTE: u32 = 0xc612_0000;
const PORTS_FIRST: u16 = 1024;

/// One flow as its pod knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) pod: Ipv4Addr,
    pub(super) pod_port: u16,
    pub(super) remote: Ipv4Addr,
    pub(super) remote_port: u16,
    pub(super) node: Ipv4Addr,
}

impl Flow {
    /// Flow `number`: no two have the same tuple. 63 to a pod, ports and remotes spread.
    pub(super) fn new(number: u32) -> Self {
        let (pod, nth) = (number / FLOWS_PER_POD, number % FLOWS_PER_POD);
        let ports = u32::from(u16::MAX - PORTS_FIRST) + 1;
        let port = (pod.wrapping_mul(7919).wrapping_add(nth * 1021)) % ports;
        let remote = number.wrapping_mul(0x9e37_79b1) >> 22 & (REMOTES - 1);
        Self {
            pod: Ipv4Addr::from_bits(FIRST_POD + pod),
            pod_port: PORTS_FIRST + u16::try_from(port).unwrap_or_default(),
            remote: Ipv4Addr::from_bits(FIRST_REMOTE + remote),
            remote_port: 443,
            node: node(pod % NODES),
        }
    }

    /// The same flow towards one remote: all such flows compete for the ports of one address.
    pub(super) fn towards_one_remote(self) -> Self {
        Self { remote: Ipv4Addr::from_bits(FIRST_REMOTE), ..self }
    }
}

fn node(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(192, 0, 2, 1).to_bits() + number)
}

/// Tables under which the flows below `flows` may leave: one policy of two prefixes, a default route.
pub(super) fn tables(flows: u32) -> Tables {
    let everywhere = ipnet::Ipv4Net::default();
    let pods = (0..flows.div_ceil(FLOWS_PER_POD)).map(|pod| Ipv4Addr::from_bits(FIRST_POD + pod));
    let policy = Policy {
        name: "bench".to_owned(),
        egress_addresses: vec![EGRESS],
        destinations: vec![everywhere],
        excluded: vec![ipnet::Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8)],
        pods: pods.collect(),
        pod_groups: Vec::new(),
        options: NatOptions::default(),
    };
    let hop = |device, gateway| {
        RouteTarget::Forward(vec![NextHop { device: Some(device), gateway, weight: 1 }])
    };
    let nodes = ipnet::Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 2, 0), 24);
    let routes = vec![
        Route { table: 254, destination: everywhere, metric: 0, target: hop(UPLINK, Some(ROUTER)) },
        Route { table: 254, destination: nodes, metric: 0, target: hop(UNDERLAY, None) },
    ];
    let rule = Rule { from: everywhere, to: everywhere, action: RuleAction::Table(254) };
    let peers = (0..NODES).map(|number| Peer {
        address: node(number),
        tunnel_address: TUNNEL,
        direct: None,
    });
    let neighbours = (0..NODES).map(|number| Neighbour {
        device: UNDERLAY,
        address: node(number),
        mac: [2, 0, 0, 0, 2, 7],
    });
    let router = Neighbour { device: UPLINK, address: ROUTER, mac: ROUTER_MAC };
    Tables::new(TablesInput {
        epoch: 1,
        devices: vec![
            Device { mac: UPLINK_MAC, mtu: 1500 },
            Device { mac: [2, 0, 0, 0, 0, 2], mtu: 1500 },
        ],
        peers: peers.collect(),
        reply_vni: None,
        tunnel_port: 8472,
        v4: FamilyInput {
            policies: Policies::new(vec![policy], &[]),
            egress_addresses: vec![EgressAddress {
                address: EGRESS,
                port_first: PORTS_FIRST,
                port_last: u16::MAX,
                own: true,
                announce: None,
            }],
            fib: Fib::new(&[rule], routes),
            neighbours: neighbours.chain([router]).collect(),
        },
        ..TablesInput::default()
    })
}

/// The engine of worker 0 of `workers`, to whom the classes of ports are dealt in turn.
pub(super) fn engine(flows_max: u32) -> Engine {
    Engine::new(&EngineConfig {
        worker: 0,
        owners: [0; 256],
        flows_max,
        flows_max_ipv6: 0,
        hash_key: [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 7],
        seed: 1,
        timeouts: Timeouts::default(),
        pod_flows: Arc::default(),
        mss_clamp: true,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_flows_have_the_same_tuple() {
        let flows = 500_000;
        let tuples = (0..flows)
            .map(Flow::new)
            .map(|flow| (flow.pod, flow.pod_port, flow.remote, flow.remote_port));
        assert_eq!(tuples.collect::<HashSet<_>>().len(), flows as usize);
    }
}
