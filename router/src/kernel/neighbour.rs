//! The kernel's neighbours, which of them the kernel resolves for us, and which it keeps resolved.
//!
//! ```text
//!              resolve_neighbour()            it is usable               it has failed, or is gone
//!   (unknown) ────────────────────► probed ────────────────► managed ──────────────────► (unknown)
//!                                     │                         │
//!                                     ▼ the longest unasked of  ▼ the longest unasked of
//!                                  deleted  too many          released  too many
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
    NeighbourState,
};

use super::family;

/// How many neighbours of both families are kept resolved at most: half of what the kernel's table
/// of one family has room for by default (`gc_thresh3`, 1,024, in all network namespaces together).
pub(super) const MANAGED_NEIGHBOURS_MAX: usize = 512;

/// How many neighbours of both families are looked for at a time. A pod that tries each address of
/// a link takes no more room than this in the kernel's table, where an address that nobody has
/// would stay for seconds (RFC 6583). One that is there answers in less time than others need to
/// take its place.
pub(super) const PROBED_NEIGHBOURS_MAX: usize = 128;

/// Names a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NeighbourKey {
    pub(super) ifindex: u32,
    pub(super) address: IpAddr,
}

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KernelNeighbour {
    mac: Option<[u8; 6]>,
    state: NeighbourState,
    /// The kernel keeps it resolved.
    managed: bool,
    /// Another program put it there, and the kernel's garbage collection spares it.
    learned: bool,
}

impl KernelNeighbour {
    /// Its link address, if packets may be sent to it.
    pub(super) fn usable(&self) -> Option<[u8; 6]> {
        match self.state {
            NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp => self.mac,
            _ => None,
        }
    }

    /// Somebody has set it for good; asking the kernel to resolve it would undo that.
    fn fixed(&self) -> bool {
        matches!(self.state, NeighbourState::Permanent | NeighbourState::Noarp)
    }

    /// Nothing need be done for it now: it is kept resolved, or fresh, or being resolved. An old
    /// kernel keeps nothing resolved, but tells when a neighbour ages.
    fn cared_for(&self) -> bool {
        let fresh = matches!(
            self.state,
            NeighbourState::Incomplete
                | NeighbourState::Reachable
                | NeighbourState::Delay
                | NeighbourState::Probe
        );
        self.managed || self.fixed() || fresh
    }
}

/// Every neighbour of either family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Neighbours(BTreeMap<NeighbourKey, KernelNeighbour>);

impl Neighbours {
    /// Those that packets may be sent to.
    pub(super) fn usable(&self) -> impl Iterator<Item = (NeighbourKey, [u8; 6])> {
        self.0.iter().filter_map(|(key, neighbour)| Some((*key, neighbour.usable()?)))
    }

    /// Follows `RTM_NEWNEIGH`; returns whether what can be used has changed.
    pub(super) fn add(&mut self, message: &NeighbourMessage) -> bool {
        let Some((key, neighbour)) = neighbour(message) else {
            return false;
        };
        let before = self.0.insert(key, neighbour);
        before.and_then(|before| before.usable()) != neighbour.usable()
    }

    /// Follows `RTM_DELNEIGH`; returns whether what can be used has changed.
    pub(super) fn remove(&mut self, message: &NeighbourMessage) -> bool {
        let removed = neighbour(message).and_then(|(key, _)| self.0.remove(&key));
        removed.is_some_and(|removed| removed.usable().is_some())
    }

    /// Whether the kernel must be asked to resolve this neighbour, or keep it resolved.
    pub(super) fn needs_care(&self, key: NeighbourKey) -> bool {
        self.0.get(&key).is_none_or(|neighbour| !neighbour.cared_for())
    }

    /// Whether somebody else already keeps this neighbour: it is fixed, or managed.
    pub(super) fn kept_by_others(&self, key: NeighbourKey) -> bool {
        self.0.get(&key).is_some_and(|neighbour| neighbour.fixed() || neighbour.managed)
    }

    /// Whether frames may be sent to this neighbour.
    pub(super) fn is_usable(&self, key: NeighbourKey) -> bool {
        self.0.get(&key).is_some_and(|neighbour| neighbour.usable().is_some())
    }

    /// Whether this neighbour does not answer, or the kernel has forgotten it.
    pub(super) fn is_lost(&self, key: NeighbourKey) -> bool {
        self.0.get(&key).is_none_or(|neighbour| neighbour.state == NeighbourState::Failed)
    }

    /// Notes that the kernel was asked to keep a neighbour resolved, or no longer: it may tell of
    /// that later.
    pub(super) fn asked_to_manage(&mut self, key: NeighbourKey, managed: bool) {
        if let Some(neighbour) = self.0.get_mut(&key) {
            neighbour.managed = managed;
        }
    }

    /// The request that makes the kernel resolve a neighbour, once.
    pub(super) fn probe_request(&self, key: NeighbourKey) -> (RouteNetlinkMessage, u16) {
        let message = RouteNetlinkMessage::NewNeighbour(self.request(key));
        (message, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// The request that takes a neighbour which did not answer out of the kernel's table; `None`
    /// if it may have answered, or is another program's.
    pub(super) fn delete_request(&self, key: NeighbourKey) -> Option<(RouteNetlinkMessage, u16)> {
        let nobodys = self.0.get(&key).is_none_or(|neighbour| {
            neighbour.usable().is_none() && !neighbour.managed && !neighbour.learned
        });
        let mut message = self.request(key);
        message.header.flags = NeighbourFlags::empty();
        nobodys.then_some((RouteNetlinkMessage::DelNeighbour(message), 0))
    }

    /// The request that makes the kernel keep a neighbour resolved.
    ///
    /// `NTF_USE` confirms it once on kernels before 5.16, which ignore `NTF_EXT_MANAGED`.
    pub(super) fn manage_request(&self, key: NeighbourKey) -> (RouteNetlinkMessage, u16) {
        let mut message = self.request(key);
        message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        (RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// The request that leaves a neighbour to itself again; `None` if it is not managed any more.
    pub(super) fn release_request(&self, key: NeighbourKey) -> Option<(RouteNetlinkMessage, u16)> {
        let managed = self.0.get(&key).is_some_and(|neighbour| neighbour.managed);
        let message = RouteNetlinkMessage::NewNeighbour(self.request(key));
        managed.then_some((message, NLM_F_REPLACE))
    }

    /// `RTM_NEWNEIGH` for a neighbour, changing neither its state nor another program's flag.
    fn request(&self, key: NeighbourKey) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = family::of(key.address);
        message.header.ifindex = key.ifindex;
        message.header.flags = NeighbourFlags::Use;
        if self.0.get(&key).is_some_and(|neighbour| neighbour.learned) {
            message.header.flags |= NeighbourFlags::ExtLearned;
        }
        message.attributes.push(NeighbourAttribute::Destination(key.address.into()));
        message
    }
}

/// Neighbours that were asked for, `MAX` at most, the longest unasked first.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked<const MAX: usize>(VecDeque<NeighbourKey>);

impl<const MAX: usize> Asked<MAX> {
    /// Takes a neighbour in; returns the one that must make room for it.
    pub(super) fn insert(&mut self, key: NeighbourKey) -> Option<NeighbourKey> {
        self.remove(key);
        self.0.push_back(key);
        if self.0.len() > MAX { self.0.pop_front() } else { None }
    }

    pub(super) fn contains(&self, key: NeighbourKey) -> bool {
        self.0.contains(&key)
    }

    pub(super) fn remove(&mut self, key: NeighbourKey) {
        self.0.retain(|known| *known != key);
    }

    /// All of them.
    pub(super) fn keys(&self) -> Vec<NeighbourKey> {
        self.0.iter().copied().collect()
    }
}

/// Reads a neighbour; `None` for other families, proxies and multicast groups, which the kernel
/// keeps among the neighbours too.
fn neighbour(message: &NeighbourMessage) -> Option<(NeighbourKey, KernelNeighbour)> {
    let header = &message.header;
    if header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let (mut address, mut mac, mut managed) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(value) => address = ip_address(value),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            NeighbourAttribute::ExtFlags(flags) => {
                managed = flags.contains(NeighbourExtFlags::Managed);
            }
            _ => {}
        }
    }
    let address = address.filter(|address| !address.is_multicast())?;
    let key = NeighbourKey { ifindex: header.ifindex, address };
    let learned = header.flags.contains(NeighbourFlags::ExtLearned);
    Some((key, KernelNeighbour { mac, state: header.state, managed, learned }))
}

/// An address, if it is of a family that is followed.
fn ip_address(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(address) => Some((*address).into()),
        NeighbourAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn key(last: u8) -> NeighbourKey {
        NeighbourKey { ifindex: 3, address: Ipv4Addr::new(192, 0, 2, last).into() }
    }

    fn message(state: NeighbourState) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = family::of(key(1).address);
        message.header.ifindex = 3;
        message.header.state = state;
        message.attributes = vec![
            NeighbourAttribute::Destination(key(1).address.into()),
            NeighbourAttribute::LinkLayerAddress(MAC.to_vec()),
        ];
        message
    }

    #[test]
    fn a_neighbour_is_usable_in_the_states_in_which_the_kernel_sends_to_it() {
        let cases = [
            (NeighbourState::Reachable, true),
            (NeighbourState::Stale, true),
            (NeighbourState::Delay, true),
            (NeighbourState::Probe, true),
            (NeighbourState::Permanent, true),
            (NeighbourState::Noarp, true),
            (NeighbourState::Incomplete, false),
            (NeighbourState::Failed, false),
            (NeighbourState::None, false),
        ];
        for (state, usable) in cases {
            let mut neighbours = Neighbours::default();
            assert_eq!(neighbours.add(&message(state)), usable, "{state}");
            assert_eq!(neighbours.usable().next().is_some(), usable, "{state}");
        }
    }

    #[test]
    fn only_what_can_be_used_counts_as_a_change() {
        let mut neighbours = Neighbours::default();
        assert!(neighbours.add(&message(NeighbourState::Reachable)));
        assert!(!neighbours.add(&message(NeighbourState::Stale)));
        let mut moved = message(NeighbourState::Stale);
        moved.attributes.pop();
        moved.attributes.push(NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 10]));
        assert!(neighbours.add(&moved));
        assert!(neighbours.add(&message(NeighbourState::Failed)));
        assert!(!neighbours.remove(&message(NeighbourState::Failed)));
    }

    #[test]
    fn a_proxy_or_a_longer_link_address_is_no_usable_neighbour() {
        let mut proxy = message(NeighbourState::Permanent);
        proxy.header.flags = NeighbourFlags::Proxy;
        let mut infiniband = message(NeighbourState::Permanent);
        infiniband.attributes.push(NeighbourAttribute::LinkLayerAddress(vec![1; 20]));
        for message in [proxy, infiniband] {
            assert!(!Neighbours::default().add(&message));
        }
    }

    #[test]
    fn a_router_on_the_link_is_named_by_its_device_too() {
        let router: Ipv6Addr = "fe80::1".parse().unwrap();
        let mut neighbours = Neighbours::default();
        for ifindex in [3, 4] {
            let mut message = message(NeighbourState::Stale);
            message.header.ifindex = ifindex;
            message.attributes[0] = NeighbourAttribute::Destination(router.into());
            assert!(neighbours.add(&message));
        }
        let keys = neighbours.usable().map(|(key, _)| (key.ifindex, key.address));
        assert!(keys.eq([(3, IpAddr::from(router)), (4, router.into())]));
        let key = NeighbourKey { ifindex: 4, address: router.into() };
        let (RouteNetlinkMessage::NewNeighbour(request), _) = neighbours.manage_request(key) else {
            panic!("RTM_NEWNEIGH expected");
        };
        assert_eq!(request.header.family, netlink_packet_route::AddressFamily::Inet6);
        assert_eq!(request.header.ifindex, 4);
    }

    #[test]
    fn a_multicast_group_is_no_neighbour() {
        for group in ["224.0.0.22", "ff02::16"] {
            let group: IpAddr = group.parse().unwrap();
            let mut message = message(NeighbourState::Noarp);
            message.attributes[0] = NeighbourAttribute::Destination(match group {
                IpAddr::V4(group) => group.into(),
                IpAddr::V6(group) => group.into(),
            });
            assert!(!Neighbours::default().add(&message), "{group}");
        }
    }

    #[test]
    fn a_permanent_neighbour_is_never_asked_for() {
        let mut neighbours = Neighbours::default();
        assert!(neighbours.needs_care(key(1)));
        neighbours.add(&message(NeighbourState::Permanent));
        assert!(!neighbours.needs_care(key(1)));
        assert!(neighbours.kept_by_others(key(1)));
    }

    #[test]
    fn on_an_old_kernel_a_neighbour_is_asked_for_again_when_it_ages() {
        let mut neighbours = Neighbours::default();
        neighbours.add(&message(NeighbourState::Reachable));
        neighbours.asked_to_manage(key(1), true);
        assert!(!neighbours.needs_care(key(1)));
        neighbours.add(&message(NeighbourState::Stale));
        assert!(neighbours.needs_care(key(1)));
    }

    #[test]
    fn another_programs_flag_is_kept_in_requests() {
        let mut neighbours = Neighbours::default();
        let mut learned = message(NeighbourState::Reachable);
        learned.header.flags = NeighbourFlags::ExtLearned;
        neighbours.add(&learned);
        let (RouteNetlinkMessage::NewNeighbour(request), _) = neighbours.manage_request(key(1))
        else {
            panic!("RTM_NEWNEIGH expected");
        };
        assert!(request.header.flags.contains(NeighbourFlags::ExtLearned));
    }

    #[test]
    fn only_what_nobody_answers_for_and_nobody_keeps_is_deleted() {
        let mut neighbours = Neighbours::default();
        let is_deleted = |neighbours: &Neighbours| neighbours.delete_request(key(1)).is_some();
        assert!(is_deleted(&neighbours), "the kernel tells nothing of one that it looks for");
        for (state, expected) in [
            (NeighbourState::Incomplete, true),
            (NeighbourState::Failed, true),
            (NeighbourState::Stale, false),
            (NeighbourState::Permanent, false),
        ] {
            neighbours.add(&message(state));
            assert_eq!(is_deleted(&neighbours), expected, "{state}");
        }
        let mut learned = message(NeighbourState::Failed);
        learned.header.flags = NeighbourFlags::ExtLearned;
        neighbours.add(&learned);
        assert!(!is_deleted(&neighbours));
        neighbours.add(&message(NeighbourState::Failed));
        neighbours.asked_to_manage(key(1), true);
        assert!(!is_deleted(&neighbours));
    }

    #[test]
    fn the_one_that_was_not_asked_for_the_longest_makes_room_for_a_new_one() {
        const MAX: usize = 3;
        let mut asked = Asked::<MAX>::default();
        for last in 0..3 {
            assert_eq!(asked.insert(key(last)), None);
        }
        assert_eq!(asked.insert(key(0)), None);
        assert_eq!(asked.insert(key(9)), Some(key(1)));
        assert_eq!(asked.keys(), [key(2), key(0), key(9)]);
    }
}
