//! Any frames whatever, through `Engine::process`: `cargo +nightly fuzz run process`.
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|input: &[u8]| common::fuzz::run(input));
