use spillway_api::Document;
use spillway_engine::{DropReason, EndReason, FlowState, Traffic};

use super::*;

const SECOND: Nanos = 1_000_000_000;
const CLOCK: Clock = Clock { now: 500 * SECOND, wall_us: 1_700_000_000_000_000 };

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn tuple_of(source: (&str, u16), destination: (&str, u16)) -> Tuple {
    Tuple {
        source: address(source.0),
        destination: address(destination.0),
        source_port: source.1,
        destination_port: destination.1,
        protocol: 6,
    }
}

/// Of a pod, under the first policy of epoch 5, since second 100.
fn flow(pod: &str, port: u16) -> FlowRecord {
    let remote = ("203.0.113.10", 443);
    FlowRecord {
        original: tuple_of((pod, port), remote),
        reply: tuple_of(remote, ("192.0.2.1", port)),
        state: FlowState::Established,
        created_ns: 100 * SECOND,
        last_seen_ns: 400 * SECOND,
        forward_traffic: Traffic { packets: 3, bytes: 300 },
        reply_traffic: Traffic { packets: 4, bytes: 4_000 },
        policy: 0,
        epoch: 5,
        peer: "192.168.1.2".parse().unwrap(),
    }
}

fn noted(change: FlowChange, at: Nanos, flow: FlowRecord) -> Noted {
    Noted::Flow(FlowEvent { at, change, flow })
}

fn names(policy: &str, epoch: u32) -> PolicyNames {
    let text = format!(
        "{{generation: 1, tunnels: [], egress_addresses: [{{address: 192.0.2.1, kind: own}}], policies: \
         [{{name: {policy}, egress_address: 192.0.2.1, destinations: [203.0.113.0/24], pods: []}}]}}"
    );
    let mut names = PolicyNames::default();
    names.change(&Document::parse(&text).unwrap(), epoch);
    names
}

/// 10.0.1.40 is shop/cart-0.
fn pods() -> PodNames {
    let text = "{generation: 1, tunnels: [], egress_addresses: [], policies: [], pod_names: \
                [{name: shop/cart-0, addresses: [10.0.1.40]}]}";
    PodNames::default().after(&Document::parse(text).unwrap(), 0)
}

/// A record with these events, by workers 0, 1, …
fn record(room: usize, events: &[Noted]) -> Record {
    let (policies, numbers) = (names("app", 5), Assigned::default());
    let pods = pods();
    let meaning =
        Meaning { policies: &policies, pods: &pods, numbers: &numbers, nat64_prefix: None };
    let mut record = Record::new(room, 77);
    for (worker, noted) in (0..).zip(events) {
        record.add(worker, noted, meaning, CLOCK);
    }
    record
}

#[test]
fn an_event_tells_who_had_which_address_and_port_and_when() {
    let end = FlowChange::End(EndReason::Closed);
    let [begun, ended] = [(FlowChange::Begin, 100), (end, 401)]
        .map(|(change, at)| noted(change, at * SECOND, flow("10.0.1.40", 4_000)));
    let page = record(9, &[begun, ended]).page(0, 1_000, 0);
    let expected = Event {
        number: 1,
        time_us: CLOCK.wall_us - 400_000_000,
        worker: 0,
        kind: EventKind::Begin,
        protocol: "tcp".to_owned(),
        original: tuple(&tuple_of(("10.0.1.40", 4_000), ("203.0.113.10", 443))),
        reply: Some(tuple(&tuple_of(("203.0.113.10", 443), ("192.0.2.1", 4_000)))),
        pod: Some("shop/cart-0".to_owned()),
        policy: Some("app".to_owned()),
        peer: Some(address("192.168.1.2")),
        reason: None,
        total: None,
        last_port: None,
    };
    let total = FlowTotal {
        duration_ms: 301_000,
        original_packets: 3,
        original_bytes: 300,
        reply_packets: 4,
        reply_bytes: 4_000,
    };
    let ended = Event {
        number: 2,
        time_us: CLOCK.wall_us - 99_000_000,
        worker: 1,
        kind: EventKind::End,
        reason: Some("closed".to_owned()),
        total: Some(total),
        ..expected.clone()
    };
    assert_eq!(page.events, [expected, ended]);
    assert_eq!((page.first, page.next, page.lost, page.since_us), (1, 3, 0, 77));
}

#[test]
fn a_dropped_packet_is_told_as_it_came() {
    let drop = |peer: Option<&str>, policy| {
        Noted::Drop(DroppedPacket {
            at: CLOCK.now,
            reason: DropReason::PortsExhausted,
            tuple: tuple_of(("10.0.1.40", 4_000), ("203.0.113.10", 443)),
            peer: peer.map(|peer| peer.parse().unwrap()),
            policy,
        })
    };
    let of_pod = drop(Some("192.168.1.2"), Some((5, 0)));
    let of_outside = drop(None, None);
    let events = record(9, &[of_pod, of_outside]).page(0, 9, 0).events;
    for (event, policy, peer) in
        [(&events[0], Some("app"), Some(address("192.168.1.2"))), (&events[1], None, None)]
    {
        assert_eq!((event.kind, event.time_us), (EventKind::Drop, CLOCK.wall_us));
        assert_eq!(event.reason.as_deref(), Some("ports-exhausted"));
        assert_eq!((event.policy.as_deref(), event.peer), (policy, peer));
        assert_eq!((event.reply, event.total), (None, None));
        assert_eq!(event.original.source, address("10.0.1.40"));
        assert_eq!(event.pod.as_deref(), Some("shop/cart-0"));
    }
}

#[test]
fn what_an_event_means_does_not_change_with_the_next_document() {
    let number = "243.163.224.22".parse().unwrap();
    let pod = "fd00:10:1::40".parse().unwrap();
    let numbers = Assigned::restore([(number, pod)].into_iter(), [].into_iter()).unwrap();
    let policies = names("app", 5);
    let nat64_prefix = "64:ff9b::/96".parse().ok();
    let pods = PodNames::default();
    let meaning = Meaning { policies: &policies, pods: &pods, numbers: &numbers, nat64_prefix };
    let mut record = Record::new(9, 0);
    let begun = noted(FlowChange::Begin, 100 * SECOND, flow("243.163.224.22", 4_000));
    record.add(0, &begun, meaning, CLOCK);
    let (later, nobody) = (names("other", 5), Assigned::default());
    let later = Meaning { policies: &later, pods: &pods, numbers: &nobody, nat64_prefix: None };
    record.add(0, &begun, later, CLOCK);
    let shown = record.page(0, 9, 0).events.into_iter();
    let shown: Vec<_> =
        shown.map(|at| (at.policy.unwrap(), at.original.source, at.original.destination)).collect();
    let [(app, source, destination), (other, nobody, _)] = shown.try_into().unwrap();
    assert_eq!((app.as_str(), other.as_str()), ("app", "other"));
    assert_eq!((source, destination), (pod.into(), address("64:ff9b::203.0.113.10")));
    assert_eq!(nobody, address("::"));
}

#[test]
fn pages_go_on_where_the_last_one_ended_and_say_what_is_gone() {
    let begun = |port| noted(FlowChange::Begin, SECOND, flow("10.0.1.40", port));
    let events: Vec<_> = (1..=10).map(begun).collect();
    let record = record(4, &events);
    // (asked for, how many) → (the first one's port, how many, next)
    for ((cursor, limit), expected) in [
        ((0, 1_000), (Some(7), 4, 11)),
        ((0, 3), (Some(7), 3, 10)),
        ((10, 3), (Some(10), 1, 11)),
        ((11, 3), (None, 0, 11)),
        // Lost to who asks so late; and of a process before.
        ((3, 3), (Some(7), 3, 10)),
        ((4_711, 3), (None, 0, 11)),
        // No page is empty while there is something.
        ((0, 0), (Some(7), 1, 8)),
    ] {
        let page = record.page(cursor, limit, 6);
        let port = page.events.first().map(|event| event.original.source_port);
        assert_eq!((port, page.events.len(), page.next), expected, "{cursor} {limit}");
        assert_eq!((page.first, page.lost), (7, 6));
    }
    assert_eq!(record.counts(6), EventCounts { noted: 10, kept: 4, lost: 6 });
    let empty = Record::new(4, 0).page(9, 9, 0);
    assert_eq!((empty.first, empty.next, empty.events.len()), (1, 1, 0));
}

#[test]
fn an_event_tells_which_ports_a_pod_has_and_has_no_more() {
    let block = PortBlock {
        pod: address("10.0.1.40"),
        egress: address("192.0.2.1"),
        first: 4_096,
        last: 4_159,
        since_ns: 100 * SECOND,
        flows: 0,
    };
    let noted = |at, is_begin| Noted::Block(BlockEvent { at: at * SECOND, is_begin, block });
    let page = record(9, &[noted(100, true), noted(200, false)]).page(0, 1_000, 0);
    let begun = Event {
        number: 1,
        time_us: CLOCK.wall_us - 400_000_000,
        worker: 0,
        kind: EventKind::BlockBegin,
        protocol: "any".to_owned(),
        original: tuple(&tuple_of(("10.0.1.40", 0), ("0.0.0.0", 0))),
        reply: Some(tuple(&tuple_of(("0.0.0.0", 0), ("192.0.2.1", 4_096)))),
        pod: Some("shop/cart-0".to_owned()),
        policy: None,
        peer: None,
        reason: None,
        total: None,
        last_port: Some(4_159),
    };
    let ended = Event {
        number: 2,
        time_us: CLOCK.wall_us - 300_000_000,
        worker: 1,
        kind: EventKind::BlockEnd,
        ..begun.clone()
    };
    assert_eq!(page.events, [begun, ended]);
}

#[test]
fn a_page_is_no_larger_than_a_response_may_be() {
    use spillway_api::limits::{NAME_BYTES_MAX, RESPONSE_BYTES_MAX};
    let longest = "fd00:1111:2222:3333:4444:5555:6666:7777";
    let mut event = record(
        1,
        &[noted(
            FlowChange::End(EndReason::Deselected),
            0,
            FlowRecord {
                original: tuple_of((longest, 65_535), (longest, 65_535)),
                reply: tuple_of((longest, 65_535), (longest, 65_535)),
                ..flow("10.0.1.40", 1)
            },
        )],
    )
    .page(0, 1, 0)
    .events
    .remove(0);
    // Written as JSON a byte of a name may take six.
    event.policy = Some("\u{1}".repeat(NAME_BYTES_MAX));
    event.pod = event.policy.clone();
    let bytes = serde_json::to_vec(&event).unwrap().len() + 200;
    assert!((bytes as u64) * u64::from(PAGE_ROWS_MAX) < RESPONSE_BYTES_MAX, "{bytes}");
}
