//! A worker: one thread, its engine and its side of the devices. It shares nothing with the other
//! workers but free frames, and what they hand each other ([`crate::inbox`]).
//!
//! The main thread talks to it through a bounded channel of [`Command`]s, read between bursts; the
//! worker asks the main thread for neighbours through another. Its counters are plain numbers that
//! are copied when somebody asks.

mod own_frames;

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use arrayvec::ArrayVec;
use crossbeam::channel::{Receiver, Sender, TryRecvError};
use rustix::event::{PollFd, PollFlags, Timespec};
use spillway_engine::tables::Tables;
use spillway_engine::{
    AccountNumber, BURST_MAX, Carried, Counters, DropReason, Engine, FlowRecord, Nanos, Outlook,
    PortBlock, Ticket, Verdict,
};
use spillway_xdp::{Frame, Lane, LaneStatistics};

use crate::capture::Tap;
use crate::events::{ForwardedPacket, Noted, Seen, Teller};
use crate::held::{
    FRAGMENT_FRAMES_MAX, HOLD_NS_MAX, Held, HeldFrames, NEIGHBOUR_FRAMES_MAX, Unresolved,
};
use crate::inbox::{Exchange, Handed};

/// How long an idle worker sleeps at most, in nanoseconds: expiry goes on without traffic.
const IDLE_NS_MAX: i64 = 100_000_000;

/// How long it sleeps at most while frames wait, for a neighbour or on a transmit ring.
const BUSY_NS_MAX: i64 = 1_000_000;

/// What the main thread wants of a worker.
pub(crate) enum Command {
    /// Use these tables from now on.
    Tables(Arc<Tables>),
    /// Tell the links where these addresses are, as far as the tables say.
    Announce(Vec<IpAddr>),
    /// Say how you are.
    Report(Sender<Report>),
    /// Show flows from `cursor` on, `limit` at most.
    Flows { cursor: u32, limit: usize, reply: Sender<FlowPage> },
    /// The same of port blocks.
    PortBlocks { cursor: u32, limit: usize, reply: Sender<PortBlockPage> },
    /// Say what ended flows have carried, of each account below this number.
    Carried { accounts: usize, reply: Sender<Vec<Carried>> },
    /// Say what would become of a frame, as steering would give it.
    Look { frame: Vec<u8>, reply: Sender<Outlook> },
    /// Capture packets with this, or with nothing any more; gives back what did so far, for the main
    /// thread to take apart.
    Tap { tap: Option<Box<Tap>>, reply: Sender<Option<Box<Tap>>> },
    /// End the thread; the frames stay with the devices.
    Stop,
}

/// A worker's counters at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) engine: Counters,
    /// Those of the live flows that leave by IPv6.
    pub(crate) flows_ipv6: u64,
    pub(crate) lane: LaneStatistics,
    /// Frames that wait, for a neighbour or for another fragment.
    pub(crate) held: usize,
}

/// Some of a worker's flows, and where the next page starts.
#[derive(Clone, Debug)]
pub(crate) struct FlowPage {
    pub(crate) now: Nanos,
    pub(crate) flows: Vec<FlowRecord>,
    pub(crate) next: Option<u32>,
}

/// Some of the blocks of ports that a worker has given to pods.
#[derive(Clone, Debug)]
pub(crate) struct PortBlockPage {
    pub(crate) now: Nanos,
    pub(crate) blocks: Vec<PortBlock>,
    pub(crate) next: Option<u32>,
}

/// What a worker is made of.
pub(crate) struct WorkerParts {
    pub(crate) engine: Engine,
    pub(crate) lane: Lane,
    pub(crate) exchange: Exchange<Frame>,
    pub(crate) tables: Arc<Tables>,
    pub(crate) commands: Receiver<Command>,
    /// Readable when a command waits, or something that another worker has handed over.
    pub(crate) wake: OwnedFd,
    pub(crate) neighbours: Sender<Unresolved>,
    /// Where to tell what happens to flows and packets, if somebody keeps it.
    pub(crate) events: Option<Teller>,
    /// Wakes the main thread after a neighbour was asked for, and where many events wait.
    pub(crate) wake_main: Arc<mio::Waker>,
    /// Whether to go on polling when there is nothing to do.
    pub(crate) spin: bool,
}

/// Frames that came together.
type Burst = ArrayVec<Frame, BURST_MAX>;

/// One worker thread's state.
pub(crate) struct Worker {
    parts: WorkerParts,
    /// Frames that wait for a neighbour.
    held: HeldFrames<Frame, Unresolved, NEIGHBOUR_FRAMES_MAX>,
    /// Fragments that wait for the first of their packet.
    fragments: HeldFrames<Frame, (), FRAGMENT_FRAMES_MAX>,
    burst: Burst,
    /// What captures packets, while somebody wants it.
    tap: Option<Box<Tap>>,
}

impl Worker {
    pub(crate) fn new(parts: WorkerParts) -> Self {
        let (held, fragments) = (HeldFrames::new(), HeldFrames::new());
        Self { parts, held, fragments, burst: ArrayVec::new(), tap: None }
    }

    /// Forwards until it is told to stop; gives its engine back, with its flows.
    pub(crate) fn run(mut self) -> Engine {
        loop {
            match self.parts.commands.try_recv() {
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => {
                    return self.parts.engine;
                }
                Ok(command) => self.obey(command),
                Err(TryRecvError::Empty) => {}
            }
            let received = self.breathe(now());
            if received == 0 && !self.parts.spin {
                self.sleep();
            }
        }
    }

    /// One round: receive a burst, process it and what other workers have handed over, send it, give
    /// frames back. Returns how many came.
    fn breathe(&mut self, now: Nanos) -> usize {
        let received = self.parts.lane.receive(&mut self.burst);
        if received > 0 {
            self.process(now);
        }
        let handed = self.take_handed(now);
        if self.parts.engine.take_learned() {
            self.retry_fragments(now);
        }
        self.give_up(now);
        let WorkerParts { engine, tables, .. } = &mut self.parts;
        engine.expire(now, tables);
        self.tell_others();
        self.tell_of_flows();
        self.parts.lane.flush();
        received + handed
    }

    /// Hands the burst to the engine and does with each frame what it says.
    fn process(&mut self, now: Nanos) {
        if self.tap.is_some() {
            return self.process_seen(now);
        }
        let mut verdicts = [Verdict::Drop(DropReason::UnknownKind); BURST_MAX];
        let mut burst = self.decide(now, &mut verdicts);
        for (frame, verdict) in burst.drain(..).zip(verdicts) {
            self.carry_out(now, frame, verdict, now + HOLD_NS_MAX);
        }
        self.burst = burst;
    }

    /// The same, and the tap sees each frame as it comes and what becomes of it.
    fn process_seen(&mut self, now: Nanos) {
        if let Some(tap) = &mut self.tap {
            tap.arrive(now, self.burst.iter().map(Frame::bytes));
        }
        let mut verdicts = [Verdict::Drop(DropReason::UnknownKind); BURST_MAX];
        let mut burst = self.decide(now, &mut verdicts);
        for (at, (frame, verdict)) in burst.drain(..).zip(verdicts).enumerate() {
            if let Some(tap) = &mut self.tap {
                tap.turn_to(at);
                tap.decide(now, frame.bytes(), verdict);
            }
            self.carry_out(now, frame, verdict, now + HOLD_NS_MAX);
        }
        self.burst = burst;
    }

    /// Has the engine decide on the burst, and gives it.
    fn decide(&mut self, now: Nanos, verdicts: &mut [Verdict; BURST_MAX]) -> Burst {
        let sample = self.pick();
        let mut burst = std::mem::take(&mut self.burst);
        let verdicts = &mut verdicts[..burst.len()];
        let mut frames: ArrayVec<&mut [u8], BURST_MAX> =
            burst.iter_mut().map(Frame::bytes_mut).collect();
        let WorkerParts { engine, tables, .. } = &mut self.parts;
        engine.process(now, tables, &mut frames, verdicts);
        drop(frames);
        if let Some((at, seen)) = sample {
            self.tell_of_forwarding(now, verdicts.get(at), &seen);
        }
        burst
    }

    /// The frame of the burst to tell of if it is forwarded, and what it says before it is changed.
    fn pick(&mut self) -> Option<(usize, Seen)> {
        let at = self.parts.events.as_mut()?.sampler.pick(self.burst.len())?;
        Some((at, Seen::of(self.burst.get(at)?.bytes())?))
    }

    fn tell_of_forwarding(&self, now: Nanos, verdict: Option<&Verdict>, seen: &Seen) {
        let WorkerParts { engine, events, tables, .. } = &self.parts;
        if let (Some(events), Some(Verdict::Transmit { .. } | Verdict::Fragment { .. })) =
            (events, verdict)
            && let Some(flow) = engine.flow(tables, &seen.tuple)
        {
            events.tell(Noted::Forward(ForwardedPacket { at: now, flow }));
        }
    }

    /// Has the engine go on with a frame that has waited or was handed over.
    fn process_again(
        &mut self,
        now: Nanos,
        frame: &mut Frame,
        process: impl FnOnce(&mut Engine, &Tables, &mut [u8]) -> Verdict,
    ) -> Verdict {
        if let Some(tap) = &mut self.tap {
            tap.again(frame.bytes());
        }
        let WorkerParts { engine, tables, .. } = &mut self.parts;
        let verdict = process(engine, tables, frame.bytes_mut());
        if let Some(tap) = &mut self.tap {
            tap.decide(now, frame.bytes(), verdict);
        }
        verdict
    }

    /// Does with a frame what the engine says. For a neighbour it may wait until `deadline_ns`.
    fn carry_out(&mut self, now: Nanos, mut frame: Frame, verdict: Verdict, deadline_ns: u64) {
        match verdict {
            Verdict::Transmit { device, length } => {
                self.parts.lane.transmit(device, frame, length);
            }
            Verdict::Fragment { device, fragments } => {
                self.transmit_fragments(now, device, fragments, frame);
            }
            Verdict::Drop(reason) => {
                if reason.is_answered() {
                    self.answer(now, reason, &mut frame);
                }
                self.give_back(now, frame, reason);
            }
            Verdict::Hold { device, address, ticket } => {
                let waits_for = Unresolved { device, address };
                self.hold(now, Held { frame, ticket, waits_for, deadline_ns });
            }
            Verdict::Await { until } => self.hold_fragment(now, frame, until),
            Verdict::HandOff { worker, ticket } => {
                let handed = Handed::Frame { frame, ticket };
                if let Err(Handed::Frame { frame, .. }) = self.parts.exchange.hand(worker, handed) {
                    self.parts.engine.drop_handed_off();
                    self.forget(now, frame, DropReason::HandOffFull);
                }
            }
        }
    }

    /// Goes on with what other workers have handed over, a burst at most; how much it was.
    fn take_handed(&mut self, now: Nanos) -> usize {
        for count in 0..BURST_MAX {
            match self.parts.exchange.take() {
                Some(Handed::Frame { mut frame, ticket }) => {
                    let verdict = self.process_again(now, &mut frame, |engine, tables, bytes| {
                        engine.process_handed(now, tables, bytes, ticket)
                    });
                    self.carry_out(now, frame, verdict, now + HOLD_NS_MAX);
                }
                Some(Handed::Notice(notice)) => self.parts.engine.take_notice(now, notice),
                None => return count,
            }
        }
        BURST_MAX
    }

    /// Tells other workers what concerns them, and wakes those that something was handed to.
    fn tell_others(&mut self) {
        let WorkerParts { engine, exchange, .. } = &mut self.parts;
        for notice in engine.notices() {
            // Without room the other one finds out by the time.
            let _ = exchange.hand(notice.worker, Handed::Notice(notice));
        }
        exchange.wake_others();
    }

    /// Tells the main thread what has happened to flows.
    fn tell_of_flows(&mut self) {
        let WorkerParts { engine, events, wake_main, .. } = &mut self.parts;
        if let Some(events) = events
            && events.tell_of_flows(engine)
            && let Err(error) = wake_main.wake()
        {
            tracing::warn!("cannot wake the main thread for events: {error}");
        }
    }

    /// Gives up frames that have waited too long.
    fn give_up(&mut self, now: Nanos) {
        while let Some(frame) = self.held.pop_expired(now) {
            self.drop_held(now, frame, DropReason::NeighbourUnresolved);
        }
        while let Some(frame) = self.fragments.pop_expired(now) {
            self.drop_held(now, frame, DropReason::FragmentTimeout);
        }
    }

    /// Drops a frame that has waited, or cannot.
    fn drop_held(&mut self, now: Nanos, frame: Frame, reason: DropReason) {
        self.parts.engine.drop_held(reason);
        self.forget(now, frame, reason);
    }

    /// Takes a frame back that was dropped and counted here.
    fn forget(&mut self, now: Nanos, frame: Frame, reason: DropReason) {
        if let Some(tap) = &mut self.tap {
            tap.again(frame.bytes());
            tap.discard(now, frame.bytes(), reason);
        }
        self.give_back(now, frame, reason);
    }

    /// Gives a frame back that was dropped, untouched; tells of it, if it is one of the samples.
    fn give_back(&mut self, now: Nanos, frame: Frame, reason: DropReason) {
        let WorkerParts { events, lane, tables, .. } = &mut self.parts;
        if let Some(events) = events {
            events.tell_of_drop(now, reason, frame.bytes(), tables);
        }
        lane.recycle(frame);
    }

    /// Lets a frame wait for a neighbour, and asks for that neighbour the first time.
    fn hold(&mut self, now: Nanos, held: Held<Frame, Unresolved>) {
        if !self.held.waits_for(&held.waits_for)
            && self.parts.neighbours.try_send(held.waits_for).is_ok()
            && let Err(error) = self.parts.wake_main.wake()
        {
            tracing::warn!(
                "cannot wake the main thread for neighbour {}: {error}",
                held.waits_for.address
            );
        }
        if let Err(frame) = self.held.hold(held) {
            self.drop_held(now, frame, DropReason::HoldQueueFull);
        }
    }

    /// Lets a fragment wait for the first of its packet.
    fn hold_fragment(&mut self, now: Nanos, frame: Frame, deadline_ns: u64) {
        let held = Held { frame, ticket: Ticket::default(), waits_for: (), deadline_ns };
        if let Err(frame) = self.fragments.hold(held) {
            self.drop_held(now, frame, DropReason::FragmentsFull);
        }
    }

    /// Processes every frame that waits for a neighbour once more, since the tables have changed.
    fn retry_held(&mut self, now: Nanos) {
        for _ in 0..self.held.len() {
            let Some(Held { mut frame, ticket, deadline_ns, .. }) = self.held.pop() else { return };
            let verdict = self.process_again(now, &mut frame, |engine, tables, bytes| {
                engine.process_held(now, tables, bytes, ticket)
            });
            self.carry_out(now, frame, verdict, deadline_ns);
        }
        self.tell_others();
        self.parts.lane.flush();
    }

    /// The same with fragments, since a first one has come.
    fn retry_fragments(&mut self, now: Nanos) {
        for _ in 0..self.fragments.len() {
            let Some(held) = self.fragments.pop() else { return };
            let Held { mut frame, ticket, .. } = held;
            let verdict = self.process_again(now, &mut frame, |engine, tables, bytes| {
                engine.process_held(now, tables, bytes, ticket)
            });
            self.carry_out(now, frame, verdict, now + HOLD_NS_MAX);
        }
    }

    /// Carries out a command. Whoever asked may have gone away meanwhile: then nobody minds.
    fn obey(&mut self, command: Command) {
        match command {
            Command::Tables(tables) => {
                self.parts.tables = tables;
                self.retry_held(now());
            }
            Command::Announce(addresses) => self.announce(now(), &addresses),
            Command::Report(reply) => {
                let WorkerParts { engine, lane, .. } = &self.parts;
                let _ = reply.try_send(Report {
                    engine: engine.counters(),
                    flows_ipv6: engine.flows_live_ipv6(),
                    lane: lane.statistics(),
                    held: self.held.len() + self.fragments.len(),
                });
            }
            Command::Flows { cursor, limit, reply } => {
                let mut flows = Vec::with_capacity(limit);
                let next = self.parts.engine.flows(cursor, limit, &mut flows);
                let _ = reply.try_send(FlowPage { now: now(), flows, next });
            }
            Command::PortBlocks { cursor, limit, reply } => {
                let mut blocks = Vec::with_capacity(limit);
                let next = self.parts.engine.port_blocks(cursor, limit, &mut blocks);
                let _ = reply.try_send(PortBlockPage { now: now(), blocks, next });
            }
            Command::Carried { accounts, reply } => {
                let numbers = (0..AccountNumber::MAX).take(accounts);
                let carried = numbers.map(|account| self.parts.engine.carried(account)).collect();
                let _ = reply.try_send(carried);
            }
            Command::Look { mut frame, reply } => {
                let WorkerParts { engine, tables, .. } = &mut self.parts;
                let _ = reply.try_send(engine.outlook(now(), tables, &mut frame));
            }
            Command::Tap { tap, reply } => {
                let _ = reply.try_send(std::mem::replace(&mut self.tap, tap));
            }
            Command::Stop => {}
        }
    }

    /// Sleeps until a frame or a command comes, or it is time for expiry.
    fn sleep(&mut self) {
        let waits = !self.held.is_empty() || !self.fragments.is_empty();
        let busy = waits || self.parts.lane.transmit_pending();
        let timeout = Timespec { tv_sec: 0, tv_nsec: if busy { BUSY_NS_MAX } else { IDLE_NS_MAX } };
        let woken = {
            let mut fds: Vec<PollFd<'_>> = std::iter::once(self.parts.wake.as_fd())
                .chain(self.parts.lane.wait_fds())
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
                .collect();
            // An interrupted or failed poll only means that the worker looks for itself.
            rustix::event::poll(&mut fds, Some(&timeout)).is_ok()
                && fds.first().is_some_and(|wake| !wake.revents().is_empty())
        };
        if woken {
            let mut count = [0; 8];
            let _ = rustix::io::read(&self.parts.wake, &mut count);
        }
    }
}

/// The monotonic clock, read once per burst.
pub(crate) fn now() -> Nanos {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default()
}
