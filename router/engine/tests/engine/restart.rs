//! Flows that go on with another engine: other keys, other epochs, another number of workers.

use std::net::Ipv4Addr;

use proptest::prelude::*;
use spillway_engine::policy::{NatOptions, Policies, Policy};
use spillway_engine::steer::class;
use spillway_engine::tables::{EPOCH_NONE, ReplyVni, Tables};
use spillway_engine::{
    DropReason, EngineConfig, FlowRecord, FlowState, NotRestored, SavedDirection, SavedFlow,
    Timeouts, Traffic, Tuple,
};

use crate::common::build::{Body, End, packet};
use crate::common::cluster::Cluster;
use crate::common::gateway::*;

const POD_END: End = (POD, 5000);
const REMOTE_END: End = (REMOTE, 443);
/// Some time before a gateway's start, to the tick.
const EARLIER: u64 = 50_000 << 24;

fn from_pod(body: Body, pod: Ipv4Addr) -> Vec<u8> {
    let remote = if body == Body::EchoRequest { (REMOTE, 0) } else { REMOTE_END };
    tunnel_frame(&packet(body, (pod, POD_END.1), remote, 64))
}

fn saved(gateway: &Gateway) -> Vec<SavedFlow> {
    let mut flows: Vec<_> = gateway.engine.saved().collect();
    flows.sort_by_key(|flow| (flow.original, flow.egress_port));
    flows
}

/// Another process's engine, with the same flows and, after many changes, another epoch.
fn restarted(before: &Gateway) -> Gateway {
    let config = EngineConfig { hash_key: [9, 8, 7, 6], seed: 77, ..config() };
    let mut gateway = Gateway::with(config, before.input.clone());
    gateway.now = before.now;
    for flow in before.engine.saved() {
        gateway.engine.restore(before.now, &flow).unwrap();
    }
    gateway
}

/// A flow that was saved by nobody.
fn made_up() -> SavedFlow {
    let direction = SavedDirection {
        progress: 1,
        last_seen_ns: EARLIER,
        traffic: Traffic { packets: 1, bytes: 60 },
    };
    SavedFlow {
        original: Tuple {
            source: POD.into(),
            destination: REMOTE.into(),
            source_port: 5000,
            destination_port: 443,
            protocol: 17,
        },
        egress: EGRESS.into(),
        egress_port: 5000,
        created_ns: EARLIER,
        expected: 0,
        forward: direction,
        reply: direction,
        peer: PEER,
        inner_mac: POD_MAC,
        vni: VNI,
    }
}

#[test]
fn flows_of_every_protocol_go_on_byte_for_byte() {
    use Body::*;
    let mut before = Gateway::new();
    for opening in [Syn, Udp, EchoRequest, SctpInit] {
        // The second pod's port is another one.
        before.sent(from_pod(opening, POD));
        before.sent(from_pod(opening, OTHER_POD));
    }
    before.sent(from_pod(Gre, POD));
    let mut after = restarted(&before);
    assert_eq!(after.engine.counters().flows_restored, 9);
    assert_eq!(after.engine.counters().flows_live, 9);

    let replies: Vec<Vec<u8>> = before
        .flows()
        .iter()
        .map(|flow| {
            let body = match flow.original.protocol {
                1 => EchoReply,
                6 => SynAck,
                47 => Gre,
                132 => SctpInitAck,
                _ => Udp,
            };
            let (source, port) = (flow.reply.destination, flow.reply.destination_port);
            reply_frame(&packet(body, (REMOTE.into(), flow.reply.source_port), (source, port), 64))
        })
        .collect();
    assert_eq!(replies.len(), 9);
    let same = |before: &mut Gateway, after: &mut Gateway, frame: Vec<u8>| {
        let expected = before.sent(frame.clone());
        let (device, sent) = after.sent(frame);
        // The outer source port is by the key of the hash.
        let is_reply = device == UNDERLAY;
        let parts = |frame: &[u8]| {
            if is_reply { [&frame[..34], &frame[36..]].concat() } else { frame.to_vec() }
        };
        assert_eq!((device, parts(&sent)), (expected.0, parts(&expected.1)));
    };
    for reply in replies {
        same(&mut before, &mut after, reply);
    }
    for body in [Ack, Udp, EchoRequest, SctpData] {
        same(&mut before, &mut after, from_pod(body, POD));
        same(&mut before, &mut after, from_pod(body, OTHER_POD));
    }
    same(&mut before, &mut after, from_pod(Gre, POD));
    assert_eq!(after.engine.counters().flows_created, 0);
    assert_eq!(saved(&before), saved(&after));
}

#[test]
fn what_is_shown_of_a_flow_goes_on_and_its_policy_is_looked_up_anew() {
    let mut before = Gateway::new();
    before.sent(from_pod(Body::Syn, POD));
    before.now += 60 * SECOND;
    before.sent(from_pod(Body::Ack, POD));
    let mut after = restarted(&before);
    let expected = before.flows();
    let shown = after.flows();
    let timeless = |flow: &FlowRecord| FlowRecord { epoch: 0, policy: 0, ..flow.clone() };
    assert_eq!(shown.iter().map(timeless).collect::<Vec<_>>(), [timeless(&expected[0])]);
    assert_eq!(shown[0].epoch, EPOCH_NONE);
    after.sent(from_pod(Body::Ack, POD));
    assert_eq!(after.flows()[0].epoch, 1);
}

#[test]
fn every_number_of_a_flow_is_saved() {
    let traffic = |packets, bytes| Traffic { packets, bytes };
    let flow = SavedFlow {
        created_ns: 3 << 24,
        expected: 0x8765_4321,
        forward: SavedDirection {
            progress: 3,
            last_seen_ns: 4 << 24,
            traffic: traffic(0xfe_dcba_9876, 0xfe_dcba_9876_5432),
        },
        reply: SavedDirection {
            progress: 5,
            last_seen_ns: 5 << 24,
            traffic: traffic(0x12_3456_789a, 0x12_3456_789a_bcde),
        },
        ..made_up()
    };
    let mut gateway = Gateway::new();
    gateway.engine.restore(gateway.now, &flow).unwrap();
    assert_eq!(saved(&gateway), [flow]);
}

#[test]
fn time_goes_on_meanwhile() {
    for (away_s, left) in [(280, 1), (320, 0)] {
        let mut before = Gateway::new();
        before.sent(from_pod(Body::Udp, POD));
        let flow = saved(&before)[0];
        let mut after = Gateway::new();
        after.now = before.now + away_s * SECOND;
        after.engine.restore(after.now, &flow).unwrap();
        after.pass(5);
        assert_eq!(after.flows().len(), left, "{away_s} s");
    }
}

#[test]
fn a_flow_goes_on_with_its_state() {
    let mut before = Gateway::new();
    before.sent(from_pod(Body::Syn, POD));
    before.sent(reply_frame(&packet(Body::SynAck, REMOTE_END, (EGRESS, 5000), 64)));
    before.sent(from_pod(Body::AckOf(7_000_000), POD));
    let mut after = restarted(&before);
    // What the pod has acknowledged is known, so a guessed RST is not believed.
    let reset = |at| reply_frame(&packet(Body::RstAt(at), REMOTE_END, (EGRESS, 5000), 64));
    after.sent(reset(6_000_000));
    assert_eq!(after.flows()[0].state, FlowState::Established);
    after.sent(reset(7_000_000));
    assert_eq!(after.flows()[0].state, FlowState::Closing);
    let mut last = restarted(&after);
    last.pass(14);
    assert!(last.flows().is_empty());
}

#[test]
fn before_the_first_document_packets_are_dropped_and_flows_stay() {
    let mut before = Gateway::new();
    before.sent(from_pod(Body::Udp, POD));
    let mut after = restarted(&before);
    let tables = std::mem::take(&mut after.tables);
    assert_eq!(after.tables.epoch(), Tables::default().epoch());
    let reply = reply_frame(&packet(Body::Udp, REMOTE_END, (EGRESS, 5000), 64));
    assert_eq!(after.dropped(from_pod(Body::Udp, POD)), DropReason::NotProgrammed);
    assert_eq!(after.dropped(reply.clone()), DropReason::NotProgrammed);
    assert_eq!(after.dropped(from_pod(Body::Syn, POD)), DropReason::NotProgrammed);
    after.pass(200);
    assert_eq!(after.flows().len(), 1);
    after.tables = tables;
    after.sent(reply);
    after.sent(from_pod(Body::Udp, POD));
}

#[test]
fn a_flow_that_is_no_longer_selected_ends() {
    let mut before = Gateway::new();
    before.sent(from_pod(Body::Udp, POD));
    before.input.v4.policies =
        Policies::new(vec![policy(EGRESS, &[OTHER_POD], &["0.0.0.0/0"])], &[]);
    let mut after = restarted(&before);
    assert_eq!(after.dropped(from_pod(Body::Udp, POD)), DropReason::Deselected);
    assert!(after.flows().is_empty());
}

#[test]
fn replies_go_back_as_before_until_a_packet_comes_another_way() {
    let reply = || reply_frame(&packet(Body::Udp, REMOTE_END, (EGRESS, 5000), 64));
    let mut before = Gateway::new();
    before.change(|input| input.reply_vni = Some(ReplyVni::Flow));
    before.sent(from_pod(Body::Udp, POD));
    let expected = before.sent(reply()).1;
    let mut after = restarted(&before);
    // Peers have other indices now.
    after.change(|input| input.peers.reverse());
    let back = after.sent(reply()).1;
    assert_eq!((&back[..34], &back[36..]), (&expected[..34], &expected[36..]));
    after.sent(from_pod(Body::Udp, POD));
    let back = after.sent(reply()).1;
    assert_eq!((&back[..34], &back[36..]), (&expected[..34], &expected[36..]));

    let moved = packet(Body::Udp, POD_END, REMOTE_END, 64);
    after.sent(tunnel_frame_from(DIRECT_PEER, POD_MAC, [1, 2, 3], &moved));
    let back = after.sent(reply()).1;
    assert_eq!((&back[30..34], &back[46..49]), (&DIRECT_PEER.octets()[..], &[1, 2, 3][..]));
}

#[test]
fn a_restored_flow_keeps_its_port_from_others() {
    let mut before = Gateway::new();
    before.sent(from_pod(Body::Udp, POD));
    let mut after = restarted(&before);
    let (_, sent) = after.sent(from_pod(Body::Udp, OTHER_POD));
    assert_ne!(sent[34..36], POD_END.1.to_be_bytes());
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let flow = made_up();
    let later = 1_000 * SECOND + 1;
    let with = |change: fn(&mut SavedFlow)| {
        let mut flow = made_up();
        change(&mut flow);
        flow
    };
    let another_pod = with(|flow| flow.original.source = OTHER_POD.into());
    let twice = with(|flow| flow.egress_port = 5001);
    let elsewhere = with(|flow| flow.original.destination_port = 444);
    let of_none = with(|flow| flow.original.protocol = 0);
    let unknown_bits = with(|flow| flow.reply.progress = 0x81);
    let mut coming = [flow; 3];
    coming[0].created_ns = later;
    coming[1].forward.last_seen_ns = later;
    coming[2].reply.last_seen_ns = later;

    let owners = std::array::from_fn(|class| u8::try_from(class % 2).unwrap());
    let foreign = (5000..).find(|port| owners[usize::from(class(*port))] == 1).unwrap();
    let own = (5000..).find(|port| owners[usize::from(class(*port))] == 0).unwrap();
    let mut foreign_egress = flow;
    (foreign_egress.original.source_port, foreign_egress.egress_port) = (own, foreign);

    let one = EngineConfig { flows_max: 1, ..config() };
    let of_two = EngineConfig { owners: owners.into(), ..config() };
    for (config, first, then, why) in [
        (config(), Some(flow), flow, NotRestored::Taken),
        (config(), Some(flow), another_pod, NotRestored::Taken),
        (config(), Some(flow), twice, NotRestored::Taken),
        (one, Some(flow), elsewhere, NotRestored::TableFull),
        (config(), None, of_none, NotRestored::Malformed),
        (config(), None, unknown_bits, NotRestored::Malformed),
        (config(), None, coming[0], NotRestored::Malformed),
        (config(), None, coming[1], NotRestored::Malformed),
        (config(), None, coming[2], NotRestored::Malformed),
        (of_two, None, foreign_egress, NotRestored::WrongWorker),
    ] {
        let mut gateway = Gateway::with(config, tables());
        if let Some(first) = first {
            gateway.engine.restore(gateway.now, &first).unwrap();
        }
        let counters = gateway.engine.counters();
        assert_eq!(gateway.engine.restore(gateway.now, &then), Err(why));
        assert_eq!(gateway.engine.counters(), counters);
        assert_eq!(saved(&gateway), first.into_iter().collect::<Vec<_>>());
    }
}

/// A flow whose replies come to another worker than the pod's packets: another had adopted it, or
/// there were fewer workers.
#[test]
fn a_flow_goes_on_with_the_worker_of_its_replies_and_is_handed_what_the_pod_sends() {
    let mut cluster = Cluster::new(2, config(), tables());
    let at = |worker| (5000..).find(|port| cluster.worker(*port) == worker).unwrap();
    let (pod_port, public_port) = (at(0), at(1));
    let mut flow = made_up();
    (flow.original.source_port, flow.egress_port) = (pod_port, public_port);
    let now = cluster.now;
    cluster.engines[1].restore(now, &flow).unwrap();
    cluster.engines[0].redirect(now, &flow.original, 1).unwrap();
    let request = || tunnel_frame(&packet(Body::Udp, (POD, pod_port), REMOTE_END, 64));
    let reply = packet(Body::Udp, REMOTE_END, (EGRESS, public_port), 64);
    let (_, sent) = cluster.process(0, request()).unwrap();
    assert_eq!(sent[34..36], public_port.to_be_bytes());
    cluster.process(1, reply_frame(&reply)).unwrap();
    let created: u64 = cluster.engines.iter().map(|e| e.counters().flows_created).sum();
    assert_eq!(created, 0);
    // Whoever is sent on finds its flow ended, and opens it where it would have been.
    cluster.pass(305);
    let (_, sent) = cluster.process(0, request()).unwrap();
    assert_eq!(sent[34..36], pod_port.to_be_bytes());
}

prop_compose! {
    /// Anything at all, mostly near to what a flow is.
    fn any_flow()(
        source_port in 4998..5003_u16,
        destination_port in 443..445_u16,
        egress_port in 4998..5003_u16,
        protocol in prop_oneof![Just(0), Just(1), Just(6), Just(17), any::<u8>()],
        progress: [u8; 2],
        times in proptest::array::uniform3(prop_oneof![0..1_001 * SECOND, any::<u64>()]),
        traffic: [u64; 4],
        expected: u32,
        peer: [u8; 4],
        egress: [u8; 4],
        is_listed: [bool; 2],
        inner_mac: [u8; 6],
        vni: [u8; 3],
    ) -> SavedFlow {
        let direction = |at: usize| SavedDirection {
            progress: progress[at] % 9,
            last_seen_ns: times[at],
            traffic: Traffic { packets: traffic[at], bytes: traffic[at + 2] },
        };
        SavedFlow {
            original: Tuple { source_port, destination_port, protocol, ..made_up().original },
            egress: if is_listed[0] { EGRESS.into() } else { egress.into() },
            egress_port,
            created_ns: times[2],
            expected,
            forward: direction(0),
            reply: direction(1),
            peer: if is_listed[1] { PEER } else { peer.into() },
            inner_mac,
            vni,
        }
    }
}

proptest! {
    /// Whatever was saved: what is restored is saved the same, and nothing of it stops the engine.
    #[test]
    fn nothing_that_is_restored_stops_the_engine(
        flows in proptest::collection::vec(any_flow(), 1..40)
    ) {
        let mut gateway = Gateway::new();
        let mut expected = Vec::new();
        for flow in &flows {
            if gateway.engine.restore(gateway.now, flow).is_ok() {
                expected.push(flow.original);
            }
        }
        expected.sort_unstable();
        let restored = saved(&gateway);
        prop_assert_eq!(restored.iter().map(|flow| flow.original).collect::<Vec<_>>(), expected);
        let mut again = Gateway::new();
        for flow in &restored {
            again.engine.restore(again.now, flow).unwrap();
        }
        prop_assert_eq!(saved(&again), restored);
        for port in 4998..5003 {
            for (pod, public) in [(Body::Ack, Body::Rst), (Body::Udp, Body::Udp)] {
                gateway.process(tunnel_frame(&packet(pod, (POD, port), REMOTE_END, 64)));
                gateway.process(reply_frame(&packet(public, REMOTE_END, (EGRESS, port), 64)));
            }
        }
        gateway.now += 8_000 * SECOND;
        gateway.pass(5);
        prop_assert_eq!(gateway.engine.counters().flows_live, 0);
    }
}

#[test]
fn what_options_of_a_policy_give_a_flow_it_has_again() {
    let mut before = Gateway::new();
    before.change(|input| {
        let options = NatOptions {
            flows_per_pod_max: Some(2),
            endpoint_independent: true,
            ..NatOptions::default()
        };
        let pods = [POD, OTHER_POD];
        let policy = Policy { options, ..policy(EGRESS, &pods, &["203.0.113.0/24"]) };
        input.v4.policies = Policies::new(vec![policy], &[]);
    });
    let ask =
        |pod, port, remote| tunnel_frame(&packet(Body::Udp, (pod, port), (REMOTE, remote), 64));
    let leased = |gateway: &mut Gateway, frame| {
        let (_, frame) = gateway.sent(frame);
        u16::from_be_bytes([frame[34], frame[35]])
    };
    // Another pod has its port, so it gets another one.
    leased(&mut before, ask(OTHER_POD, 5000, 1));
    let port = leased(&mut before, ask(POD, 5000, 1));
    assert_ne!(port, 5000);

    let mut after = restarted(&before);
    after.engine.expire(after.now, &after.tables);
    assert_eq!(leased(&mut after, ask(POD, 5000, 2)), port, "before the old flow has spoken");
    assert_eq!(leased(&mut after, ask(POD, 5000, 1)), port);
    assert_eq!(after.dropped(ask(POD, 5000, 3)), DropReason::PodFlowLimit);
    // It is given back once.
    after.pass(310);
    assert!(after.flows().is_empty());
    leased(&mut after, ask(POD, 5000, 1));
    leased(&mut after, ask(POD, 5000, 2));
    assert_eq!(after.dropped(ask(POD, 5000, 3)), DropReason::PodFlowLimit);
}

#[test]
fn a_flow_that_its_policy_lets_be_idle_outlives_the_time_without_a_document() {
    let mut before = Gateway::new();
    let timeouts = Timeouts { tcp_established_ns: 86_400 * SECOND, ..Timeouts::default() };
    before.change(|input| {
        let options = NatOptions { timeouts: Some(timeouts), ..NatOptions::default() };
        let policy = Policy { options, ..policy(EGRESS, &[POD], &["203.0.113.0/24"]) };
        input.v4.policies = Policies::new(vec![policy], &[]);
    });
    before.sent(from_pod(Body::Syn, POD));
    before.sent(reply_frame(&packet(Body::SynAck, REMOTE_END, (EGRESS, 5000), 64)));
    before.sent(from_pod(Body::Ack, POD));
    before.pass(3 * 3600);
    assert_eq!(before.flows().len(), 1);

    let mut after = restarted(&before);
    let tables = std::mem::take(&mut after.tables);
    after.pass(10);
    after.tables = tables;
    after.pass(10);
    after.sent(from_pod(Body::Ack, POD));
}
