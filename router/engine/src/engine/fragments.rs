//! Fragments: all come to the owner of port 0, who knows by the first of a packet which flow the
//! others belong to, and gives them to its worker. There each is a packet of its own.

use super::life::Context;
use super::translator::Translator;
use super::{Halt, Verdict};
use crate::Ticket;
use crate::packet::{Direction, Fragment, Packet, Wire};
use crate::reassembly::{Arrival, Datagram};

impl<F: Wire> Translator<F> {
    /// Sends a fragment on its way, or to the worker of its flow.
    pub(super) fn fragment(
        &mut self,
        context: Context<'_, F>,
        frame: &mut [u8],
        packet: &Packet<F>,
        fragment: &Fragment,
    ) -> Verdict {
        let (datagram, is_here) = match context.ticket.datagram {
            Some(datagram) => (datagram, true),
            None => match self.datagram(context, packet, fragment) {
                Ok(datagram) => (datagram, false),
                Err(halt) => return self.conclude(context, packet, Err(halt)),
            },
        };
        let packet = packet.of(&datagram, &self.hasher);
        let ticket = Ticket { datagram: Some(datagram), ..context.ticket };
        let context = Context { ticket, ..context };
        let owner = self.owner(packet.owner_port());
        if !is_here && owner != self.worker {
            return self.conclude(context, &packet, Err(Halt::HandOff { worker: owner, ticket }));
        }
        self.translate(context, frame, &packet)
    }

    /// What the first fragment of a packet has told, if it has come.
    fn datagram(
        &mut self,
        context: Context<'_, F>,
        packet: &Packet<F>,
        fragment: &Fragment,
    ) -> Result<Datagram, Halt> {
        let Self { reassembly, identifications, hasher, now, .. } = self;
        let known = match context.comes_again {
            true => reassembly.again(packet, fragment, *now),
            false => reassembly.arrive(packet, fragment, *now, || match packet.direction {
                Direction::Forward => identifications.for_fragments(packet, hasher),
                Direction::Reply => fragment.identification,
            }),
        };
        match known? {
            Arrival::Known(datagram) => Ok(datagram),
            Arrival::Waits { until } => Err(Halt::Await { until }),
        }
    }
}
