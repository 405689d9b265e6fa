//! One worker's engine: bursts in, verdicts out. What happens to one packet is told in `life.rs`.

mod adoption;
mod answer;
mod error_limit;
mod fragments;
mod holdings;
mod life;
mod own_address;
mod restart;
mod usual;

use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::family::V4;
use crate::flow::{
    FlowRecord, Flows, Hasher, PodFlows, REDIRECTS_MAX, Redirects, SlotIndex, Sweep, Tick,
    Timeouts, Translation, tick,
};
use crate::fragment::Fragments;
use crate::nat::{Identifications, Ports, Random};
use crate::packet::{Direction, Packet, Usual};
use crate::reassembly::Reassembly;
use crate::steer::{self, CLASSES};
use crate::tables::{DeviceIndex, FamilyTables, Tables};
use crate::{Counters, DropReason, Ticket};
use adoption::{Ended, Notices, endpoint};
use error_limit::ErrorLimit;
use holdings::Holdings;
use life::Context;
use own_address::Question;

pub use adoption::Notice;
pub use answer::{ANSWER_ROOM, Answer, OwedError};
pub use own_address::ANNOUNCEMENT_ROOM;

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
    /// Which worker owns each class of ports.
    pub owners: [u8; CLASSES],
    /// How many flows this worker can have, 1 to [`FLOWS_MAX`].
    pub flows_max: u32,
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
    /// It is ready to be sent, but too large: send what [`Fragments::write`] makes of it.
    Fragment {
        /// Out of this device.
        device: DeviceIndex,
        /// How it is to be cut.
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
    /// The largest IPv4 packet that fits there, in bytes.
    mtu: u16,
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
    worker: u8,
    owners: [u8; CLASSES],
    /// How many workers there are.
    workers: u8,
    mss_clamp: bool,
    hasher: Hasher,
    flows: Flows,
    redirects: Redirects,
    reassembly: Reassembly,
    ports: Ports,
    holdings: Holdings,
    sweep: Sweep,
    /// By direction, then of time exceeded and of fragmentation needed.
    error_limits: [[ErrorLimit; 2]; 2],
    ping_limit: ErrorLimit,
    identifications: Identifications,
    notices: Notices,
    /// The first group of flows of an earlier engine that were not given their holdings yet.
    not_taken_up: Option<usize>,
    counters: Counters,
    /// Room for what the stages of a burst tell each other.
    glances: Box<[Usual]>,
    /// The time of the last call.
    now: Nanos,
}

impl Engine {
    /// Makes an engine without flows.
    ///
    /// # Panics
    /// When `flows_max` is not within its range.
    #[must_use]
    pub fn new(config: &EngineConfig) -> Self {
        assert!((1..=FLOWS_MAX).contains(&config.flows_max), "flows_max is 1 to {FLOWS_MAX}");
        let hasher = Hasher::new(config.hash_key);
        let random = Random::new(config.seed);
        let last = config.owners.iter().copied().fold(config.worker, u8::max);
        let redirects_max = if last > 0 { REDIRECTS_MAX } else { 1 };
        let gets_fragments = steer::owner(&config.owners, FRAGMENTS_PORT) == config.worker;
        let flows = Flows::new(config.flows_max, hasher);
        let (slots, pod_flows) = (flows.originals.slots(), config.pod_flows.clone());
        Self {
            worker: config.worker,
            owners: config.owners,
            workers: last.saturating_add(1),
            mss_clamp: config.mss_clamp,
            hasher,
            holdings: Holdings::new(config.flows_max, slots, pod_flows, hasher),
            flows,
            redirects: Redirects::new(redirects_max, hasher),
            reassembly: Reassembly::new(gets_fragments, hasher),
            ports: Ports::new(config.worker, &config.owners, random, hasher),
            sweep: Sweep::new(config.timeouts),
            error_limits: std::array::from_fn(|_| std::array::from_fn(|_| ErrorLimit::new())),
            ping_limit: ErrorLimit::new(),
            identifications: Identifications::new(config.worker, &config.owners),
            notices: ArrayVec::new(),
            not_taken_up: None,
            counters: Counters::default(),
            glances: vec![Usual::NONE; BURST_MAX].into_boxed_slice(),
            now: 0,
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
        self.burst::<true>(now, tables, frames, verdicts);
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
        self.burst::<false>(now, tables, frames, verdicts);
    }

    /// The same for a frame that a verdict has held.
    pub fn process_held(
        &mut self,
        now: Nanos,
        tables: &Tables,
        frame: &mut [u8],
        ticket: Ticket,
    ) -> Verdict {
        self.counters.held = self.counters.held.saturating_sub(1);
        self.resume(now, tables, frame, ticket)
    }

    /// The same for a frame that another worker's verdict has handed to this one.
    pub fn process_handed(
        &mut self,
        now: Nanos,
        tables: &Tables,
        frame: &mut [u8],
        ticket: Ticket,
    ) -> Verdict {
        self.counters.taken_over += 1;
        self.resume(now, tables, frame, ticket)
    }

    /// Counts a held frame as dropped: the worker gives it up.
    pub fn drop_held(&mut self, reason: DropReason) {
        self.counters.held = self.counters.held.saturating_sub(1);
        self.counters.count_drop(reason);
    }

    /// Counts a frame as dropped that could not be handed to its worker.
    pub fn drop_handed_off(&mut self) {
        self.counters.handed_off = self.counters.handed_off.saturating_sub(1);
        self.counters.count_drop(DropReason::HandOffFull);
    }

    /// Whether frames that await the first fragment of their packet should be tried again: said
    /// once. Ask after each burst.
    pub fn take_learned(&mut self) -> bool {
        self.reassembly.take_learned()
    }

    /// Ends some flows that have been idle for too long. A bounded amount of work: call it once in
    /// each round, at least some times a second.
    pub fn expire(&mut self, now: Nanos, tables: &Tables) {
        self.now = now;
        // Before, nobody knows which policy's timeouts hold for a flow.
        if tables.is_programmed() {
            self.take_up_some(&tables.v4);
            self.sweep(now, &tables.v4);
        }
        self.redirects.expire(now);
        self.reassembly.expire(now);
        self.counters.flows_live = u64::from(self.flows.live());
    }

    fn sweep(&mut self, now: Nanos, tables: &FamilyTables<V4>) {
        let Self { worker, owners, sweep, flows, ports, holdings, notices, counters, .. } = self;
        sweep.step(now, tables, flows, &mut |flows, flow| {
            let ended = end(flows, ports, holdings, flow, tick(now));
            counters.flows_expired += 1;
            adoption::tell_of_end(notices, (owners, *worker), &ended);
        });
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Appends live flows from `cursor` (at first 0) on to `out`, at least `limit` if there are so
    /// many, and at most 14 more. Gives the cursor of the next page, `None` after the last; a page
    /// may be short, or even empty, although others follow.
    pub fn flows(&self, cursor: u32, limit: usize, out: &mut Vec<FlowRecord>) -> Option<u32> {
        self.flows.page(cursor, limit, self.now, out)
    }

    /// A burst goes through in stages, so that while one packet waits for memory the others do,
    /// too: headers, tags, entries; then each packet in turn.
    fn burst<const PREFETCH: bool>(
        &mut self,
        now: Nanos,
        tables: &Tables,
        frames: &mut [&mut [u8]],
        verdicts: &mut [Verdict],
    ) {
        self.now = now;
        let count = frames.len().min(verdicts.len()).min(BURST_MAX);
        self.counters.received += count as u64;
        let context = Context::new(&tables.v4, now);
        let mut glances = std::mem::take(&mut self.glances);
        let frames = frames.get_mut(..count).unwrap_or_default();
        let usual = glances.get_mut(..count).unwrap_or_default();
        if context.is_programmed() {
            self.glance::<PREFETCH>(frames, usual);
            self.seek::<PREFETCH>(usual);
        } else {
            usual.fill(Usual::NONE);
        }
        self.send_each(context, frames, usual, verdicts);
        self.glances = glances;
        self.counters.flows_live = u64::from(self.flows.live());
    }

    /// The long way: whatever a packet is.
    #[inline(never)]
    fn unusual(&mut self, context: Context<'_>, frame: &mut [u8], verdict: &mut Verdict) {
        let packet = self.parse(frame);
        *verdict = self.verdict(context, frame, &packet);
    }

    /// Goes on with a frame that has been through an engine before.
    fn resume(&mut self, now: Nanos, tables: &Tables, frame: &mut [u8], ticket: Ticket) -> Verdict {
        self.now = now;
        let context = Context::again(&tables.v4, now, ticket);
        let packet = Packet::parse(frame, &self.hasher);
        let verdict = self.verdict(context, frame, &packet);
        self.counters.flows_live = u64::from(self.flows.live());
        verdict
    }

    /// The worker that owns the class of a port.
    fn owner(&self, port: u16) -> u8 {
        steer::owner(&self.owners, port)
    }

    /// Checks a frame that steering has given to this worker.
    #[inline]
    fn parse(&self, frame: &[u8]) -> Result<Packet, DropReason> {
        let packet = Packet::parse(frame, &self.hasher);
        match &packet {
            Ok(parsed) if !self.is_ours(parsed) => Err(DropReason::WrongWorker),
            _ => packet,
        }
    }

    /// Whether steering gives packets like this one to this worker.
    fn is_ours(&self, packet: &Packet) -> bool {
        let port = if packet.fragment.is_some() { FRAGMENTS_PORT } else { packet.owner_port() };
        self.owner(port) == self.worker
    }

    /// Sends a packet on its way, and counts what becomes of it, once.
    fn verdict(
        &mut self,
        context: Context<'_>,
        frame: &mut [u8],
        packet: &Result<Packet, DropReason>,
    ) -> Verdict {
        match packet {
            Ok(_) if !context.is_programmed() => self.drop(DropReason::NotProgrammed),
            Ok(packet @ Packet { fragment: None, .. }) => self.translate(context, frame, packet),
            Ok(packet @ Packet { fragment: Some(fragment), .. }) => {
                self.fragment(context, frame, packet, fragment)
            }
            // A question is no packet to forward.
            Err(reason) => match Question::of(frame) {
                Some(question) => self.answer(context, question, frame),
                None => self.drop(*reason),
            },
        }
    }

    /// Sends a packet whose ports are known on its way.
    fn translate(&mut self, context: Context<'_>, frame: &mut [u8], packet: &Packet) -> Verdict {
        let outcome = match packet.direction {
            Direction::Forward => self.forward(context, frame, packet),
            Direction::Reply => self.reply(context, frame, packet),
        };
        self.conclude(context, packet, outcome)
    }

    /// Counts what becomes of a packet.
    fn conclude(
        &mut self,
        context: Context<'_>,
        packet: &Packet,
        outcome: Result<Outlet, Halt>,
    ) -> Verdict {
        match outcome {
            Ok(outlet) => self.send(outlet, packet),
            Err(halt) => self.halt(context.ticket, halt),
        }
    }

    /// Counts a frame that goes no further now.
    fn halt(&mut self, ticket: Ticket, halt: Halt) -> Verdict {
        match halt {
            Halt::Drop(reason) => self.drop(reason),
            Halt::Hold { device, address } => {
                self.counters.held += 1;
                Verdict::Hold { device, address, ticket }
            }
            Halt::Await { until } => {
                self.counters.held += 1;
                Verdict::Await { until }
            }
            Halt::HandOff { worker, ticket } => {
                self.counters.handed_off += 1;
                Verdict::HandOff { worker, ticket }
            }
        }
    }

    fn drop(&mut self, reason: DropReason) -> Verdict {
        self.counters.count_drop(reason);
        Verdict::Drop(reason)
    }

    /// In one piece, if it fits.
    fn send(&mut self, Outlet { device, mtu }: Outlet, packet: &Packet) -> Verdict {
        self.counters.transmitted += 1;
        match packet.direction {
            Direction::Forward => self.counters.forward.count(packet.length),
            Direction::Reply => self.counters.reply.count(packet.length),
        }
        if packet.length <= mtu {
            return Verdict::Transmit {
                device,
                length: packet.direction.frame_length(packet.length),
            };
        }
        self.counters.fragmented += 1;
        let ip_offset = packet.direction.ip_offset();
        Verdict::Fragment { device, fragments: Fragments { ip_offset, mtu } }
    }
}

/// Ends a flow, and gives back all that it had; says what concerns others.
fn end(
    flows: &mut Flows,
    ports: &mut Ports,
    holdings: &mut Holdings,
    flow: SlotIndex,
    now: Tick,
) -> Ended {
    let ended = flows.remove(flow);
    ports.released(&ended.reply(), ended.original.source, now);
    let has_mapping_ended = holdings.ended(flow, &ended);
    if has_mapping_ended {
        ports.forget_taken();
    }
    let Translation { original, egress, .. } = ended;
    Ended { original, endpoint: has_mapping_ended.then(|| endpoint(&original, egress)) }
}
