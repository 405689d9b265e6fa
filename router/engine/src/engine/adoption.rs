//! Adoption: a flow for which the owner of its pod's port has no port left lives with another worker.
//! The owner asks one after the other, by handing them the packet; who adopts the flow sends it on,
//! and gets all later packets of the pod from the owner, and the replies from steering. It tells the
//! owner when the flow is opened and when it has ended.

use std::iter;

use arrayvec::ArrayVec;

use super::life::Context;
use super::translator::Translator;
use super::{Halt, Nanos};
use crate::family::{Address, Family};
use crate::flow::tick;
use crate::packet::{Packet, Wire};
use crate::steer::Owners;
use crate::{DropReason, Ticket, Tuple};

/// How many notices wait for the worker at most: more than a burst and a sweep make.
const NOTICES_MAX: usize = 512;

/// What a worker has to tell another one of a flow that it has adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Who is to know: [`Engine::take_notice`](super::Engine::take_notice) of that worker.
    pub worker: u8,
    from: u8,
    original: Tuple,
    /// Whether it was opened; else it has ended.
    is_open: bool,
}

/// Notices that wait for the worker.
pub(super) type Notices = ArrayVec<Notice, NOTICES_MAX>;

/// Tells the owner of a flow's port about it, if that is not this worker.
fn tell_owner<A: Address>(
    notices: &mut Notices,
    (owners, this): (&Owners, u8),
    original: &Tuple<A>,
    is_open: bool,
) {
    let worker = owners.owner(original.source_port);
    if worker != this {
        // Without a notice the owner finds out later, by the time.
        let original = original.of_any_family();
        let _ = notices.try_push(Notice { worker, from: this, original, is_open });
    }
}

/// What of a flow's end concerns the owner of its pod's port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended<F: Family> {
    /// The pod's tuple.
    pub(super) original: Tuple<F::Address>,
    /// The endpoint whose mapping has ended with it.
    pub(super) endpoint: Option<Tuple<F::Address>>,
}

/// Tells the owner of a flow's port of its end, if that is not this worker.
pub(super) fn tell_of_end<F: Family>(notices: &mut Notices, this: (&Owners, u8), ended: &Ended<F>) {
    for key in iter::once(&ended.original).chain(&ended.endpoint) {
        tell_owner(notices, this, key, false);
    }
}

/// What an endpoint's mapping is known by: no flow has such a tuple, since none leads to its own egress
/// address.
pub(super) fn endpoint<A: Copy>(original: &Tuple<A>, egress: A) -> Tuple<A> {
    Tuple { destination: egress, destination_port: 0, ..*original }
}

/// A packet goes to where its flow, or its endpoint's mapping, lives.
fn redirected(worker: u8, ticket: Ticket) -> Halt {
    Halt::HandOff { worker, ticket: Ticket { redirected_to: Some(worker), ..ticket } }
}

impl<F: Wire> Translator<F> {
    /// Hands a packet of no flow here to the worker that its flow lives with, if it is known to; that
    /// one gives it back when the flow has ended meanwhile.
    pub(super) fn follow_redirect(
        &mut self,
        context: Context<'_, F>,
        packet: &Packet<F>,
    ) -> Result<(), Halt> {
        let Context { ticket, .. } = context;
        let owner = self.owner(packet.owner_port());
        if owner != self.worker && ticket.redirected_to.is_some() {
            let is_mapped = self.has_mapping(context, packet);
            return if is_mapped { Ok(()) } else { Err(Halt::HandOff { worker: owner, ticket }) };
        }
        if ticket.asked > 0 {
            return Ok(());
        }
        match self.follow(context, &packet.tuple) {
            Some(worker) => Err(redirected(worker, ticket)),
            None => Ok(()),
        }
    }

    /// Where a packet has to go by one of its keys; nowhere when it was there in vain.
    fn follow(&mut self, context: Context<'_, F>, key: &Tuple<F::Address>) -> Option<u8> {
        let to = self.redirects.follow(key, context.now);
        if to.is_some() && to == context.ticket.redirected_to {
            self.redirects.unset(key);
            return None;
        }
        to
    }

    /// Whether the pod's address and port have a mapping here.
    fn has_mapping(&self, context: Context<'_, F>, packet: &Packet<F>) -> bool {
        let Context { tables, .. } = context;
        let Tuple { source, destination, .. } = packet.tuple;
        let policy = tables.policy(source, destination);
        let egress = policy.and_then(|policy| tables.egress_of(policy, source));
        egress.is_some_and(|egress| self.holdings.has_mapping(&packet.tuple, egress.address))
    }

    /// Hands a packet of a new flow to the worker that its endpoint's mapping lives with, if that is
    /// another one; that one gives it back when the mapping has ended meanwhile.
    pub(super) fn follow_endpoint(
        &mut self,
        context: Context<'_, F>,
        packet: &Packet<F>,
        endpoint: &Tuple<F::Address>,
    ) -> Result<(), Halt> {
        let Context { ticket, now, .. } = context;
        if ticket.asked > 0 || self.owner(packet.owner_port()) != self.worker {
            return Ok(());
        }
        let Some(worker) = self.follow(context, endpoint) else { return Ok(()) };
        if !self.redirects.set(&packet.tuple, worker, false, now) {
            return Err(DropReason::RedirectsFull.into());
        }
        Err(redirected(worker, ticket))
    }

    /// What becomes of a packet whose flow cannot live here for this reason: the owner asks the next
    /// worker when it has no port; who was asked gives it back. `endpoint` is that of a mapping.
    pub(super) fn ask_another(
        &mut self,
        context: Context<'_, F>,
        packet: &Packet<F>,
        endpoint: Option<&Tuple<F::Address>>,
        reason: DropReason,
    ) -> Halt {
        let Context { ticket, now, .. } = context;
        let owner = self.owner(packet.owner_port());
        let is_full = matches!(reason, DropReason::FlowTableFull | DropReason::MappingsExhausted);
        let no_place = is_full || reason == DropReason::PortsExhausted;
        if owner != self.worker && no_place {
            return Halt::HandOff { worker: owner, ticket };
        }
        if reason != DropReason::PortsExhausted {
            return reason.into();
        }
        let asked = ticket.asked + 1;
        let keys = iter::once(&packet.tuple).chain(endpoint);
        if asked >= self.workers {
            keys.for_each(|key| self.redirects.unset(key));
            return reason.into();
        }
        let next = (u16::from(owner) + u16::from(asked)) % u16::from(self.workers);
        let worker = u8::try_from(next).unwrap_or_default();
        for key in keys {
            if !self.redirects.set(key, worker, false, now) {
                return DropReason::RedirectsFull.into();
            }
        }
        Halt::HandOff { worker, ticket: Ticket { asked, redirected_to: None, ..ticket } }
    }

    /// A flow has been opened here, after others were asked.
    pub(super) fn settle(
        &mut self,
        context: Context<'_, F>,
        packet: &Packet<F>,
        endpoint: Option<&Tuple<F::Address>>,
    ) {
        let Ticket { asked, redirected_to, .. } = context.ticket;
        if asked > 0 || redirected_to.is_some() {
            for key in iter::once(&packet.tuple).chain(endpoint) {
                self.redirects.unset(key);
                self.tell_owner(key, true);
            }
        }
    }

    /// A flow has ended here, and perhaps its endpoint's mapping.
    pub(super) fn tell_of_end(&mut self, ended: &Ended<F>) {
        let this = (&self.owners, self.worker);
        tell_of_end(&mut self.notices, this, ended);
    }

    /// Tells the owner of a flow's port about it, if that is another worker.
    fn tell_owner(&mut self, original: &Tuple<F::Address>, is_open: bool) {
        tell_owner(&mut self.notices, (&self.owners, self.worker), original, is_open);
    }

    /// Takes in what another worker tells this one, if it is of this family.
    pub(super) fn take_notice(&mut self, now: Nanos, notice: Notice) {
        let Notice { from, original, is_open, .. } = notice;
        if let Some(original) = original.of_family() {
            self.redirects.note(&original, from, is_open, tick(now));
        }
    }
}
