//! The engine's rules and routes lead where `ip route get` says.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use spillway_engine::fib::{NextHop, RouteTarget, RuleAction};

use super::super::{FibInput, Kernel};
use super::{Namespace, ifindex, pair};

/// Sources must be the host's own for `ip route get ... from`.
const SETUP: &str = "\
addr add 198.51.100.1/32 dev lo
addr add 198.51.100.2/32 dev lo
addr add 198.51.100.3/32 dev lo
addr add 192.0.3.1/24 dev eth1
route add default via 192.0.2.2
route add 203.0.113.0/24 via 192.0.2.3
route add 203.0.113.0/24 via 192.0.2.4 metric 9
route add 203.0.113.128/25 via 192.0.3.2 metric 50
route add unreachable 198.18.1.0/24
route add blackhole 198.18.2.0/24
route add prohibit 198.18.3.0/24
route add throw 198.18.4.0/24
route add 198.18.5.0/24 dev eth1
route add 198.18.6.0/24 dev vx0
route add 198.18.7.0/24 via 10.99.0.1 dev eth0 onlink
route add 198.18.4.0/23 via 192.0.2.5 table default
rule add from 198.51.100.2 lookup 700 priority 100
route add 203.0.113.0/24 via 192.0.3.7 table 700
route add throw 203.0.113.7/32 table 700
route add throw 198.18.0.0/15 table 700
rule add from 198.51.100.3 to 203.0.113.0/24 unreachable priority 200
rule add to 198.18.9.0/24 blackhole priority 210
rule add from 198.51.100.3 to 198.18.8.0/24 lookup 701 priority 220
route add 198.18.8.0/24 via 192.0.3.8 table 701
";

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// Out of eth0 or eth1, to this next hop.
    Way(&'static str, Ipv4Addr),
    /// Out of another device.
    Elsewhere,
    Local,
    Nowhere,
}

/// `ip route get`.
fn kernels_answer(here: &Namespace, source: &str, destination: Ipv4Addr) -> Answer {
    let output = here.try_ip(&format!("-j route get {destination} from {source}"));
    if !output.status.success() {
        return Answer::Nowhere;
    }
    let entries: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let entry = &entries[0];
    let gateway = entry["gateway"].as_str().map_or(destination, |text| text.parse().unwrap());
    match (entry["type"].as_str(), entry["dev"].as_str()) {
        (Some("local" | "broadcast"), _) => Answer::Local,
        (_, Some("eth0")) => Answer::Way("eth0", gateway),
        (_, Some("eth1")) => Answer::Way("eth1", gateway),
        _ => Answer::Elsewhere,
    }
}

/// The most literal lookup: rule by rule, route by route.
fn engines_answer(input: &FibInput, source: &str, destination: Ipv4Addr) -> Answer {
    let source: Ipv4Addr = source.parse().unwrap();
    for rule in &input.rules {
        if !rule.from.contains(&source) || !rule.to.contains(&destination) {
            continue;
        }
        let RuleAction::Table(table) = rule.action else {
            return Answer::Nowhere;
        };
        let route = input
            .routes
            .iter()
            .filter(|route| route.table == table && route.destination.contains(&destination))
            .min_by_key(|route| (32 - route.destination.prefix_len(), route.metric));
        match route.map(|route| &route.target) {
            None | Some(RouteTarget::Throw) => {}
            Some(RouteTarget::Local) => return Answer::Local,
            Some(RouteTarget::Unreachable) => return Answer::Nowhere,
            Some(RouteTarget::Forward(next_hops)) => {
                let NextHop { device, gateway, .. } = next_hops[0];
                let Some(device) = device else {
                    return Answer::Elsewhere;
                };
                let name = ["eth0", "eth1"][usize::from(device)];
                return Answer::Way(name, gateway.unwrap_or(destination));
            }
        }
    }
    Answer::Nowhere
}

#[test]
fn packets_go_where_ip_route_get_says() {
    let (here, there) = pair("lookup");
    here.veth("eth1", &there, "eth1");
    here.ip("link add vx0 up type vxlan external dstport 8472");
    for command in SETUP.lines() {
        here.ip(command);
    }
    let kernel = here.enter(|| Kernel::open().unwrap());
    let input = kernel.fib(&[ifindex(&kernel, "eth0"), ifindex(&kernel, "eth1")]);
    assert_eq!(input.reports, Vec::<String>::new());

    let ends = |net: &str| {
        let net: Ipv4Net = net.parse().unwrap();
        [net.network(), net.addr(), net.broadcast()]
    };
    let mut destinations: Vec<Ipv4Addr> =
        (0..11).flat_map(|third| ends(&format!("198.18.{third}.5/24"))).collect();
    let more = ["203.0.113.7/24", "203.0.113.200/25", "192.0.2.1/24", "192.0.3.9/24", "8.8.8.8/32"];
    destinations.extend(more.iter().flat_map(|net| ends(net)));
    let sources = ["198.51.100.1", "198.51.100.2", "198.51.100.3", "192.0.2.1"];
    let mut ways = 0;
    for source in sources {
        for destination in &destinations {
            let expected = kernels_answer(&here, source, *destination);
            ways += usize::from(matches!(expected, Answer::Way(..)));
            let answer = engines_answer(&input, source, *destination);
            assert_eq!(answer, expected, "{destination} from {source}");
        }
    }
    assert!(ways > 50, "only {ways} lookups found a way");
}
