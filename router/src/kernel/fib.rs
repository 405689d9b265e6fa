//! Turns the kernel's rules and routes into the engine's, and says what got lost on the way.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use spillway_engine::fib::{NextHop, Route, RouteTarget, Rule};
use spillway_engine::tables::DeviceIndex;

use super::route::{KernelTarget, Leg, Reach, RouteKey, Routes};
use super::rule::{KernelRule, Meaning};

/// How many rules are reported one by one.
const RULE_REPORTS_MAX: usize = 32;

/// What the engine's FIB is built from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FibInput {
    /// In ascending order of priority.
    pub(crate) rules: Vec<Rule>,
    pub(crate) routes: Vec<Route>,
    /// What is not followed, in words for the operator.
    pub(crate) reports: Vec<String>,
}

/// The engine's index of each device, by interface index.
pub(super) type DeviceIndexes = HashMap<u32, DeviceIndex>;

/// Numbers the devices in the order given.
pub(super) fn device_indexes(devices: &[u32]) -> DeviceIndexes {
    devices.iter().copied().zip(0..).collect()
}

/// Converts rules (in the kernel's order) and routes.
pub(super) fn input(rules: &[KernelRule], routes: &Routes, devices: &[u32]) -> FibInput {
    let devices = device_indexes(devices);
    let mut reports = rule_reports(rules);
    let mut oddities = BTreeMap::new();
    let routes = routes
        .iter()
        .filter_map(|(key, targets)| route(*key, targets, &devices, &mut oddities))
        .collect();
    reports.extend(oddities.iter().map(|(oddity, seen)| seen.report(*oddity)));
    let rules = rules.iter().filter_map(|rule| match &rule.meaning {
        Meaning::Rule(rule) => Some(rule.clone()),
        Meaning::Nothing | Meaning::Unsupported(_) => None,
    });
    FibInput { rules: rules.collect(), routes, reports }
}

fn rule_reports(rules: &[KernelRule]) -> Vec<String> {
    let mut ignored = rules.iter().filter_map(|rule| match &rule.meaning {
        Meaning::Unsupported(what) => {
            let (priority, what) = (rule.priority, what.join(", "));
            Some(format!("rule {priority} is ignored: {what} is not supported"))
        }
        Meaning::Rule(_) | Meaning::Nothing => None,
    });
    let mut reports: Vec<String> = ignored.by_ref().take(RULE_REPORTS_MAX).collect();
    let more = ignored.count();
    if more > 0 {
        reports.push(format!("{more} more rules are ignored, for like reasons"));
    }
    reports
}

/// The route that the kernel uses of those under one key: the first with a live next hop.
fn route(
    key: RouteKey,
    targets: &[KernelTarget],
    devices: &DeviceIndexes,
    oddities: &mut BTreeMap<Oddity, Seen>,
) -> Option<Route> {
    let mut odd = |oddity| oddities.entry(oddity).or_insert(Seen::first(key)).count += 1;
    if key.tos != 0 {
        odd(Oddity::Tos);
        return None;
    }
    let target = targets.iter().find_map(|target| match target {
        KernelTarget::Forward(legs) => {
            legs.iter().filter_map(|leg| Oddity::of(leg.reach)).for_each(&mut odd);
            forward(legs, devices)
        }
        KernelTarget::Local => Some(RouteTarget::Local),
        KernelTarget::Unreachable => Some(RouteTarget::Unreachable),
        KernelTarget::Throw => Some(RouteTarget::Throw),
    })?;
    Some(Route { table: key.table, destination: key.destination, metric: key.metric, target })
}

/// The live next hops, if any.
fn forward(legs: &[Leg], devices: &DeviceIndexes) -> Option<RouteTarget> {
    let live = legs.iter().filter(|leg| !leg.dead);
    let next_hops: Vec<NextHop> = live.map(|leg| next_hop(leg, devices)).collect();
    (!next_hops.is_empty()).then_some(RouteTarget::Forward(next_hops))
}

/// A next hop that cannot be followed leads to no device of ours: its packets are dropped, and do
/// not take another route than the kernel's.
fn next_hop(leg: &Leg, devices: &DeviceIndexes) -> NextHop {
    let device = devices.get(&leg.ifindex).copied();
    let (device, gateway) = match leg.reach {
        Reach::OnLink => (device, None),
        Reach::Gateway(gateway) => (device, Some(gateway)),
        Reach::Ipv6Gateway | Reach::Encapsulated | Reach::Hidden => (None, None),
    };
    NextHop { device, gateway, weight: leg.weight }
}

/// What a route can have that is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Oddity {
    Tos,
    Ipv6Gateway,
    Hidden,
}

impl Oddity {
    /// Encapsulated routes are none: they lead out of a device that is not ours.
    fn of(reach: Reach) -> Option<Self> {
        match reach {
            Reach::Ipv6Gateway => Some(Self::Ipv6Gateway),
            Reach::Hidden => Some(Self::Hidden),
            Reach::OnLink | Reach::Gateway(_) | Reach::Encapsulated => None,
        }
    }
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tos => "ignored: routes with a TOS are not supported",
            Self::Ipv6Gateway => "not followed, its packets are dropped: its gateway is IPv6",
            Self::Hidden => {
                "not followed, its packets are dropped: the kernel does not show the next-hop \
                 object behind it; set sysctl net.ipv4.nexthop_compat_mode=1"
            }
        })
    }
}

/// How often something was seen, and where first.
#[derive(Clone, Copy, Debug)]
struct Seen {
    count: usize,
    key: RouteKey,
}

impl Seen {
    fn first(key: RouteKey) -> Self {
        Self { count: 0, key }
    }

    fn report(&self, oddity: Oddity) -> String {
        let RouteKey { table, destination, .. } = self.key;
        let more = match self.count {
            0 | 1 => String::new(),
            count => format!(" ({} more like it)", count - 1),
        };
        format!("route {destination} in table {table} is {oddity}{more}")
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const KEY: RouteKey = RouteKey {
        table: 254,
        destination: ipnet::Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 0), 24),
        metric: 0,
        tos: 0,
    };

    const LEG: Leg = Leg { ifindex: 3, reach: Reach::OnLink, weight: 1, dead: false };

    fn convert(key: RouteKey, targets: &[KernelTarget]) -> (Option<RouteTarget>, Vec<String>) {
        let mut oddities = BTreeMap::new();
        let route = route(key, targets, &device_indexes(&[9, 3]), &mut oddities);
        let reports = oddities.iter().map(|(oddity, seen)| seen.report(*oddity)).collect();
        (route.map(|route| route.target), reports)
    }

    fn hop(device: Option<DeviceIndex>) -> RouteTarget {
        RouteTarget::Forward(vec![NextHop { device, gateway: None, weight: 1 }])
    }

    #[test]
    fn a_device_is_named_by_its_place_in_the_configuration() {
        assert_eq!(convert(KEY, &[KernelTarget::Forward(vec![LEG])]).0, Some(hop(Some(1))));
        let foreign = Leg { ifindex: 4, ..LEG };
        assert_eq!(convert(KEY, &[KernelTarget::Forward(vec![foreign])]).0, Some(hop(None)));
    }

    #[test]
    fn a_dead_next_hop_is_left_out_and_the_next_route_of_the_key_steps_in() {
        let dead = Leg { dead: true, ..LEG };
        let foreign = Leg { ifindex: 4, ..LEG };
        let dead_only = [KernelTarget::Forward(vec![dead])];
        assert_eq!(convert(KEY, &[KernelTarget::Forward(vec![dead, foreign])]).0, Some(hop(None)));
        assert_eq!(convert(KEY, &dead_only).0, None);
        assert_eq!(
            convert(KEY, &[dead_only[0].clone(), KernelTarget::Throw]).0,
            Some(RouteTarget::Throw)
        );
    }

    #[test]
    fn what_cannot_be_followed_drops_and_is_reported_once() {
        let leg = Leg { reach: Reach::Ipv6Gateway, ..LEG };
        let (target, reports) = convert(KEY, &[KernelTarget::Forward(vec![leg, leg])]);
        let drop = NextHop { device: None, gateway: None, weight: 1 };
        assert_eq!(target, Some(RouteTarget::Forward(vec![drop, drop])));
        let expected = "route 203.0.113.0/24 in table 254 is not followed, its packets are \
                        dropped: its gateway is IPv6 (1 more like it)";
        assert_eq!(reports, [expected]);
    }

    #[test]
    fn a_route_with_a_tos_is_ignored_and_reported() {
        let (target, reports) = convert(RouteKey { tos: 16, ..KEY }, &[KernelTarget::Local]);
        assert_eq!(target, None);
        assert!(reports[0].contains("routes with a TOS are not supported"), "{reports:?}");
    }

    #[test]
    fn rules_are_reported_with_their_priority_and_not_without_bound() {
        let rule = |priority| KernelRule {
            priority,
            meaning: Meaning::Unsupported(vec!["fwmark 0x1".into(), "iif eth0".into()]),
        };
        let rules: Vec<KernelRule> = (0..100).map(rule).collect();
        let reports = rule_reports(&rules);
        assert_eq!(reports.len(), RULE_REPORTS_MAX + 1);
        assert_eq!(reports[7], "rule 7 is ignored: fwmark 0x1, iif eth0 is not supported");
        assert_eq!(reports.last().unwrap(), "68 more rules are ignored, for like reasons");
    }
}
