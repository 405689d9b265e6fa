//! Listing and following: links, addresses, rules, routes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;
use spillway_engine::{Family, V4, V6};
use spillway_testing::wait_until;

use super::super::{Changes, Kernel};
use super::{
    Namespace, Random, assert_in_step, follow_until, follow_until_in_step, ifindex, pair, settled,
};

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
route add 198.18.5.0/24 via inet6 fe80::9 dev eth0
nexthop add id 5 via 192.0.2.2 dev eth0
route add 198.18.6.0/24 nhid 5
addr add 2001:db8:100::7/128 dev lo nodad
addr add 2001:db8:200::1 peer 2001:db8:200::2 dev eth0 nodad
-6 rule add from 2001:db8:10::/48 to 2001:db8:203::/48 lookup 40000 priority 100
-6 rule add from 2001:db8:19::/48 iif eth0 lookup 7 priority 90
-6 rule add from 2001:db8:19::/48 prohibit priority 80
route add ::/0 via fe80::2 dev eth0
route add 2001:db8:203::/48 via 2001:db8:2::2 table 40000 metric 7
route append 2001:db8:203::/48 via fe80::3 dev eth0 table 40000 metric 7
route append 2001:db8:203::/48 dev eth0 table 40000 metric 7
route add 2001:db8:18::/48 nexthop via 2001:db8:2::2 weight 3 nexthop via fe80::3 dev eth0
route add blackhole 2001:db8:18:1::/64
route add throw 2001:db8:18:2::/64
route add 2001:db8:18:3::/64 from 2001:db8:10::/48 via 2001:db8:2::2
route add 2001:db8:18:4::/64 encap ip6 id 40000 dst 2001:db8:9::9 dev vx0
nexthop add id 6 via fe80::2 dev eth0
route add 2001:db8:18:6::/64 nhid 6
";

fn text(entry: &Value, name: &str) -> String {
    entry[name].as_str().unwrap_or_default().to_string()
}

fn number(entry: &Value, name: &str) -> u32 {
    u32::try_from(entry[name].as_u64().unwrap_or_default()).unwrap()
}

/// `ip route`'s prefix and table in full.
fn prefix_and_table<F: Family>(entry: &Value) -> (String, u32) {
    let destination = match text(entry, "dst") {
        // `ip` prints the tunnel's destination under the same name, after the route's.
        tunnel if entry.get("encap").is_some() => match tunnel.contains(':') {
            true => "2001:db8:18:4::/64".to_string(),
            false => "198.18.4.0/24".to_string(),
        },
        default if default == "default" => F::EVERYTHING.to_string(),
        prefix if prefix.contains('/') => prefix,
        host => {
            format!("{host}/{}", F::length(F::net(host.parse::<IpAddr>().unwrap().into()).unwrap()))
        }
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
    let kernel = here.enter(|| {
        let mut kernel = Kernel::open().unwrap();
        follow_until(&mut kernel, "addresses", settled);
        kernel
    });

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
        .json("addr show")
        .iter()
        .flat_map(|link| {
            let addresses = link["addr_info"].as_array().unwrap().clone();
            addresses.into_iter().map(|address| (number(link, "ifindex"), text(&address, "local")))
        })
        .collect();
    let ours = kernel.addresses().map(|local| (local.ifindex, local.address.addr().to_string()));
    assert_eq!(ours.collect::<BTreeSet<_>>(), shown);
    assert_eq!(shown.len(), 9);

    let shown = [here.json("-4 rule show"), here.json("-6 rule show")].concat();
    assert_eq!(kernel.rules.len(), shown.len());
    for (ours, shown) in kernel.rules.iter().zip(&shown) {
        assert_eq!(ours.priority, number(shown, "priority"));
    }

    let [mut four, mut six] = ["-4", "-6"].map(|v| here.json(&format!("{v} route show table all")));
    for routes in [&mut four, &mut six] {
        routes.retain(|entry| text(entry, "type") != "multicast");
    }
    let shown =
        four.iter().map(prefix_and_table::<V4>).chain(six.iter().map(prefix_and_table::<V6>));
    let ours = kernel.routes.iter().map(|(key, _)| (key.destination.to_string(), key.table));
    assert_eq!(ours.collect::<BTreeSet<_>>(), shown.collect::<BTreeSet<_>>());
    let count: usize = kernel.routes.iter().map(|(_, targets)| targets.len()).sum();
    assert_eq!(count, four.len() + six.len());
}

#[test]
fn what_is_not_followed_is_reported() {
    let (here, there) = pair("report");
    here.veth("eth1", &there, "eth1");
    here.batch(SETUP);
    let kernel = here.enter(|| Kernel::open().unwrap());
    let devices = [ifindex(&kernel, "eth0")];
    let input = kernel.fib::<V4>(&devices);
    let expected = [
        "rule 90 is ignored: fwmark 0x1 is not supported",
        "route 198.18.3.0/24 in table 254 is ignored: routes with a TOS are not supported",
        "route 198.18.5.0/24 in table 254 is not followed, its packets are dropped: its gateway \
         is IPv6",
    ];
    assert_eq!(input.reports, expected);
    assert_eq!(input.rules.len(), 5);
    let input = kernel.fib::<V6>(&devices);
    let expected = [
        "IPv6 rule 90 is ignored: iif eth0 is not supported",
        "route 2001:db8:18:3::/64 in table 254 is ignored: routes with a source prefix are not \
         supported",
    ];
    assert_eq!(input.reports, expected);
    assert_eq!(input.rules.len(), 4);
}

#[test]
fn every_change_is_followed() {
    let (here, there) = pair("change");
    here.veth("eth1", &there, "eth1");
    here.enter(|| {
        let mut kernel = Kernel::open().unwrap();
        for command in SETUP.lines() {
            here.ip(command);
            let mut seen = Changes::default();
            // The kernel tells of some things, such as IPv6's routes, after the command has ended.
            wait_until(command, Duration::from_secs(10), || {
                let more = kernel.follow().unwrap();
                assert!(!more.unfinished, "{command}");
                seen.links |= more.links;
                seen.addresses |= more.addresses;
                seen.rules |= more.rules;
                seen.routes |= more.routes;
                match command.trim_start_matches("-6 ").split(' ').next().unwrap() {
                    "link" => seen.links,
                    "addr" => seen.addresses && seen.routes,
                    "rule" => seen.rules,
                    "route" => seen.routes,
                    _ => true,
                }
            });
        }
        follow_until_in_step(&mut kernel, "carrier of the bridge");
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
    let has = |kernel: &Kernel, destination: &str| {
        let destination: IpNet = destination.parse().unwrap();
        kernel.routes.iter().any(|(key, _)| key.destination == destination)
    };
    let [four, six] = ["203.0.113.0/24", "2001:db8:203::/48"];
    let cases = [
        (four, "link set eth0 down", "link set eth0 up", "via 192.0.2.2"),
        (
            four,
            "addr del 192.0.2.77/32 dev lo",
            "addr add 192.0.2.77/32 dev lo",
            "dev eth0 src 192.0.2.77",
        ),
        (four, "nexthop del id 5", "nexthop add id 5 via 192.0.2.2 dev eth0", "nhid 5"),
        (six, "link set eth0 down", "link set eth0 up", "dev eth0"),
        (six, "nexthop del id 6", "-6 nexthop add id 6 dev eth0", "nhid 6"),
    ];
    here.enter(|| {
        let mut kernel = Kernel::open().unwrap();
        for (_, _, prepare, _) in cases {
            here.try_ip(prepare);
        }
        for (destination, drop, restore, way) in cases {
            here.ip(&format!("route add {destination} {way}"));
            kernel.follow().unwrap();
            assert!(has(&kernel, destination), "{drop}");
            here.ip(drop);
            assert!(kernel.follow().unwrap().routes, "{drop}");
            assert!(!has(&kernel, destination), "{drop}");
            follow_until_in_step(&mut kernel, drop);
            here.ip(restore);
            here.try_ip("nexthop add id 5 via 192.0.2.2 dev eth0");
            here.try_ip("-6 nexthop add id 6 dev eth0");
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
                .map(|third| {
                    format!(
                        "route replace 198.18.{third}.0/24 via 192.0.2.2\n\
                         route replace 2001:db8:18:{third:x}::/64 dev eth0\n"
                    )
                })
                .collect();
            here.batch(&routes.concat());
            kernel.follow().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| here.ip("link set eth0 down"));
                follow_until(&mut kernel, "link down", |kernel| !kernel.link("eth0").unwrap().up);
            });
            kernel.follow().unwrap();
            let left = kernel.routes.iter().count();
            assert_eq!(kernel.routes, Kernel::open().unwrap().routes, "round {round}: {left} left");
        }
    });
}

/// The kernel lists IPv6 routes part by part and does not say when they changed in between.
#[test]
fn a_list_of_routes_that_change_meanwhile_has_those_that_do_not() {
    let (here, _there) = pair("torn");
    let routes = |prefix: &str, verb: &str| -> String {
        let route = |part| format!("route {verb} 2001:db8:{prefix}:{part:x}::/64 dev eth0\n");
        (0..3000).map(route).collect()
    };
    here.batch(&routes("18", "add"));
    here.enter(|| {
        let changes: String = [routes("17", "add"), routes("17", "del")].concat().repeat(3);
        std::thread::scope(|scope| {
            let changing = scope.spawn(|| here.batch(&changes));
            let stays: IpNet = "2001:db8:18::/48".parse().unwrap();
            let stayed = |kernel: &Kernel| {
                let routes = kernel.routes.iter().filter(|(key, targets)| {
                    stays.contains(&key.destination) && targets.len() == 1
                });
                routes.count()
            };
            while !changing.is_finished() {
                let kernel = Kernel::open().unwrap();
                let stayed = stayed(&kernel);
                assert!(stayed == 3000 || kernel.stale.routes, "{stayed} and all is well");
            }
            let kernel = Kernel::open().unwrap();
            assert!(stayed(&kernel) == 3000 && !kernel.stale.routes);
        });
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
                     addr add 10.1.{third}.1/24 dev eth0\n\
                     route add 2001:db8:18:{third:x}::/64 via fe80::2 dev eth0\n\
                     -6 rule add from 2001:db8:10:{third:x}::/64 lookup 7 priority {third}\n"
                )
            })
            .collect();
        here.batch(&commands.concat());
        let changes = kernel.follow().unwrap();
        assert!(changes.routes && changes.rules && changes.addresses, "{changes:?}");
        assert_in_step(&kernel);
        assert!(kernel.routes.iter().count() > 1000);
        assert_eq!(kernel.rules.len(), 405);
    });
}

impl Random {
    fn command(&mut self) -> String {
        let [verb, prefix, gateway, metric, table] = [5, 4, 3, 2, 2].map(|bound| self.below(bound));
        match self.below(24) {
            0 => format!("link set eth{} down", self.below(2)),
            1..=2 => format!("link set eth{} up", self.below(2)),
            3 => format!("addr del 192.0.2.1/24 dev eth{}", self.below(2)),
            4..=5 => format!("addr add 192.0.2.1/24 dev eth{}", self.below(2)),
            6 => format!("rule add from 10.{prefix}.0.0/16 lookup 7 priority {gateway}"),
            7 => format!("rule del from 10.{prefix}.0.0/16"),
            8 => format!("nexthop replace id 5 via 192.0.2.{} dev eth{metric}", 2 + gateway),
            9 => "nexthop del id 5".into(),
            10 => format!("route replace 198.18.{prefix}.0/24 nhid 5"),
            11 => format!("addr add 2001:db8:2::1/64 dev eth{metric} nodad"),
            12 => format!("addr del 2001:db8:2::1/64 dev eth{metric}"),
            13 => format!("-6 rule add from 2001:db8:{prefix}::/48 lookup 7 priority {gateway}"),
            14 => format!("-6 rule del from 2001:db8:{prefix}::/48"),
            15 => format!("nexthop replace id 6 via fe80::{} dev eth{table}", 2 + gateway),
            16 => format!("route replace 2001:db8:18:{prefix}::/64 nhid 6"),
            17..=20 => self.ipv6_route(),
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

impl Random {
    fn ipv6_route(&mut self) -> String {
        let verb = self.of(&["add", "append", "prepend", "replace", "del"]);
        let (prefix, metric) = (self.below(3), 5 + self.below(2));
        let [one, other] = [(); 2].map(|()| {
            self.of(&["via fe80::2 dev eth0", "via fe80::3 dev eth0", "via fe80::2 dev eth1"])
        });
        let way = match self.below(6) {
            0 => "dev eth0".to_string(),
            1 => format!("{one} pref {}", self.of(&["low", "high"])),
            2..=3 => format!("nexthop {one} nexthop {other}"),
            _ => one.to_string(),
        };
        let kind = if self.below(12) == 0 { "unreachable" } else { "" };
        let way = if kind.is_empty() { way } else { String::new() };
        // The words of a way with several next hops come last.
        format!("route {verb} {kind} 2001:db8:18:{prefix}::/64 metric {metric} {way}")
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
            let context = format!("in step after seed {seed}:\n{}", commands.concat());
            follow_until_in_step(&mut kernel, &context);
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
