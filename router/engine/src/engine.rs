//! One worker's engine: bursts in, verdicts out. Each address family has a translator of its own, of
//! one code (`translator.rs`); what happens to one packet is told in `life.rs`.

mod adoption;
mod answer;
mod error_limit;
mod fragments;
mod holdings;
mod journal;
mod life;
mod nat64;
mod outlook;
mod own_address;
mod restart;
mod translator;
mod underlay;
mod usual;

use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::accounts::{AccountNumber, Carried};
use crate::family::{V4, V6};
use crate::flow::{FlowRecord, NotRestored, PodFlows, SavedFlow, Timeouts};
use crate::fragment::Fragments;
use crate::nat::{BlockEvent, PortBlock};
use crate::packet::{Usual, Wire};
use crate::steer::Owners;
use crate::tables::{DeviceIndex, Tables};
use crate::{Counters, DropReason, Ticket, Tuple};
use answer::OfFamily;
use nat64::Arrival;
use translator::{Glances, Translator, family_of};

pub use adoption::Notice;
pub use answer::{ANSWER_ROOM, Answer, OwedError};
pub use journal::{EndReason, FlowChange, FlowEvent};
pub use outlook::{Outlook, PortOutlook};
pub use own_address::ANNOUNCEMENT_ROOM;
pub(crate) use own_address::Resolution;

/// A monotonic time in nanoseconds, from any start.
pub type Nanos = u64;

/// How many frames one call of [`Engine::process`] takes at most.
pub const BURST_MAX: usize = 64;

/// Steering gives all fragments to the owner of this port.
const FRAGMENTS_PORT: u16 = 0;

/// How many flows one worker can have at most.
pub const FLOWS_MAX: u32 = 1 << 28;

/// What an engine is made of.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// This worker.
    pub worker: u8,
    /// Which worker owns which ports.
    pub owners: Owners,
    /// How many port blocks, runs of `owners`, a pod can have on an egress address with this worker, at most
    /// [`BLOCKS_PER_POD_MAX`]; 0: ports are leased one by one.
    pub blocks_per_pod: u8,
    /// How many IPv4 flows this worker can have, 1 to [`FLOWS_MAX`].
    pub flows_max: u32,
    /// How many IPv6 flows it can have, at most [`FLOWS_MAX`].
    pub flows_max_ipv6: u32,
    /// The key of all hashes: secret, and new at each start.
    pub hash_key: [u64; 4],
    /// Where this worker's random numbers start.
    pub seed: u64,
    /// How long flows may stay idle whose policy does not say it.
    pub timeouts: Timeouts,
    /// How many flows each pod has, where its policy limits them: one for all workers.
    pub pod_flows: Arc<PodFlows>,
    /// Whether TCP segment sizes that do not fit the way are lowered when they are announced.
    pub mss_clamp: bool,
    /// Whether it takes note of flows that begin and end, for [`Engine::take_events`].
    pub events: bool,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it.
    Transmit {
        /// Out of this device.
        device: DeviceIndex,
        /// So many bytes of it, from its start: padding behind the packet is cut off.
        length: u16,
    },
    /// It is ready to be sent, but not as it stands: it is too large, or a reply of IPv4 to a pod of
    /// IPv6. Send what [`Fragments::write`] makes of it.
    Fragment {
        /// Out of this device.
        device: DeviceIndex,
        /// What is to be made of it.
        fragments: Fragments,
    },
    /// Keep it, and give it to [`Engine::process_held`] once the neighbour is known: the frame is
    /// untouched.
    Hold {
        /// The device that the neighbour is reached through.
        device: DeviceIndex,
        /// The neighbour whose link address is missing.
        address: IpAddr,
        /// To be given back with the frame.
        ticket: Ticket,
    },
    /// Keep it, and give it to [`Engine::process_held`] with a new ticket whenever
    /// [`Engine::take_learned`] says so: a fragment that came before the first one. The frame is
    /// untouched.
    Await {
        /// When to give it up.
        until: Nanos,
    },
    /// Give it to [`Engine::process_handed`] of another worker: the frame is untouched.
    HandOff {
        /// The worker.
        worker: u8,
        /// To be given along with the frame.
        ticket: Ticket,
    },
    /// Forget it.
    Drop(DropReason),
}

/// Where a packet leaves.
#[derive(Clone, Copy, Debug)]
struct Outlet {
    device: DeviceIndex,
    /// The largest packet that fits there as it stands, in bytes.
    mtu: u16,
    /// The largest one that fits there as IPv6, though it is IPv4, in bytes; then none does as it
    /// stands.
    mtu_to_ipv6: Option<u16>,
}

/// Why a packet goes no further now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Halt {
    Drop(DropReason),
    Hold { device: DeviceIndex, address: IpAddr },
    Await { until: Nanos },
    HandOff { worker: u8, ticket: Ticket },
}

impl From<DropReason> for Halt {
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

/// One worker's engine. It allocates everything when it is made, and nothing afterwards.
#[derive(Debug)]
pub struct Engine {
    v4: Translator<V4>,
    v6: Translator<V6>,
    glances: Box<Glances<V4>>,
    glances_ipv6: Box<Glances<V6>>,
    /// Room for a frame of a pod of IPv6 as the IPv4 translator has it.
    room: nat64::Room,
}

/// Set in the cursor of a page of IPv6 flows. No table has so many groups.
const CURSOR_IPV6: u32 = 1 << 31;

impl Engine {
    /// Makes an engine without flows.
    ///
    /// # Panics
    /// When `flows_max` or `flows_max_ipv6` is not within its range.
    #[must_use]
    pub fn new(config: &EngineConfig) -> Self {
        let EngineConfig { flows_max, flows_max_ipv6, .. } = *config;
        assert!((1..=FLOWS_MAX).contains(&flows_max), "flows_max is 1 to {FLOWS_MAX}");
        assert!(flows_max_ipv6 <= FLOWS_MAX, "flows_max_ipv6 is at most {FLOWS_MAX}");
        Self {
            v4: Translator::new(config, flows_max),
            v6: Translator::new(config, flows_max_ipv6),
            glances: Box::new([Usual::NONE; BURST_MAX]),
            glances_ipv6: Box::new([Usual::NONE; BURST_MAX]),
            room: nat64::Room::new(),
        }
    }

    /// Processes a burst of frames, each exactly as received, the steer header first; writes a
    /// verdict for each. Frames beyond [`BURST_MAX`], or without a verdict to write, are not
    /// looked at.
    pub fn process(
        &mut self,
        now: Nanos,
        tables: &Tables,
        frames: &mut [&mut [u8]],
        verdicts: &mut [Verdict],
    ) {
        match tables.underlay() {
            None => self.burst::<true>(now, tables, frames, verdicts),
            Some(ipv6) => self.burst_over_ipv6::<true>(now, (tables, ipv6), frames, verdicts),
        }
    }

    /// The same without asking for memory ahead of its use: benchmarks show what that is worth.
    #[doc(hidden)]
    pub fn process_without_prefetch(
        &mut self,
        now: Nanos,
        tables: &Tables,
        frames: &mut [&mut [u8]],
        verdicts: &mut [Verdict],
    ) {
        match tables.underlay() {
            None => self.burst::<false>(now, tables, frames, verdicts),
            Some(ipv6) => self.burst_over_ipv6::<false>(now, (tables, ipv6), frames, verdicts),
        }
    }

    /// The family of the first frame, then what is left: mostly nothing. A frame that has been sent on
    /// its way has no steer header any more: nobody may look at it for one again.
    #[inline]
    fn burst<const PREFETCH: bool>(
        &mut self,
        now: Nanos,
        tables: &Tables,
        frames: &mut [&mut [u8]],
        verdicts: &mut [Verdict],
    ) {
        let is_ipv6 = frames.first().is_some_and(|frame| family_of(frame) != V4::STEER_FAMILY);
        // With NAT64 not every frame of IPv6 is IPv6's.
        if is_ipv6 && tables.nat64.is_none() {
            return self.burst_ipv6_first::<PREFETCH>(now, tables, frames, verdicts);
        }
        let Self { v4, v6, glances, glances_ipv6, room } = self;
        if v4.burst::<PREFETCH>(now, &tables.v4, glances, frames, verdicts) > 0 {
            if let Some(addresses) = &tables.nat64 {
                room.take_each(v4, now, (tables, addresses), glances, frames, verdicts);
            }
            rest(glances, frames, verdicts, |frames, verdicts| {
                v6.burst::<PREFETCH>(now, &tables.v6, glances_ipv6, frames, verdicts);
            });
        }
    }

    /// Not inline: IPv4 should not pay for it.
    #[inline(never)]
    fn burst_ipv6_first<const PREFETCH: bool>(
        &mut self,
        now: Nanos,
        tables: &Tables,
        frames: &mut [&mut [u8]],
        verdicts: &mut [Verdict],
    ) {
        let Self { v4, v6, glances, glances_ipv6, .. } = self;
        if v6.burst::<PREFETCH>(now, &tables.v6, glances_ipv6, frames, verdicts) > 0 {
            rest(glances_ipv6, frames, verdicts, |frames, verdicts| {
                v4.burst::<PREFETCH>(now, &tables.v4, glances, frames, verdicts);
            });
        }
    }

    /// The same for a frame that a verdict has held.
    pub fn process_held(
        &mut self,
        now: Nanos,
        tables: &Tables,
        frame: &mut [u8],
        ticket: Ticket,
    ) -> Verdict {
        let Self { v4, v6, room, .. } = self;
        underlay::through(tables, frame, |frame| match family_of(frame) {
            0 => v4.process_held(now, &tables.v4, frame, ticket),
            _ if nat64::takes(tables, frame) => {
                room.process(v4, now, tables, frame, Arrival::Held(ticket))
            }
            _ => v6.process_held(now, &tables.v6, frame, ticket),
        })
    }

    /// The same for a frame that another worker's verdict has handed to this one.
    pub fn process_handed(
        &mut self,
        now: Nanos,
        tables: &Tables,
        frame: &mut [u8],
        ticket: Ticket,
    ) -> Verdict {
        let Self { v4, v6, room, .. } = self;
        underlay::through(tables, frame, |frame| match family_of(frame) {
            0 => v4.process_handed(now, &tables.v4, frame, ticket),
            _ if nat64::takes(tables, frame) => {
                room.process(v4, now, tables, frame, Arrival::Handed(ticket))
            }
            _ => v6.process_handed(now, &tables.v6, frame, ticket),
        })
    }

    /// Counts a held frame as dropped: the worker gives it up.
    pub fn drop_held(&mut self, reason: DropReason) {
        // Of whatever family it was: only the sum is shown, and that is right.
        let counters = &mut self.v4.counters;
        counters.held = counters.held.wrapping_sub(1);
        counters.count_drop(reason);
    }

    /// Counts a frame as dropped that could not be handed to its worker.
    pub fn drop_handed_off(&mut self) {
        let counters = &mut self.v4.counters;
        counters.handed_off = counters.handed_off.wrapping_sub(1);
        counters.count_drop(DropReason::HandOffFull);
    }

    /// Whether frames that await the first fragment of their packet should be tried again: said
    /// once. Ask after each burst.
    pub fn take_learned(&mut self) -> bool {
        self.v4.take_learned() | self.v6.take_learned()
    }

    /// Ends some flows that have been idle for too long. A bounded amount of work: call it once in
    /// each round, at least some times a second.
    pub fn expire(&mut self, now: Nanos, tables: &Tables) {
        self.v4.expire(now, &tables.v4);
        self.v6.expire(now, &tables.v6);
    }

    /// How many flows live: what [`Engine::counters`] says too.
    #[must_use]
    pub fn flows_live(&self) -> u64 {
        self.v4.counters.flows_live + self.v6.counters.flows_live
    }

    /// How many of them leave by IPv6: these have a table of their own.
    #[must_use]
    pub fn flows_live_ipv6(&self) -> u64 {
        self.v6.counters.flows_live
    }

    /// What was counted, of both families.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = self.v4.counted();
        counters.add(&self.v6.counted());
        counters
    }

    /// Appends live flows from `cursor` (at first 0) on to `out`, at least `limit` if there are so
    /// many, and at most 14 more. Gives the cursor of the next page, `None` after the last; a page
    /// may be short, or even empty, although others follow.
    pub fn flows(&self, cursor: u32, limit: usize, out: &mut Vec<FlowRecord>) -> Option<u32> {
        if cursor & CURSOR_IPV6 == 0 {
            return Some(self.v4.flows(cursor, limit, out).unwrap_or(CURSOR_IPV6));
        }
        let next = self.v6.flows(cursor & !CURSOR_IPV6, limit, out)?;
        Some(next | CURSOR_IPV6)
    }

    /// The same of the port blocks that pods have.
    pub fn port_blocks(&self, cursor: u32, limit: usize, out: &mut Vec<PortBlock>) -> Option<u32> {
        if cursor & CURSOR_IPV6 == 0 {
            return Some(self.v4.ports.blocks(cursor, limit, out).unwrap_or(CURSOR_IPV6));
        }
        let next = self.v6.ports.blocks(cursor & !CURSOR_IPV6, limit, out)?;
        Some(next | CURSOR_IPV6)
    }

    /// The flow that has this tuple: as its pod sends, to an IPv4 destination through NAT64 too, or as the
    /// outside answers.
    #[must_use]
    pub fn flow(&self, tables: &Tables, tuple: &Tuple) -> Option<FlowRecord> {
        match (tuple.of_family(), tuple.of_family()) {
            (Some(tuple), _) => self.v4.flow(&tuple),
            (_, Some(tuple)) => match &tables.nat64 {
                Some(addresses) if addresses.is_outside(tuple.destination) => {
                    self.v4.flow(&addresses.tuple(&tuple)?)
                }
                _ => self.v6.flow(&tuple),
            },
            (None, None) => None,
        }
    }

    /// The ICMP error that the sender of a frame is owed which was dropped for `reason`, counted as
    /// sent; `None` when it is owed none, or has had too many. `frame` is as it was received, which
    /// it still is after a drop, and stays so.
    pub fn owed_error<'a>(
        &mut self,
        now: Nanos,
        tables: &'a Tables,
        reason: DropReason,
        frame: &mut [u8],
    ) -> Option<OwedError<'a>> {
        let owed = underlay::look(tables, frame, |frame| match family_of(frame) {
            0 => self.v4.owed_error(now, &tables.v4, reason, frame).map(OfFamily::V4),
            _ if nat64::takes(tables, frame) => {
                self.owed_error_nat64(now, tables, reason, frame).map(OfFamily::V6)
            }
            _ => self.v6.owed_error(now, &tables.v6, reason, frame).map(OfFamily::V6),
        });
        Some(OwedError { owed: owed?, underlay: tables.underlay() })
    }

    /// Writes a frame into `out`, which needs [`ANNOUNCEMENT_ROOM`], that tells everybody on its
    /// link where an address is (RFC 5227, section 2.3; RFC 4861, section 7.2.6), and counts it.
    /// `None` when the address is not to be announced.
    pub fn announce(&mut self, tables: &Tables, address: IpAddr, out: &mut [u8]) -> Option<Answer> {
        match address {
            IpAddr::V4(address) => self.v4.announce(&tables.v4, address, out),
            IpAddr::V6(address) => self.v6.announce(&tables.v6, address, out),
        }
    }

    /// What other workers have to be told: ask after each burst and each [`Engine::expire`].
    pub fn notices(&mut self) -> impl Iterator<Item = Notice> {
        self.v4.notices.drain(..).chain(self.v6.notices.drain(..))
    }

    /// Gives what has happened to flows since the last call to `take`, of each family in order; and how many
    /// events were lost because too many waited. Call it after each round. A flow of an earlier engine
    /// began there: it only ends here.
    pub fn take_events(&mut self, mut take: impl FnMut(FlowEvent)) -> u64 {
        self.v4.journal.take(&mut take) + self.v6.journal.take(&mut take)
    }

    /// The same of port blocks.
    pub fn take_block_events(&mut self, mut take: impl FnMut(BlockEvent)) -> u64 {
        self.v4.ports.take_block_events(&mut take) + self.v6.ports.take_block_events(&mut take)
    }

    /// What flows of an account have carried that have ended, or that go on under another one. With what its
    /// live flows have carried it is all; each wraps around by itself.
    #[must_use]
    pub fn carried(&self, account: AccountNumber) -> Carried {
        let mut carried = self.v4.journal.ledger.carried(account);
        carried.add(self.v6.journal.ledger.carried(account));
        carried
    }

    /// Takes in what another worker tells this one.
    pub fn take_notice(&mut self, now: Nanos, notice: Notice) {
        self.v4.take_notice(now, notice);
        self.v6.take_notice(now, notice);
    }

    /// Every live flow, as [`Engine::restore`] of a later engine takes it: with other keys, another
    /// epoch, or another number of workers.
    pub fn saved(&self) -> impl Iterator<Item = SavedFlow> + '_ {
        self.v4.saved().chain(self.v6.saved())
    }

    /// Goes on with a flow of an earlier engine, on the same clock. It counts as idle since its last
    /// packet, and looks up policy, route and peer with its next one. Where the pod's packets come to
    /// another worker, that one needs [`Engine::redirect`].
    ///
    /// # Errors
    /// When it is none, or there is no place for it here: nothing has changed then.
    pub fn restore(&mut self, now: Nanos, flow: &SavedFlow) -> Result<(), NotRestored> {
        match flow.egress {
            IpAddr::V4(_) => self.v4.restore(now, flow),
            IpAddr::V6(_) => self.v6.restore(now, flow),
        }
    }

    /// From now on a pod's packets are handed to `worker`, which goes on with their flow.
    ///
    /// # Errors
    /// [`NotRestored::RedirectsFull`], and [`NotRestored::Malformed`] when its addresses are of two
    /// families.
    pub fn redirect(
        &mut self,
        now: Nanos,
        original: &Tuple,
        worker: u8,
    ) -> Result<(), NotRestored> {
        match (original.of_family(), original.of_family()) {
            (Some(original), _) => self.v4.redirect(now, &original, worker),
            (_, Some(original)) => self.v6.redirect(now, &original, worker),
            (None, None) => Err(NotRestored::Malformed),
        }
    }

    /// Takes [`Engine::redirect`] back: the flow could not be restored.
    pub fn forget_redirect(&mut self, original: &Tuple) {
        if let Some(original) = original.of_family() {
            self.v4.redirects.unset(&original);
        }
        if let Some(original) = original.of_family() {
            self.v6.redirects.unset(&original);
        }
    }
}

/// Shows `other` the frames of a burst that one family has left to it. Not inline: its room on the
/// stack is what no other burst should pay for.
#[inline(never)]
fn rest<F: Wire>(
    glances: &Glances<F>,
    frames: &mut [&mut [u8]],
    verdicts: &mut [Verdict],
    other: impl FnOnce(&mut [&mut [u8]], &mut [Verdict]),
) {
    let mut places: ArrayVec<&mut Verdict, BURST_MAX> = ArrayVec::new();
    let mut rest: ArrayVec<&mut [u8], BURST_MAX> = ArrayVec::new();
    for ((frame, verdict), glance) in frames.iter_mut().zip(verdicts).zip(glances) {
        if glance.is_left() {
            rest.push(frame);
            places.push(verdict);
        }
    }
    let mut verdicts = [Verdict::Drop(DropReason::UnknownKind); BURST_MAX];
    other(&mut rest, &mut verdicts);
    for (place, verdict) in places.into_iter().zip(verdicts) {
        *place = verdict;
    }
}
