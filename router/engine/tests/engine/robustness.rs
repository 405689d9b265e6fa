//! Any bytes whatever: the fuzzer's corpus again, and valid frames with mutations.

use std::path::Path;

use spillway_engine::{BURST_MAX, Verdict};

use crate::common::fuzz::{
    process_any, run, valid_frames, valid_frames_ipv6, valid_frames_nat64, valid_gateway,
};
use crate::common::gateway::SECOND;
use crate::common::random::Random;

/// How many mutated frames are tried.
const MUTATED: usize = 300_000;

#[test]
fn every_valid_frame_is_forwarded() {
    // Of fragments, the later after the first.
    let mut gateway = valid_gateway();
    for frame in [valid_frames(), valid_frames_ipv6(), valid_frames_nat64().1].concat() {
        let (verdict, _) = gateway.process(frame);
        assert!(matches!(verdict, Verdict::Transmit { .. } | Verdict::Fragment { .. }));
    }
}

#[test]
fn the_fuzzers_corpus_breaks_nothing() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/process");
    let mut count = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        run(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count >= 10, "only {count} files in the corpus");
}

/// Changes some bytes, or the length; mostly makes the header checksum right again, so that what
/// lies behind it is reached.
pub(crate) fn mutate(frame: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        match random.below(8) {
            0 => frame.truncate(random.below(frame.len() + 1)),
            1 => frame.resize(frame.len() + random.below(64), 0),
            _ if frame.is_empty() => {}
            2 => {
                let at = random.below(frame.len());
                frame[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)];
            }
            _ => {
                // The headers are where it matters.
                let at = random.below(frame.len().min(130));
                frame[at] ^= 1 << random.below(8);
            }
        }
    }
    let ip = if frame.first() == Some(&2) { 64 } else { 14 };
    // Of IPv6 there is none.
    let is_ipv4 = frame.get(ip).is_some_and(|first| first >> 4 != 6);
    if is_ipv4 && frame.len() >= ip + 20 && random.below(4) > 0 {
        frame[ip + 10..ip + 12].fill(0);
        let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&frame[ip..ip + 20]);
        let checksum = sum.ones_complement().to_be().to_be_bytes();
        frame[ip + 10..ip + 12].copy_from_slice(&checksum);
    }
}

#[test]
fn mutated_frames_break_nothing() {
    let valid = [valid_frames(), valid_frames_ipv6(), valid_frames_nat64().1].concat();
    let mut gateway = valid_gateway();
    let mut random = Random(20_250_131);
    let mut tried = 0;
    while tried < MUTATED {
        let mut burst: Vec<Vec<u8>> = Vec::new();
        for _ in 0..=random.below(BURST_MAX) {
            let mut frame = valid[random.below(valid.len())].clone();
            mutate(&mut frame, &mut random);
            burst.push(frame);
        }
        burst.truncate(BURST_MAX);
        tried += burst.len();
        process_any(&mut gateway, &mut burst);
        gateway.now += SECOND / 10;
        gateway.engine.expire(gateway.now, &gateway.tables);
    }
    // Both sides of every check were reached.
    let counters = gateway.engine.counters();
    assert!(counters.transmitted > 10_000, "{counters:?}");
    assert!(counters.dropped.iter().filter(|count| **count > 0).count() > 15, "{counters:?}");
}
