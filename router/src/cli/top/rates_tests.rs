use super::*;
use crate::serve::sample::{self, flow};

/// An answer of a router, so many seconds after the start.
fn at(seconds: u64) -> Sample {
    Sample {
        at: Duration::from_secs(seconds),
        status: sample::status(),
        drops: sample::drops(),
        usage: None,
        flows: None,
    }
}

#[test]
fn counters_become_rates_of_each_second() {
    let (before, mut now) = (at(10), at(12));
    let worker = &mut now.status.workers[0];
    worker.forward_packets += 200;
    worker.forward_bytes += 100_000;
    worker.reply_packets += 50;
    worker.reply_bytes += 1_000;
    worker.dropped += 6;
    worker.tx_ring_full += 4;
    now.status.workers[1].flows_created += 10;
    now.status.workers[1].forward_packets += 2;
    now.drops.engine[0].packets += 6;
    let rates = Rates::between(&before, &now).unwrap();
    assert_eq!(rates.forward, Traffic { packets: 101.0, bits: 400_000.0 });
    assert_eq!(rates.reply, Traffic { packets: 25.0, bits: 4_000.0 });
    assert_eq!((rates.new_flows, rates.dropped), (5.0, 3.0));
    assert_eq!(rates.workers.len(), 2);
    assert_eq!((rates.workers[0].dropped, rates.workers[0].tx_ring_full), (3.0, 2.0));
    assert_eq!(rates.workers[1].forward.packets, 1.0);
}

#[test]
fn a_reason_of_steering_counts_over_all_devices_and_what_is_passed_does_not_count() {
    let (mut before, mut now) = (at(0), at(1));
    for sample in [&mut before, &mut now] {
        let mut other = sample.drops.steering.clone();
        other.iter_mut().for_each(|outcome| outcome.device = "eth1".to_owned());
        sample.drops.steering.extend(other);
    }
    now.drops.steering.iter_mut().for_each(|outcome| outcome.packets += 3);
    let rates = Rates::between(&before, &now).unwrap();
    let drops = now.drops.steering.iter().filter(|of| of.verdict == Verdict::Drop);
    let names: Vec<&str> = drops.map(|of| of.outcome.as_str()).collect();
    let moving: Vec<&DropRate> = rates.drops.iter().filter(|drop| drop.per_second > 0.0).collect();
    assert_eq!(moving.len(), names.len() / 2, "each reason once");
    for drop in moving {
        assert!(names.contains(&drop.reason.as_str()), "{drop:?}");
        assert_eq!((drop.per_second, drop.packets), (6.0, 24), "{drop:?}");
        assert!(drop.description.ends_with('.'), "{drop:?}");
    }
}

#[test]
fn a_router_that_has_started_anew_has_no_rates_yet() {
    let (before, mut now) = (at(0), at(1));
    now.status.pid += 1;
    assert_eq!(Rates::between(&before, &now), None, "another process");
    let mut now = at(1);
    now.status.uptime_s = 0;
    assert_eq!(Rates::between(&before, &now), None, "the same number, used again");
    assert_eq!(Rates::between(&before, &at(0)), None, "no time has passed");
    assert_eq!(Rates::between(&at(2), &at(1)), None, "the wrong way round");
}

#[test]
fn a_counter_that_went_back_has_not_moved() {
    let (mut before, now) = (at(0), at(1));
    before.status.workers[0].forward_packets += 1_000;
    before.drops.engine[0].packets += 5;
    let rates = Rates::between(&before, &now).unwrap();
    assert_eq!((rates.forward.packets, rates.dropped), (0.0, 0.0));
}

#[test]
fn a_worker_that_was_not_there_before_has_not_moved() {
    let (mut before, now) = (at(0), at(1));
    before.status.workers.remove(0);
    let rates = Rates::between(&before, &now).unwrap();
    assert_eq!(rates.workers, [WorkerRates::default(); 2]);
}

#[test]
fn the_most_active_flow_comes_first_and_new_ones_wait_for_the_next_answer() {
    let (mut before, mut now) = (at(0), at(2));
    let some = |rows| Some(SomeFlows { rows, are_all: true });
    before.flows = some(vec![flow(1, 1_000), flow(2, 1_000), flow(3, 9_000)]);
    now.flows = some(vec![flow(1, 2_000), flow(2, 9_000), flow(3, 1_000), flow(4, 99_000)]);
    let rates = Rates::between(&before, &now).unwrap();
    let rows = rates.flows.iter().map(|row| (row.flow.original.source_port, row.traffic.bits));
    // The third one ended, and another has its tuple.
    assert_eq!(rows.collect::<Vec<_>>(), [(2, 32_000.0), (1, 4_000.0), (3, 0.0)]);
    assert_eq!(rates.flows[0].traffic.packets, 4.0);
    now.flows = None;
    assert!(Rates::between(&before, &now).unwrap().flows.is_empty());
}
