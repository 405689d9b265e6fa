//! A seeded simulation: pods and remotes speak, time passes, policies change, on one to four workers;
//! a model that is too simple to be fast says what must become of every packet, byte for byte.
//!
//! A seed is one history. `cargo test` plays [`SEEDS`] of them; `SPILLWAY_SEEDS=FIRST..LAST` plays
//! others, and a failure names its seed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "this is a test")]

#[path = "../common/mod.rs"]
mod common;
mod model;
mod world;

use std::ops::Range;

use common::random::Random;
use world::{Totals, World};

/// The histories that every run of the tests plays.
const SEEDS: Range<u64> = 0..400;

/// How much happens in one.
const EVENTS: usize = 3_000;

fn play(seed: u64) -> Totals {
    let mut world = World::new(Random(seed));
    for _ in 0..EVENTS {
        world.step();
    }
    world.finish()
}

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("SPILLWAY_SEEDS") else { return SEEDS };
    let range = text
        .split_once("..")
        .and_then(|(first, last)| Some(first.parse().ok()?..last.parse().ok()?));
    range.unwrap_or_else(|| panic!("SPILLWAY_SEEDS is FIRST..LAST, not {text}"))
}

#[test]
fn every_history_is_the_models() {
    let mut totals = Totals::default();
    for seed in seeds() {
        match std::panic::catch_unwind(|| play(seed)) {
            Ok(seen) => totals.add(&seen),
            Err(_) => panic!("seed {seed}: see above; SPILLWAY_SEEDS={seed}..{}", seed + 1),
        }
    }
    // What never happens is not tested.
    totals.assert_everything_happened();
}
