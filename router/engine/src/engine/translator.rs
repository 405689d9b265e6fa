//! One worker's engine for one address family: its flows, its ports, and what becomes of its frames.

use arrayvec::ArrayVec;

use super::adoption::{self, Ended, Notices, endpoint};
use super::error_limit::ErrorLimit;
use super::holdings::Holdings;
use super::journal::{EndReason, Journal};
use super::life::Context;
use super::own_address::Question;
use super::{BURST_MAX, EngineConfig, FRAGMENTS_PORT, Halt, Nanos, Outlet, Verdict};
use crate::flow::{
    FlowRecord, Flows, Hasher, REDIRECTS_MAX, Redirects, SlotIndex, Sweep, Translation, Tuple,
};
use crate::fragment::Fragments;
use crate::nat::{Identifications, Ports};
use crate::nat64::FRAGMENT_HEADER;
use crate::packet::{Direction, Packet, Transport, Usual, Wire};
use crate::reassembly::Reassembly;
use crate::steer::{FAMILY_6, Owners};
use crate::tables::FamilyTables;
use crate::{Counters, DropReason, Ticket};

/// Room for what the stages of a burst tell each other of each frame.
pub(super) type Glances<F> = [Usual<F>; BURST_MAX];

/// One worker's engine for one address family.
#[derive(Debug)]
pub(super) struct Translator<F: Wire> {
    pub(super) worker: u8,
    pub(super) owners: Owners,
    /// How many workers there are.
    pub(super) workers: u8,
    pub(super) mss_clamp: bool,
    pub(super) hasher: Hasher,
    pub(super) flows: Flows<F>,
    pub(super) redirects: Redirects<F>,
    pub(super) reassembly: Reassembly<F>,
    pub(super) ports: Ports<F>,
    pub(super) holdings: Holdings<F>,
    pub(super) sweep: Sweep,
    /// By direction, then of time exceeded and of fragmentation needed.
    pub(super) error_limits: [[ErrorLimit; 2]; 2],
    pub(super) ping_limit: ErrorLimit,
    pub(super) identifications: Identifications,
    pub(super) notices: Notices,
    pub(super) journal: Journal,
    /// The first group of flows of an earlier engine that were not given their holdings yet.
    pub(super) not_taken_up: Option<usize>,
    pub(super) counters: Counters,
    /// The time of the last call.
    pub(super) now: Nanos,
}

impl<F: Wire> Translator<F> {
    /// One without flows, with room for `flows_max`.
    pub(super) fn new(config: &EngineConfig, flows_max: u32) -> Self {
        let hasher = Hasher::new(config.hash_key);
        let last = config.owners.last().max(config.worker);
        let redirects_max = if last > 0 { REDIRECTS_MAX } else { 1 };
        let gets_fragments = config.owners.owner(FRAGMENTS_PORT) == config.worker;
        let flows = Flows::new(flows_max, hasher);
        let (slots, pod_flows) = (flows.originals.slots(), config.pod_flows.clone());
        Self {
            worker: config.worker,
            owners: config.owners,
            workers: last.saturating_add(1),
            mss_clamp: config.mss_clamp,
            hasher,
            holdings: Holdings::new(flows_max, slots, pod_flows, hasher),
            flows,
            redirects: Redirects::new(redirects_max, hasher),
            reassembly: Reassembly::new(gets_fragments, hasher),
            ports: Ports::new(config, flows_max, hasher),
            sweep: Sweep::new(config.timeouts),
            error_limits: std::array::from_fn(|_| std::array::from_fn(|_| ErrorLimit::new())),
            ping_limit: ErrorLimit::new(),
            identifications: Identifications::new(config.worker, last),
            notices: ArrayVec::new(),
            journal: Journal::new(config.events),
            not_taken_up: None,
            counters: Counters::default(),
            now: 0,
        }
    }

    /// A frame that a verdict has held.
    pub(super) fn process_held(
        &mut self,
        now: Nanos,
        tables: &FamilyTables<F>,
        frame: &mut [u8],
        ticket: Ticket,
    ) -> Verdict {
        self.counters.held = self.counters.held.wrapping_sub(1);
        self.resume(now, tables, frame, ticket)
    }

    /// A frame that another worker's verdict has handed to this one.
    pub(super) fn process_handed(
        &mut self,
        now: Nanos,
        tables: &FamilyTables<F>,
        frame: &mut [u8],
        ticket: Ticket,
    ) -> Verdict {
        self.counters.taken_over += 1;
        self.resume(now, tables, frame, ticket)
    }

    /// [`Engine::take_learned`].
    pub(super) fn take_learned(&mut self) -> bool {
        self.reassembly.take_learned()
    }

    /// [`Engine::expire`].
    pub(super) fn expire(&mut self, now: Nanos, tables: &FamilyTables<F>) {
        self.now = now;
        // Before, nobody knows which policy's timeouts hold for a flow.
        if tables.is_programmed() {
            self.take_up_some(tables);
            self.sweep(now, tables);
        }
        self.redirects.expire(now);
        self.ports.expire(now);
        self.reassembly.expire(now);
        self.counters.flows_live = u64::from(self.flows.live());
    }

    fn sweep(&mut self, now: Nanos, tables: &FamilyTables<F>) {
        let Self { worker, owners, sweep, flows, ports, holdings, journal, .. } = self;
        let Self { notices, counters, .. } = self;
        sweep.step(now, tables, flows, &mut |flows, flow| {
            let why = (now, EndReason::Expired);
            let ended = end(flows, ports, holdings, journal, tables, flow, why);
            counters.flows_expired += 1;
            adoption::tell_of_end(notices, (owners, *worker), &ended);
        });
    }

    /// Appends a page of flows to `out`; [`Engine::flows`].
    pub(super) fn flows(
        &self,
        cursor: u32,
        limit: usize,
        out: &mut Vec<FlowRecord>,
    ) -> Option<u32> {
        self.flows.page(cursor, limit, self.now, out)
    }

    /// [`Engine::flow`](super::Engine::flow).
    pub(super) fn flow(&self, tuple: &Tuple<F::Address>) -> Option<FlowRecord> {
        let hash = self.hasher.tuple(tuple);
        let Flows { originals, replies, .. } = &self.flows;
        let of_reply = || replies.find(tuple, hash).map(|reply| replies[reply].twin);
        let flow = originals.find(tuple, hash).or_else(of_reply)?;
        Some(self.flows.record(flow, self.now))
    }

    /// The frames of a burst that are of this family go through in stages, so that while one packet
    /// waits for memory the others do, too: headers, tags, entries; then each packet in turn. What the
    /// stages tell each other is in `glances`. Gives how many are of the other family: they, and
    /// their verdicts, are left as they are, and their glances say so.
    #[inline(always)]
    pub(super) fn burst<const PREFETCH: bool>(
        &mut self,
        now: Nanos,
        tables: &FamilyTables<F>,
        glances: &mut Glances<F>,
        frames: &mut [&mut [u8]],
        verdicts: &mut [Verdict],
    ) -> usize {
        self.now = now;
        let count = frames.len().min(verdicts.len()).min(BURST_MAX);
        let context = Context::new(tables, now);
        let frames = frames.get_mut(..count).unwrap_or_default();
        let usual = glances.get_mut(..count).unwrap_or_default();
        if context.is_programmed() {
            self.glance::<PREFETCH>(frames, usual);
            self.seek::<PREFETCH>(usual);
        } else {
            usual.fill(Usual::NONE);
        }
        let left = self.send_each(context, frames, usual, verdicts);
        self.counters.received += (count - left) as u64;
        self.counters.flows_live = u64::from(self.flows.live());
        left
    }

    /// The long way: whatever a packet of this family is. Whether it is one.
    #[inline(never)]
    pub(super) fn unusual(
        &mut self,
        context: Context<'_, F>,
        frame: &mut [u8],
        verdict: &mut Verdict,
    ) -> bool {
        if family_of(frame) != F::STEER_FAMILY {
            return false;
        }
        let packet = self.parse(frame);
        *verdict = self.verdict(context, frame, &packet);
        true
    }

    /// Goes on with a frame that has been through an engine before.
    fn resume(
        &mut self,
        now: Nanos,
        tables: &FamilyTables<F>,
        frame: &mut [u8],
        ticket: Ticket,
    ) -> Verdict {
        self.now = now;
        let context = Context::again(tables, now, ticket);
        let packet = Packet::parse(frame, &self.hasher);
        let verdict = self.verdict(context, frame, &packet);
        self.counters.flows_live = u64::from(self.flows.live());
        verdict
    }

    /// The worker that owns the class of a port.
    pub(super) fn owner(&self, port: u16) -> u8 {
        self.owners.owner(port)
    }

    /// Checks a frame that steering has given to this worker.
    #[inline]
    fn parse(&self, frame: &[u8]) -> Result<Packet<F>, DropReason> {
        let packet = Packet::parse(frame, &self.hasher);
        match &packet {
            Ok(parsed) if !self.is_ours(parsed) => Err(DropReason::WrongWorker),
            _ => packet,
        }
    }

    /// Whether steering gives packets like this one to this worker.
    fn is_ours(&self, packet: &Packet<F>) -> bool {
        let port = if packet.fragment.is_some() { FRAGMENTS_PORT } else { packet.owner_port() };
        self.owner(port) == self.worker
    }

    /// Sends a packet on its way, and counts what becomes of it, once.
    fn verdict(
        &mut self,
        context: Context<'_, F>,
        frame: &mut [u8],
        packet: &Result<Packet<F>, DropReason>,
    ) -> Verdict {
        match packet {
            Ok(_) if !context.is_programmed() => self.drop(DropReason::NotProgrammed),
            Ok(packet @ Packet { fragment: None, .. }) => self.translate(context, frame, packet),
            Ok(packet @ Packet { fragment: Some(fragment), .. }) => {
                self.fragment(context, frame, packet, fragment)
            }
            // A question is no packet to forward.
            Err(reason) => match Question::of::<F>(frame) {
                Some(question) => self.answer(context, question, frame),
                None => self.drop(*reason),
            },
        }
    }

    /// Sends a packet whose ports are known on its way.
    pub(super) fn translate(
        &mut self,
        context: Context<'_, F>,
        frame: &mut [u8],
        packet: &Packet<F>,
    ) -> Verdict {
        let outcome = match packet.direction {
            Direction::Forward => self.forward(context, frame, packet),
            Direction::Reply => self.reply(context, frame, packet),
        };
        self.conclude(context, packet, outcome)
    }

    /// Counts what becomes of a packet.
    pub(super) fn conclude(
        &mut self,
        context: Context<'_, F>,
        packet: &Packet<F>,
        outcome: Result<Outlet, Halt>,
    ) -> Verdict {
        match outcome {
            Ok(outlet) => self.send(outlet, packet),
            Err(halt) => self.halt(context.ticket, halt),
        }
    }

    /// Counts a frame that goes no further now. Either family may count the frames that the other
    /// has held or handed off as given up: only the sum is a number, so both wrap.
    pub(super) fn halt(&mut self, ticket: Ticket, halt: Halt) -> Verdict {
        match halt {
            Halt::Drop(reason) => self.drop(reason),
            Halt::Hold { device, address } => {
                self.counters.held = self.counters.held.wrapping_add(1);
                Verdict::Hold { device, address, ticket }
            }
            Halt::Await { until } => {
                self.counters.held = self.counters.held.wrapping_add(1);
                Verdict::Await { until }
            }
            Halt::HandOff { worker, ticket } => {
                self.counters.handed_off = self.counters.handed_off.wrapping_add(1);
                Verdict::HandOff { worker, ticket }
            }
        }
    }

    /// What was counted, here and where ports are leased.
    pub(super) fn counted(&self) -> Counters {
        Counters {
            leases_crowded: self.ports.leases_crowded(),
            port_blocks: self.ports.blocks_live(),
            ..self.counters.clone()
        }
    }

    pub(super) fn drop(&mut self, reason: DropReason) -> Verdict {
        self.counters.count_drop(reason);
        Verdict::Drop(reason)
    }

    /// In one piece, if it fits.
    #[inline]
    fn send(&mut self, outlet: Outlet, packet: &Packet<F>) -> Verdict {
        let Outlet { device, mtu, .. } = outlet;
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
        self.send_copies(outlet, packet)
    }

    /// Cut, as another family's, or both.
    #[cold]
    #[inline(never)]
    fn send_copies(&mut self, outlet: Outlet, packet: &Packet<F>) -> Verdict {
        let Outlet { device, mtu, mtu_to_ipv6 } = outlet;
        let (mtu, to_ipv6) = (mtu_to_ipv6.unwrap_or(mtu), mtu_to_ipv6.is_some());
        let is_part_of_ipv6 = to_ipv6 && packet.fragment.is_some();
        let more = if is_part_of_ipv6 { FRAGMENT_HEADER } else { 0 };
        // An error that quotes too much is cut short.
        let is_error = to_ipv6 && packet.transport == Transport::Error;
        let fits = packet.length.saturating_add(more) <= mtu || is_error;
        self.counters.fragmented += u64::from(!fits);
        let ip_offset = packet.direction.ip_offset();
        Verdict::Fragment { device, fragments: Fragments { ip_offset, mtu, to_ipv6 } }
    }
}

/// Ends a flow, takes note of it, and gives back all that it had; says what concerns others.
pub(super) fn end<F: Wire>(
    flows: &mut Flows<F>,
    ports: &mut Ports<F>,
    holdings: &mut Holdings<F>,
    journal: &mut Journal,
    tables: &FamilyTables<F>,
    flow: SlotIndex,
    (now, why): (Nanos, EndReason),
) -> Ended<F> {
    journal.end(tables, flows, flow, (now, why));
    let ended = flows.remove(flow);
    ports.released(&ended.reply(), ended.original.source, now);
    let has_mapping_ended = holdings.ended(flow, &ended);
    if has_mapping_ended {
        ports.forget_taken();
    }
    let Translation { original, egress, .. } = ended;
    Ended { original, endpoint: has_mapping_ended.then(|| endpoint(&original, egress)) }
}

/// What the first byte of a steer header says of the family.
#[inline]
pub(super) fn family_of(frame: &[u8]) -> u8 {
    frame.first().map_or(0, |first| first & FAMILY_6)
}
