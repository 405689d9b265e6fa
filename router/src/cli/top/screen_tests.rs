use spillway_api::Usage;

use super::*;
use crate::serve::sample;

fn sample_at(seconds: u64) -> Sample {
    Sample {
        at: Duration::from_secs(seconds),
        status: sample::status(),
        drops: sample::drops(),
        usage: None,
        flows: None,
    }
}

/// With so many packets dropped for want of a route, and bytes forwarded.
fn moved(seconds: u64, dropped: u64, bytes: u64) -> Sample {
    let mut sample = sample_at(seconds);
    sample.drops.engine[0].packets += dropped;
    sample.status.workers[0].forward_bytes += bytes;
    sample
}

#[test]
fn tab_goes_round_all_views_both_ways() {
    let mut screen = Screen::new(View::Flows);
    assert!(screen.wants_flows());
    for view in View::ALL {
        screen.press(Key::NextView);
        assert_eq!(screen.view, view);
    }
    for view in View::ALL.into_iter().rev().skip(1) {
        screen.press(Key::PreviousView);
        assert_eq!(screen.view, view);
    }
    assert!(!screen.wants_flows());
    screen.press(Key::PreviousView);
    assert_eq!(screen.view, View::Flows);
    assert!(screen.press(Key::View(View::Egress)));
    assert!(!screen.press(Key::Quit));
}

#[test]
fn a_paused_screen_stays_and_goes_on_where_the_router_is() {
    let mut screen = Screen::new(View::Overview);
    screen.take(Ok(moved(0, 0, 0)));
    screen.take(Ok(moved(1, 0, 125)));
    screen.press(Key::Pause);
    screen.take(Ok(moved(2, 0, 375)));
    assert!(screen.is_paused());
    assert_eq!(screen.known().rates.as_ref().unwrap().forward.bits, 1_000.0);
    screen.press(Key::Pause);
    assert_eq!(screen.known().rates.as_ref().unwrap().forward.bits, 2_000.0);
    assert_eq!(screen.known().history, [None, Some((1_000, 0)), Some((2_000, 0))]);
}

#[test]
fn rates_of_usage_stay_until_it_is_counted_anew() {
    let counted = |second, counted_at_ms, packets| {
        let mut usage = Usage { counted_at_ms, ..sample::usage() };
        usage.policies[0].traffic.original_packets = packets;
        Sample { usage: Some(usage), ..sample_at(second) }
    };
    let mut screen = Screen::new(View::Egress);
    let name = sample::usage().policies[0].name.clone();
    let packets = |screen: &Screen| {
        Some(screen.known().usage_rates.as_ref()?.policies[&name].forward.packets)
    };
    let first = 100;
    for (sample, expected) in [
        (counted(0, first, 0), None),
        (counted(1, first, 0), None),
        (counted(5, first + 5_000, 50), Some(10.0)),
        (counted(6, first + 5_000, 50), Some(10.0)),
        (counted(10, first + 10_000, 50), Some(0.0)),
    ] {
        screen.take(Ok(sample));
        assert_eq!(packets(&screen), expected);
    }
    screen.take(Err(("nobody listens".to_owned(), Duration::from_secs(11))));
    assert_eq!(packets(&screen), None, "it may be another one that comes back");
    let mut another = counted(12, first + 15_000, 90);
    another.status.pid += 1;
    screen.take(Ok(another));
    assert_eq!(packets(&screen), None, "another process");
}

#[test]
fn a_router_that_is_away_is_told_with_how_long_and_comes_back() {
    let mut screen = Screen::new(View::Overview);
    screen.take(Ok(sample_at(0)));
    for at in 5..8 {
        screen.take(Err(("nobody listens".to_owned(), Duration::from_secs(at))));
    }
    let known = screen.known();
    assert_eq!(known.trouble, Some(("nobody listens".to_owned(), Duration::from_secs(2))));
    assert!(known.sample.is_some() && known.rates.is_none());
    let mut started_anew = sample_at(8);
    started_anew.status.pid += 1;
    screen.take(Ok(started_anew));
    assert_eq!((&screen.known().trouble, &screen.known().rates), (&None, &None));
    let mut after = moved(9, 0, 0);
    after.status.pid += 1;
    screen.take(Ok(after));
    assert!(screen.known().rates.is_some());
}

#[test]
fn a_reason_is_shown_for_a_minute_after_it_has_moved() {
    let mut screen = Screen::new(View::Drops);
    screen.take(Ok(moved(0, 0, 0)));
    screen.take(Ok(moved(1, 5, 0)));
    let moving = screen.known().moving_drops();
    assert_eq!(moving.len(), 1);
    assert_eq!(moving[0].per_second, 5.0);
    screen.take(Ok(moved(61, 5, 0)));
    let moving = screen.known().moving_drops();
    assert_eq!((moving.len(), moving[0].per_second), (1, 0.0));
    screen.take(Ok(moved(62, 5, 0)));
    assert!(screen.known().moving_drops().is_empty());
}

#[test]
fn the_history_is_bounded() {
    let mut screen = Screen::new(View::Overview);
    for at in 0..HISTORY_MAX as u64 + 10 {
        screen.take(Ok(sample_at(at)));
    }
    assert_eq!(screen.known().history.len(), HISTORY_MAX);
}
