//! The kernel's neighbours, and which of them the kernel keeps resolved for us.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
    NeighbourState,
};

use super::family;

/// How many neighbours of both families are kept resolved at most.
pub(crate) const MANAGED_NEIGHBOURS_MAX: usize = 1024;

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

    /// Notes that the kernel was asked for a neighbour: of a new one it tells nothing before it
    /// is resolved or has failed.
    pub(super) fn asked_for(&mut self, key: NeighbourKey) {
        let entry = self.0.entry(key).or_insert(KernelNeighbour {
            mac: None,
            state: NeighbourState::Incomplete,
            managed: true,
            learned: false,
        });
        entry.managed = true;
    }

    /// The request that makes the kernel resolve a neighbour and keep it so.
    ///
    /// `NTF_USE` starts the resolution on kernels before 5.16, which ignore `NTF_EXT_MANAGED`.
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

/// The neighbours that we asked the kernel to keep resolved, the longest unasked first.
#[derive(Clone, Debug, Default)]
pub(super) struct Managed(VecDeque<NeighbourKey>);

impl Managed {
    /// Takes a neighbour in; returns the one that must be released for it.
    pub(super) fn insert(&mut self, key: NeighbourKey) -> Option<NeighbourKey> {
        self.remove(key);
        self.0.push_back(key);
        if self.0.len() > MANAGED_NEIGHBOURS_MAX { self.0.pop_front() } else { None }
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
        neighbours.asked_for(key(1));
        assert!(!neighbours.needs_care(key(1)));
        neighbours.add(&message(NeighbourState::Reachable));
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
    fn a_full_set_releases_the_one_that_was_not_asked_for_the_longest() {
        let mut managed = Managed::default();
        let all = (0..u32::try_from(MANAGED_NEIGHBOURS_MAX).unwrap())
            .map(|ifindex| NeighbourKey { ifindex, ..key(1) });
        for key in all {
            assert_eq!(managed.insert(key), None);
        }
        let first = NeighbourKey { ifindex: 0, ..key(1) };
        assert_eq!(managed.insert(first), None);
        let newcomer = NeighbourKey { ifindex: 9999, ..key(1) };
        assert_eq!(managed.insert(newcomer), Some(NeighbourKey { ifindex: 1, ..key(1) }));
        assert!(managed.contains(first) && managed.contains(newcomer));
    }
}
