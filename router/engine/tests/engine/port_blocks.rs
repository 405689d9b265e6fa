//! Pods with whole blocks of ports, with several workers.

use std::collections::{BTreeMap, BTreeSet};

use spillway_engine::steer::{Owners, Run};
use spillway_engine::{DropReason, EngineConfig, NotRestored, PortBlock, PortOutlook, SavedFlow};

use crate::common::build::{Body, End, packet};
use crate::common::cluster::Cluster;
use crate::common::gateway::*;

const REMOTE_END: End = (REMOTE, 443);

fn config_with(block: u16, blocks_per_pod: u8) -> EngineConfig {
    let owners = Owners { run: Run::of(block).unwrap(), ..config().owners };
    EngineConfig { owners, blocks_per_pod, flows_max: 1 << 16, ..config() }
}

fn blocks(cluster: &Cluster) -> Vec<(usize, PortBlock)> {
    let mut all = Vec::new();
    for (worker, engine) in cluster.engines.iter().enumerate() {
        let (mut page, mut cursor) = (Vec::new(), Some(0));
        while let Some(from) = cursor {
            cursor = engine.port_blocks(from, 10, &mut page);
        }
        all.extend(page.into_iter().map(|block| (worker, block)));
    }
    all
}

fn send(cluster: &mut Cluster, body: Body, pod: End) -> Result<u16, DropReason> {
    let worker = cluster.worker(pod.1);
    let sent = cluster.process(worker, tunnel_frame(&packet(body, pod, REMOTE_END, 64)));
    sent.map(|(_, frame)| u16::from_be_bytes([frame[34], frame[35]]))
}

#[test]
fn flows_and_their_replies_are_in_blocks_of_their_pod_with_any_number_of_workers() {
    for workers in [1, 2, 3] {
        let mut cluster = Cluster::new(workers, config_with(64, 16), tables());
        for pod in [POD, OTHER_POD] {
            for port in (20_000..23_000).step_by(7) {
                let public = send(&mut cluster, Body::Udp, (pod, port)).unwrap();
                let reply = packet(Body::Udp, REMOTE_END, (EGRESS, public), 64);
                let worker = cluster.worker(public);
                assert_eq!(cluster.process(worker, reply_frame(&reply)).unwrap().0, UNDERLAY);
            }
        }
        let mut of = BTreeMap::new();
        for (worker, block) in blocks(&cluster) {
            assert_eq!((block.first % 64, block.last), (0, block.first + 63));
            assert_eq!(cluster.worker(block.first), worker);
            assert_eq!(of.insert(block.first, block.pod), None);
        }
        for flow in cluster.flows() {
            let port = flow.reply.destination_port;
            assert_eq!(of.get(&(port / 64 * 64)), Some(&flow.original.source));
        }
        // 429 flows of each pod: no more blocks than they need, but one for each worker.
        let count = |pod: std::net::IpAddr| of.values().filter(|of| **of == pod).count();
        for pod in [POD, OTHER_POD] {
            let needed = 429_usize.div_ceil(64);
            assert!((needed..=needed + 2 * usize::from(workers)).contains(&count(pod.into())));
        }
        assert_eq!(cluster.sum(|counters| counters.port_blocks), of.len() as u64);
        cluster.assert_sums_close();
    }
}

#[test]
fn a_pod_that_has_all_its_blocks_is_refused_and_others_are_not() {
    let mut cluster = Cluster::new(2, config_with(8, 2), tables());
    let open = |cluster: &mut Cluster, pod| {
        let opened = (20_000..20_600).map(|port| send(cluster, Body::Udp, (pod, port)));
        opened.filter_map(Result::ok).collect::<BTreeSet<u16>>().len()
    };
    // Two blocks with each of the two workers: who has none left asks the other one.
    assert_eq!(open(&mut cluster, POD), 32);
    assert_eq!(open(&mut cluster, OTHER_POD), 32);
    assert_eq!(cluster.sum(|counters| counters.dropped_for(DropReason::PortsExhausted)), 2 * 568);
    assert!(cluster.sum(|counters| counters.leases_crowded) >= 2 * 568);
    cluster.assert_sums_close();
}

#[test]
fn an_echo_and_a_mapping_are_in_blocks_too() {
    let mut input = tables();
    let options = spillway_engine::policy::NatOptions {
        endpoint_independent: true,
        ..spillway_engine::policy::NatOptions::default()
    };
    let policy = policy(EGRESS, &[POD], &["203.0.113.0/24"]);
    let policy = spillway_engine::policy::Policy { options, ..policy };
    input.v4.policies = spillway_engine::policy::Policies::new(vec![policy], &[]);
    let mut gateway = Gateway::with(config_with(64, 1), input);
    for (body, port) in [(Body::Udp, 4_000), (Body::EchoRequest, 77), (Body::Syn, 4_001)] {
        gateway.sent(tunnel_frame(&packet(body, (POD, port), REMOTE_END, 64)));
    }
    gateway.sent(tunnel_frame(&packet(Body::Udp, (POD, 4_000), (REMOTE, 444), 64)));
    let firsts = gateway.flows().into_iter().map(|flow| flow.reply.destination_port / 64);
    assert_eq!(firsts.collect::<BTreeSet<u16>>().len(), 1);
    let mut page = Vec::new();
    assert_eq!(gateway.engine.port_blocks(1 << 31, 10, &mut page), None, "none of IPv6");
    gateway.engine.port_blocks(0, 10, &mut page);
    assert_eq!(page.iter().map(|block| block.flows).collect::<Vec<_>>(), [4]);
}

#[test]
fn an_outlook_says_whether_there_is_a_port() {
    let mut gateway = Gateway::with(config_with(8, 1), tables());
    let frame = |port| tunnel_frame(&packet(Body::Udp, (POD, port), REMOTE_END, 64));
    for port in 1..=8 {
        let outlook = gateway.engine.outlook(gateway.now, &gateway.tables, &mut frame(port));
        assert_eq!(outlook.port, Some(Ok(PortOutlook::Drawn)));
        gateway.sent(frame(port));
    }
    let outlook = gateway.engine.outlook(gateway.now, &gateway.tables, &mut frame(9));
    assert_eq!(outlook.port, Some(Err(DropReason::PortsExhausted)));
    assert_eq!(gateway.dropped(frame(9)), DropReason::PortsExhausted);
}

#[test]
fn after_a_restart_with_blocks_no_block_is_of_two_pods() {
    let mut before = Gateway::with(config(), tables());
    // Without blocks each pod keeps its ports.
    for (pod, port) in [(POD, 6_400), (OTHER_POD, 6_401), (OTHER_POD, 6_464), (POD, 6_402)] {
        before.sent(tunnel_frame(&packet(Body::Udp, (pod, port), REMOTE_END, 64)));
    }
    let mut saved: Vec<SavedFlow> = before.engine.saved().collect();
    saved.sort_by_key(|flow| (flow.egress_port != 6_400, flow.egress_port));
    let mut after = Gateway::with(config_with(64, 4), tables());
    let restored = saved.iter().map(|flow| after.engine.restore(before.now, flow));
    let expected = [Ok(()), Err(NotRestored::PortBlock), Ok(()), Ok(())];
    assert_eq!(restored.collect::<Vec<_>>(), expected);
    // A flow that is refused for another reason leaves no trace in its block.
    assert_eq!(after.engine.restore(before.now, &saved[0]), Err(NotRestored::Taken));
    let mut page = Vec::new();
    after.engine.port_blocks(0, 10, &mut page);
    page.sort_by_key(|block| block.first);
    let seen = page.iter().map(|block| (block.first, block.pod, block.flows));
    assert_eq!(seen.collect::<Vec<_>>(), [(6_400, POD.into(), 2), (6_464, OTHER_POD.into(), 1)]);
}
