//! Receiving: an XDP program that checks and counts where packets arrive, sink.bpf.c.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use libbpf_rs::{MapCore as _, MapFlags, MapHandle};
use spillway_xdp::device::probe;

use super::histogram::{BUCKETS, Histogram};
use super::label::{FLOWS_MAX, STREAMS_MAX};
use super::namespace::within;
use crate::bpf;

/// The compiled program.
const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sink.bpf.o"));

/// `struct count` of sink.bpf.c, in bytes: the words before the sequence numbers, these, and all.
const WORDS_LEN: usize = 15 * 8;
const RANGES_LEN: usize = 2 * 4 * STREAMS_MAX as usize;
const COUNT_LEN: usize = WORDS_LEN + RANGES_LEN + 8 * BUCKETS;

/// What is counted, and what is done with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SinkConfig<'a> {
    pub(crate) device: &'a str,
    pub(crate) netns: Option<&'a str>,
    pub(crate) tunnel_port: u16,
    /// The source that packets should have.
    pub(crate) source: Option<Ipv4Addr>,
    /// Whether plain packets are sent back.
    pub(crate) reflect: bool,
    /// How many flows are looked after.
    pub(crate) flows: u32,
}

/// The attached program. It is detached when this is dropped, or the process ends.
pub(crate) struct Sink {
    counts: MapHandle,
    _link: OwnedFd,
}

impl Sink {
    /// Attaches the program to a device.
    ///
    /// # Errors
    ///
    /// When there is no such device, it has another program, or the kernel refuses.
    pub(crate) fn open(config: &SinkConfig<'_>) -> Result<Self> {
        let flows = config.flows;
        ensure!((1..=FLOWS_MAX).contains(&flows), "--flows {flows} is not 1 to {FLOWS_MAX}");
        within(config.netns, || Self::open_here(config))
    }

    /// In the calling thread's network namespace.
    fn open_here(config: &SinkConfig<'_>) -> Result<Self> {
        let info = probe(config.device)?;
        let mut open = bpf::open(OBJECT)?;
        if let Some(mut map) = open.maps_mut().find(|map| map.name() == "flows") {
            map.set_max_entries(config.flows)?;
        }
        let object = open.load().context("the kernel refuses the sink (is this root?)")?;
        let source = config.source.map_or([0; 4], |source| source.octets());
        let config_bytes = [
            u32::from(config.tunnel_port).to_ne_bytes(),
            source,
            u32::from(config.reflect).to_ne_bytes(),
        ];
        let zero = 0u32.to_ne_bytes();
        bpf::map(&object, "config")?.update(&zero, &config_bytes.concat(), MapFlags::ANY)?;
        let program = object.progs_mut().next().context("the object lacks the sink")?;
        let link = program.attach_xdp(i32::try_from(info.ifindex)?).with_context(|| {
            format!("cannot attach to {}: see `ip link show {0}` for another program", info.name)
        })?;
        let counts = bpf::map(&object, "counts")?;
        ensure!(counts.value_size() as usize == COUNT_LEN, "struct count has another length");
        Ok(Self { counts, _link: link.as_fd().try_clone_to_owned()? })
    }

    /// What was received until now.
    ///
    /// # Errors
    ///
    /// When the counts cannot be read.
    pub(crate) fn read(&self) -> Result<Received> {
        let values = self.counts.lookup_percpu(&0u32.to_ne_bytes(), MapFlags::ANY)?;
        let mut received = Received::new();
        for value in values.context("the sink's counts are gone")? {
            received.add(&value);
        }
        Ok(received)
    }
}

/// What was received: `struct count` of sink.bpf.c, which describes it, of all processors.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) tunnelled: u64,
    pub(crate) corrupt: u64,
    pub(crate) unexpected: u64,
    pub(crate) reordered: u64,
    pub(crate) duplicates: u64,
    pub(crate) untracked: u64,
    pub(crate) passed: u64,
    pub(crate) first_ns: u64,
    pub(crate) last_ns: u64,
    pub(crate) from_future: u64,
    pub(crate) latency_sum: u64,
    pub(crate) latency_least: u64,
    pub(crate) latency_most: u64,
    /// The lowest and the highest sequence number of each stream, plus one; 0: none.
    ranges: [(u32, u32); STREAMS_MAX as usize],
    pub(crate) latencies: Histogram,
}

impl Received {
    fn new() -> Self {
        Self {
            packets: 0,
            bytes: 0,
            tunnelled: 0,
            corrupt: 0,
            unexpected: 0,
            reordered: 0,
            duplicates: 0,
            untracked: 0,
            passed: 0,
            first_ns: 0,
            last_ns: 0,
            from_future: 0,
            latency_sum: 0,
            latency_least: 0,
            latency_most: 0,
            ranges: [(0, 0); STREAMS_MAX as usize],
            latencies: Histogram::new(),
        }
    }

    /// Adds one processor's counts.
    fn add(&mut self, value: &[u8]) {
        let (words, rest) = value.split_at(WORDS_LEN);
        let (ranges, latencies) = rest.split_at(RANGES_LEN);
        let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
        let mut words = words.chunks_exact(8).map(word);
        let mut next = || words.next().unwrap_or_default();
        for sum in [
            &mut self.packets,
            &mut self.bytes,
            &mut self.tunnelled,
            &mut self.corrupt,
            &mut self.unexpected,
            &mut self.reordered,
            &mut self.duplicates,
            &mut self.untracked,
            &mut self.passed,
        ] {
            *sum += next();
        }
        self.first_ns = least(self.first_ns, next());
        self.last_ns = self.last_ns.max(next());
        self.from_future += next();
        self.latency_sum += next();
        self.latency_least = least(self.latency_least, next());
        self.latency_most = self.latency_most.max(next());
        let sequence = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().unwrap_or_default());
        let (lowest, highest) = ranges.split_at(RANGES_LEN / 2);
        let found = lowest.chunks_exact(4).zip(highest.chunks_exact(4));
        for (range, (low, high)) in self.ranges.iter_mut().zip(found) {
            range.0 = least(range.0, sequence(low));
            range.1 = range.1.max(sequence(high));
        }
        self.latencies.add(latencies.chunks_exact(8).map(word));
    }

    /// How many packets are missing between the first and the last that came of each stream. What
    /// came after it, only the sender can miss.
    pub(crate) fn missing(&self) -> u64 {
        let started = self.ranges.iter().filter(|range| range.0 > 0);
        let span: u64 = started.map(|&(low, high)| u64::from(high - low) + 1).sum();
        // Read while packets come, the counts are of different moments.
        span.saturating_sub(
            self.packets.saturating_sub(self.duplicates + self.corrupt + self.untracked),
        )
    }
}

/// The lower one, if both are there.
fn least<T: Ord + Default>(a: T, b: T) -> T {
    match (a == T::default(), b == T::default()) {
        (true, _) => b,
        (_, true) => a,
        _ => a.min(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct count` of one processor: words, then ranges of the first two streams.
    fn value(words: &[(usize, u64)], ranges: [(u32, u32); 2]) -> Vec<u8> {
        let mut bytes = vec![0; COUNT_LEN];
        for &(at, word) in words {
            bytes[at * 8..][..8].copy_from_slice(&word.to_ne_bytes());
        }
        for (stream, (low, high)) in ranges.into_iter().enumerate() {
            let lowest = WORDS_LEN + stream * 4;
            bytes[lowest..][..4].copy_from_slice(&low.to_ne_bytes());
            bytes[lowest + RANGES_LEN / 2..][..4].copy_from_slice(&high.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn gaps_are_found_over_all_processors_and_streams() {
        let mut received = Received::new();
        received.add(&value(&[(0, 50), (9, 700), (10, 800)], [(1, 90), (0, 0)]));
        assert_eq!(received.missing(), 40);
        // Ten of the first stream's last ones, twenty of another's, of which two are duplicates.
        received.add(&value(&[(0, 30), (6, 2), (9, 600), (10, 900)], [(91, 100), (1001, 1020)]));
        received.add(&value(&[], [(0, 0), (0, 0)]));
        assert_eq!((received.packets, received.first_ns, received.last_ns), (80, 600, 900));
        assert_eq!(received.missing(), 100 + 20 - 78);
    }
}
