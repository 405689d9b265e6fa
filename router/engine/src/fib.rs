//! Forwarding information base: the kernel's rules and routes, looked up as `ip route get
//! DESTINATION from SOURCE` would.

use std::collections::BTreeMap;

use crate::DropReason;
use crate::family::{Family, V4};
use crate::lpm::PrefixMap;
use crate::tables::DeviceIndex;

/// One `ip rule`, in ascending order of priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule<F: Family = V4> {
    /// Matches the packet's source (after translation); [`Family::EVERYTHING`] matches all.
    pub from: F::Net,
    /// Matches the packet's destination.
    pub to: F::Net,
    /// What to do on a match.
    pub action: RuleAction,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// Look into the routing table with this number; go on to the next rule if it has no route.
    Table(u32),
    /// Discard: blackhole, unreachable, prohibit.
    Unreachable,
}

/// One route of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route<F: Family = V4> {
    /// Number of the table that it is in.
    pub table: u32,
    /// The destinations that it serves.
    pub destination: F::Net,
    /// Lower wins between routes to the same destination.
    pub metric: u32,
    /// Where it leads.
    pub target: RouteTarget<F>,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteTarget<F: Family = V4> {
    /// Out of a device, over one of these next hops (several: multipath, by flow hash).
    Forward(Vec<NextHop<F>>),
    /// To this host.
    Local,
    /// Nowhere: blackhole, unreachable, prohibit.
    Unreachable,
    /// Back to the rules: `throw`.
    Throw,
}

/// One next hop of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop<F: Family = V4> {
    /// The device, or `None` when Spillway does not drive the device that it leads out of.
    pub device: Option<DeviceIndex>,
    /// The gateway, or `None` when the destination itself is on the link.
    pub gateway: Option<F::Address>,
    /// Share of flows, at least 1.
    pub weight: u16,
}

/// The result of a lookup that found a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way<F: Family = V4> {
    /// Out of this device.
    pub device: DeviceIndex,
    /// To this address on the link.
    pub next_hop: F::Address,
}

/// Rules and routes, arranged for lookups.
#[derive(Clone, Debug, Default)]
pub struct Fib<F: Family = V4> {
    /// Rules that can decide something: those of tables without a route are left out.
    rules: Vec<Selector<F>>,
    /// Destinations to indices into `targets`.
    tables: Vec<PrefixMap<F, usize>>,
    targets: Vec<RouteTarget<F>>,
}

impl<F: Family> Fib<F> {
    /// Arranges `rules` (ascending by priority) and `routes` for lookups.
    #[must_use]
    pub fn new(rules: &[Rule<F>], mut routes: Vec<Route<F>>) -> Self {
        // The best metric comes first of equal destinations, and of equal metrics the first given.
        routes.sort_by_key(|route| (route.table, F::truncated(route.destination), route.metric));
        let mut prefixes: BTreeMap<u32, Vec<(F::Net, usize)>> = BTreeMap::new();
        let mut targets = Vec::with_capacity(routes.len());
        for route in routes {
            let destination = F::truncated(route.destination);
            let table = prefixes.entry(route.table).or_default();
            if table.last().is_none_or(|(last, _)| *last != destination) {
                table.push((destination, targets.len()));
                targets.push(route.target);
            }
        }
        let numbers: Vec<_> = prefixes.keys().copied().collect();
        let action = |rule: &Rule<F>| match rule.action {
            RuleAction::Unreachable => Some(None),
            RuleAction::Table(table) => numbers.binary_search(&table).ok().map(Some),
        };
        let rules = rules.iter().filter_map(|rule| Some(Selector::new(rule, action(rule)?)));
        let rules = rules.collect();
        let tables = prefixes.values().map(|list| PrefixMap::new(list)).collect();
        Self { rules, tables, targets }
    }

    /// The way to `destination` for a packet from `source`; `hash` chooses among several next
    /// hops.
    ///
    /// # Errors
    /// Says why there is none: no route, not our device, this host itself, or discarded.
    pub fn lookup(
        &self,
        source: F::Address,
        destination: F::Address,
        hash: u32,
    ) -> Result<Way<F>, DropReason> {
        let pair = F::pair(source, destination);
        let matches = |rule: &&Selector<F>| F::masked(pair, rule.mask) == rule.addresses;
        for rule in self.rules.iter().filter(matches) {
            let table = rule.table.ok_or(DropReason::RouteUnreachable)?;
            match self.route(table, destination) {
                None | Some(RouteTarget::Throw) => {}
                Some(RouteTarget::Local) => return Err(DropReason::LocalDestination),
                Some(RouteTarget::Unreachable) => return Err(DropReason::RouteUnreachable),
                Some(RouteTarget::Forward(next_hops)) => {
                    let next_hop = choose(next_hops, hash).ok_or(DropReason::NoRoute)?;
                    let device = next_hop.device.ok_or(DropReason::ForeignDevice)?;
                    return Ok(Way { device, next_hop: next_hop.gateway.unwrap_or(destination) });
                }
            }
        }
        Err(DropReason::NoRoute)
    }

    /// The target of a table's longest matching route.
    fn route(&self, table: usize, destination: F::Address) -> Option<&RouteTarget<F>> {
        self.targets.get(self.tables.get(table)?.lookup(destination)?)
    }
}

/// A rule arranged for lookups: both prefixes are compared at once.
#[derive(Clone, Debug)]
struct Selector<F: Family> {
    /// Source and destination, as far as the masks reach.
    addresses: F::Pair,
    mask: F::Pair,
    /// Index of the table to look in; `None` where there is no way.
    table: Option<usize>,
}

impl<F: Family> Selector<F> {
    fn new(rule: &Rule<F>, table: Option<usize>) -> Self {
        let Rule { from, to, .. } = rule;
        let mask = F::pair(F::mask(*from), F::mask(*to));
        Self { addresses: F::pair(F::first(*from), F::first(*to)), mask, table }
    }
}

/// Chooses by weight: `hash`, spread over all 32 bits, falls into one next hop's share.
fn choose<F: Family>(next_hops: &[NextHop<F>], hash: u32) -> Option<NextHop<F>> {
    let total: u64 = next_hops.iter().map(|next_hop| u64::from(next_hop.weight)).sum();
    let mut point = (u64::from(hash) * total) >> 32;
    for next_hop in next_hops {
        match point.checked_sub(u64::from(next_hop.weight)) {
            Some(rest) => point = rest,
            None => return Some(*next_hop),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use ipnet::Ipv4Net;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn address(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn hop(device: DeviceIndex, gateway: Option<&str>) -> NextHop {
        NextHop { device: Some(device), gateway: gateway.map(address), weight: 1 }
    }

    fn route(table: u32, destination: &str, metric: u32, target: RouteTarget) -> Route {
        Route { table, destination: net(destination), metric, target }
    }

    fn rule(from: &str, to: &str, action: RuleAction) -> Rule {
        Rule { from: net(from), to: net(to), action }
    }

    /// What `ip rule` shows on a fresh host, with one rule for a source in front.
    fn rules() -> Vec<Rule> {
        let all = "0.0.0.0/0";
        vec![
            rule(all, all, RuleAction::Table(255)),
            rule("192.0.2.7/32", all, RuleAction::Table(100)),
            rule(all, "198.18.0.0/15", RuleAction::Unreachable),
            rule(all, all, RuleAction::Table(254)),
            rule(all, all, RuleAction::Table(253)),
        ]
    }

    fn routes() -> Vec<Route> {
        let foreign = NextHop { device: None, gateway: None, weight: 1 };
        let forward = |hop| RouteTarget::Forward(vec![hop]);
        vec![
            route(255, "192.0.2.1/32", 0, RouteTarget::Local),
            route(100, "0.0.0.0/0", 0, forward(hop(1, Some("10.1.0.1")))),
            route(100, "203.0.113.0/24", 0, RouteTarget::Throw),
            route(254, "0.0.0.0/0", 100, forward(hop(2, Some("10.2.0.1")))),
            route(254, "0.0.0.0/0", 50, forward(hop(0, Some("10.0.0.1")))),
            route(254, "192.0.2.0/24", 0, forward(hop(0, None))),
            route(254, "100.64.0.0/10", 0, forward(foreign)),
            route(254, "100.64.1.0/24", 0, RouteTarget::Unreachable),
        ]
    }

    #[test]
    fn a_lookup_answers_as_the_kernel_would() {
        let fib = Fib::new(&rules(), routes());
        let way = |device, next_hop| Ok(Way { device, next_hop: address(next_hop) });
        for (source, destination, expected) in [
            ("192.0.2.9", "203.0.113.1", way(0, "10.0.0.1")),
            ("192.0.2.9", "192.0.2.44", way(0, "192.0.2.44")),
            ("192.0.2.9", "192.0.2.1", Err(DropReason::LocalDestination)),
            ("192.0.2.7", "8.8.8.8", way(1, "10.1.0.1")),
            ("192.0.2.7", "203.0.113.1", way(0, "10.0.0.1")),
            ("192.0.2.9", "198.19.0.1", Err(DropReason::RouteUnreachable)),
            ("192.0.2.9", "100.64.0.1", Err(DropReason::ForeignDevice)),
            ("192.0.2.9", "100.64.1.1", Err(DropReason::RouteUnreachable)),
        ] {
            let found = fib.lookup(address(source), address(destination), 0);
            assert_eq!(found, expected, "{source} to {destination}");
        }
    }

    #[test]
    fn without_rules_or_routes_there_is_no_way() {
        let lookup = |fib: &Fib| fib.lookup(address("192.0.2.9"), address("8.8.8.8"), 0);
        assert_eq!(lookup(&Fib::default()), Err(DropReason::NoRoute));
        assert_eq!(lookup(&Fib::new(&rules(), vec![])), Err(DropReason::NoRoute));
    }

    #[test]
    fn several_next_hops_share_by_weight() {
        let hops = vec![NextHop { weight: 3, ..hop(0, None) }, hop(1, None)];
        let fib = Fib::new(&rules(), vec![route(254, "0.0.0.0/0", 0, RouteTarget::Forward(hops))]);
        let devices = (0..1000_u32).map(|step| {
            let hash = step * (u32::MAX / 1000);
            fib.lookup(address("192.0.2.9"), address("8.8.8.8"), hash).unwrap().device
        });
        assert_eq!(devices.filter(|device| *device == 1).count(), 250 - 1);
    }
}
