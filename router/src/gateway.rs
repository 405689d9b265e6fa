//! The gateway: what the main thread knows and programs. Documents and the kernel's changes come
//! in; steering, workers and managed neighbours follow.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use spillway_api::{Document, IpFamily, Programmed as Extent, Programming};
use spillway_engine::fib::Fib;
use spillway_engine::policy::Policies;
use spillway_engine::tables::{
    DeviceIndex, EPOCH_NONE, FamilyInput, Neighbour, Peer, Tables, TablesInput,
};
use spillway_engine::{Accounts, EngineConfig, Family, V4, V6};
use spillway_xdp::device::{DeviceInfo, SocketFd};
use spillway_xdp::steering::{Attachment, Steering, SteeringError, Trial};

use crate::accounts::Book;
use crate::announce::{Announcements, Place};
use crate::capture::Captures;
use crate::census::Census;
use crate::compile::{self, HostPorts};
use crate::config::Config;
use crate::events::{self, Clock, Meaning, Record};
use crate::grace::Grace;
use crate::groups::Groups;
use crate::held::Unresolved;
use crate::kernel::{FibInput, Kernel, LocalAddress};
use crate::limits::{Limits, Reached};
use crate::log::Log;
use crate::mtu;
use crate::numbers::Assigned;
use crate::pod_names::PodNames;
use crate::policy_names::PolicyNames;
use crate::seldom::Seldom;
use crate::worker::now;
use crate::workers::Workers;

/// A document in force.
#[derive(Debug)]
pub(crate) struct Programmed {
    pub(crate) document: Document,
    /// A file's path, or `socket`.
    pub(crate) source: String,
    /// How much it has of what.
    pub(crate) extent: Extent,
    policies: (Policies<V4>, Policies<V6>),
}

/// A document that was refused.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) source: String,
    pub(crate) message: String,
    pub(crate) at: Instant,
}

/// What the tables are made of, besides the document: when none of it changes, nor do they.
#[derive(Debug, Default, PartialEq, Eq)]
struct KernelView {
    v4: FamilyView<V4>,
    v6: FamilyView<V6>,
    links: Vec<([u8; 6], u32)>,
    local: Vec<LocalAddress>,
}

/// What of it belongs to one address family.
#[derive(Debug, Default, PartialEq, Eq)]
struct FamilyView<F: Family> {
    fib: FibInput<F>,
    neighbours: Vec<Neighbour<F>>,
}

impl<F: Family> FamilyView<F> {
    /// The kernel's tables now, as far as they concern devices with these interface indexes.
    fn of(kernel: &Kernel, ifindexes: &[u32]) -> Self {
        Self { fib: kernel.fib(ifindexes), neighbours: kernel.neighbours(ifindexes) }
    }

    /// What the engine needs to know of this family. `names` are the devices' names, by index.
    fn input(&self, document: &Document, policies: &Policies<F>, names: &[&str]) -> FamilyInput<F> {
        FamilyInput {
            policies: policies.clone(),
            egress_addresses: compile::egress_addresses(document, names),
            fib: Fib::new(&self.fib.rules, self.fib.routes.clone()),
            neighbours: self.neighbours.clone(),
        }
    }
}

/// Everything of the running router but its event loop.
pub(crate) struct Gateway {
    pub(crate) config: Config,
    pub(crate) devices: Vec<DeviceInfo>,
    pub(crate) sockets: Vec<SocketFd>,
    pub(crate) kernel: Kernel,
    pub(crate) steering: Steering,
    pub(crate) workers: Workers,
    pub(crate) attachments: Vec<Attachment>,
    pub(crate) programmed: Option<Programmed>,
    pub(crate) refused: Option<Refused>,
    pub(crate) programming: Programming,
    /// What flows use.
    pub(crate) census: Census,
    /// When the author of the documents last made sure that its document is in force.
    pub(crate) author_asked: Option<Instant>,
    pub(crate) started: Instant,
    /// Since when no new flow begins.
    pub(crate) draining: Option<Instant>,
    pub(crate) grace: Grace,
    pub(crate) limits: Limits,
    pub(crate) announcements: Announcements,
    pub(crate) captures: Captures,
    pub(crate) log: Log,
    /// What all engines are made of.
    pub(crate) engine: EngineConfig,
    /// What the workers go by.
    pub(crate) tables: Arc<Tables>,
    /// What frames are tried with, once somebody asks.
    pub(crate) trial: Option<Trial>,
    /// What stands for pods and peers of the document in force, and for former ones.
    pub(crate) numbers: Assigned,
    pub(crate) policy_names: PolicyNames,
    /// What policies and egress addresses have carried; and as the tables in force have it.
    pub(crate) book: Book,
    pub(crate) accounts: Arc<Accounts>,
    /// What pods of the document in force are called, and of former ones.
    pub(crate) pod_names: PodNames,
    /// What has happened to flows and packets lately, if it is to be kept.
    pub(crate) record: Option<Record>,
    groups: Groups,
    /// Of the kernel, to look for a neighbour.
    refusals: Seldom,
    /// What was last reported.
    told: BTreeSet<String>,
    /// The devices that replies to the peers leave through.
    tunnel_devices: BTreeSet<DeviceIndex>,
    view: KernelView,
    epoch: u32,
}

/// What a [`Gateway`] starts with.
pub(crate) struct GatewayParts {
    pub(crate) config: Config,
    pub(crate) devices: Vec<DeviceInfo>,
    pub(crate) sockets: Vec<SocketFd>,
    pub(crate) kernel: Kernel,
    pub(crate) steering: Steering,
    pub(crate) workers: Workers,
    /// What all engines are made of; which worker it is does not matter.
    pub(crate) engine: EngineConfig,
    pub(crate) numbers: Assigned,
    pub(crate) book: Book,
    pub(crate) log: Log,
}

impl Gateway {
    pub(crate) fn new(parts: GatewayParts) -> Self {
        let GatewayParts { config, devices, sockets, kernel, steering, workers, .. } = parts;
        let GatewayParts { engine, numbers, book, log, .. } = parts;
        let kept = config.events.kept as usize;
        let record = (kept > 0).then(|| Record::new(kept, Clock::read().wall_us));
        Self {
            config,
            devices,
            sockets,
            kernel,
            steering,
            workers,
            attachments: Vec::new(),
            programmed: None,
            refused: None,
            programming: Programming::default(),
            census: Census::default(),
            author_asked: None,
            started: Instant::now(),
            draining: None,
            grace: Grace::default(),
            limits: Limits::new(Instant::now()),
            announcements: Announcements::default(),
            captures: Captures::default(),
            log,
            engine,
            tables: Arc::default(),
            trial: None,
            numbers,
            policy_names: PolicyNames::default(),
            book,
            accounts: Arc::default(),
            pod_names: PodNames::default(),
            record,
            groups: Groups::default(),
            refusals: Seldom::default(),
            told: BTreeSet::new(),
            tunnel_devices: BTreeSet::new(),
            view: KernelView::default(),
            epoch: EPOCH_NONE,
        }
    }

    /// Attaches the steering programs, unless that is done. Where an earlier process left its
    /// program, this waits for the first document: until then that program drops what it selected.
    pub(crate) fn attach(&mut self) -> anyhow::Result<()> {
        if !self.attachments.is_empty() {
            return Ok(());
        }
        self.attachments = self.steering.attach()?;
        for Attachment { device, mode, replaced } in &self.attachments {
            let how = if *replaced { "took over" } else { "attached" };
            tracing::info!("{how} steering on {device}, {} mode", mode.name());
        }
        Ok(())
    }

    /// Programs a document that was parsed and checked. When this fails the one before it stays.
    pub(crate) fn apply(&mut self, document: Document, source: &str) -> anyhow::Result<()> {
        let start = Instant::now();
        self.program(document, source)?;
        let took_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.programming.count_applied(took_us);
        Ok(())
    }

    fn program(&mut self, document: Document, source: &str) -> anyhow::Result<()> {
        let timeouts = self.config.timeouts;
        let numbers = self.numbers.after(&document);
        let policies = compile::policies(&document, timeouts, &numbers);
        let tables = compile::steer_tables(&document, &policies, &numbers, &self.devices);
        self.steer(self.grace.after(tables, Instant::now()))?;
        self.follow_events();
        self.numbers = numbers;
        tracing::info!("generation {} from {source}: programmed", document.generation);
        self.policy_names.change(&document, next(self.epoch));
        self.book.open(&document);
        self.accounts = Arc::new(self.book.for_tables(&self.policy_names));
        self.pod_names = std::mem::take(&mut self.pod_names).after(&document, now());
        self.programmed = Some(Programmed {
            extent: compile::extent(&document, &policies),
            document,
            source: source.to_owned(),
            policies,
        });
        self.refused = None;
        self.view = self.look();
        self.publish()?;
        self.attach()?;
        self.announce_places();
        self.tell_reports();
        Ok(())
    }

    /// Tells the operator what there is to report, as far as it was not there the last time.
    fn tell_reports(&mut self) {
        let reports = self.reports();
        for report in reports.iter().filter(|report| !self.told.contains(*report)) {
            tracing::warn!("{report}");
        }
        self.told = reports.into_iter().collect();
    }

    /// Tells the operator of limits that newcomers run into.
    pub(crate) fn watch_limits(&mut self, now: Instant) {
        if self.limits.next() > now {
            return;
        }
        // A worker that does not answer now is asked next time.
        let Ok(reports) = self.workers.reports() else { return self.limits.postpone(now) };
        let dropped = |reason| reports.iter().map(|report| report.engine.dropped_for(reason)).sum();
        for Reached { reason, packets, remedy } in self.limits.look(now, dropped) {
            tracing::warn!(
                reason = reason.name(),
                packets,
                "newcomers are refused: {} {remedy}",
                reason.description()
            );
        }
    }

    /// Stops steering what former documents covered, where their grace time is over.
    pub(crate) fn end_grace(&mut self, now: Instant) {
        if self.grace.ends().is_none_or(|at| at > now) {
            return;
        }
        let later = self.grace.clone().at(now);
        if let Err(error) = self.steer(later.clone()) {
            tracing::warn!("what was deselected is dropped until the next document: {error:#}");
            self.grace = later;
        }
    }

    /// Programs steering. The past must make room for the present.
    fn steer(&mut self, mut grace: Grace) -> anyhow::Result<()> {
        let steered = match self.steering.apply(&grace.tables()) {
            Err(SteeringError::TooMany(problem)) if grace.ends().is_some() => {
                tracing::warn!("what was just deselected is not dropped for a while: {problem}");
                grace = grace.forget();
                self.steering.apply(&grace.tables())
            }
            steered => steered,
        };
        steered?;
        self.grace = grace;
        Ok(())
    }

    /// Lets flows go on and no new one begin, or begin again.
    pub(crate) fn drain(&mut self, draining: bool) -> anyhow::Result<()> {
        if draining == self.draining.is_some() {
            return Ok(());
        }
        let before = self.draining;
        self.draining = draining.then(Instant::now);
        if let Err(error) = self.publish() {
            self.draining = before;
            return Err(error);
        }
        let how = if draining { "draining: no new flow begins" } else { "new flows begin again" };
        tracing::info!("{how}");
        Ok(())
    }

    /// Takes in what workers have told, while it is known what the numbers in it mean.
    pub(crate) fn follow_events(&mut self) {
        let Some(record) = &mut self.record else { return };
        let prefix = self.programmed.as_ref().and_then(|p| p.document.nat64_prefix);
        let (policies, pods, numbers) = (&self.policy_names, &self.pod_names, &self.numbers);
        let meaning = Meaning { policies, pods, numbers, nat64_prefix: prefix };
        let taken = events::take_all(&self.workers.outboxes);
        let clock = Clock::read();
        for (worker, noted) in &taken {
            record.add(*worker, noted, meaning, clock);
        }
    }

    /// How many events were lost on their way.
    pub(crate) fn events_lost(&self) -> u64 {
        self.workers.outboxes.iter().map(|outbox| outbox.lost()).sum()
    }

    /// Remembers and logs why a document was refused.
    pub(crate) fn refuse(&mut self, source: &str, message: String) {
        tracing::error!("state from {source} refused, the running one stays: {message}");
        let at = Instant::now();
        self.programming.refused += 1;
        self.refused = Some(Refused { source: source.to_owned(), message, at });
    }

    /// Takes the kernel's changes in; publishes new tables when they matter.
    pub(crate) fn kernel_changed(&mut self) -> anyhow::Result<()> {
        let view = self.look();
        if view != self.view {
            self.view = view;
            self.publish()?;
            self.tell_reports();
        }
        self.announce_places();
        Ok(())
    }

    /// Notes where announced addresses are now: on devices that can send.
    fn announce_places(&mut self) {
        let egress = self.programmed.iter().flat_map(|p| &p.document.egress_addresses);
        let places = egress.filter_map(|egress| {
            let name = egress.announce.as_ref()?;
            let device = self.devices.iter().find(|device| device.name == *name)?;
            let link = self.kernel.link_at(device.ifindex)?;
            let place = Place { ifindex: device.ifindex, mac: link.mac? };
            (link.up && link.carrier).then_some((egress.address, place))
        });
        let places: BTreeMap<_, _> = places.collect();
        let announced = places.iter().map(|(address, place)| (*address, place.ifindex));
        for ((ifindex, group), error) in self.groups.follow(announced) {
            tracing::warn!(
                "cannot join {group} on the device with index {ifindex}: {error}. A network card \
                 that filters multicast keeps neighbour solicitations away, and replies to the \
                 addresses announced there do not come: `ip link set DEVICE allmulticast on`"
            );
        }
        self.announcements.follow(places, Instant::now());
    }

    /// Has the announcements made that are due.
    pub(crate) fn announce(&mut self, now: Instant) -> anyhow::Result<()> {
        let addresses = self.announcements.due(now);
        if addresses.is_empty() { Ok(()) } else { self.workers.announce(addresses) }
    }

    /// Asks the kernel to resolve what workers wait for, and to keep it resolved.
    pub(crate) fn resolve_neighbours(&mut self) {
        while let Ok(neighbour) = self.workers.neighbours.try_recv() {
            self.resolve(neighbour);
        }
    }

    /// What an operator should know.
    pub(crate) fn reports(&self) -> Vec<String> {
        let KernelView { v4, v6, .. } = &self.view;
        let mut reports = [v4.fib.reports.as_slice(), &v6.fib.reports].concat();
        if let Some(programmed) = &self.programmed {
            let ports = host_ports().unwrap_or_else(|error| {
                reports.push(format!("{error:#}: whether shared ports are reserved is unknown"));
                HostPorts { local: (u16::MAX, 0), reserved: Vec::new() }
            });
            reports.extend(compile::reports(&programmed.document, &self.view.local, &ports));
            let carriers = self.tunnel_devices.iter().filter_map(|device| {
                let at = usize::from(*device);
                Some((self.devices.get(at)?.name.as_str(), self.view.links.get(at)?.1))
            });
            reports.extend(mtu::reports(&programmed.document, carriers));
        }
        reports
    }

    /// The largest IP packet that a device carries, in bytes.
    pub(crate) fn mtu(&self, device: DeviceIndex) -> Option<u32> {
        self.view.links.get(usize::from(device)).map(|(_, mtu)| *mtu)
    }

    fn ifindexes(&self) -> Vec<u32> {
        self.devices.iter().map(|device| device.ifindex).collect()
    }

    /// The kernel's tables as far as they concern us, now.
    fn look(&self) -> KernelView {
        let ifindexes = self.ifindexes();
        let links = self.devices.iter().map(|device| {
            let link = self.kernel.link_at(device.ifindex);
            let mac = link.and_then(|link| link.mac).unwrap_or(device.mac);
            (mac, link.map_or(device.mtu, |link| link.mtu))
        });
        KernelView {
            v4: FamilyView::of(&self.kernel, &ifindexes),
            v6: FamilyView::of(&self.kernel, &ifindexes),
            links: links.collect(),
            local: self.kernel.addresses().collect(),
        }
    }

    /// Builds tables of the document and the kernel's view, and gives them to the workers.
    fn publish(&mut self) -> anyhow::Result<()> {
        let Some(Programmed { document, policies, .. }) = &self.programmed else { return Ok(()) };
        self.epoch = next(self.epoch);
        let names: Vec<&str> = self.devices.iter().map(|device| device.name.as_str()).collect();
        let links = self.view.links.iter().zip(&self.devices);
        let v4 = self.view.v4.input(document, &policies.0, &names);
        let v6 = self.view.v6.input(document, &policies.1, &names);
        let peers = compile::peers(document, &self.numbers, &names);
        let next_hops = next_hops(&v4.fib, &v6.fib, &peers);
        let direct = peers.iter().filter_map(|peer| Some(peer.direct?.0));
        self.tunnel_devices = direct.chain(next_hops.iter().map(|hop| hop.device)).collect();
        let tables = Tables::new(TablesInput {
            epoch: self.epoch,
            devices: links.map(|((mac, mtu), at)| compile::device(*mac, *mtu, at.mtu)).collect(),
            peers,
            reply_vni: Some(compile::reply_vni(document, IpFamily::V4)),
            reply_vni_ipv6: Some(compile::reply_vni(document, IpFamily::V6)),
            tunnel_port: self.config.tunnel_port,
            nat64: compile::nat64(document, &self.numbers),
            draining: self.draining.is_some(),
            accounts: Arc::clone(&self.accounts),
            v4,
            v6,
        });
        self.tables = Arc::new(tables);
        self.workers.publish(&self.tables)?;
        for next_hop in next_hops {
            self.resolve(next_hop);
        }
        Ok(())
    }

    fn resolve(&mut self, neighbour: Unresolved) {
        let Some(device) = self.devices.get(usize::from(neighbour.device)) else { return };
        let Err(error) = self.kernel.resolve_neighbour(device.ifindex, neighbour.address) else {
            return;
        };
        if let Some(untold) = self.refusals.tell(Instant::now()) {
            let (address, device) = (neighbour.address, &device.name);
            tracing::warn!(untold, "cannot resolve {address} on {device}: {error}");
        }
    }
}

/// The epoch after this one.
fn next(epoch: u32) -> u32 {
    match epoch.wrapping_add(1) {
        EPOCH_NONE => EPOCH_NONE + 1,
        next => next,
    }
}

/// The next hops towards the peers: resolved before the first reply needs them.
fn next_hops(v4: &Fib<V4>, v6: &Fib<V6>, peers: &[Peer]) -> Vec<Unresolved> {
    let mut hops: Vec<Unresolved> = Vec::new();
    for peer in peers.iter().filter(|peer| peer.direct.is_none()) {
        let hop = match (peer.tunnel_address, peer.address) {
            (IpAddr::V4(tunnel), IpAddr::V4(peer)) => next_hop(v4, tunnel, peer),
            (IpAddr::V6(tunnel), IpAddr::V6(peer)) => next_hop(v6, tunnel, peer),
            _ => None,
        };
        if let Some(hop) = hop.filter(|hop| !hops.contains(hop)) {
            hops.push(hop);
        }
    }
    hops
}

/// The next hop from one of our tunnel addresses to a peer, if there is a route.
fn next_hop<F: Family>(
    fib: &Fib<F>,
    tunnel_address: F::Address,
    peer: F::Address,
) -> Option<Unresolved> {
    let way = fib.lookup(tunnel_address, peer, 0).ok()?;
    Some(Unresolved { device: way.device, address: way.next_hop.into() })
}

/// The ports that the kernel gives out in this network namespace.
pub(crate) fn host_ports() -> anyhow::Result<HostPorts> {
    let read = |name: &str| {
        let path = format!("/proc/sys/net/ipv4/{name}");
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    };
    let ports = HostPorts::parse(&read("ip_local_port_range")?, &read("ip_local_reserved_ports")?);
    ports.context("cannot understand /proc/sys/net/ipv4/ip_local_port_range")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_go_round_without_that_of_nothing() {
        assert_eq!((next(EPOCH_NONE), next(7), next(u32::MAX)), (1, 8, 1));
    }
}
