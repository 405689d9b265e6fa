//! The kernel's routes, kept as the kernel keeps them: by table, prefix and metric, and within one
//! such key in order.
//!
//! IPv4 has several routes under one key after `ip route append` and `prepend`. IPv6 makes one
//! multipath route of those that have a gateway, and keeps the rest, such as what two routers on
//! the link advertise.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteNextHopFlags,
    RoutePreference, RouteType, RouteVia,
};

use super::family;

/// What the kernel orders routes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RouteKey {
    pub(super) table: u32,
    pub(super) destination: IpNet,
    pub(super) metric: u32,
    pub(super) preference: Preference,
    pub(super) condition: Condition,
}

/// A router's preference (RFC 4191), which decides between IPv6 routes of one metric; the best
/// first. IPv4 routes have the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Preference {
    High,
    Medium,
    Low,
}

/// What a route asks of a packet besides the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Condition {
    Nothing,
    /// This TOS (IPv4).
    Tos(u8),
    /// A source within this prefix (IPv6).
    Source(IpNet),
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KernelTarget {
    Forward(Vec<Leg>),
    Local,
    Unreachable,
    Throw,
}

/// One next hop of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Leg {
    pub(super) ifindex: u32,
    pub(super) reach: Reach,
    /// Share of flows, at least 1.
    pub(super) weight: u16,
    /// The kernel itself does not use it for now, because its link is down.
    pub(super) dead: bool,
}

impl Leg {
    /// The same next hop, whether its link is down or not.
    fn alive(&self) -> Self {
        Self { dead: false, ..*self }
    }
}

/// How a next hop is reached on its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// The destination is on the link.
    OnLink,
    /// The gateway can be of another family than the route.
    Gateway(IpAddr),
    /// Through a lightweight tunnel.
    Encapsulated,
    /// By a next-hop object that the kernel does not show in routes.
    Hidden,
}

/// What became of a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Applied {
    Unchanged,
    Changed,
    /// It does not fit what we know: only the whole list tells.
    Unclear,
}

/// Every route of every table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Routes(BTreeMap<RouteKey, Vec<KernelTarget>>);

impl Routes {
    /// All routes by key; under one key the kernel uses the first that is alive.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&RouteKey, &[KernelTarget])> {
        self.0.iter().map(|(key, targets)| (key, targets.as_slice()))
    }

    /// Adds the next route of a list.
    pub(super) fn list(&mut self, message: &RouteMessage) {
        if let Some((key, target)) = route(message) {
            self.0.entry(key).or_default().push(target);
        }
    }

    /// Follows `RTM_NEWROUTE`. A notification may tell what the last list already held.
    pub(super) fn add(&mut self, message: &RouteMessage, flags: u16) -> Applied {
        match route(message) {
            Some((key, target)) => match key.destination {
                IpNet::V4(_) => self.add_in_order(key, target, flags),
                IpNet::V6(_) => self.add_with_siblings(key, target, flags),
            },
            None => Applied::Unchanged,
        }
    }

    /// An IPv4 route comes before, after or in place of those with the same key.
    fn add_in_order(&mut self, key: RouteKey, target: KernelTarget, flags: u16) -> Applied {
        let targets = self.0.entry(key).or_default();
        let known = targets.iter().position(|known| same(known, &target));
        let exclusive = flags & NLM_F_EXCL != 0;
        let replace = flags & NLM_F_REPLACE != 0;
        match (known, targets.first_mut()) {
            (Some(0), Some(first)) if exclusive || replace => {
                if *first == target {
                    return Applied::Unchanged;
                }
                *first = target;
            }
            (Some(_), _) => return Applied::Unclear,
            (None, Some(first)) if replace => *first = target,
            (None, _) if flags & NLM_F_APPEND != 0 => targets.push(target),
            (None, _) => targets.insert(0, target),
        }
        Applied::Changed
    }

    /// An IPv6 notification tells a multipath route whole, whatever next hop came to it. Of
    /// several routes with the same key, only the list tells which were replaced.
    fn add_with_siblings(&mut self, key: RouteKey, target: KernelTarget, flags: u16) -> Applied {
        let exclusive = flags & NLM_F_EXCL != 0;
        let replace = flags & NLM_F_REPLACE != 0;
        if replace && self.has_other_preference(key) {
            return Applied::Unclear;
        }
        match self.0.get_mut(&key).map(Vec::as_mut_slice) {
            // What it replaces is not known.
            None if replace => return Applied::Unclear,
            None => drop(self.0.insert(key, vec![target])),
            Some([known]) if *known == target && (exclusive || replace) => {
                return Applied::Unchanged;
            }
            // One address on two links has two routes that look alike.
            Some([known]) if *known == target => return Applied::Unclear,
            Some([known]) if replace || includes(&target, known) => *known = target,
            Some(_) => return Applied::Unclear,
        }
        Applied::Changed
    }

    /// Whether there is a like route but for the preference, which the kernel replaces as well.
    fn has_other_preference(&self, key: RouteKey) -> bool {
        let all = [Preference::High, Preference::Medium, Preference::Low];
        let mut others = all.into_iter().filter(|other| *other != key.preference);
        others.any(|preference| self.0.contains_key(&RouteKey { preference, ..key }))
    }

    /// Follows `RTM_DELROUTE`.
    pub(super) fn remove(&mut self, message: &RouteMessage) -> Applied {
        let Some((key, target)) = route(message) else {
            return Applied::Unchanged;
        };
        let Some(targets) = self.0.get_mut(&key) else {
            return Applied::Unchanged;
        };
        let before = targets.len();
        targets.retain(|known| !same(known, &target));
        if before - targets.len() != 1 {
            return Applied::Unclear;
        }
        if targets.is_empty() {
            self.0.remove(&key);
        }
        Applied::Changed
    }
}

/// Whether two targets are one route's, whose next hops may have died meanwhile.
fn same(one: &KernelTarget, other: &KernelTarget) -> bool {
    match (one, other) {
        (KernelTarget::Forward(one), KernelTarget::Forward(other)) => {
            one.iter().map(Leg::alive).eq(other.iter().map(Leg::alive))
        }
        _ => one == other,
    }
}

/// Whether a target is another one, to which next hops may have come.
fn includes(one: &KernelTarget, other: &KernelTarget) -> bool {
    match (one, other) {
        (KernelTarget::Forward(one), KernelTarget::Forward(other)) => {
            other.iter().all(|leg| one.iter().any(|known| known.alive() == leg.alive()))
        }
        _ => one == other,
    }
}

/// Reads a route; `None` for other families, multicast and cached exceptions (path MTU).
fn route(message: &RouteMessage) -> Option<(RouteKey, KernelTarget)> {
    let header = &message.header;
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let key = key(message)?;
    let target = match header.kind {
        RouteType::Unicast => {
            let mut legs = legs(message);
            if let IpNet::V6(_) = key.destination {
                // The kernel tells them from any one of them on.
                legs.sort_unstable();
            }
            KernelTarget::Forward(legs)
        }
        RouteType::Local | RouteType::Broadcast | RouteType::Anycast => KernelTarget::Local,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => {
            KernelTarget::Unreachable
        }
        RouteType::Throw => KernelTarget::Throw,
        _ => return None,
    };
    Some((key, target))
}

fn key(message: &RouteMessage) -> Option<RouteKey> {
    let header = &message.header;
    let any = family::unspecified(header.address_family)?;
    let (mut table, mut metric, mut preference) = (u32::from(header.table), 0, Preference::Medium);
    let (mut destination, mut source) = (any, any);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(value) => table = *value,
            RouteAttribute::Destination(value) => destination = ip_address(value)?,
            RouteAttribute::Source(value) => source = ip_address(value)?,
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::Preference(RoutePreference::High) => preference = Preference::High,
            RouteAttribute::Preference(RoutePreference::Low) => preference = Preference::Low,
            _ => {}
        }
    }
    let destination = family::prefix(destination, header.destination_prefix_length);
    let condition = match (header.tos, header.source_prefix_length) {
        (0, 0) => Condition::Nothing,
        (tos, 0) => Condition::Tos(tos),
        (_, length) => Condition::Source(family::prefix(source, length)),
    };
    Some(RouteKey { table, destination, metric, preference, condition })
}

/// An address, if it is of a family that is followed.
fn ip_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn legs(message: &RouteMessage) -> Vec<Leg> {
    let multipath = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::MultiPath(next_hops) => Some(next_hops),
        _ => None,
    });
    if let Some(next_hops) = multipath {
        return next_hops.iter().map(multipath_leg).collect();
    }
    let ifindex = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(ifindex) => Some(*ifindex),
        _ => None,
    });
    let reach = match ifindex {
        Some(_) => reach(&message.attributes),
        None => Reach::Hidden,
    };
    let dead = message.header.flags.contains(RouteFlags::Dead);
    vec![Leg { ifindex: ifindex.unwrap_or(0), reach, weight: 1, dead }]
}

fn multipath_leg(next_hop: &RouteNextHop) -> Leg {
    Leg {
        ifindex: next_hop.interface_index,
        reach: reach(&next_hop.attributes),
        weight: u16::from(next_hop.hops) + 1,
        dead: next_hop.flags.contains(RouteNextHopFlags::Dead),
    }
}

fn reach(attributes: &[RouteAttribute]) -> Reach {
    let mut reach = Reach::OnLink;
    for attribute in attributes {
        match attribute {
            RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => return Reach::Encapsulated,
            RouteAttribute::Gateway(gateway) => {
                let gateway = ip_address(gateway).filter(|gateway| !gateway.is_unspecified());
                reach = gateway.map_or(reach, Reach::Gateway);
            }
            RouteAttribute::Via(RouteVia::Inet6(gateway)) => {
                reach = Reach::Gateway((*gateway).into());
            }
            _ => {}
        }
    }
    reach
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
