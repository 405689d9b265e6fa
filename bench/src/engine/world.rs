//! What the engine and its peers are measured with: tables like those of a cluster, and flows that are
//! known by a number alone, so that no measurement waits for a list of them.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::Ipv4Net;
use spillway_engine::fib::{Fib, NextHop, Route, RouteTarget, Rule, RuleAction};
use spillway_engine::policy::{NatOptions, Policies, Policy};
use spillway_engine::tables::{
    Device, EgressAddress, FamilyInput, Neighbour, Peer, Tables, TablesInput,
};
use spillway_engine::{Engine, EngineConfig, Family, Nanos, Timeouts};

use super::family::AddressFamily;

/// The next hop's link address, and that of the device that leads to it.
pub(super) const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub(super) const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(super) const SECOND: Nanos = 1_000_000_000;

const TUNNEL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);
const UPLINK: u16 = 0;
const UNDERLAY: u16 = 1;
/// The only table of routes.
const MAIN: u32 = 254;

/// Nodes whose pods send.
const NODES: u32 = 16;
/// Flows of each pod, as in CSIT's NAT suites.
const FLOWS_PER_POD: u32 = 63;
/// Remote addresses: a power of two.
const REMOTES: u32 = 1024;
const PORTS_FIRST: u16 = 1024;

/// One flow as its pod knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) family: AddressFamily,
    pub(super) pod: IpAddr,
    pub(super) pod_port: u16,
    pub(super) remote: IpAddr,
    pub(super) remote_port: u16,
    pub(super) node: Ipv4Addr,
}

impl Flow {
    /// Flow `number` of a family: no two have the same tuple. 63 to a pod, ports and remotes spread.
    pub(super) fn new(family: AddressFamily, number: u32) -> Self {
        let (pod, nth) = (number / FLOWS_PER_POD, number % FLOWS_PER_POD);
        let ports = u32::from(u16::MAX - PORTS_FIRST) + 1;
        let port = (pod.wrapping_mul(7919).wrapping_add(nth * 1021)) % ports;
        let remote = number.wrapping_mul(0x9e37_79b1) >> 22 & (REMOTES - 1);
        Self {
            family,
            pod: family.pod(pod),
            pod_port: PORTS_FIRST + u16::try_from(port).unwrap_or_default(),
            remote: family.remote(remote),
            remote_port: 443,
            node: node(pod % NODES),
        }
    }

    /// The same flow towards one remote: all such flows compete for the ports of one address.
    pub(super) fn towards_one_remote(self) -> Self {
        Self { remote: self.family.remote(0), ..self }
    }
}

fn node(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(192, 0, 2, 1).to_bits() + number)
}

/// Tables under which the flows below `flows` of either family may leave, through the same tunnels.
pub(super) fn tables(flows: u32) -> Tables {
    let nodes = Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 2, 0), 24);
    let target = forward(UNDERLAY, None);
    let to_nodes = Route { table: MAIN, destination: nodes, metric: 0, target };
    let peers = (0..NODES).map(|number| Peer {
        key: node(number),
        address: node(number).into(),
        tunnel_address: TUNNEL.into(),
        direct: None,
    });
    let neighbours = (0..NODES).map(|number| Neighbour {
        device: UNDERLAY,
        address: node(number),
        mac: [2, 0, 0, 0, 2, 7],
    });
    Tables::new(TablesInput {
        epoch: 1,
        devices: vec![
            Device { mac: UPLINK_MAC, mtu: 1500 },
            Device { mac: [2, 0, 0, 0, 0, 2], mtu: 1500 },
        ],
        peers: peers.collect(),
        tunnel_port: 8472,
        v4: input(AddressFamily::Ipv4, flows, vec![to_nodes], neighbours.collect()),
        v6: input(AddressFamily::Ipv6, flows, Vec::new(), Vec::new()),
        ..TablesInput::default()
    })
}

/// One policy of two prefixes and a default route, beside what else there is of the family.
fn input<F: Family>(
    family: AddressFamily,
    flows: u32,
    mut routes: Vec<Route<F>>,
    mut neighbours: Vec<Neighbour<F>>,
) -> FamilyInput<F> {
    let egress = F::address(family.egress());
    let router = F::address(family.router());
    let pods = (0..flows.div_ceil(FLOWS_PER_POD)).filter_map(|pod| F::address(family.pod(pod)));
    let policy = Policy {
        name: "bench".to_owned(),
        egress_addresses: egress.into_iter().collect(),
        destinations: vec![F::EVERYTHING],
        excluded: F::net(family.pods()).into_iter().collect(),
        pods: pods.collect(),
        pod_groups: Vec::new(),
        options: NatOptions::default(),
    };
    let target = forward(UPLINK, router);
    routes.push(Route { table: MAIN, destination: F::EVERYTHING, metric: 0, target });
    let router = router.map(|address| Neighbour { device: UPLINK, address, mac: ROUTER_MAC });
    neighbours.extend(router);
    let rule = Rule { from: F::EVERYTHING, to: F::EVERYTHING, action: RuleAction::Table(MAIN) };
    let egress = egress.map(|address| EgressAddress {
        address,
        port_first: PORTS_FIRST,
        port_last: u16::MAX,
        own: true,
        announce: None,
    });
    FamilyInput {
        policies: Policies::new(vec![policy], &[]),
        egress_addresses: egress.into_iter().collect(),
        fib: Fib::new(&[rule], routes),
        neighbours,
    }
}

fn forward<F: Family>(device: u16, gateway: Option<F::Address>) -> RouteTarget<F> {
    RouteTarget::Forward(vec![NextHop { device: Some(device), gateway, weight: 1 }])
}

/// The engine of the only worker, with room for flows of a family; with `events` it takes note of their
/// beginning and end.
pub(super) fn engine(family: AddressFamily, flows: u32, events: bool) -> Engine {
    let (flows_max, flows_max_ipv6) = match family {
        AddressFamily::Ipv4 => (flows, 0),
        // There is no engine without room for IPv4.
        AddressFamily::Ipv6 => (1, flows),
    };
    Engine::new(&EngineConfig {
        worker: 0,
        owners: [0; 256].into(),
        blocks_per_pod: 0,
        flows_max,
        flows_max_ipv6,
        hash_key: [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 7],
        seed: 1,
        timeouts: Timeouts::default(),
        pod_flows: Arc::default(),
        mss_clamp: true,
        events,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_flows_have_the_same_tuple() {
        let flows = 500_000;
        for family in [AddressFamily::Ipv4, AddressFamily::Ipv6] {
            let tuples = (0..flows)
                .map(|number| Flow::new(family, number))
                .map(|flow| (flow.pod, flow.pod_port, flow.remote, flow.remote_port));
            assert_eq!(tuples.collect::<HashSet<_>>().len(), flows as usize, "{family:?}");
        }
    }
}
