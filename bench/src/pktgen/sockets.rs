//! Sending through AF_XDP sockets.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use spillway_xdp::Lane;
use spillway_xdp::device::{BURST_MAX, DeviceConfig, DeviceInfo, DevicesConfig, open};

use super::clock::monotonic_ns;
use super::pace::Pacer;
use super::stream::{Sent, Stream};

/// The size of a frame's chunk in bytes; 1792 are left for the longest packet, of 1564.
const CHUNK: u32 = 2048;

/// How long the device may take for the last frames.
const LAST_FRAMES: Duration = Duration::from_secs(1);

/// Opens a device in the calling thread's network namespace: a lane for each stream.
///
/// # Errors
///
/// When the device does not fit, or its queues are in use.
pub(crate) fn lanes(info: &DeviceInfo, streams: u8) -> Result<Vec<Lane>> {
    let devices = vec![DeviceConfig::new(&info.name)];
    let config = DevicesConfig { workers: streams, frame_size: CHUNK, umem_frames: 0, devices };
    // The sockets are for a steering program; nothing shall be received.
    let (lanes, _sockets) = open(&config, std::slice::from_ref(info))?;
    Ok(lanes)
}

/// What a thread says of itself while it sends.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    frames: AtomicU64,
    bytes: AtomicU64,
    first_ns: AtomicU64,
    last_ns: AtomicU64,
    done: AtomicBool,
}

impl Meter {
    pub(crate) fn read(&self) -> Sent {
        Sent {
            frames: self.frames.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            first_ns: self.first_ns.load(Ordering::Relaxed),
            last_ns: self.last_ns.load(Ordering::Relaxed),
            done: self.done.load(Ordering::Acquire),
        }
    }

    fn write(&self, sent: &Sent) {
        self.frames.store(sent.frames, Ordering::Relaxed);
        self.bytes.store(sent.bytes, Ordering::Relaxed);
        self.first_ns.store(sent.first_ns, Ordering::Relaxed);
        self.last_ns.store(sent.last_ns, Ordering::Relaxed);
        self.done.store(sent.done, Ordering::Release);
    }
}

/// One thread that sends.
pub(crate) struct Sender<'a> {
    stream: &'a Stream,
    lane: Lane,
    pacer: Pacer,
    sent: Sent,
    sequence: u32,
    next: usize,
}

impl<'a> Sender<'a> {
    pub(crate) fn new(stream: &'a Stream, lane: Lane) -> Self {
        let pacer = Pacer::new(stream.pace);
        Self { stream, lane, pacer, sent: Sent::default(), sequence: 0, next: 0 }
    }

    /// Sends until all is sent, or it is told to stop. Between packets it spins: a sleep would take
    /// longer than what there is to wait for.
    pub(crate) fn run(mut self, stop: &AtomicBool, meter: &Meter) {
        self.sent.first_ns = monotonic_ns();
        while !stop.load(Ordering::Relaxed) && !self.is_done() {
            if self.burst() > 0 {
                self.lane.flush();
                meter.write(&self.sent);
            }
            std::hint::spin_loop();
        }
        self.finish();
        meter.write(&self.sent);
    }

    fn since_ns(&self) -> u64 {
        monotonic_ns().saturating_sub(self.sent.first_ns)
    }

    fn is_done(&self) -> bool {
        let duration = self.stream.duration;
        self.sequence >= self.stream.count
            || duration.is_some_and(|limit| Duration::from_nanos(self.since_ns()) >= limit)
    }

    /// Queues the packets that are due, a burst at most; returns how many.
    fn burst(&mut self) -> usize {
        let mut count = 0;
        while count < BURST_MAX && self.sequence < self.stream.count {
            if !self.pacer.may_send(self.since_ns()) {
                break;
            }
            // None: the device does not send, and has them all.
            let Some(mut frame) = self.lane.allocate() else { break };
            let label = self.stream.label(self.sequence, &mut self.next, monotonic_ns());
            let length = self.stream.template.write(label, frame.bytes_mut());
            self.lane.transmit(0, frame, u16::try_from(length).unwrap_or_default());
            self.sequence += 1;
            self.sent.frames += 1;
            self.sent.bytes += length as u64;
            self.sent.last_ns = label.time_ns;
            count += 1;
        }
        count
    }

    /// Waits for the last frames. What the device did not take was not sent.
    fn finish(&mut self) {
        let deadline = Instant::now() + LAST_FRAMES;
        while self.lane.transmit_pending() && Instant::now() < deadline {
            self.lane.flush();
        }
        let statistics = self.lane.statistics();
        let refused = statistics.tx_ring_full + statistics.transmit_refused;
        self.sent.frames = self.sent.frames.saturating_sub(refused);
        self.sent.done = true;
    }
}
