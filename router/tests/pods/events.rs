//! What the router tells of flows that real sockets make, and of packets that it drops.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use spillway_api::{Event, EventKind, Traffic, Tuple, Worker};
use spillway_testing::wait_until;

use crate::family::{FAMILIES, Family};
use crate::sockets::{accept, listen, tcp, udp, udp_to};
use crate::underlay::{OVER_IPV4, OVER_IPV6, Underlay};
use crate::world::{Options, Translator, World};

const PORT: u16 = 443;
const POD_PORT: u16 = 40_000;
const WITHIN: Duration = Duration::from_secs(20);

const OPTIONS: Options = Options { workers: 2, queues: 2, ports: None, tcp_closing: 1 };

/// All events until now; none is missing.
fn events(world: &World) -> Vec<Event> {
    let mut client = world.client();
    let (mut events, mut cursor): (Vec<Event>, u64) = (Vec::new(), 0);
    loop {
        let page = client.events(cursor).unwrap();
        assert_eq!((page.first, page.lost), (1, 0));
        if page.events.is_empty() {
            assert!(events.iter().map(|event| event.number).eq(1..page.next));
            return events;
        }
        (events, cursor) = ([events, page.events].concat(), page.next);
    }
}

/// Waits until one of this kind and protocol is there.
fn wait_for(world: &World, kind: EventKind, protocol: &str) -> Event {
    let found = || {
        let events = events(world).into_iter();
        events.rev().find(|event| event.kind == kind && event.protocol == protocol)
    };
    wait_until("the event is there", WITHIN, || found().is_some());
    found().unwrap()
}

fn tuple(source: SocketAddr, destination: SocketAddr) -> Tuple {
    let (source, source_port) = (source.ip(), source.port());
    Tuple {
        source,
        source_port,
        destination: destination.ip(),
        destination_port: destination.port(),
    }
}

/// A connection from its SYN to its end.
fn follow_tcp(world: &World, underlay: &Underlay) {
    let listener = listen(&world.server, world.at(PORT));
    let mut pod = tcp(&world.pods[0], 0, world.at(PORT)).expect("the pod connects");
    let mut server = accept(&listener);
    let (local, public) = (pod.local_addr().unwrap(), server.peer_addr().unwrap());
    let begun = wait_for(world, EventKind::Begin, "tcp");
    assert_eq!(begun.original, tuple(local, world.at(PORT)));
    assert_eq!(begun.reply, Some(tuple(world.at(PORT), public)));
    assert_eq!((begun.policy.as_deref(), begun.peer), (Some("all"), Some(underlay.node)));
    assert_eq!((&begun.reason, begun.total), (&None, None));

    pod.write_all(&[0; 1_000]).unwrap();
    server.read_exact(&mut [0; 1_000]).unwrap();
    drop((pod, server));
    let ended = wait_for(world, EventKind::End, "tcp");
    assert_eq!((ended.original, ended.reply), (begun.original, begun.reply));
    assert_eq!((ended.policy.as_deref(), ended.worker), (Some("all"), begun.worker));
    assert_eq!(ended.reason.as_deref(), Some("closed"));
    let total = ended.total.unwrap();
    // SYN, the data, FIN, and what acknowledges them.
    assert!(total.original_packets >= 4 && total.original_bytes > 1_000, "{total:?}");
    assert!(total.reply_packets >= 3 && total.reply_bytes < 1_000, "{total:?}");
    let lasted_us = ended.time_us - begun.time_us;
    // A flow's begin is known to 17 ms.
    assert!(total.duration_ms.abs_diff(lasted_us / 1_000) <= 20, "{total:?} {lasted_us}");
}

/// A datagram; and its flow's end when no document selects the pod any more.
fn follow_udp(world: &World) {
    let server = udp(&world.server, world.at(53));
    let pod = udp_to(&world.pods[0], POD_PORT, world.at(53));
    pod.send(b"?").unwrap();
    let (_, public) = server.recv_from(&mut [0; 9]).expect("it arrives");
    let begun = wait_for(world, EventKind::Begin, "udp");
    assert_eq!(
        begun.original,
        tuple(SocketAddr::new(world.family.pods[0], POD_PORT), world.at(53))
    );
    assert_eq!(begun.reply, Some(tuple(world.at(53), public)));

    let [a, _] = world.family.pods;
    let later = world.state(2).replace(&format!("pods: [{a}, "), "pods: [");
    let later = later.replace(&format!(", {a}, "), ", ");
    world.client().put_state(later).unwrap();
    let ended = || {
        server.send_to(b"!", public).unwrap();
        let events = events(world);
        events.iter().any(|event| event.kind == EventKind::End && event.protocol == "udp")
    };
    wait_until("the flow ends", WITHIN, ended);
    let ended = wait_for(world, EventKind::End, "udp");
    assert_eq!((ended.original, ended.reply), (begun.original, begun.reply));
    assert_eq!(ended.reason.as_deref(), Some("deselected"));
    assert_eq!(ended.total.map(|total| total.original_packets), Some(1));
}

/// Datagrams from outside that no flow expects.
fn follow_drops(world: &World) {
    let server = udp(&world.server, world.at(4_000));
    let egress = SocketAddr::new(world.family.egress, 5_000);
    for _ in 0..100 {
        server.send_to(b"?", egress).unwrap();
    }
    let dropped = wait_for(world, EventKind::Drop, "udp");
    assert_eq!(dropped.original, tuple(world.at(4_000), egress));
    assert_eq!(dropped.reason.as_deref(), Some("no-flow"));
    assert_eq!((dropped.reply, dropped.policy, dropped.peer), (None, None, None));
    let told = events(world).iter().filter(|event| event.kind == EventKind::Drop).count();
    // Ten of a reason in a second, however many there are.
    assert!(told < 60, "{told}");
}

/// What the policy and the egress address have carried is what was forwarded, by a flow that lives and
/// those that have ended.
fn assert_all_carried(world: &World) {
    let server = udp(&world.server, world.at(54));
    let pod = udp_to(&world.pods[1], POD_PORT, world.at(54));
    pod.send(b"?").unwrap();
    let (_, public) = server.recv_from(&mut [0; 9]).expect("it arrives");
    server.send_to(b"!", public).unwrap();
    pod.recv(&mut [0; 9]).expect("so does the answer");
    let usage = world.client().usage().unwrap();
    let workers = world.client().status().unwrap().workers;
    let sum = |of: fn(&Worker) -> u64| workers.iter().map(of).sum();
    let forwarded = Traffic {
        original_packets: sum(|worker| worker.forward_packets),
        original_bytes: sum(|worker| worker.forward_bytes),
        reply_packets: sum(|worker| worker.reply_packets),
        reply_bytes: sum(|worker| worker.reply_bytes),
    };
    assert!(usage.counted && forwarded.original_packets > 5, "{forwarded:?}");
    let [policy] = &usage.policies[..] else { panic!("{:?}", usage.policies) };
    assert_eq!((policy.flows, policy.traffic), (1, forwarded));
    for egress in usage.egress_addresses {
        let is_used = egress.address == world.family.egress;
        let expected = if is_used { forwarded } else { Traffic::default() };
        assert_eq!(egress.traffic, expected, "{}", egress.address);
    }
}

fn follow(underlay: &'static Underlay, family: &'static Family) {
    let name = format!("events{}{}", underlay.name, family.nft);
    let world = World::new(&name, &Translator::Spillway(&OPTIONS), family, underlay);
    follow_tcp(&world, underlay);
    follow_drops(&world);
    follow_udp(&world);
    assert_all_carried(&world);
    let status = world.client().status().unwrap();
    let count = events(&world).len() as u64;
    assert_eq!((status.events.noted, status.events.kept, status.events.lost), (count, count, 0));
}

#[test]
fn flows_and_drops_are_told_of() {
    for underlay in [&OVER_IPV4, &OVER_IPV6] {
        FAMILIES.iter().for_each(|family| follow(underlay, family));
    }
}
