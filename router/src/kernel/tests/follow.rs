//! Listing and following: links, addresses, rules, routes.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::{Changes, Kernel};
use super::{Namespace, assert_in_step, follow_until, ifindex, pair};

/// Everything that a follower must notice, once.
const SETUP: &str = "\
link add br0 type bridge
link set eth1 master br0
link add vx0 type vxlan external dstport 8472
link set br0 up
link set vx0 up
addr add 198.51.100.7/32 dev lo
addr add 10.0.0.1 peer 10.0.0.2 dev eth0
rule add from 10.0.0.0/8 to 203.0.113.0/24 lookup 40000 priority 100
rule add fwmark 1 lookup 7 priority 90
rule add from 10.9.0.0/16 prohibit priority 80
route add default via 192.0.2.2
route add 203.0.113.0/24 via 192.0.2.2 table 40000 metric 7
route append 203.0.113.0/24 via 192.0.2.3 table 40000 metric 7
route add 198.18.0.0/15 nexthop via 192.0.2.2 weight 3 nexthop via 192.0.2.3
route add blackhole 198.18.1.0/24
route add throw 198.18.2.0/24
route add 198.18.3.0/24 tos 0x10 via 192.0.2.2
route add 198.18.4.0/24 encap ip id 40000 dst 192.0.2.9 dev vx0
route add 198.18.5.0/24 via inet6 fe80::1 dev eth0
nexthop add id 5 via 192.0.2.2 dev eth0
route add 198.18.6.0/24 nhid 5
";

fn text(entry: &Value, name: &str) -> String {
    entry[name].as_str().unwrap_or_default().to_string()
}

fn number(entry: &Value, name: &str) -> u32 {
    u32::try_from(entry[name].as_u64().unwrap_or_default()).unwrap()
}

/// `ip route`'s prefix and table in full.
fn prefix_and_table(entry: &Value) -> (String, u32) {
    let destination = match text(entry, "dst") {
        // `ip` prints the tunnel's destination under the same name, after the route's.
        _ if entry.get("encap").is_some() => "198.18.4.0/24".to_string(),
        default if default == "default" => "0.0.0.0/0".to_string(),
        prefix if prefix.contains('/') => prefix,
        host => format!("{host}/32"),
    };
    let table = match text(entry, "table").as_str() {
        "" | "main" => 254,
        "local" => 255,
        number => number.parse().unwrap(),
    };
    (destination, table)
}

#[test]
fn what_is_listed_is_what_ip_shows() {
    let (here, there) = pair("list");
    here.veth("eth1", &there, "eth1");
    here.batch(SETUP);
    let kernel = here.enter(|| Kernel::open().unwrap());

    for link in here.json("link show") {
        let name = text(&link, "ifname");
        let ours = kernel.link(&name).unwrap();
        let mac = ours.mac.unwrap().map(|byte| format!("{byte:02x}")).join(":");
        assert_eq!((ours.ifindex, ours.mtu), (number(&link, "ifindex"), number(&link, "mtu")));
        assert_eq!(mac, text(&link, "address"), "{name}");
        let flags = link["flags"].as_array().unwrap();
        assert_eq!(ours.up, flags.contains(&"UP".into()), "{name}");
        assert_eq!(ours.carrier, flags.contains(&"LOWER_UP".into()), "{name}");
    }
    let shown: BTreeSet<(u32, String)> = here
        .json("-4 addr show")
        .iter()
        .flat_map(|link| {
            let addresses = link["addr_info"].as_array().unwrap().clone();
            addresses.into_iter().map(|address| (number(link, "ifindex"), text(&address, "local")))
        })
        .collect();
    let ours = kernel.addresses().map(|local| (local.ifindex, local.address.addr().to_string()));
    assert_eq!(ours.collect::<BTreeSet<_>>(), shown);
    assert_eq!(shown.len(), 4);

    let shown = here.json("-4 rule show");
    assert_eq!(kernel.rules.len(), shown.len());
    for (ours, shown) in kernel.rules.iter().zip(&shown) {
        assert_eq!(ours.priority, number(shown, "priority"));
    }

    let routes = here.json("-4 route show table all");
    let shown: BTreeSet<(String, u32)> = routes.iter().map(prefix_and_table).collect();
    let ours = kernel.routes.iter().map(|(key, _)| (key.destination.to_string(), key.table));
    assert_eq!(ours.collect::<BTreeSet<_>>(), shown);
    let count: usize = kernel.routes.iter().map(|(_, targets)| targets.len()).sum();
    assert_eq!(count, routes.len());
}

#[test]
fn what_is_not_followed_is_reported() {
    let (here, there) = pair("report");
    here.veth("eth1", &there, "eth1");
    here.batch(SETUP);
    let kernel = here.enter(|| Kernel::open().unwrap());
    let input = kernel.fib(&[ifindex(&kernel, "eth0")]);
    let expected = [
        "rule 90 is ignored: fwmark 0x1 is not supported",
        "route 198.18.3.0/24 in table 254 is ignored: routes with a TOS are not supported",
        "route 198.18.5.0/24 in table 254 is not followed, its packets are dropped: its gateway \
         is IPv6",
    ];
    assert_eq!(input.reports, expected);
    assert_eq!(input.rules.len(), 5);
}

#[test]
fn every_change_is_followed() {
    let (here, there) = pair("change");
    here.veth("eth1", &there, "eth1");
    here.enter(|| {
        let mut kernel = Kernel::open().unwrap();
        for command in SETUP.lines() {
            here.ip(command);
            let changes = kernel.follow().unwrap();
            assert!(!changes.unfinished, "{command}");
            let noticed = match command.split(' ').next().unwrap() {
                "link" => changes.links,
                "addr" => changes.addresses && changes.routes,
                "rule" => changes.rules,
                "route" => changes.routes,
                _ => true,
            };
            assert!(noticed, "{command}: {changes:?}");
        }
        follow_until(&mut kernel, "carrier of the bridge", |kernel| {
            kernel.links == Kernel::open().unwrap().links
        });
        assert_in_step(&kernel);
    });
}

#[test]
fn nothing_new_is_no_change() {
    let (here, _there) = pair("quiet");
    here.enter(|| {
        let mut kernel = Kernel::open().unwrap();
        kernel.follow().unwrap();
        kernel.stale = Changes::ALL;
        assert_eq!(kernel.follow().unwrap(), Changes::default());
    });
}

#[test]
fn routes_that_the_kernel_drops_silently_are_dropped() {
    let (here, _there) = pair("silent");
    let route = |kernel: &Kernel| {
        let input = kernel.fib(&[]);
        input.routes.iter().any(|route| route.destination.to_string() == "203.0.113.0/24")
    };
    let cases = [
        ("link set eth0 down", "link set eth0 up", "via 192.0.2.2"),
        (
            "addr del 192.0.2.77/32 dev lo",
            "addr add 192.0.2.77/32 dev lo",
            "dev eth0 src 192.0.2.77",
        ),
        ("nexthop del id 5", "nexthop add id 5 via 192.0.2.2 dev eth0", "nhid 5"),
    ];
    here.enter(|| {
        let mut kernel = Kernel::open().unwrap();
        for (_, prepare, _) in cases {
            here.ip(prepare);
        }
        for (drop, restore, way) in cases {
            here.ip(&format!("route add 203.0.113.0/24 {way}"));
            kernel.follow().unwrap();
            assert!(route(&kernel), "{drop}");
            here.ip(drop);
            assert!(kernel.follow().unwrap().routes, "{drop}");
            assert!(!route(&kernel), "{drop}");
            assert_in_step(&kernel);
            here.ip(restore);
            here.try_ip("nexthop add id 5 via 192.0.2.2 dev eth0");
        }
    });
}

/// The kernel tells that a link goes down before it drops the routes.
#[test]
fn a_follower_that_is_faster_than_the_kernel_still_sees_the_routes_go() {
    let (here, _there) = pair("race");
    here.enter(|| {
        let mut kernel = Kernel::open().unwrap();
        for round in 0..40 {
            here.ip("link set eth0 up");
            let routes: Vec<String> = (0..250)
                .map(|third| format!("route replace 198.18.{third}.0/24 via 192.0.2.2\n"))
                .collect();
            here.batch(&routes.concat());
            kernel.follow().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| here.ip("link set eth0 down"));
                follow_until(&mut kernel, "link down", |kernel| !kernel.link("eth0").unwrap().up);
            });
            kernel.follow().unwrap();
            let left = kernel.fib(&[]).routes.len();
            assert_eq!(kernel.routes, Kernel::open().unwrap().routes, "round {round}: {left} left");
        }
    });
}

#[test]
fn lost_notifications_are_made_good_by_reading_everything_anew() {
    let (here, _there) = pair("lost");
    here.enter(|| {
        let mut kernel = Kernel::open().unwrap();
        kernel.notifications.shrink();
        let commands: Vec<String> = (0..200u32)
            .map(|third| {
                format!(
                    "route add 198.18.{third}.0/24 via 192.0.2.2\n\
                     rule add from 10.0.{third}.0/24 lookup 7 priority {third}\n\
                     addr add 10.1.{third}.1/24 dev eth0\n"
                )
            })
            .collect();
        here.batch(&commands.concat());
        let changes = kernel.follow().unwrap();
        assert!(changes.routes && changes.rules && changes.addresses, "{changes:?}");
        assert_in_step(&kernel);
        assert!(kernel.routes.iter().count() > 800);
        assert_eq!(kernel.rules.len(), 203);
    });
}

/// A small generator of numbers below `bound`, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % bound
    }

    fn command(&mut self) -> String {
        let [verb, prefix, gateway, metric, table] = [5, 4, 3, 2, 2].map(|bound| self.below(bound));
        match self.below(16) {
            0 => format!("link set eth{} down", self.below(2)),
            1..=2 => format!("link set eth{} up", self.below(2)),
            3 => format!("addr del 192.0.2.1/24 dev eth{}", self.below(2)),
            4..=5 => format!("addr add 192.0.2.1/24 dev eth{}", self.below(2)),
            6 => format!("rule add from 10.{prefix}.0.0/16 lookup 7 priority {gateway}"),
            7 => format!("rule del from 10.{prefix}.0.0/16"),
            8 => format!("nexthop replace id 5 via 192.0.2.{} dev eth{metric}", 2 + gateway),
            9 => "nexthop del id 5".into(),
            10 => format!("route replace 198.18.{prefix}.0/24 nhid 5"),
            _ => {
                let verb =
                    ["add", "append", "prepend", "replace", "del"][usize::try_from(verb).unwrap()];
                let (gateway, table) = (2 + gateway, [254, 7][usize::try_from(table).unwrap()]);
                format!(
                    "route {verb} 198.18.{prefix}.0/24 via 192.0.2.{gateway} metric {metric} \
                     table {table}"
                )
            }
        }
    }
}

#[test]
fn after_any_sequence_of_changes_what_was_followed_is_what_is_listed() {
    let (here, there) = pair("random");
    here.veth("eth1", &there, "eth1");
    here.enter(|| {
        let mut kernel = Kernel::open().unwrap();
        for seed in 0..150 {
            let mut random = Random(seed);
            let commands: Vec<String> =
                (0..=random.below(20)).map(|_| random.command() + "\n").collect();
            here.batch(&commands.concat());
            follow_until(&mut kernel, "the links' state", |kernel| {
                kernel.links == Kernel::open().unwrap().links
            });
            let fresh = Kernel::open().unwrap();
            let context = format!("seed {seed}:\n{}", commands.concat());
            assert_eq!(kernel.addresses, fresh.addresses, "{context}");
            assert_eq!(kernel.rules, fresh.rules, "{context}");
            assert_eq!(kernel.routes, fresh.routes, "{context}");
        }
    });
}

#[test]
fn a_link_that_comes_and_goes_is_followed() {
    let here = Namespace::new("come");
    here.enter(|| {
        let mut kernel = Kernel::open().unwrap();
        here.ip("link add br7 address 02:00:00:00:00:07 mtu 1400 type bridge");
        assert!(kernel.follow().unwrap().links);
        let link = kernel.link("br7").unwrap().clone();
        assert_eq!((link.mac, link.mtu, link.up), (Some([2, 0, 0, 0, 0, 7]), 1400, false));
        here.ip("link set br7 name br8 up");
        kernel.follow().unwrap();
        assert_eq!(kernel.link("br7"), None);
        assert_eq!(kernel.link_at(link.ifindex).map(|link| link.up), Some(true));
        here.ip("link del br8");
        assert!(kernel.follow().unwrap().links);
        assert_eq!(kernel.link_at(link.ifindex), None);
    });
}
