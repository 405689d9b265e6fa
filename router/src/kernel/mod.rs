//! The kernel's links, addresses, rules, routes and neighbours, read by rtnetlink (RFC 3549)
//! and followed, so that the engine forwards as `ip route get` would; and next hops that the kernel
//! keeps resolved for us. What is followed and what is not: README.md.

mod error;
mod family;
mod fib;
mod ipsec;
mod link;
mod neighbour;
mod route;
mod rule;
mod socket;
mod sync;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use spillway_engine::Family;
use spillway_engine::tables::Neighbour;

pub(crate) use self::error::KernelError;
pub(crate) use self::fib::FibInput;
pub(crate) use self::ipsec::ipsec_states;
pub(crate) use self::link::{Link, LocalAddress};
use self::neighbour::{
    Asked, MANAGED_NEIGHBOURS_MAX, NeighbourKey, Neighbours, PROBED_NEIGHBOURS_MAX,
};
use self::route::{Applied, Routes};
use self::rule::KernelRule;
use self::socket::{Message, Notifications, Notified, Requests};

/// How many datagrams [`Kernel::follow`] reads at most.
const DATAGRAMS_MAX: usize = 1 << 16;

/// How often [`Kernel::follow`] lists tables anew at most, while they keep changing under it.
const RESYNCS_MAX: usize = 3;

/// Kinds of kernel tables, such as those that have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) links: bool,
    pub(crate) addresses: bool,
    pub(crate) rules: bool,
    pub(crate) routes: bool,
    /// Only what can be used counts: a neighbour that is merely confirmed does not.
    pub(crate) neighbours: bool,
    /// There is more to read: call [`Kernel::follow`] again without waiting for an event.
    pub(crate) unfinished: bool,
}

impl Changes {
    /// Every table.
    const ALL: Self = Self {
        links: true,
        addresses: true,
        rules: true,
        routes: true,
        neighbours: true,
        unfinished: false,
    };

    /// Whether any table is among them.
    pub(crate) fn any(self) -> bool {
        self.links || self.addresses || self.rules || self.routes || self.neighbours
    }
}

/// By interface index.
type Links = BTreeMap<u32, Link>;

type Addresses = BTreeSet<LocalAddress>;

/// Of each family in the kernel's order: ascending by priority.
type Rules = Vec<KernelRule>;

/// The kernel's tables in the network namespace of the thread that opened them.
#[derive(Debug)]
pub(crate) struct Kernel {
    notifications: Notifications,
    requests: Requests,
    links: Links,
    addresses: Addresses,
    rules: Rules,
    routes: Routes,
    neighbours: Neighbours,
    /// Those that the kernel was asked to resolve: they are managed when they are.
    probed: Asked<PROBED_NEIGHBOURS_MAX>,
    /// Those that the kernel keeps resolved for us.
    managed: Asked<MANAGED_NEIGHBOURS_MAX>,
    /// Tables that must be listed anew.
    stale: Changes,
    /// What [`Kernel::follow`] has yet to tell.
    changed: Changes,
}

impl Kernel {
    /// Subscribes to changes, then reads everything: nothing is missed in between.
    ///
    /// # Errors
    /// When the sockets cannot be opened or the kernel does not list its tables.
    pub(crate) fn open() -> Result<Self, KernelError> {
        let mut kernel = Self {
            notifications: Notifications::open()?,
            requests: Requests::open()?,
            links: Links::new(),
            addresses: Addresses::new(),
            rules: Rules::new(),
            routes: Routes::default(),
            neighbours: Neighbours::default(),
            probed: Asked::default(),
            managed: Asked::default(),
            stale: Changes::ALL,
            changed: Changes::default(),
        };
        kernel.resync()?;
        kernel.changed = Changes::default();
        Ok(kernel)
    }

    /// What to register with an event loop, for reading; call [`Kernel::follow`] on each event.
    pub(crate) fn source(&mut self) -> &mut impl mio::event::Source {
        self.notifications.source()
    }

    /// Reads and applies what has changed since the last call, and says which tables did.
    ///
    /// # Errors
    /// When the kernel's answers cannot be read. What is known stays, and the next call tries
    /// again to read what is missing, and tells what this one did not.
    pub(crate) fn follow(&mut self) -> Result<Changes, KernelError> {
        self.drain()?;
        for _ in 0..RESYNCS_MAX {
            if !self.stale.any() {
                break;
            }
            self.resync()?;
            self.drain()?;
        }
        self.changed.unfinished |= self.stale.any();
        self.keep_managed();
        Ok(std::mem::take(&mut self.changed))
    }

    /// Every link.
    pub(crate) fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// The link of this name.
    #[cfg(test)]
    pub(crate) fn link(&self, name: &str) -> Option<&Link> {
        self.links().find(|link| link.name == name)
    }

    /// The link with this interface index.
    pub(crate) fn link_at(&self, ifindex: u32) -> Option<&Link> {
        self.links.get(&ifindex)
    }

    /// Every address of this host, of either family.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = LocalAddress> {
        self.addresses.iter().copied()
    }

    /// One family's rules and routes for the engine, which knows devices by their place in
    /// `devices` (interface indexes).
    pub(crate) fn fib<F: Family>(&self, devices: &[u32]) -> FibInput<F> {
        fib::input(&self.rules, &self.routes, devices)
    }

    /// One family's neighbours on `devices` (interface indexes) that frames may be sent to.
    pub(crate) fn neighbours<F: Family>(&self, devices: &[u32]) -> Vec<Neighbour<F>> {
        let devices = fib::device_indexes(devices);
        let usable = self.neighbours.usable().filter_map(|(key, mac)| {
            let device = *devices.get(&key.ifindex)?;
            Some(Neighbour { device, address: F::address(key.address)?, mac })
        });
        usable.collect()
    }

    /// Makes the kernel resolve a neighbour, and keep it resolved when it is: both show in a later
    /// [`Kernel::follow`]. One that stays silent must be asked for again, by whoever has a frame
    /// for it. Of too many, those that were not asked for the longest are given up.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn resolve_neighbour(
        &mut self,
        ifindex: u32,
        address: IpAddr,
    ) -> Result<(), KernelError> {
        let key = NeighbourKey { ifindex, address };
        let ours = self.managed.contains(key);
        if !ours && self.neighbours.kept_by_others(key) {
            return Ok(());
        }
        let asked = match self.neighbours.is_usable(key) {
            true => self.manage(key),
            false => self.probe(key),
        };
        asked.map_err(|cause| KernelError::Neighbour { address, ifindex, cause })
    }

    /// Leaves all neighbours to themselves again; call it at exit. Those that do not answer are
    /// given up.
    pub(crate) fn release_neighbours(&mut self) {
        for key in std::mem::take(&mut self.managed).keys() {
            self.release(key);
        }
        for key in std::mem::take(&mut self.probed).keys() {
            self.execute_if_any(key, self.neighbours.delete_request(key));
        }
    }

    /// Makes the kernel look for a neighbour.
    fn probe(&mut self, key: NeighbourKey) -> io::Result<()> {
        let (request, flags) = self.neighbours.probe_request(key);
        self.requests.execute(request, flags)?;
        self.expect(key);
        Ok(())
    }

    /// Has a neighbour managed when it turns up.
    fn expect(&mut self, key: NeighbourKey) {
        if let Some(oldest) = self.probed.insert(key) {
            self.execute_if_any(oldest, self.neighbours.delete_request(oldest));
        }
    }

    /// Makes the kernel keep a neighbour resolved.
    fn manage(&mut self, key: NeighbourKey) -> io::Result<()> {
        if !self.managed.contains(key) || self.neighbours.needs_care(key) {
            let (request, flags) = self.neighbours.manage_request(key);
            self.requests.execute(request, flags)?;
            self.neighbours.asked_to_manage(key, true);
        }
        self.probed.remove(key);
        if let Some(oldest) = self.managed.insert(key) {
            self.release(oldest);
        }
        Ok(())
    }

    /// Leaves a neighbour to itself again.
    fn release(&mut self, key: NeighbourKey) {
        self.execute_if_any(key, self.neighbours.release_request(key));
        self.neighbours.asked_to_manage(key, false);
    }

    /// Makes a request that lets go of a neighbour.
    fn execute_if_any(&mut self, key: NeighbourKey, request: Option<(RouteNetlinkMessage, u16)>) {
        if let Some((request, flags)) = request
            && let Err(error) = self.requests.execute(request, flags)
        {
            // The entry or its link is gone: nothing is left to release.
            tracing::debug!("cannot let go of neighbour {}: {error}", key.address);
        }
    }

    /// Keeps resolved what has been resolved meanwhile, and lets go of what does not answer any
    /// more. What fails is tried again at the next change.
    fn keep_managed(&mut self) {
        for key in self.managed.keys() {
            if self.neighbours.is_lost(key) {
                self.managed.remove(key);
                // Which makes the kernel look for it once more.
                self.release(key);
                self.expect(key);
            }
        }
        for key in self.probed.keys() {
            if !self.links.contains_key(&key.ifindex) {
                self.probed.remove(key);
            }
        }
        let is_ready = |key: &NeighbourKey| {
            self.neighbours.is_usable(*key) && !self.neighbours.kept_by_others(*key)
        };
        let resolved = self.probed.keys().into_iter().filter(is_ready);
        let aged = self.managed.keys().into_iter().filter(|key| self.neighbours.needs_care(*key));
        for key in resolved.chain(aged).collect::<Vec<_>>() {
            if let Err(error) = self.manage(key) {
                tracing::debug!("cannot keep neighbour {} resolved: {error}", key.address);
                if error.kind() == io::ErrorKind::TimedOut {
                    return;
                }
            }
        }
    }

    /// Applies every waiting notification.
    fn drain(&mut self) -> Result<(), KernelError> {
        for _ in 0..DATAGRAMS_MAX {
            match self.notifications.receive()? {
                Notified::Messages(messages) => {
                    for message in messages {
                        self.apply(message);
                    }
                }
                Notified::Lost => {
                    tracing::warn!("rtnetlink notifications were lost: reading all tables anew");
                    self.stale = Changes::ALL;
                }
                Notified::Empty => return Ok(()),
            }
        }
        self.changed.unfinished = true;
        Ok(())
    }

    fn apply(&mut self, message: Message) {
        let (message, flags) = match message {
            Message::Route(message, flags) => (*message, flags),
            Message::NextHopObject => {
                self.stale.routes = true;
                return;
            }
        };
        match message {
            RouteNetlinkMessage::NewLink(message) => self.link_added(&message),
            RouteNetlinkMessage::DelLink(message) => self.link_removed(&message),
            RouteNetlinkMessage::NewAddress(message) => self.address_added(&message),
            RouteNetlinkMessage::DelAddress(message) => self.address_removed(&message),
            RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => {
                self.stale.rules = true;
            }
            RouteNetlinkMessage::NewRoute(message) => {
                let applied = self.routes.add(&message, flags);
                self.route_changed(applied);
            }
            RouteNetlinkMessage::DelRoute(message) => {
                let applied = self.routes.remove(&message);
                self.route_changed(applied);
            }
            RouteNetlinkMessage::NewNeighbour(message) => {
                self.changed.neighbours |= self.neighbours.add(&message);
            }
            RouteNetlinkMessage::DelNeighbour(message) => {
                self.changed.neighbours |= self.neighbours.remove(&message);
            }
            _ => {}
        }
    }
}
