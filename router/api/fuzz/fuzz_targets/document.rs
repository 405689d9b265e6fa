//! Any bytes whatever, through `Document::parse`: `cargo +nightly fuzz run document`.
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    common::check(input);
});
