//! The worker threads as the main thread sees them: started, asked, told and stopped through
//! bounded channels.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, bail};
use crossbeam::channel::{Receiver, Sender, bounded};
use rustix::event::EventfdFlags;
use spillway_engine::tables::Tables;
use spillway_engine::{Carried, Engine, Outlook};
use spillway_xdp::{Frame, Lane};

use crate::capture::Tap;
use crate::config::{Config, Idle};
use crate::events::{Outbox, Sampler, Teller};
use crate::held::Unresolved;
use crate::inbox::{Exchange, Inbox};
use crate::worker::{Command, FlowPage, PortBlockPage, Report, Worker, WorkerParts};

/// Commands that wait for a worker, at most.
const COMMANDS_MAX: usize = 16;

/// Neighbours that wait to be asked for, at most; a frame of one that does not fit is held too,
/// and asks again if it is the first of its neighbour later.
const NEIGHBOUR_REQUESTS_MAX: usize = 1024;

/// How long a worker may take to answer. It answers between two bursts.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// One running worker.
struct Handle {
    commands: Sender<Command>,
    wake: OwnedFd,
    thread: JoinHandle<Engine>,
}

/// All workers.
pub(crate) struct Workers {
    handles: Vec<Handle>,
    /// Neighbours that workers wait for.
    pub(crate) neighbours: Receiver<Unresolved>,
    /// Where each worker's events wait, by its number; none when nobody keeps them.
    pub(crate) outboxes: Vec<Arc<Outbox>>,
}

impl Workers {
    /// Starts a worker for each engine and lane.
    pub(crate) fn start(
        parts: Vec<(Engine, Lane)>,
        tables: &Arc<Tables>,
        wake_main: &Arc<mio::Waker>,
        config: &Config,
    ) -> anyhow::Result<Self> {
        let (ask, neighbours) = bounded(NEIGHBOUR_REQUESTS_MAX);
        let mut handles = Vec::with_capacity(parts.len());
        let wakes: Vec<OwnedFd> = parts.iter().map(|_| eventfd()).collect::<Result<_, _>>()?;
        let inboxes: Arc<[Inbox<Frame>]> = wakes
            .iter()
            .map(|wake| Ok(Inbox::new(duplicate(wake)?)))
            .collect::<anyhow::Result<_>>()?;
        let kept = if config.events.kept > 0 { parts.len() } else { 0 };
        let outboxes: Vec<_> = (0..kept).map(|_| Arc::new(Outbox::new())).collect();
        for (id, ((engine, lane), wake)) in (0_u8..).zip(parts.into_iter().zip(wakes)) {
            let (commands, receiver) = bounded(COMMANDS_MAX);
            let worker = Worker::new(WorkerParts {
                engine,
                lane,
                exchange: Exchange::new(Arc::clone(&inboxes), id),
                tables: Arc::clone(tables),
                commands: receiver,
                wake: duplicate(&wake)?,
                neighbours: ask.clone(),
                wake_main: Arc::clone(wake_main),
                events: outboxes
                    .get(usize::from(id))
                    .map(|outbox| Teller::new(Arc::clone(outbox), Sampler::new(&config.events))),
                spin: config.idle == Idle::Spin,
            });
            let thread = std::thread::Builder::new()
                .name(format!("worker-{id}"))
                .spawn(move || worker.run())
                .with_context(|| format!("cannot start worker {id}"))?;
            handles.push(Handle { commands, wake, thread });
        }
        Ok(Self { handles, neighbours, outboxes })
    }

    /// Gives every worker new tables.
    pub(crate) fn publish(&self, tables: &Arc<Tables>) -> anyhow::Result<()> {
        for id in 0..self.handles.len() {
            self.tell(id, Command::Tables(Arc::clone(tables)))?;
        }
        Ok(())
    }

    /// Has one worker announce addresses.
    pub(crate) fn announce(&self, addresses: Vec<IpAddr>) -> anyhow::Result<()> {
        self.tell(0, Command::Announce(addresses))
    }

    /// Every worker's counters.
    pub(crate) fn reports(&self) -> anyhow::Result<Vec<Report>> {
        (0..self.handles.len()).map(|id| self.ask(id, Command::Report)).collect()
    }

    /// A page of a worker's flows; `None` when there is no such worker.
    pub(crate) fn flows(
        &self,
        id: usize,
        cursor: u32,
        limit: usize,
    ) -> anyhow::Result<Option<FlowPage>> {
        if id >= self.handles.len() {
            return Ok(None);
        }
        self.ask(id, |reply| Command::Flows { cursor, limit, reply }).map(Some)
    }

    /// A page of a worker's port blocks; `None` when there is no such worker.
    pub(crate) fn port_blocks(
        &self,
        id: usize,
        cursor: u32,
        limit: usize,
    ) -> anyhow::Result<Option<PortBlockPage>> {
        if id >= self.handles.len() {
            return Ok(None);
        }
        self.ask(id, |reply| Command::PortBlocks { cursor, limit, reply }).map(Some)
    }

    /// What ended flows have carried, of each account below a number, over all workers.
    pub(crate) fn carried(&self, accounts: usize) -> anyhow::Result<Vec<Carried>> {
        let mut sums = vec![Carried::default(); accounts];
        for id in 0..self.handles.len() {
            let carried = self.ask(id, |reply| Command::Carried { accounts, reply })?;
            sums.iter_mut().zip(carried).for_each(|(sum, carried)| sum.add(carried));
        }
        Ok(sums)
    }

    /// What a worker says of a frame, as steering would give it.
    pub(crate) fn look(&self, id: u8, frame: Vec<u8>) -> anyhow::Result<Outlook> {
        self.ask(usize::from(id), |reply| Command::Look { frame, reply })
    }

    /// Has every worker capture packets with a tap of its own, or no more. What captured them so far is
    /// taken apart here: a worker has better things to do.
    pub(crate) fn tap(&self, tap: impl Fn(u8) -> Option<Box<Tap>>) -> anyhow::Result<()> {
        for (id, number) in (0..self.handles.len()).zip(0..) {
            let tap = tap(number);
            drop(self.ask(id, |reply| Command::Tap { tap, reply })?);
        }
        Ok(())
    }

    /// Stops all workers and waits for them; gives their engines. Frames on their way stay with the
    /// devices.
    pub(crate) fn stop(self) -> Vec<Engine> {
        for id in 0..self.handles.len() {
            if let Err(error) = self.tell(id, Command::Stop) {
                tracing::warn!("{error:#}");
            }
        }
        let joined = self.handles.into_iter().filter_map(|Handle { commands, thread, .. }| {
            drop(commands);
            let engine = thread.join();
            if engine.is_err() {
                tracing::error!("a worker had panicked: its flows are lost");
            }
            engine.ok()
        });
        joined.collect()
    }

    fn ask<T>(&self, id: usize, command: impl FnOnce(Sender<T>) -> Command) -> anyhow::Result<T> {
        let (reply, answer) = bounded(1);
        self.tell(id, command(reply))?;
        answer.recv_timeout(ANSWER_WITHIN).with_context(|| format!("worker {id} does not answer"))
    }

    fn tell(&self, id: usize, command: Command) -> anyhow::Result<()> {
        let Some(handle) = self.handles.get(id) else { bail!("there is no worker {id}") };
        if handle.commands.send_timeout(command, ANSWER_WITHIN).is_err() {
            bail!("worker {id} does not take commands");
        }
        rustix::io::write(&handle.wake, &1u64.to_ne_bytes())
            .with_context(|| format!("cannot wake worker {id}"))?;
        Ok(())
    }
}

/// What makes a worker's sleep end.
fn eventfd() -> anyhow::Result<OwnedFd> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    rustix::event::eventfd(0, flags).context("cannot make an eventfd")
}

fn duplicate(eventfd: &OwnedFd) -> anyhow::Result<OwnedFd> {
    eventfd.try_clone().context("cannot duplicate an eventfd")
}
