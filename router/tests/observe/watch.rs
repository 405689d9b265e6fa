//! `spillway observe`.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use rustix::process::Signal;
use spillway_api::Event;

use crate::router::Router;
use crate::{Printed, Running, spillway};

/// What `spillway observe` prints with these options.
fn observe(router: &Router, options: &[&str]) -> Printed {
    let mut command = spillway(&["observe", "--socket", &router.word("socket")]);
    Printed::of(&command.args(options).output().unwrap())
}

fn numbers(printed: &Printed) -> Vec<u64> {
    let events = printed.output.lines().map(|line| serde_json::from_str::<Event>(line).unwrap());
    events.map(|event| event.number).collect()
}

#[test]
fn the_last_events_that_match_are_shown_whatever_pages_they_are_on() {
    let router = Router::start();
    for port in 41_000..41_030 {
        router.happens(if port % 2 == 0 { "begin" } else { "end" }, port, 120);
    }
    router.happens("begin", 42_000, 5);
    for (options, expected) in [
        (&[][..], (12..=31).collect::<Vec<u64>>()),
        (&["--all"], (1..=31).collect()),
        (&["--last", "2"], vec![30, 31]),
        (&["--since", "60s"], vec![31]),
        (&["--type", "end", "--last", "3"], vec![26, 28, 30]),
        (&["--from-port", "41004", "--pod", "shop/cart"], vec![5]),
        (&["--pod", "bank/"], vec![]),
    ] {
        let shown = observe(&router, &[&["-o", "json"], options].concat());
        assert_eq!((shown.code, shown.error.as_str()), (Some(0), ""), "{options:?}");
        assert_eq!(numbers(&shown), expected, "{options:?}");
    }
    let line = observe(&router, &["--last", "1"]).output;
    let ends = "Z begin tcp shop/cart-0 10.0.1.40:42000 -> 203.0.113.10:443 as \
                192.168.44.129:42001 policy app1\n";
    assert!(line.ends_with(ends), "{line}");
    let table = observe(&router, &["-o", "table"]).output;
    assert!(table.starts_with("Time ") && table.lines().count() == 21, "{table}");
}

#[test]
fn what_happens_is_shown_as_it_happens_and_what_is_lost_is_told() {
    let router = Router::start();
    router.happens("begin", 41_000, 5);
    let socket = router.word("socket");
    let words = ["observe", "--follow", "--last", "1", "-o", "json", "--socket", &socket];
    let mut running = Running::start(&mut spillway(&words));
    let mut output = BufReader::new(running.child().stdout.take().unwrap());
    let mut next = || {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        serde_json::from_str::<Event>(&line).unwrap()
    };
    assert_eq!(next().number, 1);
    router.loses(7);
    router.happens("end", 41_000, 0);
    assert_eq!(next().reason.as_deref(), Some("closed"));
    router.restarts();
    router.happens("begin", 41_002, 0);
    let event = next();
    assert_eq!((event.number, event.original.source_port), (1, 41_002));

    let printed = running.end(Signal::INT);
    assert_eq!(printed.code, Some(0), "{printed:?}");
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    let told: Vec<&str> = printed.error.lines().collect();
    let [lost, broken, restarted] = told[..] else { panic!("{told:?}") };
    assert!(lost.starts_with("spillway: events lost: 7, from "), "{lost}");
    assert!(broken.contains("no whole answer from Spillway"), "{broken}");
    assert!(restarted.ends_with(": the router was restarted"), "{restarted}");
}

#[test]
fn a_reader_that_has_seen_enough_ends_it() {
    let router = Router::start();
    router.happens("begin", 41_000, 5);
    for options in [&["--all"][..], &["--all", "--follow"]] {
        let mut command = spillway(&["observe", "--socket", &router.word("socket")]);
        command.args(options).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
}

#[test]
fn columns_are_not_for_what_is_still_to_come() {
    let router = Router::start();
    let refused = observe(&router, &["--follow", "-o", "table"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.error.ends_with("--follow goes with -o compact or -o json\n"), "{refused:?}");
}
