//! Turns the kernel's rules and routes into the engine's, and says what got lost on the way.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use spillway_engine::Family;
use spillway_engine::fib::{NextHop, Route, RouteTarget, Rule};
use spillway_engine::tables::DeviceIndex;

use super::family;
use super::route::{Condition, KernelTarget, Leg, Reach, RouteKey, Routes};
use super::rule::{KernelRule, Meaning};

/// How many rules are reported one by one.
const RULE_REPORTS_MAX: usize = 32;

/// What the engine's FIB of one family is built from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FibInput<F: Family> {
    /// In ascending order of priority.
    pub(crate) rules: Vec<Rule<F>>,
    pub(crate) routes: Vec<Route<F>>,
    /// What is not followed, in words for the operator.
    pub(crate) reports: Vec<String>,
}

/// The engine's index of each device, by interface index.
pub(super) type DeviceIndexes = HashMap<u32, DeviceIndex>;

/// Numbers the devices in the order given.
pub(super) fn device_indexes(devices: &[u32]) -> DeviceIndexes {
    devices.iter().copied().zip(0..).collect()
}

/// Converts one family's rules (in the kernel's order) and routes.
pub(super) fn input<F: Family>(
    rules: &[KernelRule],
    routes: &Routes,
    devices: &[u32],
) -> FibInput<F> {
    let devices = device_indexes(devices);
    let mut reports = rule_reports::<F>(rules);
    let mut oddities = BTreeMap::new();
    let routes = routes
        .iter()
        .filter_map(|(key, targets)| route(*key, targets, &devices, &mut oddities))
        .collect();
    reports.extend(oddities.iter().map(|(oddity, seen)| seen.report(*oddity)));
    let rules = rules.iter().filter_map(|rule| match &rule.meaning {
        Meaning::Rule { from, to, action } => {
            Some(Rule { from: F::net(*from)?, to: F::net(*to)?, action: *action })
        }
        Meaning::Nothing | Meaning::Unsupported(_) => None,
    });
    FibInput { rules: rules.collect(), routes, reports }
}

fn rule_reports<F: Family>(rules: &[KernelRule]) -> Vec<String> {
    let family = family::of(F::UNSPECIFIED.into());
    let kind = family::name_of_rules(family);
    let mut ignored = rules.iter().filter(|rule| rule.family == family).filter_map(|rule| {
        let Meaning::Unsupported(what) = &rule.meaning else {
            return None;
        };
        let (priority, what) = (rule.priority, what.join(", "));
        Some(format!("{kind} {priority} is ignored: {what} is not supported"))
    });
    let mut reports: Vec<String> = ignored.by_ref().take(RULE_REPORTS_MAX).collect();
    let more = ignored.count();
    if more > 0 {
        reports.push(format!("{more} more {kind}s are ignored, for like reasons"));
    }
    reports
}

/// The route that the kernel uses of those under one key: the first with a live next hop. `None`
/// for the other family's too.
fn route<F: Family>(
    key: RouteKey,
    targets: &[KernelTarget],
    devices: &DeviceIndexes,
    oddities: &mut BTreeMap<Oddity, Seen>,
) -> Option<Route<F>> {
    let destination = F::net(key.destination)?;
    let mut odd = |oddity| oddities.entry(oddity).or_insert(Seen::first(key)).count += 1;
    match key.condition {
        Condition::Nothing => {}
        Condition::Tos(_) => {
            odd(Oddity::Tos);
            return None;
        }
        Condition::Source(_) => {
            odd(Oddity::Source);
            return None;
        }
    }
    let target = targets.iter().find_map(|target| match target {
        KernelTarget::Forward(legs) => {
            legs.iter().filter_map(|leg| Oddity::of::<F>(leg.reach)).for_each(&mut odd);
            forward(legs, devices)
        }
        KernelTarget::Local => Some(RouteTarget::Local),
        KernelTarget::Unreachable => Some(RouteTarget::Unreachable),
        KernelTarget::Throw => Some(RouteTarget::Throw),
    })?;
    Some(Route { table: key.table, destination, metric: key.metric, target })
}

/// The live next hops, if any.
fn forward<F: Family>(legs: &[Leg], devices: &DeviceIndexes) -> Option<RouteTarget<F>> {
    let live = legs.iter().filter(|leg| !leg.dead);
    let next_hops: Vec<NextHop<F>> = live.map(|leg| next_hop(leg, devices)).collect();
    (!next_hops.is_empty()).then_some(RouteTarget::Forward(next_hops))
}

/// A next hop that cannot be followed leads to no device of ours: its packets are dropped, and do
/// not take another route than the kernel's.
fn next_hop<F: Family>(leg: &Leg, devices: &DeviceIndexes) -> NextHop<F> {
    let device = devices.get(&leg.ifindex).copied();
    let (device, gateway) = match leg.reach {
        Reach::OnLink => (device, None),
        Reach::Gateway(gateway) => match F::address(gateway) {
            Some(gateway) => (device, Some(gateway)),
            None => (None, None),
        },
        Reach::Encapsulated | Reach::Hidden => (None, None),
    };
    NextHop { device, gateway, weight: leg.weight }
}

/// What a route can have that is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Oddity {
    Tos,
    Source,
    /// Of an IPv4 route (RFC 8950).
    Ipv6Gateway,
    Hidden,
}

impl Oddity {
    /// Encapsulated routes are none: they lead out of a device that is not ours.
    fn of<F: Family>(reach: Reach) -> Option<Self> {
        match reach {
            Reach::Gateway(gateway) => F::address(gateway).is_none().then_some(Self::Ipv6Gateway),
            Reach::Hidden => Some(Self::Hidden),
            Reach::OnLink | Reach::Encapsulated => None,
        }
    }
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tos => "ignored: routes with a TOS are not supported",
            Self::Source => "ignored: routes with a source prefix are not supported",
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
    use ipnet::{IpNet, Ipv4Net, Ipv6Net};
    use netlink_packet_route::AddressFamily;
    use spillway_engine::{V4, V6};

    use super::super::route::Preference;
    use super::*;

    const KEY: RouteKey = RouteKey {
        table: 254,
        destination: IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::new(203, 0, 113, 0), 24)),
        metric: 0,
        preference: Preference::Medium,
        condition: Condition::Nothing,
    };
    const KEY_V6: RouteKey = RouteKey {
        destination: IpNet::V6(Ipv6Net::new_assert(
            std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0),
            32,
        )),
        ..KEY
    };

    const LEG: Leg = Leg { ifindex: 3, reach: Reach::OnLink, weight: 1, dead: false };

    fn convert<F: Family>(
        key: RouteKey,
        targets: &[KernelTarget],
    ) -> (Option<RouteTarget<F>>, Vec<String>) {
        let mut oddities = BTreeMap::new();
        let route = route::<F>(key, targets, &device_indexes(&[9, 3]), &mut oddities);
        let reports = oddities.iter().map(|(oddity, seen)| seen.report(*oddity)).collect();
        (route.map(|route| route.target), reports)
    }

    fn hop<F: Family>(device: Option<DeviceIndex>) -> RouteTarget<F> {
        RouteTarget::Forward(vec![NextHop { device, gateway: None, weight: 1 }])
    }

    #[test]
    fn a_device_is_named_by_its_place_in_the_configuration() {
        fn in_family<F: Family>(key: RouteKey) {
            let forward = |leg| convert::<F>(key, &[KernelTarget::Forward(vec![leg])]).0;
            assert_eq!(forward(LEG), Some(hop(Some(1))));
            assert_eq!(forward(Leg { ifindex: 4, ..LEG }), Some(hop(None)));
        }
        in_family::<V4>(KEY);
        in_family::<V6>(KEY_V6);
    }

    #[test]
    fn each_family_has_its_own_routes() {
        assert_eq!(convert::<V6>(KEY, &[KernelTarget::Local]), (None, vec![]));
        assert_eq!(convert::<V4>(KEY_V6, &[KernelTarget::Local]), (None, vec![]));
    }

    #[test]
    fn a_gateway_of_the_routes_family_is_followed() {
        let router = std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
        let leg = Leg { reach: Reach::Gateway(router.into()), ..LEG };
        let (target, reports) = convert::<V6>(KEY_V6, &[KernelTarget::Forward(vec![leg])]);
        let hop = NextHop { device: Some(1), gateway: Some(router), weight: 1 };
        assert_eq!((target, reports), (Some(RouteTarget::Forward(vec![hop])), vec![]));
    }

    #[test]
    fn a_dead_next_hop_is_left_out_and_the_next_route_of_the_key_steps_in() {
        let dead = Leg { dead: true, ..LEG };
        let foreign = Leg { ifindex: 4, ..LEG };
        let dead_only = [KernelTarget::Forward(vec![dead])];
        let both = [KernelTarget::Forward(vec![dead, foreign])];
        assert_eq!(convert::<V4>(KEY, &both).0, Some(hop(None)));
        assert_eq!(convert::<V4>(KEY, &dead_only).0, None);
        assert_eq!(
            convert::<V4>(KEY, &[dead_only[0].clone(), KernelTarget::Throw]).0,
            Some(RouteTarget::Throw)
        );
    }

    #[test]
    fn what_cannot_be_followed_drops_and_is_reported_once() {
        let router = std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
        let leg = Leg { reach: Reach::Gateway(router.into()), ..LEG };
        let (target, reports) = convert::<V4>(KEY, &[KernelTarget::Forward(vec![leg, leg])]);
        let drop = NextHop { device: None, gateway: None, weight: 1 };
        assert_eq!(target, Some(RouteTarget::Forward(vec![drop, drop])));
        let expected = "route 203.0.113.0/24 in table 254 is not followed, its packets are \
                        dropped: its gateway is IPv6 (1 more like it)";
        assert_eq!(reports, [expected]);
    }

    #[test]
    fn a_route_with_a_tos_is_ignored_and_reported() {
        let key = RouteKey { condition: Condition::Tos(16), ..KEY };
        let (target, reports) = convert::<V4>(key, &[KernelTarget::Local]);
        assert_eq!(target, None);
        assert!(reports[0].contains("routes with a TOS are not supported"), "{reports:?}");
    }

    #[test]
    fn a_route_for_some_sources_is_ignored_and_reported() {
        let condition = Condition::Source(KEY_V6.destination);
        let key = RouteKey { condition, ..KEY_V6 };
        let (target, reports) = convert::<V6>(key, &[KernelTarget::Local]);
        assert_eq!(target, None);
        let expected = "route 2001:db8::/32 in table 254 is ignored: routes with a source prefix \
                        are not supported";
        assert_eq!(reports, [expected]);
    }

    #[test]
    fn rules_are_reported_with_their_priority_and_not_without_bound() {
        let rule = |priority| KernelRule {
            family: AddressFamily::Inet,
            priority,
            meaning: Meaning::Unsupported(vec!["fwmark 0x1".into(), "iif eth0".into()]),
        };
        let mut rules: Vec<KernelRule> = (0..100).map(rule).collect();
        rules.push(KernelRule { family: AddressFamily::Inet6, ..rule(5) });
        let reports = rule_reports::<V4>(&rules);
        assert_eq!(reports.len(), RULE_REPORTS_MAX + 1);
        assert_eq!(reports[7], "rule 7 is ignored: fwmark 0x1, iif eth0 is not supported");
        assert_eq!(reports.last().unwrap(), "68 more rules are ignored, for like reasons");
        let expected = ["IPv6 rule 5 is ignored: fwmark 0x1, iif eth0 is not supported"];
        assert_eq!(rule_reports::<V6>(&rules), expected);
    }
}
