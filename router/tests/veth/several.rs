//! From one queue and one worker to eight of each: both directions of a flow meet at their owner,
//! whatever queue its packets come through, and no frame goes from worker to worker.

use crate::{FLOWS, Layout, ROUNDS, Rig, converse};

/// Queues of each device, and workers: as many, fewer, more; powers of two and not.
const SIZES: [(u32, u8); 10] =
    [(1, 1), (1, 2), (2, 1), (2, 2), (3, 2), (2, 3), (4, 4), (8, 1), (1, 8), (8, 8)];

/// Packets that the kernel gave to the steering program, by receive queue.
fn received_by_queue(rig: &Rig, device: &str) -> Vec<u64> {
    let statistics = rig.gateway.run(["ethtool", "-S", device]);
    let of_queue = |line: &str| {
        let (name, count) = line.trim().split_once(": ")?;
        let queue = name.strip_prefix("rx_queue_")?.strip_suffix("_xdp_packets")?;
        Some((queue.parse().unwrap(), count.parse().unwrap()))
    };
    let mut queues: Vec<(u32, u64)> = statistics.lines().filter_map(of_queue).collect();
    queues.sort_unstable();
    queues.into_iter().map(|(_, count)| count).collect()
}

#[test]
fn no_frame_is_handed_over_with_any_number_of_queues_and_workers() {
    for (queues, workers) in SIZES {
        println!("{queues} queues, {workers} workers");
        let name = format!("{queues}x{workers}");
        let rig = Rig::laid_out(&name, Layout { queues, workers, ..Layout::TWO_ARMED });
        converse(&rig);
        // Every queue had its share of both directions: else the above would prove little.
        let share = u64::from(FLOWS) * u64::from(ROUNDS) / u64::from(queues);
        for device in Layout::TWO_ARMED.devices() {
            let received = received_by_queue(&rig, device);
            assert_eq!(received.len(), queues as usize, "{device}");
            assert!(received.iter().all(|count| *count > share / 2), "{device}: {received:?}");
        }
    }
}
