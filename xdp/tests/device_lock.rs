//! A device's lock, and those who ask who has it. Alone in its binary: processes that other tests start
//! would have its locks for a moment.
#![allow(clippy::unwrap_used, reason = "a test panics when its rig fails")]

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use spillway_xdp::steering::DeviceLock;

#[test]
fn who_asks_who_drives_a_device_keeps_nobody_from_it() {
    let directory = std::env::temp_dir().join(format!("spwt-{}-ask", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !ended.load(Relaxed) {
                    DeviceLock::holder(&directory, 7).unwrap();
                }
            });
        }
        let taken: Result<Vec<()>, _> =
            (0..2_000).map(|_| DeviceLock::take(&directory, "eth0", 7).map(drop)).collect();
        ended.store(true, Relaxed);
        taken.unwrap();
    });
    fs::remove_dir_all(&directory).unwrap();
}
