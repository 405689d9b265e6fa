//! Flows that live with another worker than the owner of their pod's port, which had no port left.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use spillway_engine::policy::{NatOptions, Policies, Policy};
use spillway_engine::steer::class;
use spillway_engine::{DropReason, EngineConfig, Ticket, Verdict};

use crate::common::build::{Body, End, packet};
use crate::common::cluster::Cluster;
use crate::common::gateway::*;

const REMOTE_END: End = (REMOTE, 443);

/// A cluster with so many ports on the egress address.
fn cluster(workers: u8, port_first: u16, port_last: u16) -> Cluster {
    let mut input = tables();
    input.v4.egress_addresses[0].port_first = port_first;
    input.v4.egress_addresses[0].port_last = port_last;
    let config = EngineConfig { flows_max: 1 << 17, ..config() };
    Cluster::new(workers, config, input)
}

fn from_pod(cluster: &mut Cluster, body: Body, pod: End, remote: End) -> Result<u16, DropReason> {
    let worker = cluster.worker(pod.1);
    let outcome = cluster.process(worker, tunnel_frame(&packet(body, pod, remote, 64)));
    outcome.map(|(device, frame)| {
        assert_eq!(device, UPLINK);
        u16::from_be_bytes([frame[34], frame[35]])
    })
}

#[test]
fn every_port_is_leased_before_one_is_refused_with_any_number_of_workers() {
    for workers in [1, 2, 4] {
        let mut cluster = cluster(workers, 1024, 65_535);
        let mut leased = BTreeSet::new();
        // Two pods, so that most ports are wanted twice, and ports below 1024 have to move.
        let wanted =
            (0..=u16::MAX).map(|port| (POD, port)).chain((1..1000).map(|p| (OTHER_POD, p)));
        let mut refused = 0;
        for pod in wanted {
            match from_pod(&mut cluster, Body::Udp, pod, REMOTE_END) {
                Ok(port) => assert!(leased.insert(port), "{port} twice"),
                Err(reason) => {
                    assert_eq!(reason, DropReason::PortsExhausted);
                    refused += 1;
                }
            }
        }
        assert_eq!((leased.len(), refused), (64_512, 65_536 + 999 - 64_512), "{workers} workers");
        assert_eq!(cluster.sum(|c| c.flows_live), 64_512);
        assert_eq!(cluster.sum(|c| c.dropped_for(DropReason::PortsExhausted)), refused);
        cluster.assert_sums_close();
        // Towards another remote every port is free.
        let other = (REMOTE, 80);
        assert_eq!(from_pod(&mut cluster, Body::Udp, (OTHER_POD, 2000), other), Ok(2000));
    }
}

#[test]
fn pods_whose_packets_all_come_to_one_worker_get_every_workers_ports() {
    for workers in [2, 4] {
        let pods: Vec<Ipv4Addr> = (1..=8).map(|host| Ipv4Addr::new(10, 0, 3, host)).collect();
        let mut cluster = cluster(workers, 1024, 65_535);
        let policy = policy(EGRESS, &pods, &["203.0.113.0/24"]);
        cluster.input.v4.policies = Policies::new(vec![policy], &[]);
        cluster.publish();
        let ports: Vec<u16> = (0..=u16::MAX).filter(|port| cluster.worker(*port) == 0).collect();
        let wanted = pods.iter().flat_map(|pod| ports.iter().map(|port| (*pod, *port)));
        let wanted: Vec<End> = wanted.take(64_512 + 100).collect();
        let mut leased = BTreeSet::new();
        for pod in &wanted[..64_512] {
            let port = from_pod(&mut cluster, Body::Udp, *pod, REMOTE_END);
            assert!(leased.insert(port.unwrap()), "{port:?} twice");
        }
        for pod in &wanted[64_512..] {
            let refused = from_pod(&mut cluster, Body::Udp, *pod, REMOTE_END);
            assert_eq!(refused, Err(DropReason::PortsExhausted));
        }
        // Each is known again, wherever it lives.
        for pod in wanted[..64_512].iter().step_by(97) {
            let port = from_pod(&mut cluster, Body::Udp, *pod, REMOTE_END);
            assert!(leased.contains(&port.unwrap()), "{workers} workers");
        }
        assert_eq!(cluster.sum(|c| c.flows_live), 64_512);
        cluster.assert_sums_close();
    }
}

/// Ports of one worker's class only, wanted by pods of another's.
fn adopted(workers: u8) -> (Cluster, End, u16) {
    let mut cluster = cluster(workers, 40_000, 40_003);
    let owner_of = |cluster: &Cluster, port| cluster.worker(port);
    let foreign = (40_000..=40_003).map(|port| owner_of(&cluster, port)).collect::<BTreeSet<_>>();
    assert!(foreign.len() > 1, "the test needs ports of several workers: {foreign:?}");
    // All of one worker's ports go to flows of its own.
    let worker = cluster.worker(40_000);
    let own: Vec<u16> = (40_000..=40_003).filter(|p| cluster.worker(*p) == worker).collect();
    for port in &own {
        assert_eq!(from_pod(&mut cluster, Body::Syn, (POD, *port), REMOTE_END), Ok(*port));
    }
    let pod = (OTHER_POD, own[0]);
    let port = from_pod(&mut cluster, Body::Syn, pod, REMOTE_END).unwrap();
    assert_ne!(cluster.worker(port), worker);
    (cluster, pod, port)
}

#[test]
fn an_adopted_flow_works_both_ways_until_its_end() {
    let (mut cluster, pod, port) = adopted(2);
    let handed = cluster.sum(|c| c.handed_off);
    for body in [Body::Ack, Body::Ack, Body::Fin] {
        assert_eq!(from_pod(&mut cluster, body, pod, REMOTE_END), Ok(port), "{body:?}");
        let worker = cluster.worker(port);
        let reply = reply_frame(&packet(body, REMOTE_END, (EGRESS, port), 64));
        let (device, frame) = cluster.process(worker, reply).unwrap();
        assert_eq!((device, &frame[64 + 16..64 + 20]), (UNDERLAY, &OTHER_POD.octets()[..]));
        assert_eq!(frame[64 + 22..64 + 24], pod.1.to_be_bytes());
    }
    assert_eq!(cluster.sum(|c| c.handed_off) - handed, 3, "replies take no detour");
    cluster.assert_sums_close();
    // Closed on both sides: the flow ends soon, and a new SYN opens another, wherever.
    cluster.pass(15);
    assert_eq!(from_pod(&mut cluster, Body::Ack, pod, REMOTE_END), Err(DropReason::TcpNotSyn));
    assert!(from_pod(&mut cluster, Body::Syn, pod, REMOTE_END).is_ok());
    cluster.assert_sums_close();
}

#[test]
fn an_adopted_flow_outlives_the_silence_that_its_state_allows() {
    let (mut cluster, pod, port) = adopted(2);
    assert_eq!(from_pod(&mut cluster, Body::Ack, pod, REMOTE_END), Ok(port));
    let worker = cluster.worker(port);
    let reply = reply_frame(&packet(Body::Ack, REMOTE_END, (EGRESS, port), 64));
    cluster.process(worker, reply).unwrap();
    cluster.pass(7_000);
    assert_eq!(from_pod(&mut cluster, Body::Ack, pod, REMOTE_END), Ok(port));
}

#[test]
fn an_adopted_flow_is_remembered_though_its_pod_has_spoken_once() {
    let (mut cluster, pod, port) = adopted(2);
    cluster.pass(60);
    assert_eq!(from_pod(&mut cluster, Body::Ack, pod, REMOTE_END), Ok(port));
}

#[test]
fn an_endpoint_has_one_port_wherever_its_mapping_lives() {
    let mut cluster = cluster(2, 40_000, 40_003);
    let options = NatOptions { endpoint_independent: true, ..NatOptions::default() };
    let policy = policy(EGRESS, &[POD, OTHER_POD], &["203.0.113.0/24"]);
    cluster.input.v4.policies = Policies::new(vec![Policy { options, ..policy }], &[]);
    cluster.publish();
    let own: Vec<u16> = (40_000..=40_003).filter(|port| cluster.worker(*port) == 0).collect();
    for port in &own {
        assert_eq!(from_pod(&mut cluster, Body::Udp, (POD, *port), REMOTE_END), Ok(*port));
    }
    // Another pod's endpoint is adopted, and so is each of its flows.
    let pod = (OTHER_POD, own[0]);
    let port = from_pod(&mut cluster, Body::Udp, pod, REMOTE_END).unwrap();
    assert_eq!(cluster.worker(port), 1);
    // Its own worker has ports again, towards any remote; the endpoint keeps its port all the same.
    cluster.pass(200);
    from_pod(&mut cluster, Body::Udp, pod, REMOTE_END).unwrap();
    cluster.pass(110);
    assert_eq!(cluster.sum(|c| c.flows_live), 1);
    for remote in 1..10 {
        assert_eq!(from_pod(&mut cluster, Body::Udp, pod, (REMOTE, remote)), Ok(port));
        assert_eq!(from_pod(&mut cluster, Body::Udp, pod, (REMOTE, remote)), Ok(port));
    }
    // After its end the endpoint is its own worker's again.
    cluster.pass(310);
    assert_eq!(cluster.sum(|c| c.flows_live), 0);
    assert_eq!(from_pod(&mut cluster, Body::Udp, pod, REMOTE_END), Ok(pod.1));
    // Every port of both workers serves, before one is refused.
    let mut leased = BTreeSet::from([pod.1]);
    for port in (1..100).map(|step| 50_000 + step) {
        match from_pod(&mut cluster, Body::Udp, (POD, port), REMOTE_END) {
            Ok(port) => assert!(leased.insert(port)),
            Err(reason) => assert_eq!((reason, leased.len()), (DropReason::PortsExhausted, 4)),
        }
    }
    assert_eq!(leased.len(), 4);
    cluster.assert_sums_close();
}

#[test]
fn who_is_refused_leaves_nothing_behind() {
    let (mut cluster, ..) = adopted(2);
    for port in 1..60_000 {
        // All are leased after the first few.
        let outcome = from_pod(&mut cluster, Body::Syn, (OTHER_POD, port), REMOTE_END);
        assert!(port < 10 || outcome != Err(DropReason::RedirectsFull));
    }
    assert_eq!(cluster.sum(|c| c.flows_live), 4);
    assert_eq!(cluster.sum(|c| c.dropped_for(DropReason::RedirectsFull)), 0);
    cluster.assert_sums_close();
}

#[test]
fn a_worker_has_so_many_flows_with_others_at_most() {
    let mut input = tables();
    // Two classes of one worker against all others.
    input.v4.egress_addresses[0].port_first = 1024;
    let mut owners = [1; 256];
    owners[usize::from(class(5000))] = 0;
    let config = EngineConfig { flows_max: 1 << 18, owners: owners.into(), ..config() };
    let mut engine = spillway_engine::Engine::new(&config);
    let tables = spillway_engine::tables::Tables::new(input);
    let mut outcomes = std::collections::BTreeMap::new();
    // 256 ports a remote are its own; then it asks, and nobody answers.
    let ports: Vec<u16> = (0..=u16::MAX).filter(|p| class(*p) == class(5000)).collect();
    for remote in 0..300_u16 {
        for pod in [POD, OTHER_POD] {
            for port in &ports {
                let syn = packet(Body::Syn, (pod, *port), (REMOTE, remote), 64);
                let mut frame = tunnel_frame(&syn);
                let mut verdict = [Verdict::Await { until: 0 }];
                engine.process(SECOND, &tables, &mut [&mut frame], &mut verdict);
                let what = match verdict[0] {
                    Verdict::Transmit { .. } => "sent",
                    Verdict::HandOff { worker: 1, .. } => "asks",
                    Verdict::Drop(DropReason::RedirectsFull) => "full",
                    verdict => panic!("{verdict:?}"),
                };
                *outcomes.entry(what).or_insert(0) += 1;
            }
        }
    }
    assert_eq!(outcomes["asks"], 65_536);
    assert!(outcomes["full"] > 1000, "{outcomes:?}");
}

#[test]
fn what_cannot_be_handed_over_is_counted_as_dropped() {
    let mut owners = [1; 256];
    owners[usize::from(class(0))] = 0;
    let config = EngineConfig { owners: owners.into(), ..config() };
    let mut gateway = Gateway::with(config, tables());
    // A fragment of a flow of the other worker.
    let request = packet(Body::Udp, (POD, 5000), (REMOTE, 53), 64);
    let part = crate::common::build::changed(request, |bytes| {
        bytes[3] = 44;
        bytes[6] = 0x20;
    });
    let (verdict, frame) = gateway.process(tunnel_frame(&part));
    assert!(matches!(verdict, Verdict::HandOff { worker: 1, .. }), "{verdict:?}");
    assert_eq!(frame, tunnel_frame(&part), "untouched");
    gateway.engine.drop_handed_off();
    let counters = gateway.engine.counters();
    assert_eq!((counters.handed_off, counters.dropped_for(DropReason::HandOffFull)), (0, 1));
    assert_sum_closes(&counters);
}

#[test]
fn a_frame_handed_to_the_wrong_worker_does_no_harm() {
    let mut gateway = Gateway::new();
    let Gateway { engine, tables, now, .. } = &mut gateway;
    let mut frame = tunnel_frame(&packet(Body::Ack, (POD, 5000), REMOTE_END, 64));
    let verdict = engine.process_handed(*now, tables, &mut frame, Ticket::default());
    assert_eq!(verdict, Verdict::Drop(DropReason::TcpNotSyn));
    assert_sum_closes(&engine.counters());
}
