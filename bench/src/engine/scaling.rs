//! What a second worker adds: whole engines on threads of their own, and what they do share, the pool of
//! free frames.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use crossbeam::queue::ArrayQueue;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;
use spillway_engine::BURST_MAX;

use super::family::AddressFamily;
use super::frames::{BURST, Frames, Protocol};
use super::gateway::{Gateway, Variant, Way};
use crate::measure::Spread;

/// How long a round lasts.
const ROUND: Duration = Duration::from_millis(200);

/// Frames in the pool for each worker, in batches as the devices' pool has them.
const BATCHES_PER_WORKER: usize = 64;

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Scaling {
    name: &'static str,
    pub(crate) workers: usize,
    /// Of each worker.
    pub(crate) flows: u32,
    /// All workers together, million packets a second, with the writing of the frames.
    pub(crate) mpps: f64,
    pub(crate) mpps_quartiles: [f64; 2],
    /// How many times as much as one worker: the median of the rounds' ratios.
    pub(crate) times_one: f64,
}

/// Packets of known flows with 1 and with `workers` workers, each on a processor of its own, in turn.
pub(crate) fn measure(flows: u32, workers: usize, rounds: usize) -> Result<Vec<Scaling>> {
    let processors = std::thread::available_parallelism()?.get();
    ensure!(
        workers <= processors,
        "{workers} workers need as many processors; here are {processors}"
    );
    let mut gateways = Vec::new();
    for _ in 0..workers {
        let mut gateway = Gateway::new(Variant::Spillway, AddressFamily::Ipv4, flows);
        gateway.fill(flows, &mut Frames::new(Protocol::Udp))?;
        gateways.push(gateway);
    }
    let (mut one, mut all, mut ratios) = (vec![], vec![], vec![]);
    for _ in 0..rounds {
        // Each alone, on its own processor: on a shared machine they are not equally fast.
        let mut alone = 0.0;
        for (processor, gateway) in gateways.iter_mut().enumerate() {
            alone += round(std::slice::from_mut(gateway), processor, flows)?;
        }
        let together = round(&mut gateways, 0, flows)?;
        let mean = alone / f64::from(u32::try_from(workers)?);
        one.push(mean);
        all.push(together);
        ratios.push(together / mean);
    }
    let times = [1.0, Spread::of(ratios).median];
    let lines = [1, workers].into_iter().zip([one, all]).zip(times);
    Ok(lines
        .map(|((workers, samples), times_one)| {
            let Spread { low, median, high } = Spread::of(samples);
            let mpps_quartiles = [low, high];
            Scaling { name: "scaling", workers, flows, mpps: median, mpps_quartiles, times_one }
        })
        .collect())
}

/// Million packets a second of all gateways at the same time, from a processor on.
fn round(gateways: &mut [Gateway], first_processor: usize, flows: u32) -> Result<f64> {
    let pool = ArrayQueue::new(BATCHES_PER_WORKER * gateways.len());
    let ready = Barrier::new(gateways.len());
    for batch in 0..pool.capacity() {
        // There is room for so many.
        let _ = pool.push([batch; BURST_MAX]);
    }
    let packets = std::thread::scope(|scope| {
        let threads = gateways.iter_mut().enumerate().map(|(worker, gateway)| {
            let (pool, ready) = (&pool, &ready);
            scope.spawn(move || {
                let mut processors = CpuSet::new();
                processors.set(first_processor + worker);
                sched_setaffinity(None, &processors)?;
                ready.wait();
                Ok(work(gateway, flows, pool))
            })
        });
        let threads: Vec<_> = threads.collect();
        let results = threads.into_iter().map(|thread| match thread.join() {
            Ok(rate) => rate,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        results.sum::<Result<f64, rustix::io::Errno>>()
    })?;
    Ok(packets / 1e6)
}

/// Forwards for one round; gives packets a second.
fn work(gateway: &mut Gateway, flows: u32, pool: &ArrayQueue<[usize; BURST_MAX]>) -> f64 {
    let mut random = SmallRng::seed_from_u64(7);
    let mut frames = Frames::new(Protocol::Udp);
    let (mut bursts, started) = (0_u32, Instant::now());
    while started.elapsed() < ROUND {
        // As the devices do: a batch of free frames from the pool, and back when they are sent.
        let batch = pool.pop();
        for at in 0..BURST_MAX {
            gateway.write(&mut frames, at, random.random_range(0..flows), Way::Forward, false);
        }
        gateway.pass(false, BURST_MAX, &mut frames.slices());
        if let Some(batch) = batch {
            let _ = pool.push(batch);
        }
        bursts += 1;
    }
    f64::from(bursts) * f64::from(BURST) / started.elapsed().as_secs_f64()
}
