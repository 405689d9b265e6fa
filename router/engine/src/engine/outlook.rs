//! What would become of a packet that nobody has sent, as far as this worker's flows and ports decide
//! about it: everything is only looked at, by the lookups that packets go through (`life.rs`).

use std::net::IpAddr;

use super::adoption::endpoint;
use super::life::whole_address;
use super::nat64;
use super::translator::{Translator, family_of};
use super::{Engine, Nanos, underlay};
use crate::DropReason;
use crate::flow::{FlowRecord, SavedFlow, SlotIndex, Translation, Tuple};
use crate::nat::Wish;
use crate::packet::{Direction, Packet, Wire};
use crate::policy::PolicyIndex;
use crate::tables::{DeviceIndex, EgressAddress, FamilyTables, Tables};

/// What one worker says of a frame that it could be given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// The flow that its packet belongs to: as a person sees it, and as [`Engine::restore`] takes it.
    pub flow: Option<(FlowRecord, SavedFlow)>,
    /// The worker that such frames are handed to, because their flow, or the mapping of their endpoint,
    /// lives there.
    pub handed_to: Option<u8>,
    /// Of a pod's packet, the policy that covers it.
    pub policy: Option<PolicyIndex>,
    /// The address that it would leave with: its flow's, or that of a new flow.
    pub egress: Option<IpAddr>,
    /// Where it would leave: the device, and the next hop on its link.
    pub way: Option<Result<(DeviceIndex, IpAddr), DropReason>>,
    /// The port that a new flow would leave from, or why there would be none.
    pub port: Option<Result<PortOutlook, DropReason>>,
}

/// The port that a new flow would leave from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortOutlook {
    /// The pod's own; of a protocol without ports, none.
    Own,
    /// The one that all flows of its endpoint have.
    Mapped(u16),
    /// Another one, drawn from those that are free.
    Drawn,
}

impl Engine {
    /// What this worker says of a frame, exactly as received, that it could be given at this time. Nothing
    /// is opened, leased or counted, and no packet is changed; room in front of one may be. A frame that
    /// is none of a packet to forward has no outlook.
    pub fn outlook(&mut self, now: Nanos, tables: &Tables, frame: &mut [u8]) -> Outlook {
        let Self { v4, v6, room, .. } = self;
        underlay::look(tables, frame, |frame| match family_of(frame) {
            0 => v4.outlook(now, &tables.v4, frame),
            _ if nat64::takes(tables, frame) => {
                let ipv4 = room.as_ipv4(tables, frame);
                ipv4.map_or_else(Outlook::default, |ipv4| v4.outlook(now, &tables.v4, ipv4))
            }
            _ => v6.outlook(now, &tables.v6, frame),
        })
    }
}

impl<F: Wire> Translator<F> {
    fn outlook(&self, now: Nanos, tables: &FamilyTables<F>, frame: &[u8]) -> Outlook {
        let Ok(packet) = Packet::<F>::parse(frame, &self.hasher) else { return Outlook::default() };
        match packet.direction {
            Direction::Forward => self.outlook_of_pod(now, tables, &packet),
            Direction::Reply => {
                let known = self.flows.replies.find(&packet.tuple, packet.hash);
                let flow = known.map(|reply| self.known(now, self.flows.replies[reply].twin));
                Outlook { flow, ..Outlook::default() }
            }
        }
    }

    fn known(&self, now: Nanos, flow: SlotIndex) -> (FlowRecord, SavedFlow) {
        (self.flows.record(flow, now), self.flows.save(flow, now))
    }

    fn outlook_of_pod(&self, now: Nanos, tables: &FamilyTables<F>, packet: &Packet<F>) -> Outlook {
        let tuple = &packet.tuple;
        let policy = tables.policy(tuple.source, tuple.destination);
        let known = self.flows.originals.find(tuple, packet.hash);
        let new_ones = policy.and_then(|policy| tables.egress_of(policy, tuple.source));
        let egress = match known {
            Some(flow) => Some(self.flows.originals[flow].egress()),
            None => new_ones.map(|egress| egress.address),
        };
        let way = egress.map(|egress| {
            let way = tables.way(egress, tuple.destination, packet.hash)?;
            Ok((way.device, way.next_hop.into()))
        });
        let port = policy.zip(new_ones).filter(|_| known.is_none());
        Outlook {
            flow: known.map(|flow| self.known(now, flow)),
            handed_to: self.handed_to(packet, egress).filter(|_| known.is_none()),
            policy,
            egress: egress.map(Into::into),
            way,
            port: port.map(|(policy, egress)| self.port(now, tables, packet, policy, egress)),
        }
    }

    /// Who has the packet's flow, or the mapping of its endpoint.
    fn handed_to(&self, packet: &Packet<F>, egress: Option<F::Address>) -> Option<u8> {
        let of_endpoint = || self.redirects.look(&endpoint(&packet.tuple, egress?));
        self.redirects.look(&packet.tuple).or_else(of_endpoint)
    }

    /// The port that a new flow would have, asked for as when it is opened.
    fn port(
        &self,
        now: Nanos,
        tables: &FamilyTables<F>,
        packet: &Packet<F>,
        policy: PolicyIndex,
        egress: &EgressAddress<F>,
    ) -> Result<PortOutlook, DropReason> {
        let original = packet.tuple;
        let Self { flows, ports, holdings, .. } = self;
        if flows.is_full() {
            return Err(DropReason::FlowTableFull);
        }
        if !holdings.may_admit(tables, policy, &original) {
            return Err(DropReason::PodFlowLimit);
        }
        let egress_port = original.source_port;
        let reply = Translation::<F> { original, egress: egress.address, egress_port }.reply();
        if packet.has_no_ports() {
            whole_address(egress, flows.is_free(&reply))?;
            return Ok(PortOutlook::Own);
        }
        if tables.options(Some(policy)).endpoint_independent
            && let Some(port) = holdings.mapped_port(&original, egress)?
        {
            let is_free = flows.is_free(&Tuple { destination_port: port, ..reply });
            return is_free.then_some(PortOutlook::Mapped(port)).ok_or(DropReason::MappingConflict);
        }
        let is_free =
            |reply: &Tuple<F::Address>| !holdings.mappings.has_port(reply) && flows.is_free(reply);
        let wish = Wish { reply, pod: original.source, now };
        let keeps_own = ports.forecast(egress, &wish, &is_free)?;
        Ok(if keeps_own { PortOutlook::Own } else { PortOutlook::Drawn })
    }
}
