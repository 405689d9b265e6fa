//! Several workers' engines, and a driver that does with verdicts what workers do.

use std::collections::VecDeque;

use spillway_engine::steer::{CLASSES, Owners, Run};
use spillway_engine::tables::{Tables, TablesInput};
use spillway_engine::{DropReason, Engine, EngineConfig, FlowRecord, Ticket, Verdict};

use super::gateway::*;

/// What became of a frame: where it was sent, or why it was dropped.
pub type Outcome = Result<(u16, Vec<u8>), DropReason>;

/// A fragment that waits for the first of its packet.
struct Waiting {
    worker: usize,
    frame: Vec<u8>,
    deadline: u64,
}

pub struct Cluster {
    pub engines: Vec<Engine>,
    pub owners: [u8; CLASSES],
    pub run: Run,
    pub input: TablesInput,
    pub tables: Tables,
    pub now: u64,
    waiting: Vec<Waiting>,
}

impl Cluster {
    pub fn new(workers: u8, config: EngineConfig, input: TablesInput) -> Self {
        let of_class = std::array::from_fn(|class| u8::try_from(class).unwrap() % workers);
        let owners = Owners { of_class, ..config.owners };
        let engine = |worker: u8| {
            let seed = config.seed + u64::from(worker);
            Engine::new(&EngineConfig { worker, owners, seed, ..config.clone() })
        };
        Self {
            engines: (0..workers).map(engine).collect(),
            owners: owners.of_class,
            run: owners.run,
            tables: Tables::new(input.clone()),
            input,
            now: 1_000 * SECOND,
            waiting: Vec::new(),
        }
    }

    /// Swaps the tables.
    pub fn publish(&mut self) {
        self.input.epoch += 1;
        self.tables = Tables::new(self.input.clone());
    }

    /// The worker that steering gives frames with this port to.
    pub fn worker(&self, port: u16) -> usize {
        Owners { of_class: self.owners, run: self.run }.owner(port).into()
    }

    /// Hands a whole packet in; gives what becomes of it.
    #[track_caller]
    pub fn process(&mut self, worker: usize, frame: Vec<u8>) -> Outcome {
        let mut outcomes = self.receive(worker, frame);
        assert_eq!(outcomes.len(), 1, "{outcomes:?}");
        outcomes.remove(0)
    }

    /// Hands a frame in; gives what becomes of it, and of those that have waited for it.
    pub fn receive(&mut self, worker: usize, mut frame: Vec<u8>) -> Vec<Outcome> {
        let mut verdict = [Verdict::Await { until: 0 }];
        let Self { engines, tables, now, .. } = self;
        engines[worker].process(*now, tables, &mut [&mut frame], &mut verdict);
        let mut outcomes = Vec::new();
        self.obey(worker, frame, verdict[0], &mut outcomes);
        for worker in 0..self.engines.len() {
            if self.engines[worker].take_learned() {
                self.retry(worker, &mut outcomes);
            }
        }
        self.tell();
        outcomes
    }

    /// Passes on what workers have to tell each other.
    fn tell(&mut self) {
        for worker in 0..self.engines.len() {
            let notices: Vec<_> = self.engines[worker].notices().collect();
            for notice in notices {
                assert_ne!(usize::from(notice.worker), worker);
                self.engines[usize::from(notice.worker)].take_notice(self.now, notice);
            }
        }
    }

    fn obey(&mut self, worker: usize, frame: Vec<u8>, verdict: Verdict, out: &mut Vec<Outcome>) {
        let mut rings = VecDeque::from([(worker, frame, verdict)]);
        while let Some((worker, mut frame, verdict)) = rings.pop_front() {
            match verdict {
                Verdict::Transmit { device, length } => {
                    frame.truncate(usize::from(length));
                    out.push(Ok((device, frame)));
                }
                Verdict::Fragment { device, fragments } => {
                    let pieces = pieces(fragments, &self.tables, &frame);
                    out.extend(pieces.into_iter().map(|piece| Ok((device, piece))));
                }
                Verdict::Drop(reason) => out.push(Err(reason)),
                Verdict::Await { until } => {
                    self.waiting.push(Waiting { worker, frame, deadline: until });
                }
                Verdict::HandOff { worker: to, ticket } => {
                    assert_ne!(usize::from(to), worker, "handed to itself");
                    let Self { engines, tables, now, .. } = self;
                    let engine = &mut engines[usize::from(to)];
                    let verdict = engine.process_handed(*now, tables, &mut frame, ticket);
                    rings.push_back((to.into(), frame, verdict));
                }
                Verdict::Hold { .. } => panic!("{verdict:?}: every neighbour is known"),
            }
        }
    }

    fn retry(&mut self, worker: usize, out: &mut Vec<Outcome>) {
        for mut waiting in std::mem::take(&mut self.waiting) {
            if waiting.worker != worker {
                self.waiting.push(waiting);
                continue;
            }
            let Self { engines, tables, now, .. } = self;
            let ticket = Ticket::default();
            let verdict = engines[worker].process_held(*now, tables, &mut waiting.frame, ticket);
            match verdict {
                Verdict::Await { .. } => self.waiting.push(waiting),
                verdict => self.obey(worker, waiting.frame, verdict, out),
            }
        }
    }

    /// Lets time pass, with the calls of idle workers; how many fragments were given up.
    pub fn pass(&mut self, seconds: u64) -> usize {
        let before = self.waiting.len();
        for _ in 0..seconds * 10 {
            self.now += SECOND / 10;
            for waiting in self.waiting.extract_if(.., |waiting| waiting.deadline <= self.now) {
                self.engines[waiting.worker].drop_held(DropReason::FragmentTimeout);
            }
            for engine in &mut self.engines {
                engine.expire(self.now, &self.tables);
            }
            self.tell();
        }
        before - self.waiting.len()
    }

    /// Sums up over all workers.
    pub fn sum(&self, count: impl Fn(&spillway_engine::Counters) -> u64) -> u64 {
        self.engines.iter().map(|engine| count(&engine.counters())).sum()
    }

    /// The workers' counters close, one by one and together.
    pub fn assert_sums_close(&self) {
        self.engines.iter().for_each(|engine| assert_sum_closes(&engine.counters()));
        assert_eq!(self.sum(|c| c.taken_over), self.sum(|c| c.handed_off));
        assert_eq!(self.sum(|c| c.held), self.waiting.len() as u64);
    }

    pub fn flows(&self) -> Vec<FlowRecord> {
        let mut flows = Vec::new();
        for engine in &self.engines {
            let mut cursor = Some(0);
            while let Some(from) = cursor {
                cursor = engine.flows(from, 1000, &mut flows);
            }
        }
        flows
    }
}
