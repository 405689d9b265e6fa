//! What the engine counts: plain numbers of one worker, copied when somebody asks.

use crate::drop_reason::{DROP_REASONS, DropReason};

/// Packets and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How many packets.
    pub packets: u64,
    /// The lengths of their IP packets added up: without link and tunnel headers.
    pub bytes: u64,
}

impl Traffic {
    pub(crate) fn add(&mut self, other: Self) {
        self.packets = self.packets.wrapping_add(other.packets);
        self.bytes = self.bytes.wrapping_add(other.bytes);
    }

    pub(crate) fn subtract(&mut self, other: Self) {
        self.packets = self.packets.wrapping_sub(other.packets);
        self.bytes = self.bytes.wrapping_sub(other.bytes);
    }

    pub(crate) fn count(&mut self, length: u16) {
        self.packets = self.packets.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(u64::from(length));
    }
}

/// One worker's counters. At every moment
/// `received + taken_over = transmitted + held + handed_off + the sum of dropped`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Frames handed in for the first time.
    pub received: u64,
    /// Frames sent on, by verdict; what becomes of them on the device is counted there.
    pub transmitted: u64,
    /// Those of them that were cut into fragments.
    pub fragmented: u64,
    /// Those of them that answer ARP requests, neighbour solicitations and pings for announced addresses.
    pub answered: u64,
    /// Announcements of such addresses; not in `transmitted`.
    pub announced: u64,
    /// Frames that wait now, for a neighbour or for the first fragment of their packet: a gauge.
    pub held: u64,
    /// Frames that another worker has handed over.
    pub taken_over: u64,
    /// Frames handed to another worker.
    pub handed_off: u64,
    /// Frames dropped, by [`DropReason`] as the index.
    pub dropped: [u64; DROP_REASONS],
    /// Packets of pods sent outside.
    pub forward: Traffic,
    /// Packets from outside sent to pods.
    pub reply: Traffic,
    /// ICMP errors of our own to senders whose packets were dropped; not in `transmitted`.
    pub errors_sent: u64,
    /// Such errors that were not sent because their receiver had too many.
    pub errors_limited: u64,
    /// Flows created.
    pub flows_created: u64,
    /// Flows taken up from an earlier engine.
    pub flows_restored: u64,
    /// Flows ended by their timeout.
    pub flows_expired: u64,
    /// Flows ended because the state no longer selects them.
    pub flows_deselected: u64,
    /// Flows that live now: a gauge.
    pub flows_live: u64,
    /// Leases of ports that found few left towards their remote, or none: soon newcomers are refused.
    pub leases_crowded: u64,
    /// Port blocks that pods have now: a gauge.
    pub port_blocks: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            received: 0,
            transmitted: 0,
            fragmented: 0,
            answered: 0,
            announced: 0,
            held: 0,
            taken_over: 0,
            handed_off: 0,
            dropped: [0; DROP_REASONS],
            forward: Traffic::default(),
            reply: Traffic::default(),
            errors_sent: 0,
            errors_limited: 0,
            flows_created: 0,
            flows_restored: 0,
            flows_expired: 0,
            flows_deselected: 0,
            flows_live: 0,
            leases_crowded: 0,
            port_blocks: 0,
        }
    }
}

impl Counters {
    /// How many frames were dropped for this reason.
    #[must_use]
    pub fn dropped_for(&self, reason: DropReason) -> u64 {
        self.dropped.get(reason as usize).copied().unwrap_or_default()
    }

    /// Both together. What frames are given up is counted by one for both: only sums are right.
    pub(crate) fn add(&mut self, other: &Self) {
        let Self { received, transmitted, fragmented, answered, announced, held, .. } = other;
        let Self { taken_over, handed_off, dropped, forward, reply, .. } = other;
        let Self { errors_sent, errors_limited, flows_created, flows_restored, .. } = other;
        let Self {
            flows_expired, flows_deselected, flows_live, leases_crowded, port_blocks, ..
        } = other;
        for (count, more) in [
            (&mut self.received, received),
            (&mut self.transmitted, transmitted),
            (&mut self.fragmented, fragmented),
            (&mut self.answered, answered),
            (&mut self.announced, announced),
            (&mut self.held, held),
            (&mut self.taken_over, taken_over),
            (&mut self.handed_off, handed_off),
            (&mut self.errors_sent, errors_sent),
            (&mut self.errors_limited, errors_limited),
            (&mut self.flows_created, flows_created),
            (&mut self.flows_restored, flows_restored),
            (&mut self.flows_expired, flows_expired),
            (&mut self.flows_deselected, flows_deselected),
            (&mut self.flows_live, flows_live),
            (&mut self.leases_crowded, leases_crowded),
            (&mut self.port_blocks, port_blocks),
        ] {
            *count = count.wrapping_add(*more);
        }
        for (count, more) in self.dropped.iter_mut().zip(dropped) {
            *count = count.wrapping_add(*more);
        }
        self.forward.add(*forward);
        self.reply.add(*reply);
    }

    pub(crate) fn count_drop(&mut self, reason: DropReason) {
        if let Some(count) = self.dropped.get_mut(reason as usize) {
            *count = count.wrapping_add(1);
        }
    }
}
