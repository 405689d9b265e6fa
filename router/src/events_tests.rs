use spillway_engine::{FlowChange, FlowState, Traffic};

use super::*;

/// A flow that began at this time.
fn begun(at: Nanos) -> Noted {
    let [source, destination] = [[10, 0, 1, 40], [203, 0, 113, 10]].map(Into::into);
    let tuple = Tuple { source, destination, source_port: 1, destination_port: 2, protocol: 17 };
    let flow = FlowRecord {
        original: tuple,
        reply: tuple.reversed(),
        state: FlowState::Opening,
        created_ns: at,
        last_seen_ns: at,
        forward_traffic: Traffic::default(),
        reply_traffic: Traffic::default(),
        policy: 0,
        epoch: 1,
        peer: Ipv4Addr::UNSPECIFIED,
    };
    Noted::Flow(FlowEvent { at, change: FlowChange::Begin, flow })
}

#[test]
fn what_finds_the_queue_full_is_counted_and_what_is_there_stays() {
    let outbox = Outbox::new();
    let put = WAITING_MAX as u64 + 7;
    (0..put).for_each(|at| outbox.put(begun(at)));
    assert_eq!(outbox.lost(), 7);
    let taken: Vec<_> = outbox.take().map(|noted| noted.at()).collect();
    assert_eq!(taken, (0..WAITING_MAX as u64).collect::<Vec<_>>());
    outbox.put(begun(9));
    assert_eq!((outbox.take().count(), outbox.lost()), (1, 7));
}

#[test]
fn the_main_thread_is_called_once_when_half_of_the_queue_is_full() {
    let outbox = Outbox::new();
    (1..WAITING_MAX / 2).for_each(|_| outbox.put(begun(0)));
    assert!(!outbox.calls());
    outbox.put(begun(0));
    assert!(outbox.calls());
    outbox.put(begun(0));
    assert!(!outbox.calls(), "it comes");
    assert_eq!(outbox.take().count(), WAITING_MAX / 2 + 1);
    (0..WAITING_MAX / 2).for_each(|_| outbox.put(begun(0)));
    assert!(outbox.calls(), "and has to come again");
}

#[test]
fn events_of_all_workers_are_in_the_order_in_which_they_happened() {
    let outboxes: Vec<_> = (0..3).map(|_| Arc::new(Outbox::new())).collect();
    for (worker, at) in [(2, 10), (0, 20), (0, 20), (1, 15), (2, 20), (1, 30)] {
        outboxes[worker].put(begun(at));
    }
    let taken = take_all(&outboxes);
    let order: Vec<_> = taken.iter().map(|(worker, noted)| (noted.at(), *worker)).collect();
    assert_eq!(order, [(10, 2), (15, 1), (20, 0), (20, 0), (20, 2), (30, 1)]);
    assert_eq!(take_all(&outboxes), []);
}

#[test]
fn two_threads_lose_no_event_without_counting_it() {
    let outbox = Arc::new(Outbox::new());
    let count = 20 * WAITING_MAX as u64;
    let worker = {
        let outbox = Arc::clone(&outbox);
        std::thread::spawn(move || (0..count).for_each(|at| outbox.put(begun(at))))
    };
    let mut taken = Vec::new();
    while !worker.is_finished() {
        taken.extend(outbox.take().map(|noted| noted.at()));
    }
    worker.join().unwrap();
    taken.extend(outbox.take().map(|noted| noted.at()));
    assert!(taken.is_sorted());
    assert_eq!(taken.len() as u64 + outbox.lost(), count);
}
