//! The life of a packet. Every `?` on the way is a [`DropReason`], or a neighbour to wait for; the
//! frame is written to only when no check and no neighbour can stop it any more.

use super::adoption::endpoint;
use super::holdings::Holding;
use super::journal::EndReason;
use super::translator::{Translator, end};
use super::{Halt, Nanos, Outlet};
use crate::encap::{Label, Overlay};
use crate::family::Family;
use crate::flow::{Original, Reply, SlotIndex, Tick, Translation, Tuple, WayBack, tick};
use crate::nat::{Side, Use, Wish, clamp_mss, rewrite};
use crate::nat64::may_become_ipv6;
use crate::packet::{Packet, SCTP, Transport, Wire, tunnel_tos};
use crate::policy::{NatOptions, PolicyIndex};
use crate::tables::{Adjacency, AdjacencyIndex, EPOCH_NONE, EgressAddress, FamilyTables};
use crate::{DropReason, Ticket};

/// What the packets of a burst have in common.
#[derive(Clone, Copy)]
pub(super) struct Context<'a, F: Family> {
    pub(super) tables: &'a FamilyTables<F>,
    pub(super) now: Tick,
    /// What is known of them from before.
    pub(super) ticket: Ticket,
    /// Whether they have waited, or come from another worker.
    pub(super) comes_again: bool,
}

impl<'a, F: Family> Context<'a, F> {
    /// Of what steering has given to this worker.
    pub(super) fn new(tables: &'a FamilyTables<F>, now: Nanos) -> Self {
        Self { tables, now: tick(now), ticket: Ticket::default(), comes_again: false }
    }

    /// Of a frame that has waited, or comes from another worker.
    pub(super) fn again(tables: &'a FamilyTables<F>, now: Nanos, ticket: Ticket) -> Self {
        Self { ticket, comes_again: true, ..Self::new(tables, now) }
    }

    /// Whether there are tables to go by. Without, a flow would seem to be deselected.
    pub(super) fn is_programmed(self) -> bool {
        self.tables.is_programmed()
    }
}

impl<F: Wire> Translator<F> {
    /// From a pod to the outside: as the flow's first packet was translated, so are all.
    pub(super) fn forward(
        &mut self,
        context: Context<'_, F>,
        frame: &mut [u8],
        packet: &Packet<F>,
    ) -> Result<Outlet, Halt> {
        let known = self.flows.originals.find(&packet.tuple, packet.hash);
        let flow = match known {
            Some(flow) => self.confirm_original(context, packet, flow)?,
            None => {
                self.follow_redirect(context, packet)?;
                self.open(context, packet)?
            }
        };
        self.learn(context, packet, flow)?;
        let original = &mut self.flows.originals[flow];
        may_change(packet, original.keeps_port())?;
        let adjacency = fitting(context.tables, original.adjacency, packet)?;
        let (ethernet, ip) = frame.split_first_chunk_mut().ok_or(DropReason::Truncated)?;
        rewrite(ip, packet, Side::Source, &original.change())?;
        self.identifications.renew(ip, packet, &self.hasher, original.egress());
        if self.mss_clamp && packet.transport.has_syn() {
            fit_to_tunnel(context.tables, packet, ip);
        }
        *ethernet = adjacency.ethernet;
        original.note(packet.transport, packet.length, context.now);
        Ok(Outlet { device: adjacency.device, mtu: adjacency.mtu, mtu_to_ipv6: None })
    }

    /// From the outside to a pod: back through the tunnel that the flow came from.
    pub(super) fn reply(
        &mut self,
        context: Context<'_, F>,
        frame: &mut [u8],
        packet: &Packet<F>,
    ) -> Result<Outlet, Halt> {
        let known = self.flows.replies.find(&packet.tuple, packet.hash);
        let flow = known.ok_or_else(|| without_reply_flow(packet.transport))?;
        self.confirm_reply(context, flow)?;
        let reply = &mut self.flows.replies[flow];
        may_change(packet, reply.keeps_port())?;
        let overlay = context.tables.overlay_to(reply.peer)?;
        if !may_pass(packet, overlay.inner_mtu) {
            return Err(DropReason::ExceedsTunnelMtu.into());
        }
        if overlay.to_ipv6 {
            let ip = frame.get(packet.direction.ip_offset()..).ok_or(DropReason::Truncated)?;
            may_become_ipv6(ip, packet)?;
        }
        // The twin is another cache line: looked at only for what may end the flow.
        let ends = packet.transport.may_end_a_connection();
        let is_believed = !ends || self.flows.originals[reply.twin].may_believe(packet.transport);
        let (head, ip) = frame.split_first_chunk_mut().ok_or(DropReason::Truncated)?;
        rewrite(ip, packet, Side::Destination, &reply.change())?;
        if self.mss_clamp && packet.transport.has_syn() {
            fit_to_way_out(context.tables, packet, &self.flows.originals[reply.twin], ip);
        }
        let (inner_mac, flow_vni) = reply.inner_link();
        let (inner_length, tos) = (packet.length, tunnel_tos(packet.tos));
        let label = Label { hash: packet.hash, flow_vni, inner_mac, inner_length, tos };
        overlay.write(head, &label);
        if is_believed {
            reply.note(packet.transport, packet.length, context.now);
        }
        let Overlay { device, inner_mtu, usual_mtu: mtu, to_ipv6, .. } = *overlay;
        Ok(Outlet { device, mtu, mtu_to_ipv6: to_ipv6.then_some(inner_mtu) })
    }

    /// The slow path: policy, route, next hop, port; then the flow exists.
    fn open(&mut self, context: Context<'_, F>, packet: &Packet<F>) -> Result<SlotIndex, Halt> {
        let Context { tables, now, .. } = context;
        let Packet { tuple, .. } = packet;
        let policy = tables.policy(tuple.source, tuple.destination);
        let options = tables.options(policy);
        may_open(packet.transport, options)?;
        let way_back = taught(tables, packet)?;
        let policy = policy.ok_or(DropReason::NoPolicy)?;
        tables.may_begin()?;
        let egress = tables.egress_of(policy, tuple.source).ok_or(DropReason::NoEgressAddress)?;
        let wish = Translation {
            original: *tuple,
            egress: egress.address,
            egress_port: tuple.source_port,
        };
        // Mostly the pod keeps its port: what is asked about it loads while the route is looked up.
        let reply_hash = self.hasher.key(&wish.reply().key());
        self.flows.replies.prefetch_group(reply_hash);
        self.ports.prefetch(reply_hash);
        let adjacency = tables.route(egress.address, tuple.destination, packet.hash)?;
        fitting(tables, adjacency, packet)?;
        // Not before: if the first one waits for the next hop, this one has to wait behind it.
        if packet.transport == Transport::Later && !packet.has_no_ports() {
            return Err(DropReason::FragmentWithoutFlow.into());
        }
        if self.flows.is_full() {
            return Err(self.ask_another(context, packet, None, DropReason::FlowTableFull));
        }
        self.flows.replies.prefetch_vacancy(reply_hash);
        let lease = Wish { reply: wish.reply(), pod: tuple.source, now: self.now };
        let is_mapped = options.endpoint_independent && !packet.has_no_ports();
        let endpoint = is_mapped.then(|| endpoint(tuple, egress.address));
        if let Some(endpoint) = &endpoint {
            self.follow_endpoint(context, packet, endpoint)?;
        }
        let place = self.holdings.admit(tables, policy, tuple)?;
        let leased = match is_mapped {
            true => self.lease_mapped(egress, packet, &lease),
            false => self.lease(egress, packet, &lease),
        };
        let leased = leased.inspect_err(|_| self.holdings.give_back(place));
        let egress_port = leased
            .map_err(|reason| self.ask_another(context, packet, endpoint.as_ref(), reason))?;
        let translation = Translation { egress_port, ..wish };
        let mut original = Original::new(&translation, now);
        original.adjacency = adjacency;
        original.policy = policy;
        original.epoch = tables.epoch();
        original.way_back = packet.way_back;
        let mut reply = Reply::new(&translation, now);
        reply.learn(way_back);
        reply.epoch = tables.epoch();
        let flow = self.flows.insert(original, reply).ok_or(DropReason::FlowTableFull)?;
        self.ports.opened(egress.address, egress_port);
        self.holdings.opened(flow, &translation, Holding { place, is_mapped });
        self.journal.begin(&self.flows, flow, self.now);
        self.counters.flows_created += 1;
        self.settle(context, packet, endpoint.as_ref());
        Ok(flow)
    }

    /// The port for a new flow. What has no ports needs the whole address towards its remote.
    fn lease(
        &mut self,
        egress: &EgressAddress<F>,
        packet: &Packet<F>,
        wish: &Wish<F>,
    ) -> Result<u16, DropReason> {
        let Self { flows, ports, holdings, .. } = self;
        if !packet.has_no_ports() {
            return ports.lease(egress, wish, &mut |reply| match (
                holdings.mappings.has_port(reply),
                flows.is_free(reply),
            ) {
                (true, _) => Use::Mapped,
                (false, true) => Use::Free,
                (false, false) => Use::Leased,
            });
        }
        whole_address(egress, flows.is_free(&wish.reply))?;
        Ok(wish.reply.destination_port)
    }

    /// The port for a new flow of an endpoint-independent mapping: the mapping's, if there is one
    /// already.
    fn lease_mapped(
        &mut self,
        egress: &EgressAddress<F>,
        packet: &Packet<F>,
        wish: &Wish<F>,
    ) -> Result<u16, DropReason> {
        let Some(port) = self.holdings.mapped_port(&packet.tuple, egress)? else {
            return self.lease(egress, packet, wish);
        };
        let reply = Tuple { destination_port: port, ..wish.reply };
        self.flows.is_free(&reply).then_some(port).ok_or(DropReason::MappingConflict)
    }

    /// A known flow's packet from the pod: after the tables have changed, policy and route are
    /// looked up again. The translation stays.
    fn confirm_original(
        &mut self,
        context: Context<'_, F>,
        packet: &Packet<F>,
        flow: SlotIndex,
    ) -> Result<SlotIndex, Halt> {
        let Context { tables, .. } = context;
        let original = &self.flows.originals[flow];
        if original.epoch != tables.epoch() {
            let egress = original.egress();
            let policy = self.confirm_policy(tables, flow)?;
            tables.peer(packet.steer.outer_source, packet.tuple.source)?;
            let adjacency = tables.route(egress, packet.tuple.destination, packet.hash)?;
            self.journal.change_policy(tables, &self.flows, flow, policy);
            let original = &mut self.flows.originals[flow];
            original.policy = policy;
            original.adjacency = adjacency;
            original.epoch = tables.epoch();
        }
        if packet.transport.opens() && self.flows.is_closing(flow) {
            tables.may_begin()?;
            self.reopen(tables, flow);
        }
        Ok(flow)
    }

    /// The pod opens a connection with the same ports as one that is closing: that one ends.
    fn reopen(&mut self, tables: &FamilyTables<F>, flow: SlotIndex) {
        let Self { flows, journal, now, .. } = self;
        journal.end(tables, flows, flow, (*now, EndReason::Replaced));
        flows.reopen(flow, tick(*now));
        journal.begin(flows, flow, *now);
    }

    /// A known flow's packet from outside: the same for policy and peer.
    fn confirm_reply(&mut self, context: Context<'_, F>, flow: SlotIndex) -> Result<(), Halt> {
        let Context { tables, .. } = context;
        let reply = &self.flows.replies[flow];
        if reply.epoch == tables.epoch() {
            return Ok(());
        }
        let twin = reply.twin;
        self.confirm_policy(tables, twin)?;
        let pod = self.flows.originals[twin].tuple().source;
        let reply = &mut self.flows.replies[flow];
        reply.peer = tables.peer(reply.way_back().peer_key, pod)?;
        reply.epoch = tables.epoch();
        Ok(())
    }

    /// The policy that covers a flow now. If there is none, or its egress address is not ours any
    /// more, the flow ends.
    fn confirm_policy(
        &mut self,
        tables: &FamilyTables<F>,
        flow: SlotIndex,
    ) -> Result<PolicyIndex, DropReason> {
        let original = &self.flows.originals[flow];
        let tuple = original.tuple();
        let policy = tables.policy(tuple.source, tuple.destination);
        let policy = policy.filter(|_| tables.egress(original.egress()).is_some());
        if let Some(policy) = policy
            && original.epoch == EPOCH_NONE
        {
            self.holdings.take_up(tables, policy, flow, &original.translation());
        }
        if policy.is_none() {
            let Self { flows, ports, holdings, journal, now, .. } = self;
            let why = (*now, EndReason::Deselected);
            let ended = end(flows, ports, holdings, journal, tables, flow, why);
            self.tell_of_end(&ended);
            self.counters.flows_deselected += 1;
        }
        policy.ok_or(DropReason::Deselected)
    }

    /// The flow learns the way back anew when its frames come another way: the pod has moved, or
    /// its node's address changed.
    fn learn(
        &mut self,
        context: Context<'_, F>,
        packet: &Packet<F>,
        flow: SlotIndex,
    ) -> Result<(), DropReason> {
        let original = &mut self.flows.originals[flow];
        if original.way_back != packet.way_back {
            let way_back = taught(context.tables, packet)?;
            original.way_back = packet.way_back;
            self.flows.replies[original.twin].learn(way_back);
        }
        Ok(())
    }
}

/// Whether a flow without ports may have a whole egress address towards its remote.
pub(super) fn whole_address<F: Wire>(
    egress: &EgressAddress<F>,
    is_free: bool,
) -> Result<(), DropReason> {
    match (egress.own, is_free) {
        (true, true) => Ok(()),
        (true, false) => Err(DropReason::AddressTaken),
        (false, _) => Err(DropReason::NeedsOwnAddress),
    }
}

/// What a frame teaches of the way back, if it comes from a listed peer.
fn taught<F: Wire>(tables: &FamilyTables<F>, packet: &Packet<F>) -> Result<WayBack, DropReason> {
    let peer_key = packet.steer.outer_source;
    let peer = tables.peer(peer_key, packet.tuple.source)?;
    let (inner_mac, vni) = (packet.steer.inner_mac, packet.steer.vni);
    Ok(WayBack { peer_key, peer, inner_mac, vni })
}

/// Whether a packet of no known flow may open one.
fn may_open(transport: Transport, options: &NatOptions) -> Result<(), DropReason> {
    match transport {
        Transport::Tcp(segment) if options.midstream_pickup && segment.is_under_way() => Ok(()),
        Transport::Tcp(segment) if !segment.opens() => Err(DropReason::TcpNotSyn),
        Transport::Sctp(chunk) if !chunk.opens() => Err(DropReason::SctpNotInit),
        Transport::Error => Err(DropReason::ErrorWithoutFlow),
        _ => Ok(()),
    }
}

/// Whether the packet can be translated: the CRC32c of SCTP covers what other fragments have, and
/// does not cover the addresses.
fn may_change<F: Wire>(packet: &Packet<F>, keeps_port: bool) -> Result<(), DropReason> {
    let is_part = packet.fragment.is_some() && packet.tuple.protocol == SCTP;
    if is_part && !keeps_port { Err(DropReason::UnsupportedFragment) } else { Ok(()) }
}

/// Why a packet from outside dies that belongs to no flow.
fn without_reply_flow(transport: Transport) -> DropReason {
    match transport {
        Transport::Error => DropReason::ErrorWithoutFlow,
        _ => DropReason::NoFlow,
    }
}

/// The next hop, if the packet fits its device or may be fragmented.
fn fitting<'a, F: Wire>(
    tables: &'a FamilyTables<F>,
    index: AdjacencyIndex,
    packet: &Packet<F>,
) -> Result<&'a Adjacency, DropReason> {
    let adjacency = tables.adjacency(index)?;
    if !may_pass(packet, adjacency.mtu) {
        return Err(DropReason::ExceedsMtu);
    }
    Ok(adjacency)
}

/// Lets a pod's SYN announce no larger segments than come back through its tunnel.
fn fit_to_tunnel<F: Wire>(tables: &FamilyTables<F>, packet: &Packet<F>, ip: &mut [u8]) {
    let peer = tables.peer(packet.steer.outer_source, packet.tuple.source).map_err(Halt::from);
    if let Ok(overlay) = peer.and_then(|peer| tables.overlay_to(peer)) {
        clamp_mss(ip, packet, overlay.inner_mtu);
    }
}

/// Lets the answer to a SYN announce no larger segments than leave on the flow's way out.
fn fit_to_way_out<F: Wire>(
    tables: &FamilyTables<F>,
    packet: &Packet<F>,
    original: &Original<F>,
    ip: &mut [u8],
) {
    let is_known = original.epoch == tables.epoch();
    if let Some(adjacency) = tables.adjacency(original.adjacency).ok().filter(|_| is_known) {
        clamp_mss(ip, packet, adjacency.mtu);
    }
}

/// Whether a packet fits, whole or in pieces.
fn may_pass<F: Wire>(packet: &Packet<F>, mtu: u16) -> bool {
    packet.length <= mtu || (!packet.dont_fragment && mtu >= F::MTU_MIN)
}
