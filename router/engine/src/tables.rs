//! The immutable tables that the engine reads: who may leave, as whom, and on what way.
//!
//! `router` builds a whole new [`Tables`] when the state document or the kernel's routes change
//! and swaps it in; nothing here changes once built. `epoch` tells flows to look again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::DropReason;
use crate::accounts::Accounts;
use crate::encap::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, OuterIpv6, Overlay};
use crate::engine::Halt;
use crate::family::{Family, V4, V6};
use crate::fib::{Fib, Way};
use crate::flow::Timeouts;
use crate::map::Map;
use crate::nat64::{Addresses, Prefix};
use crate::packet::Wire;
use crate::policy::{NatOptions, Policies, PolicyIndex, paired};
use crate::steer::REPLY_IP_OFFSET;

/// Index of a device, in the order of the configuration's `devices`.
pub type DeviceIndex = u16;

/// A device as the engine must know it to send on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its own link address, the source of every frame sent on it.
    pub mac: [u8; 6],
    /// The largest IP packet it carries, in bytes.
    pub mtu: u16,
}

/// A tunnel peer: a node whose pods send their traffic, of both families, to one of our tunnel
/// addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What stands for the peer in the steer header: of an IPv4 peer its address, of an IPv6 peer a
    /// number in 0.0.0.0/8.
    pub key: Ipv4Addr,
    /// The peer's address: the outer source of its frames, the outer destination of replies.
    pub address: IpAddr,
    /// Our tunnel address that it sends to, of the same family: the outer source of replies.
    pub tunnel_address: IpAddr,
    /// Where the peer is reached when the kernel's routes do not say it (the far end of a veth
    /// pair that brings the gateway's own pods in): device and link address.
    pub direct: Option<(DeviceIndex, [u8; 6])>,
}

/// An egress address and the ports on it that are ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressAddress<F: Family = V4> {
    /// The address that the outside sees.
    pub address: F::Address,
    /// First port (and echo identifier) that may be leased.
    pub port_first: u16,
    /// Last port (and echo identifier) that may be leased, inclusive.
    pub port_last: u16,
    /// Whether it is Spillway's alone, and so are protocols without ports.
    pub own: bool,
    /// The device on which Spillway itself answers for it; `None` when the host does.
    pub announce: Option<DeviceIndex>,
}

/// The VXLAN network identifier of replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyVni {
    /// Always this one; Cilium expects 2, the identity "world".
    Fixed(u32),
    /// The one that the flow's own frames carry.
    Flow,
}

impl Default for ReplyVni {
    fn default() -> Self {
        Self::Fixed(REPLY_VNI_DEFAULT)
    }
}

/// A next hop's link address, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour<F: Family = V4> {
    /// The device it is reached through.
    pub device: DeviceIndex,
    /// Its protocol address.
    pub address: F::Address,
    /// Its link address.
    pub mac: [u8; 6],
}

/// Everything that [`Tables::new`] is built from.
#[derive(Clone, Debug, Default)]
pub struct TablesInput {
    /// Changes with every change that flows must notice. [`EPOCH_NONE`]: nothing is programmed.
    pub epoch: u32,
    /// By [`DeviceIndex`].
    pub devices: Vec<Device>,
    /// Every tunnel peer; keys and addresses are unique, and all addresses are of one family.
    pub peers: Vec<Peer>,
    /// How replies are labelled that carry IPv4; `None` is [`ReplyVni::Fixed`] with 2.
    pub reply_vni: Option<ReplyVni>,
    /// The same of those that carry IPv6.
    pub reply_vni_ipv6: Option<ReplyVni>,
    /// UDP port of the tunnel, in replies the destination port.
    pub tunnel_port: u16,
    /// How pods of IPv6 reach IPv4; `None`: they do not.
    pub nat64: Option<Nat64Input>,
    /// Whether the gateway is being drained: known flows go on, and no new one begins.
    pub draining: bool,
    /// What flows' traffic is counted by.
    pub accounts: Arc<Accounts>,
    /// What is said of IPv4; the tunnels' own packets go by what is said of their family, too.
    pub v4: FamilyInput<V4>,
    /// What is said of IPv6.
    pub v6: FamilyInput<V6>,
}

/// What [`Tables::new`] needs to translate between the families (RFC 6146).
#[derive(Clone, Debug)]
pub struct Nat64Input {
    /// Where IPv4 stands in IPv6.
    pub prefix: Prefix,
    /// The number and the address of each pod: as its number, an address of 240.0.0.0/4 that no pod of
    /// IPv4 has, it is a pod of the IPv4 policies. Numbers and addresses are unique.
    pub pods: Vec<(Ipv4Addr, Ipv6Addr)>,
}

/// What [`Tables::new`] needs of one address family.
#[derive(Clone, Debug, Default)]
pub struct FamilyInput<F: Family> {
    /// Policies and the pods that they select. A policy has one index in both families.
    pub policies: Policies<F>,
    /// Every egress address that a policy names.
    pub egress_addresses: Vec<EgressAddress<F>>,
    /// Rules and routes of the kernel.
    pub fib: Fib<F>,
    /// Resolved neighbours on our devices.
    pub neighbours: Vec<Neighbour<F>>,
}

/// The epoch of tables that no state document was made into yet: all packets are dropped, and flows
/// stay. What belongs to no epoch, such as a flow that was restored, has this one too.
pub const EPOCH_NONE: u32 = 0;

/// The largest MTU that counts: with the headers in front, a frame's length fits a u16.
const MTU_MAX: u16 = 65_000;
const _: () = assert!(MTU_MAX as usize + REPLY_IP_OFFSET <= u16::MAX as usize);

/// Index of an [`Adjacency`] in one epoch's tables, and so a limit: neighbours after the first
/// 65,535 stay unresolved for the engine.
pub(crate) type AdjacencyIndex = u16;

/// Index of a peer in one epoch's tables.
pub(crate) type PeerIndex = u16;

/// Where a frame goes and the Ethernet header that takes it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Adjacency {
    pub(crate) device: DeviceIndex,
    /// The largest IP packet that the device carries, in bytes.
    pub(crate) mtu: u16,
    pub(crate) ethernet: [u8; 14],
}

impl Adjacency {
    /// The next hop's link address.
    pub(crate) fn destination_mac(&self) -> [u8; 6] {
        let [a, b, c, d, e, f, ..] = self.ethernet;
        [a, b, c, d, e, f]
    }

    /// The device's own link address.
    pub(crate) fn source_mac(&self) -> [u8; 6] {
        let [.., a, b, c, d, e, f, _, _] = self.ethernet;
        [a, b, c, d, e, f]
    }
}

/// The tables arranged for lookups. Immutable.
#[derive(Clone, Debug)]
pub struct Tables {
    pub(crate) v4: FamilyTables<V4>,
    pub(crate) v6: FamilyTables<V6>,
    /// How pods of IPv6 reach IPv4, if they do.
    pub(crate) nat64: Option<Addresses>,
    underlay: Option<Underlay>,
}

/// Tunnels over IPv6: what goes in front of replies, by [`PeerIndex`].
#[derive(Clone, Debug)]
pub(crate) struct Underlay {
    outer: Vec<Option<OuterIpv6>>,
    peers: Arc<Map<Ipv4Addr, PeerIndex>>,
}

/// The tables of one address family: all that its packets need.
#[derive(Clone, Debug)]
pub(crate) struct FamilyTables<F: Family> {
    epoch: u32,
    policies: Policies<F>,
    /// The least of each timeout that some policy has of its own.
    least_timeouts: Option<Timeouts>,
    draining: bool,
    egress_addresses: Map<F::Address, EgressAddress<F>>,
    fib: Fib<F>,
    devices: Vec<Device>,
    adjacencies: Vec<Adjacency>,
    neighbours: Map<(DeviceIndex, F::Address), AdjacencyIndex>,
    /// The pods that are numbers of IPv6's: replies to them become IPv6.
    numbers: Option<Arc<Map<F::Address, Ipv6Addr>>>,
    /// The way back to each peer, or why there is none now; with NAT64, then the same for numbers.
    overlays: Vec<Result<Overlay, Halt>>,
    peers: Arc<Map<Ipv4Addr, PeerIndex>>,
    accounts: Arc<Accounts>,
}

impl Default for Tables {
    fn default() -> Self {
        Self::new(TablesInput::default())
    }
}

impl Tables {
    /// Arranges `input` for lookups: some milliseconds for tens of thousands of entries.
    ///
    /// # Panics
    /// When there are more than 32,767 peers, which a document's limits rule out.
    #[must_use]
    pub fn new(input: TablesInput) -> Self {
        let TablesInput { epoch, devices, peers, tunnel_port, nat64, v4, v6, .. } = input;
        // Each may have two indices.
        assert!(peers.len() <= usize::from(PeerIndex::MAX / 2), "more than 32,767 peers");
        let index = (0..).zip(&peers).map(|(index, peer)| (peer.key, index));
        let index: Arc<Map<_, _>> = Arc::new(index.collect());
        let mut v4 = FamilyTables::new(epoch, &devices, &index, v4, ETHERTYPE_IPV4);
        let mut v6 = FamilyTables::new(epoch, &devices, &index, v6, ETHERTYPE_IPV6);
        (v4.draining, v6.draining) = (input.draining, input.draining);
        (v4.accounts, v6.accounts) = (Arc::clone(&input.accounts), input.accounts);
        // Both families go through the same tunnels.
        let way_to = |peer: &Peer| match (peer.tunnel_address, peer.address) {
            (IpAddr::V4(tunnel), IpAddr::V4(address)) => v4.way_to(peer, tunnel, address),
            (IpAddr::V6(tunnel), IpAddr::V6(address)) => v6.way_to(peer, tunnel, address),
            _ => Err(DropReason::UnknownPeer.into()),
        };
        let ways: Vec<_> = peers.iter().map(way_to).collect();
        let overlays = |ethertype, reply_vni: Option<ReplyVni>| {
            let reply_vni = reply_vni.unwrap_or_default();
            let overlay = |(peer, way): (&Peer, &Result<Adjacency, Halt>)| {
                let way = way.as_ref().map_err(|halt| *halt)?;
                Ok(Overlay::new(way, peer, tunnel_port, reply_vni, ethertype))
            };
            peers.iter().zip(&ways).map(overlay).collect::<Vec<_>>()
        };
        v4.overlays = overlays(ETHERTYPE_IPV4, input.reply_vni);
        v6.overlays = overlays(ETHERTYPE_IPV6, input.reply_vni_ipv6);
        let nat64 = nat64.as_ref().map(Addresses::new);
        if let Some(addresses) = &nat64 {
            v4.numbers = Some(addresses.pods());
            let for_nat64 = v6.overlays.iter().cloned().map(|way| way.map(Overlay::for_nat64));
            v4.overlays.extend(for_nat64);
        }
        let underlay = Underlay::new(&peers, &ways, index);
        Self { v4, v6, nat64, underlay }
    }

    /// What tunnels go over when they do not go over IPv4.
    #[inline]
    pub(crate) fn underlay(&self) -> Option<&Underlay> {
        self.underlay.as_ref()
    }

    /// Changes with every change that flows must notice.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.v4.epoch
    }

    /// The policy that covers what a pod sends to a destination, if one does.
    #[must_use]
    pub fn policy(&self, pod: IpAddr, destination: IpAddr) -> Option<PolicyIndex> {
        match (pod, destination) {
            (IpAddr::V4(pod), IpAddr::V4(destination)) => self.v4.policy(pod, destination),
            (IpAddr::V6(pod), IpAddr::V6(destination)) => match &self.nat64 {
                Some(addresses) if addresses.is_outside(destination) => {
                    self.v4.policy(addresses.number(pod)?, addresses.outside(destination)?)
                }
                _ => self.v6.policy(pod, destination),
            },
            _ => None,
        }
    }
}

impl Underlay {
    /// `None` when tunnels go over IPv4.
    fn new(
        peers: &[Peer],
        ways: &[Result<Adjacency, Halt>],
        index: Arc<Map<Ipv4Addr, PeerIndex>>,
    ) -> Option<Self> {
        let outer = |(peer, way): (&Peer, &Result<Adjacency, Halt>)| match (peer, way) {
            (&Peer { tunnel_address: IpAddr::V6(from), address: IpAddr::V6(to), .. }, Ok(way)) => {
                Some(OuterIpv6::new(way, from, to))
            }
            _ => None,
        };
        let is_ipv6 = peers.iter().any(|peer| peer.address.is_ipv6());
        let outer = || peers.iter().zip(ways).map(outer).collect();
        is_ipv6.then(|| Self { outer: outer(), peers: index })
    }

    /// What goes in front of replies to a peer, by its key.
    pub(crate) fn outer(&self, key: Ipv4Addr) -> Option<&OuterIpv6> {
        self.outer.get(usize::from(*self.peers.get(&key)?))?.as_ref()
    }
}

impl<F: Wire> FamilyTables<F> {
    /// Where a peer with an address of this family is reached, or why there is no way to it now.
    fn way_to(
        &self,
        peer: &Peer,
        tunnel_address: F::Address,
        address: F::Address,
    ) -> Result<Adjacency, Halt> {
        if let Some((device, mac)) = peer.direct {
            return Ok(adjacent(&self.devices, device, mac, F::ETHERTYPE)
                .ok_or(DropReason::ForeignDevice)?);
        }
        let hash = peer.key.to_bits().wrapping_mul(0x9e37_79b1);
        let way = self.fib.lookup(tunnel_address, address, hash)?;
        Ok(*self.adjacency(self.resolve(way)?)?)
    }
}

/// The Ethernet header that leads out of a device to a link address.
fn adjacent(
    devices: &[Device],
    device: DeviceIndex,
    mac: [u8; 6],
    ethertype: [u8; 2],
) -> Option<Adjacency> {
    let Device { mac: own, mtu } = devices.get(usize::from(device))?;
    let mtu = (*mtu).min(MTU_MAX);
    Some(Adjacency { device, mtu, ethernet: encap::ethernet(mac, *own, ethertype) })
}

impl<F: Family> FamilyTables<F> {
    /// Without the ways back to peers.
    fn new(
        epoch: u32,
        devices: &[Device],
        peers: &Arc<Map<Ipv4Addr, PeerIndex>>,
        input: FamilyInput<F>,
        ethertype: [u8; 2],
    ) -> Self {
        let egress_addresses = input.egress_addresses.into_iter();
        let own_timeouts = input.policies.policies().iter().filter_map(|p| p.options.timeouts);
        let mut tables = Self {
            epoch,
            least_timeouts: own_timeouts.reduce(Timeouts::least),
            draining: false,
            policies: input.policies,
            egress_addresses: egress_addresses.map(|egress| (egress.address, egress)).collect(),
            fib: input.fib,
            devices: devices.to_vec(),
            adjacencies: Vec::new(),
            neighbours: Map::default(),
            numbers: None,
            overlays: Vec::new(),
            peers: Arc::clone(peers),
            accounts: Arc::default(),
        };
        let adjacent = |neighbour: &Neighbour<F>| {
            let Neighbour { device, address, mac } = *neighbour;
            Some(((device, address), adjacent(devices, device, mac, ethertype)?))
        };
        let adjacencies = input.neighbours.iter().filter_map(adjacent);
        for (index, (key, adjacency)) in (0..AdjacencyIndex::MAX).zip(adjacencies) {
            tables.adjacencies.push(adjacency);
            tables.neighbours.insert(key, index);
        }
        tables
    }

    /// Whether a state document is in force.
    pub(crate) fn is_programmed(&self) -> bool {
        self.epoch != EPOCH_NONE
    }

    /// Changes with every change that flows must notice.
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// What flows' traffic is counted by.
    pub(crate) fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Whether a flow may begin, or a closing one begin anew.
    pub(crate) fn may_begin(&self) -> Result<(), DropReason> {
        if self.draining { Err(DropReason::Draining) } else { Ok(()) }
    }

    /// The resolved next hop of a way.
    pub(crate) fn resolve(&self, way: Way<F>) -> Result<AdjacencyIndex, Halt> {
        let known = self.neighbours.get(&(way.device, way.next_hop)).copied();
        known.ok_or_else(|| Halt::Hold { device: way.device, address: way.next_hop.into() })
    }

    /// The adjacency of an index from this epoch.
    pub(crate) fn adjacency(&self, index: AdjacencyIndex) -> Result<&Adjacency, DropReason> {
        self.adjacencies.get(usize::from(index)).ok_or(DropReason::ForeignDevice)
    }

    /// The way to a destination for a packet with this source address. The kernel does not know
    /// that announced addresses are here.
    pub(crate) fn way(
        &self,
        source: F::Address,
        destination: F::Address,
        hash: u64,
    ) -> Result<Way<F>, DropReason> {
        if self.announced(destination).is_some() {
            return Err(DropReason::Hairpin);
        }
        // The high half has not chosen the flow's place in its table.
        let hash = (hash >> 32) as u32;
        self.fib.lookup(source, destination, hash)
    }

    /// The same, with its next hop resolved.
    pub(crate) fn route(
        &self,
        source: F::Address,
        destination: F::Address,
        hash: u64,
    ) -> Result<AdjacencyIndex, Halt> {
        self.resolve(self.way(source, destination, hash)?)
    }

    /// The policy that covers a pod's traffic to a destination.
    pub(crate) fn policy(&self, pod: F::Address, destination: F::Address) -> Option<PolicyIndex> {
        self.policies.lookup(pod, destination)
    }

    /// What the policy that covers a pod's traffic asks of the NAT; the default where none does.
    pub(crate) fn options(&self, policy: Option<PolicyIndex>) -> &NatOptions {
        let policy = policy.and_then(|index| self.policies.policies().get(usize::from(index)));
        policy.map_or(&NatOptions::NONE, |policy| &policy.options)
    }

    /// What a policy is known by from one epoch to the next.
    pub(crate) fn policy_identity(&self, policy: PolicyIndex) -> u64 {
        self.policies.identity(policy)
    }

    /// Of each timeout the least that any flow may have, if `default` is what policies without own
    /// ones have.
    pub(crate) fn least_timeouts(&self, default: Timeouts) -> Timeouts {
        self.least_timeouts.map_or(default, |least| least.least(default))
    }

    /// The egress address that a pod's new flows get under a policy.
    pub(crate) fn egress_of(
        &self,
        policy: PolicyIndex,
        pod: F::Address,
    ) -> Option<&EgressAddress<F>> {
        let policy = self.policies.policies().get(usize::from(policy))?;
        self.egress(paired::<F>(pod, &policy.egress_addresses)?)
    }

    /// A listed egress address.
    pub(crate) fn egress(&self, address: F::Address) -> Option<&EgressAddress<F>> {
        self.egress_addresses.get(&address)
    }

    /// The device on which Spillway itself answers for an egress address, and its link address.
    pub(crate) fn announced(&self, address: F::Address) -> Option<(DeviceIndex, [u8; 6])> {
        let index = self.egress(address)?.announce?;
        let device = self.devices.get(usize::from(index))?;
        Some((index, device.mac))
    }

    /// The index, in this epoch, of a listed peer as the way back to a pod: by its key.
    #[inline]
    pub(crate) fn peer(&self, key: Ipv4Addr, pod: F::Address) -> Result<PeerIndex, DropReason> {
        let index = *self.peers.get(&key).ok_or(DropReason::UnknownPeer)?;
        match &self.numbers {
            None => Ok(index),
            Some(numbers) => Ok(self.peer_with_nat64(numbers, index, pod)),
        }
    }

    /// The same where some pods are numbers. Not inline: without NAT64 nobody pays for it.
    #[cold]
    #[inline(never)]
    fn peer_with_nat64(
        &self,
        numbers: &Map<F::Address, Ipv6Addr>,
        index: PeerIndex,
        pod: F::Address,
    ) -> PeerIndex {
        match numbers.contains_key(&pod) {
            false => index,
            // There are no more than fit twice.
            true => index.saturating_add(u16::try_from(self.peers.len()).unwrap_or(u16::MAX)),
        }
    }

    /// The way back to a peer of this epoch.
    pub(crate) fn overlay_to(&self, peer: PeerIndex) -> Result<&Overlay, Halt> {
        let found = self.overlays.get(usize::from(peer)).ok_or(DropReason::UnknownPeer)?;
        found.as_ref().map_err(|halt| *halt)
    }
}

/// The VNI of replies when nothing else is said: Cilium's identity "world".
pub const REPLY_VNI_DEFAULT: u32 = 2;
