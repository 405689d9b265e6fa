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
    /// How many times as much as one worker.
    pub(crate) times_one: f64,
}

/// Packets of known flows with 1 and with `workers` workers, each on a processor of its own, in turn.
pub(crate) fn measure(flows: u32, workers: usize, rounds: usize) -> Result<Vec<Scaling>> {
    let processors = std::thread::available_parallelism()?.get();
    ensure!(
        workers <= processors,
        "{workers} workers need as many processors; here are {processors}"
    );
    let counts = [1, workers];
    let mut samples = [Vec::new(), Vec::new()];
    let mut gateways = Vec::new();
    for _ in 0..workers {
        let mut gateway = Gateway::new(Variant::Spillway, flows);
        gateway.fill(flows, &mut Frames::new(Protocol::Udp))?;
        gateways.push(gateway);
    }
    for _ in 0..rounds {
        for (count, samples) in counts.into_iter().zip(&mut samples) {
            let working = gateways.get_mut(..count).unwrap_or_default();
            samples.push(round(working, flows)?);
        }
    }
    let [one, all] = samples.map(Spread::of);
    Ok(counts
        .into_iter()
        .zip([one, all])
        .map(|(workers, Spread { low, median, high })| Scaling {
            name: "scaling",
            workers,
            flows,
            mpps: median,
            mpps_quartiles: [low, high],
            times_one: median / one.median,
        })
        .collect())
}

/// Million packets a second of all gateways at the same time.
fn round(gateways: &mut [Gateway], flows: u32) -> Result<f64> {
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
                processors.set(worker);
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
