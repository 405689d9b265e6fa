//! The engine's lookup leads where `ip route get` says.

use std::fmt::Debug;
use std::net::IpAddr;
use std::str::FromStr;

use spillway_engine::fib::Fib;
use spillway_engine::{DropReason, Family, V4, V6};

use super::super::Kernel;
use super::{Namespace, Random, ifindex, pair};

/// Sources must be the host's own for `ip route get ... from`.
const SETUP_V4: &str = "\
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
route add 198.18.10.0/24 nexthop via 192.0.2.2 weight 3 nexthop via 192.0.3.2
rule add from 198.51.100.2 lookup 700 priority 100
route add 203.0.113.0/24 via 192.0.3.7 table 700
route add throw 203.0.113.7/32 table 700
route add throw 198.18.0.0/15 table 700
rule add from 198.51.100.3 to 203.0.113.0/24 unreachable priority 200
rule add to 198.18.9.0/24 blackhole priority 210
rule add from 198.51.100.3 to 198.18.8.0/24 lookup 701 priority 220
route add 198.18.8.0/24 via 192.0.3.8 table 701
";

/// The same for IPv6, with routers that are named by their link-local address.
const SETUP_V6: &str = "\
addr add 2001:db8:100::1/128 dev lo nodad
addr add 2001:db8:100::2/128 dev lo nodad
addr add 2001:db8:100::3/128 dev lo nodad
addr add 2001:db8:3::1/64 dev eth1 nodad
route add ::/0 via fe80::2 dev eth0
route add 2001:db8:203::/48 via fe80::3 dev eth0
route add 2001:db8:203::/48 via 2001:db8:2::4 metric 2000
route add 2001:db8:203:8000::/49 via 2001:db8:3::2 metric 50
route add unreachable 2001:db8:18:1::/64
route add blackhole 2001:db8:18:2::/64
route add prohibit 2001:db8:18:3::/64
route add throw 2001:db8:18:4::/64
route add 2001:db8:18:5::/64 dev eth1
route add 2001:db8:18:6::/64 dev vx0
route add 2001:db8:18:7::/64 via 2001:db8:99::1 dev eth0 onlink
route add 2001:db8:18:4::/63 via 2001:db8:2::5 table 253
-6 rule add from 2001:db8:18::/48 lookup 253 priority 32767
route add 2001:db8:18:a::/64 nexthop via fe80::2 dev eth0 weight 3 nexthop via fe80::2 dev eth1
route add 2001:db8:18:b::/64 via fe80::5 dev eth0 pref low
route append 2001:db8:18:b::/64 via fe80::6 dev eth0 pref high
route add 2001:db8:18:c::/64 dev eth0
route append 2001:db8:18:c::/64 dev eth1
-6 rule add from 2001:db8:100::2 lookup 700 priority 100
route add 2001:db8:203::/48 via 2001:db8:3::7 table 700
route add throw 2001:db8:203::7/128 table 700
route add throw 2001:db8:18::/48 table 700
-6 rule add from 2001:db8:100::3 to 2001:db8:203::/48 unreachable priority 200
-6 rule add to 2001:db8:18:9::/64 blackhole priority 210
-6 rule add from 2001:db8:100::3 to 2001:db8:18:8::/64 lookup 701 priority 220
route add 2001:db8:18:8::/64 via 2001:db8:3::8 table 701
";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Out of eth0 or eth1, to this next hop.
    Way(&'static str, IpAddr),
    /// Out of another device.
    Elsewhere,
    Local,
    Nowhere,
}

/// `ip route get`.
fn kernels_answer(here: &Namespace, source: IpAddr, destination: IpAddr) -> Answer {
    let output = here.try_ip(&format!("-j route get {destination} from {source}"));
    if !output.status.success() {
        return Answer::Nowhere;
    }
    let entries: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let entry = &entries[0];
    let gateway = entry["gateway"].as_str().map_or(destination, |text| text.parse().unwrap());
    match (entry["type"].as_str(), entry["dev"].as_str()) {
        (Some("local" | "broadcast" | "anycast"), _) => Answer::Local,
        (_, Some("eth0")) => Answer::Way("eth0", gateway),
        (_, Some("eth1")) => Answer::Way("eth1", gateway),
        _ => Answer::Elsewhere,
    }
}

/// What the engine can answer: several next hops share by a hash, which is not the kernel's.
fn engines_answers<F: Family>(fib: &Fib<F>, source: IpAddr, destination: IpAddr) -> Vec<Answer> {
    let [source, destination] = [source, destination].map(|address| F::address(address).unwrap());
    let mut answers = Vec::new();
    for hash in (0..16).map(|part| part << 28) {
        let answer = match fib.lookup(source, destination, hash) {
            Ok(way) => Answer::Way(["eth0", "eth1"][usize::from(way.device)], way.next_hop.into()),
            Err(DropReason::LocalDestination) => Answer::Local,
            Err(DropReason::ForeignDevice) => Answer::Elsewhere,
            Err(_) => Answer::Nowhere,
        };
        if !answers.contains(&answer) {
            answers.push(answer);
        }
    }
    answers
}

/// Two Ethernet links of ours, and one that is not.
fn links(name: &str) -> (Namespace, Namespace) {
    let (here, there) = pair(name);
    here.veth("eth1", &there, "eth1");
    here.ip("addr add fe80::1/64 dev eth1 nodad");
    here.ip("link add vx0 up type vxlan external dstport 8472");
    (here, there)
}

/// Compares every pair of addresses; returns how many had a way.
fn compare<F: Family>(
    here: &Namespace,
    sources: &[IpAddr],
    destinations: &[IpAddr],
    context: &str,
) -> usize {
    let kernel = here.enter(|| Kernel::open().unwrap());
    let input = kernel.fib::<F>(&[ifindex(&kernel, "eth0"), ifindex(&kernel, "eth1")]);
    assert_eq!(input.reports, Vec::<String>::new(), "{context}");
    let fib = Fib::new(&input.rules, input.routes);
    let mut ways = 0;
    for source in sources {
        for destination in destinations {
            let expected = kernels_answer(here, *source, *destination);
            let answers = engines_answers(&fib, *source, *destination);
            let what = format!("{destination} from {source}\n{context}");
            assert!(answers.contains(&expected), "{answers:?}, not {expected:?}: {what}");
            ways += usize::from(matches!(expected, Answer::Way(..)));
        }
    }
    ways
}

fn parse<T: FromStr<Err: Debug>>(text: &[&str]) -> Vec<T> {
    text.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn packets_go_where_ip_route_get_says() {
    let (here, _there) = links("lookup4");
    SETUP_V4.lines().for_each(|command| drop(here.ip(command)));
    let nets = ["203.0.113.7/24", "203.0.113.200/25", "192.0.2.1/24", "192.0.3.9/24", "8.8.8.8/32"];
    let mut nets: Vec<ipnet::Ipv4Net> = parse(&nets);
    nets.extend(
        (0..11).map(|third| format!("198.18.{third}.5/24").parse::<ipnet::Ipv4Net>().unwrap()),
    );
    let ends = nets.iter().flat_map(|net| [net.network(), net.addr(), net.broadcast()]);
    let destinations: Vec<IpAddr> = ends.map(IpAddr::from).collect();
    let sources = parse(&["198.51.100.1", "198.51.100.2", "198.51.100.3", "192.0.2.1"]);
    let ways = compare::<V4>(&here, &sources, &destinations, "");
    assert!(ways > 50, "only {ways} lookups found a way");
}

#[test]
fn ipv6_packets_go_where_ip_route_get_says() {
    let (here, _there) = links("lookup6");
    SETUP_V6.lines().for_each(|command| drop(here.ip(command)));
    let nets = [
        "2001:db8:203::7/48",
        "2001:db8:203:8000::8/49",
        "2001:db8:2::1/64",
        "2001:db8:3::9/64",
        "2600::1/128",
    ];
    let mut nets: Vec<ipnet::Ipv6Net> = parse(&nets);
    nets.extend((0..13).map(|part| {
        let text = format!("2001:db8:18:{part:x}::5/64");
        text.parse::<ipnet::Ipv6Net>().unwrap()
    }));
    let ends = nets.iter().flat_map(|net| [net.network(), net.addr(), net.broadcast()]);
    let destinations: Vec<IpAddr> = ends.map(IpAddr::from).collect();
    let sources =
        parse(&["2001:db8:100::1", "2001:db8:100::2", "2001:db8:100::3", "2001:db8:2::1"]);
    let ways = compare::<V6>(&here, &sources, &destinations, "");
    assert!(ways > 50, "only {ways} lookups found a way");
}

/// What random tables are made of: prefixes that nest, and addresses in and beside them.
struct Universe {
    prefixes: [&'static str; 6],
    gateways: [&'static str; 4],
    sources: [&'static str; 2],
    destinations: [&'static str; 8],
}

const UNIVERSE_V4: Universe = Universe {
    prefixes: [
        "0.0.0.0/0",
        "198.18.0.0/15",
        "198.18.4.0/22",
        "198.18.5.0/24",
        "198.18.5.128/25",
        "198.18.5.129/32",
    ],
    gateways: ["192.0.2.2", "192.0.2.3", "192.0.3.2", "192.0.3.3"],
    sources: ["192.0.2.1", "192.0.3.1"],
    destinations: [
        "8.8.8.8",
        "198.18.0.1",
        "198.18.4.1",
        "198.18.5.1",
        "198.18.5.128",
        "198.18.5.129",
        "198.18.6.0",
        "198.19.255.255",
    ],
};

const UNIVERSE_V6: Universe = Universe {
    prefixes: [
        "::/0",
        "2001:db8:8000::/33",
        "2001:db8:9000::/36",
        "2001:db8:9000:5::/64",
        "2001:db8:9000:5:8000::/65",
        "2001:db8:9000:5:8000::1/128",
    ],
    gateways: ["2001:db8:2::2", "fe80::2 dev eth0", "2001:db8:3::2", "fe80::2 dev eth1"],
    sources: ["2001:db8:2::1", "2001:db8:3::1"],
    destinations: [
        "2600::1",
        "2001:db8:8000::",
        "2001:db8:9000::1",
        "2001:db8:9000:5::1",
        "2001:db8:9000:5:8000::",
        "2001:db8:9000:5:8000::1",
        "2001:db8:9000:6::",
        "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
    ],
};

impl Universe {
    fn command(&self, random: &mut Random) -> String {
        let prefix = random.of(&self.prefixes);
        let rule = if prefix.contains(':') { "-6 rule" } else { "rule" };
        let (table, metric) = (random.of(&["main", "7", "8"]), 1 + random.below(2));
        match random.below(12) {
            0 => {
                let (from, to) = (random.of(&self.sources), random.of(&self.prefixes));
                let priority = random.below(40_000);
                format!("{rule} add from {from} to {to} lookup {table} priority {priority}")
            }
            1 => format!("{rule} add to {prefix} unreachable priority {}", random.below(40_000)),
            2 => {
                let kind = random.of(&["unreachable", "blackhole", "prohibit", "throw"]);
                format!("route add {kind} {prefix} table {table} metric {metric}")
            }
            3 => {
                let device = random.of(&["eth0", "eth1", "vx0"]);
                format!("route add {prefix} dev {device} table {table} metric {metric}")
            }
            4 => {
                let [one, other] = [(); 2].map(|()| random.of(&self.gateways));
                format!(
                    "route add {prefix} table {table} metric {metric} nexthop via {one} \
                     nexthop via {other}"
                )
            }
            _ => {
                let (verb, gateway) =
                    (random.of(&["add", "append", "replace"]), random.of(&self.gateways));
                format!("route {verb} {prefix} via {gateway} table {table} metric {metric}")
            }
        }
    }

    fn check<F: Family>(&self, name: &str, addresses: &str) {
        let mut ways = 0;
        for seed in 0..8 {
            let (here, _there) = links(&format!("{name}{seed}"));
            here.ip(addresses);
            let mut random = Random(seed);
            let commands: Vec<String> = (0..30).map(|_| self.command(&mut random) + "\n").collect();
            let commands = commands.concat();
            here.batch(&commands);
            let context = format!("seed {seed}:\n{commands}");
            let (sources, destinations) = (parse(&self.sources), parse(&self.destinations));
            ways += compare::<F>(&here, &sources, &destinations, &context);
        }
        assert!(ways > 30, "only {ways} lookups found a way");
    }
}

#[test]
fn through_random_tables_packets_go_where_ip_route_get_says() {
    UNIVERSE_V4.check::<V4>("random4", "addr add 192.0.3.1/24 dev eth1");
    UNIVERSE_V6.check::<V6>("random6", "addr add 2001:db8:3::1/64 dev eth1 nodad");
}
