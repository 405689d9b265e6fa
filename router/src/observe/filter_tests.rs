use clap::Parser;
use spillway_api::Tuple;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    filter: Filter,
}

/// What `options`, as a person writes them, let through.
fn filter(options: &str) -> Filter {
    let words = std::iter::once("observe").chain(options.split_whitespace());
    Line::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).filter
}

fn tuple(source: &str, destination: &str) -> Tuple {
    let [source, destination] =
        [source, destination].map(|text| text.parse::<std::net::SocketAddr>().unwrap());
    Tuple {
        source: source.ip(),
        source_port: source.port(),
        destination: destination.ip(),
        destination_port: destination.port(),
    }
}

fn begin() -> Event {
    Event {
        number: 1,
        time_us: 0,
        worker: 0,
        kind: EventKind::Begin,
        protocol: "tcp".to_owned(),
        original: tuple("10.0.1.40:41000", "203.0.113.10:443"),
        reply: Some(tuple("203.0.113.10:443", "192.168.44.129:41001")),
        pod: Some("shop/cart-0".to_owned()),
        policy: Some("app1#2".to_owned()),
        peer: None,
        reason: None,
        total: None,
        last_port: None,
    }
}

fn dropped() -> Event {
    Event {
        kind: EventKind::Drop,
        protocol: "udp".to_owned(),
        original: tuple("203.0.113.10:53", "192.168.44.129:2000"),
        reply: None,
        pod: None,
        policy: None,
        reason: Some("no-flow".to_owned()),
        ..begin()
    }
}

/// NAT64: the pod's own form of the destination, and the outside's.
fn translated() -> Event {
    Event {
        kind: EventKind::End,
        original: tuple("[fd00::40]:41000", "[64:ff9b::203.0.113.10]:443"),
        ..begin()
    }
}

#[test]
fn each_option_lets_through_what_it_says() {
    let events = [begin(), dropped(), translated()];
    for (options, passes) in [
        ("", [true, true, true]),
        ("--pod cart", [true, false, true]),
        ("--pod shop/cart-", [true, false, true]),
        ("--pod sho", [false; 3]),
        ("--pod bank/cart", [false; 3]),
        ("--namespace shop", [true, false, true]),
        ("-n sho", [false; 3]),
        ("--ip 203.0.113.10", [true, true, true]),
        ("--ip 192.168.44.129", [false, true, false]),
        ("--from-ip 203.0.113.0/24", [false, true, false]),
        ("--from-ip fd00::/16", [false, false, true]),
        ("--to-ip 203.0.113.0/24", [true, false, true]),
        ("--to-ip 64:ff9b::/96", [false, false, true]),
        ("--snat-ip 192.168.44.129", [true, false, true]),
        ("--port 443", [true, false, true]),
        ("--port 53", [false, true, false]),
        ("--port 41001", [false; 3]),
        ("--from-port 41000", [true, false, true]),
        ("--to-port 41000", [false; 3]),
        ("--protocol TCP", [true, false, true]),
        ("--protocol 6", [true, false, true]),
        ("--protocol udp --protocol tcp", [true; 3]),
        ("--verdict forwarded", [true, false, true]),
        ("--verdict DROPPED", [false, true, false]),
        ("--type begin", [true, false, false]),
        ("-t end --type drop", [false, true, true]),
        ("--type forward", [false; 3]),
        ("--drop-reason no-flow", [false, true, false]),
        ("--drop-reason no-policy", [false; 3]),
        ("--policy app1", [true, false, true]),
        ("--policy app1#2", [true, false, true]),
        ("--policy app", [false; 3]),
        ("--ip 203.0.113.10 --type begin --port 443", [true, false, false]),
        ("--not --port 443", [false, true, false]),
        ("--not --pod cart", [false, true, false]),
        ("--not --protocol tcp --type end", [false, false, false]),
        ("--type end --not --protocol udp", [false, false, true]),
        // Each stands for itself: what any of them matches is not shown.
        ("--not --type begin --not --type end", [false, true, false]),
        ("--not --type begin --not --port 53", [false, false, true]),
        // A filter with some values behind --not, and some not.
        ("--ip 203.0.113.0/24 --not --ip fd00::/16", [true, true, false]),
        ("--not --ip fd00::/16 --ip 203.0.113.0/24", [true, true, false]),
        ("--not --verdict dropped", [true, false, true]),
        ("--not -n shop", [false, true, false]),
    ] {
        let filter = filter(options);
        let let_through: Vec<bool> = events.iter().map(|event| filter.matches(event)).collect();
        assert_eq!(let_through, passes, "{options}");
    }
}

#[test]
fn what_is_no_filter_is_refused() {
    for options in [
        "--not",
        "--port 53 --not",
        "--not --not --port 53",
        "--ip 203.0.113",
        "--drop-reason nonsense",
        "--verdict maybe",
        "--port 65536",
        "--type x",
    ] {
        let words = std::iter::once("observe").chain(options.split_whitespace());
        assert!(Line::try_parse_from(words).is_err(), "{options}");
    }
}
