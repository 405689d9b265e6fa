//! Sending: a thread for each stream, and one that watches them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use libbpf_rs::MapHandle;
use rustix::thread::{CpuSet, sched_setaffinity};
use spillway_xdp::Lane;
use spillway_xdp::device::{DeviceInfo, probe};
use spillway_xdp::live::Interrupt;

use super::live::{self, Live};
use super::namespace::{enter, within};
use super::options::{Backend, Mac, SendOptions};
use super::sockets::{self, Sender};
use super::stream::{Sent, Stream};
use super::template::Template;

/// How often the threads' counts are read.
const TICK: Duration = Duration::from_millis(20);

/// How long a thread may take to load its program or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a thread is, before it sends.
struct Ready {
    meter: Meter,
    interrupt: Interrupt,
}

/// Where a thread's counts are.
enum Meter {
    Live(MapHandle),
    Sockets(Arc<sockets::Meter>),
}

impl Meter {
    fn read(&self) -> Result<Sent> {
        match self {
            Self::Live(state) => live::read(state),
            Self::Sockets(meter) => Ok(meter.read()),
        }
    }
}

/// What every thread needs.
struct Plan<'a> {
    options: &'a SendOptions,
    info: DeviceInfo,
    stop: AtomicBool,
}

/// Sends what is asked for, and shows the sum to `watch` now and then. A message from `interrupted`
/// ends it before. Returns when no thread sends any more.
///
/// # Errors
///
/// When options do not fit together, or the kernel refuses something.
pub(crate) fn send(
    options: &SendOptions,
    interrupted: &Receiver<()>,
    watch: impl FnMut(&Sent) -> Result<()>,
) -> Result<Sent> {
    let info = within(options.netns.as_deref(), || Ok(probe(&options.device)?))?;
    let source = options.source_mac.unwrap_or(Mac(info.mac));
    let template = Template::new(&options.traffic, source, options.target_mac)?;
    fits(&info, &template)?;
    let streams = Stream::all(options, &template)?;
    let lanes: Vec<Option<Lane>> = match options.backend {
        Backend::Live => streams.iter().map(|_| None).collect(),
        Backend::Afxdp => {
            let open = || sockets::lanes(&info, options.threads);
            within(options.netns.as_deref(), open)?.into_iter().map(Some).collect()
        }
    };
    let plan = Plan { options, info, stop: AtomicBool::new(false) };
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (stream, lane) in streams.iter().zip(lanes) {
            let (start, started) = mpsc::sync_channel(1);
            let (ready, is_ready) = mpsc::sync_channel(1);
            let plan = &plan;
            let handle = scope.spawn(move || stream_thread(plan, stream, lane, &ready, &started));
            threads.push(Thread { handle, start, is_ready });
        }
        conduct(threads, &plan.stop, interrupted, watch)
    })
}

fn fits(info: &DeviceInfo, template: &Template) -> Result<()> {
    let (longest, room) = (template.longest(), info.mtu as usize + 14);
    if longest > room {
        let name = &info.name;
        bail!("{name} has an MTU of {} and cannot send frames of {longest} bytes", info.mtu);
    }
    Ok(())
}

/// A thread that sends a stream: gets ready, says so, waits for the start, and sends.
fn stream_thread(
    plan: &Plan<'_>,
    stream: &Stream,
    lane: Option<Lane>,
    ready: &SyncSender<Ready>,
    started: &Receiver<()>,
) -> Result<()> {
    pin(plan.options, stream.number)?;
    let interrupt = Interrupt::of_this_thread();
    // Err from `started`: another thread could not get ready.
    if let Some(lane) = lane {
        let meter = Arc::new(sockets::Meter::default());
        ready.send(Ready { meter: Meter::Sockets(meter.clone()), interrupt })?;
        if started.recv().is_ok() {
            Sender::new(stream, lane).run(&plan.stop, &meter);
        }
        return Ok(());
    }
    enter(plan.options.netns.as_deref())?;
    let live = Live::load(stream, plan.info.ifindex)?;
    ready.send(Ready { meter: Meter::Live(live.meter()?), interrupt })?;
    if started.recv().is_ok() {
        live.run(&plan.stop)?;
    }
    Ok(())
}

/// Keeps the calling thread on its processor, if there is one for it.
fn pin(options: &SendOptions, number: u8) -> Result<()> {
    let Some(&cpu) = options.cpus.get(usize::from(number)) else { return Ok(()) };
    let mut set = CpuSet::new();
    if cpu as usize >= CpuSet::MAX_CPU {
        bail!("--cpus {cpu}: there is no such processor");
    }
    set.set(cpu as usize);
    sched_setaffinity(None, &set).with_context(|| format!("--cpus {cpu}: cannot pin a thread"))
}

/// A thread, from outside.
struct Thread<'scope> {
    handle: ScopedJoinHandle<'scope, Result<()>>,
    start: SyncSender<()>,
    is_ready: Receiver<Ready>,
}

/// Starts the threads when all are ready, watches them and ends them.
fn conduct(
    threads: Vec<Thread<'_>>,
    stop: &AtomicBool,
    interrupted: &Receiver<()>,
    mut watch: impl FnMut(&Sent) -> Result<()>,
) -> Result<Sent> {
    let mut handles = Vec::new();
    let mut starts = Vec::new();
    let mut ready = Vec::new();
    for thread in threads {
        // A thread that fails drops its end of the channel.
        ready.extend(thread.is_ready.recv_timeout(PATIENCE).ok());
        handles.push(thread.handle);
        starts.push(thread.start);
    }
    if ready.len() < handles.len() {
        drop(starts);
        join(handles)?;
        bail!("a sending thread was not ready within {PATIENCE:?}");
    }
    for start in &starts {
        start.send(())?;
    }
    let watched = watch_threads(&ready, &handles, interrupted, &mut watch);
    stop.store(true, Ordering::Relaxed);
    let deadline = Instant::now() + PATIENCE;
    while !handles.iter().all(ScopedJoinHandle::is_finished) && Instant::now() < deadline {
        // One that ends just now cannot be interrupted, and need not be.
        ready.iter().for_each(|thread| drop(thread.interrupt.send()));
        thread::sleep(Duration::from_millis(1));
    }
    join(handles)?;
    watched?;
    total(&ready)
}

fn join(handles: Vec<ScopedJoinHandle<'_, Result<()>>>) -> Result<()> {
    let results: Vec<_> = handles
        .into_iter()
        .map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        .collect();
    results.into_iter().collect()
}

fn total(threads: &[Ready]) -> Result<Sent> {
    let mut sum = Sent { done: true, ..Sent::default() };
    for thread in threads {
        sum = sum.and(thread.meter.read()?);
    }
    Ok(sum)
}

/// Until all is sent, a thread has failed, or somebody interrupts.
fn watch_threads(
    ready: &[Ready],
    handles: &[ScopedJoinHandle<'_, Result<()>>],
    interrupted: &Receiver<()>,
    watch: &mut impl FnMut(&Sent) -> Result<()>,
) -> Result<()> {
    loop {
        let sent = total(ready)?;
        watch(&sent)?;
        let mut threads = ready.iter().zip(handles);
        let failed = |(ready, handle): (&Ready, &ScopedJoinHandle<'_, Result<()>>)| {
            handle.is_finished() && ready.meter.read().is_ok_and(|sent| !sent.done)
        };
        if sent.done || threads.any(failed) {
            return Ok(());
        }
        match interrupted.recv_timeout(TICK) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return Ok(()),
        }
    }
}
