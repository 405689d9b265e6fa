//! The life of flows: states, timeouts, limits, and what is shown of them.

use spillway_engine::steer::class;
use spillway_engine::tables::EgressAddress;
use spillway_engine::{DropReason, EngineConfig, FlowState, Traffic, Tuple, Verdict};

use crate::common::build::{Body, End, packet, packet_with};
use crate::common::gateway::*;

const POD_END: End = (POD, 40_001);
const PUBLIC_END: End = (EGRESS, 40_001);
const REMOTE_END: End = (REMOTE, 443);

/// One packet of a test, by where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Pod(Body),
    Remote(Body),
}

fn play(gateway: &mut Gateway, packets: &[Step]) {
    for each in packets {
        gateway.sent(match *each {
            Step::Pod(body) => tunnel_frame(&packet(body, POD_END, REMOTE_END, 64)),
            Step::Remote(body) => reply_frame(&packet(body, REMOTE_END, PUBLIC_END, 64)),
        });
    }
}

#[test]
fn a_flow_lives_as_long_as_its_state_allows() {
    use Body::{
        Ack, Esp, Fin, Gre, Rst, SctpAbort, SctpData, SctpInit, SctpInitAck, Syn, SynAck, Udp,
    };
    use FlowState::{Closing, Established, HalfClosed, Opening};
    use Step::{Pod, Remote};

    let open = [Pod(Syn), Remote(SynAck), Pod(Ack)];
    let after = |packets: &[Step]| [&open[..], packets].concat();
    for (packets, state, timeout_s) in [
        (vec![Pod(Syn)], Opening, 240),
        (vec![Pod(Syn), Remote(SynAck)], Opening, 240),
        (after(&[]), Established, 7440),
        (vec![Pod(Syn), Pod(Fin)], Opening, 240),
        (after(&[Pod(Fin)]), HalfClosed, 900),
        (after(&[Remote(Fin)]), HalfClosed, 900),
        (after(&[Pod(Fin), Remote(Ack), Pod(Ack)]), HalfClosed, 900),
        (after(&[Pod(Fin), Remote(Fin)]), Closing, 10),
        (after(&[Pod(Fin), Remote(Fin), Pod(Ack)]), Closing, 10),
        (after(&[Remote(Rst)]), Closing, 10),
        (after(&[Pod(Rst)]), Closing, 10),
        (after(&[Pod(Fin), Remote(Fin), Pod(Syn)]), Opening, 240),
        (after(&[Remote(Rst), Pod(Syn), Remote(SynAck), Pod(Ack)]), Established, 7440),
        (vec![Pod(SctpInit), Remote(SctpInitAck)], Opening, 240),
        (vec![Pod(SctpInit), Remote(SctpInitAck), Pod(SctpData)], Established, 7440),
        (vec![Pod(SctpInit), Remote(SctpAbort(77))], Closing, 10),
        (vec![Pod(SctpInit), Remote(SctpAbort(76))], Opening, 240),
        (vec![Pod(SctpInit), Remote(SctpInitAck), Pod(SctpAbort(5))], Closing, 10),
        (vec![Pod(SctpInit), Pod(SctpAbort(5)), Pod(SctpInit)], Opening, 240),
        (vec![Pod(Gre)], Opening, 300),
        (vec![Pod(Esp), Remote(Esp)], Established, 300),
        (vec![Pod(Udp)], Opening, 300),
        (vec![Pod(Udp), Remote(Udp)], Established, 300),
    ] {
        let mut gateway = Gateway::new();
        play(&mut gateway, &packets);
        assert_eq!(gateway.flows()[0].state, state, "{packets:?}");
        gateway.now += (timeout_s - 1) * SECOND;
        gateway.engine.expire(gateway.now, &gateway.tables);
        assert_eq!(gateway.flows().len(), 1, "{packets:?} within its time");
        // One second for the rest of the timeout, three for a pass of the sweep.
        gateway.pass(4);
        assert_eq!(gateway.flows().len(), 0, "{packets:?} after its time");
        let counters = gateway.engine.counters();
        assert_eq!((counters.flows_expired, counters.flows_live), (1, 0));
    }
}

/// RFC 5961, section 3: whoever cannot see the connection must not end it.
#[test]
fn a_blind_rst_from_outside_ends_nothing_and_reaches_the_pod() {
    use Body::{Ack, AckOf, RstAt, Syn, SynAck};
    use FlowState::{Closing, Established};
    use Step::{Pod, Remote};

    const WINDOW: u32 = 1 << 20;
    for (expected, rst, state) in [
        (5000, 5000, Closing),
        (5000, 5000 + WINDOW - 1, Closing),
        (5000, 5000 + WINDOW, Established),
        (5000, 4999, Established),
        (5000, 5000 + (1 << 31), Established),
        (u32::MAX, 10, Closing),
        (u32::MAX, u32::MAX - 1, Established),
    ] {
        let mut gateway = Gateway::new();
        let mut steps = vec![Pod(Syn), Remote(SynAck), Pod(AckOf(expected))];
        // An older segment that was overtaken takes nothing back.
        steps.extend([Pod(AckOf(expected.wrapping_sub(1000))), Remote(Ack)]);
        play(&mut gateway, &steps);
        gateway.pass(7000);
        // `play` asserts that it is sent on.
        play(&mut gateway, &[Remote(RstAt(rst))]);
        assert_eq!(gateway.flows()[0].state, state, "{expected}, {rst}");
        // A RST that is not believed does not keep the flow either.
        gateway.pass(444);
        let left = gateway.flows().len();
        assert_eq!(left, 0, "{expected}, {rst}");
    }
}

/// A server that listens nowhere answers the SYN with a RST before the pod has acknowledged.
#[test]
fn a_refused_connection_gives_its_port_back_within_seconds() {
    let mut gateway = Gateway::new();
    play(&mut gateway, &[Step::Pod(Body::Syn), Step::Remote(Body::RstAt(0))]);
    assert_eq!(gateway.flows()[0].state, FlowState::Closing);
    gateway.pass(14);
    assert_eq!(gateway.flows().len(), 0);
}

/// What a pod sends of itself it means.
#[test]
fn a_pods_own_rst_ends_its_flow() {
    let mut gateway = Gateway::new();
    let open = [Step::Pod(Body::Syn), Step::Remote(Body::SynAck), Step::Pod(Body::Ack)];
    play(&mut gateway, &open);
    play(&mut gateway, &[Step::Pod(Body::RstAt(77))]);
    assert_eq!(gateway.flows()[0].state, FlowState::Closing);
}

#[test]
fn an_echo_lives_for_a_minute() {
    let mut gateway = Gateway::new();
    gateway.sent(tunnel_frame(&packet(Body::EchoRequest, (POD, 5), (REMOTE, 0), 64)));
    gateway.pass(58);
    assert_eq!(gateway.flows().len(), 1);
    gateway.pass(6);
    assert_eq!(gateway.flows().len(), 0);
}

#[test]
fn packets_of_either_direction_keep_a_flow_alive() {
    for from in [Step::Pod(Body::Udp), Step::Remote(Body::Udp)] {
        let mut gateway = Gateway::new();
        play(&mut gateway, &[Step::Pod(Body::Udp)]);
        for _ in 0..10 {
            gateway.pass(200);
            play(&mut gateway, &[from]);
        }
        assert_eq!(gateway.flows().len(), 1, "{from:?}");
    }
}

#[test]
fn an_expired_flow_gives_its_port_back() {
    let mut input = tables();
    input.v4.egress_addresses = vec![EgressAddress {
        address: EGRESS,
        port_first: 2000,
        port_last: 2000,
        own: true,
        announce: None,
    }];
    let mut gateway = Gateway::with(config(), input);
    let first = tunnel_frame(&packet(Body::Udp, (POD, 5000), REMOTE_END, 64));
    let second = tunnel_frame(&packet(Body::Udp, (OTHER_POD, 5000), REMOTE_END, 64));
    gateway.sent(first);
    assert_eq!(gateway.dropped(second.clone()), DropReason::PortsExhausted);
    assert_eq!(gateway.dropped(second.clone()), DropReason::PortsExhausted);
    gateway.pass(304);
    gateway.sent(second);
}

#[test]
fn a_clock_that_goes_backwards_ends_no_flow() {
    let mut gateway = Gateway::new();
    play(&mut gateway, &[Step::Pod(Body::Udp)]);
    gateway.now -= 900 * SECOND;
    gateway.pass(4);
    assert_eq!(gateway.flows().len(), 1);
}

#[test]
fn a_full_table_refuses_newcomers_and_keeps_live_flows() {
    let mut gateway = Gateway::with(EngineConfig { flows_max: 300, ..config() }, tables());
    let frame = |port| tunnel_frame(&packet(Body::Udp, (POD, port), REMOTE_END, 64));
    for port in 2000..2300 {
        gateway.sent(frame(port));
    }
    for port in 2300..2400 {
        assert_eq!(gateway.dropped(frame(port)), DropReason::FlowTableFull);
    }
    for port in 2000..2300 {
        gateway.sent(frame(port));
    }
    gateway.pass(304);
    assert_eq!(gateway.engine.counters().flows_live, 0);
    gateway.sent(frame(2300));
}

#[test]
fn every_port_is_leased_before_one_is_refused() {
    let mut input = tables();
    input.v4.egress_addresses = vec![EgressAddress {
        address: EGRESS,
        port_first: 16_384,
        port_last: 29_999,
        own: false,
        announce: None,
    }];
    let mut gateway = Gateway::with(EngineConfig { flows_max: 20_000, ..config() }, input);
    let frame = |port| tunnel_frame(&packet(Body::Udp, (POD, port), REMOTE_END, 64));
    let ports = 29_999 - 16_384 + 1;
    let sent = (0..ports).map(|index| gateway.sent(frame(30_000 + index)).1);
    let leased: std::collections::BTreeSet<_> = sent.map(|sent| [sent[34], sent[35]]).collect();
    assert_eq!(leased.len(), usize::from(ports));
    assert!(leased.iter().all(|port| (16_384..=29_999).contains(&u16::from_be_bytes(*port))));
    assert_eq!(gateway.dropped(frame(100)), DropReason::PortsExhausted);
    let elsewhere = packet(Body::Udp, (POD, 100), (REMOTE, 444), 64);
    gateway.sent(tunnel_frame(&elsewhere));
}

#[test]
fn a_worker_leases_ports_of_its_own_classes_only() {
    let mut owners = [0; 256];
    owners.iter_mut().skip(1).step_by(2).for_each(|owner| *owner = 1);
    for worker in 0..2 {
        let config = EngineConfig { worker, owners: owners.into(), flows_max: 40_000, ..config() };
        let mut gateway = Gateway::with(config, tables());
        for pod in [POD, OTHER_POD] {
            for port in (1..30_000).filter(|port| owners[usize::from(class(*port))] == worker) {
                let frame = tunnel_frame(&packet(Body::Udp, (pod, port), REMOTE_END, 64));
                let (_, sent) = gateway.sent(frame);
                let leased = u16::from_be_bytes([sent[34], sent[35]]);
                assert_eq!(owners[usize::from(class(leased))], worker);
            }
        }
        let foreign = (1..).find(|port| owners[usize::from(class(*port))] != worker).unwrap();
        let frame = tunnel_frame(&packet(Body::Udp, (POD, foreign), REMOTE_END, 64));
        assert_eq!(gateway.dropped(frame), DropReason::WrongWorker);
    }
}

#[test]
fn a_record_tells_all_about_a_flow() {
    let mut gateway = Gateway::new();
    let started = gateway.now;
    let request = packet_with(Body::Udp, (POD, 111), REMOTE_END, 64, &[0; 72]);
    gateway.sent(tunnel_frame(&request));
    gateway.sent(tunnel_frame(&request));
    gateway.now += 5 * SECOND;
    let public = (EGRESS, gateway.flows()[0].reply.destination_port);
    gateway.sent(reply_frame(&packet_with(Body::Udp, REMOTE_END, public, 64, &[0; 172])));
    let flow = gateway.flows().remove(0);
    let original = Tuple {
        source: POD.into(),
        destination: REMOTE.into(),
        source_port: 111,
        destination_port: 443,
        protocol: 17,
    };
    assert_eq!(flow.original, original);
    assert_eq!(flow.reply.source, REMOTE);
    assert_eq!((flow.reply.destination, flow.reply.source_port), (EGRESS.into(), 443));
    assert_eq!(flow.forward_traffic, Traffic { packets: 2, bytes: 200 });
    assert_eq!(flow.reply_traffic, Traffic { packets: 1, bytes: 200 });
    assert_eq!((flow.policy, flow.peer, flow.epoch), (0, PEER, 1));
    let close = |time: u64, expected: u64| time <= expected && expected - time < SECOND / 50;
    assert!(close(flow.created_ns, started), "{flow:?}");
    assert!(close(flow.last_seen_ns, started + 5 * SECOND), "{flow:?}");
}

#[test]
fn pages_show_every_flow_once() {
    let mut gateway = Gateway::new();
    for port in 2000..3000 {
        gateway.sent(tunnel_frame(&packet(Body::Udp, (POD, port), REMOTE_END, 64)));
    }
    let mut seen = Vec::new();
    let mut cursor = Some(0);
    while let Some(from) = cursor {
        let before = seen.len();
        cursor = gateway.engine.flows(from, 10, &mut seen);
        assert!(seen.len() - before < 10 + 15);
    }
    let ports: std::collections::BTreeSet<_> =
        seen.iter().map(|flow| flow.original.source_port).collect();
    assert_eq!((seen.len(), ports.len()), (1000, 1000));
    assert_eq!(gateway.engine.flows(u32::MAX, 10, &mut seen), None);
}

#[test]
fn frames_beyond_a_burst_are_not_looked_at() {
    let mut gateway = Gateway::new();
    let mut frames = vec![vec![0_u8; 20]; 70];
    let mut frames: Vec<&mut [u8]> = frames.iter_mut().map(Vec::as_mut_slice).collect();
    let untouched = Verdict::Drop(DropReason::HoldQueueFull);
    let mut verdicts = [untouched; 70];
    gateway.engine.process(gateway.now, &gateway.tables, &mut frames, &mut verdicts);
    assert_eq!(gateway.engine.counters().received, 64);
    assert_eq!(verdicts[63], Verdict::Drop(DropReason::UnknownKind));
    assert_eq!(verdicts[64], untouched);
}
