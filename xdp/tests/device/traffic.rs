//! One worker: frames through sockets, rings and between UMEMs.

use spillway_testing::{Namespace, veth_pair};
use spillway_xdp::device::{Accounting, Lane, ReceivedBurst, TRANSMIT_RING};

use crate::rig::{Content, Side, WINDOW, config, namespaces, receive, send};

/// Frame lengths that a test goes through: from the shortest to a full MTU.
const LENGTHS: [usize; 5] = [60, 61, 590, 1024, 1514];

fn content(sequence: u64) -> Content {
    let length = LENGTHS[usize::try_from(sequence).unwrap() % LENGTHS.len()];
    Content { owner: 0, tag: 7, sequence, length }
}

/// Sends frames `first..first + count` from near and checks that they come back from far.
fn echo(near: &mut Lane, far: &mut Lane, first: u64, count: u64) {
    for sequence in first..first + count {
        send(near, 0, content(sequence));
    }
    near.flush();
    receive(far, count, |lane, frame| {
        let length = frame.bytes().len().try_into().unwrap();
        lane.transmit(0, frame, length);
    });
    let mut expected = first..first + count;
    receive(near, count, |lane, frame| {
        assert_eq!(Content::read(frame.bytes()), content(expected.next().unwrap()));
        lane.recycle(frame);
    });
}

#[test]
fn a_million_frames_come_back_unchanged_and_none_is_lost_or_leaked() {
    let (near_namespace, far_namespace) = namespaces("million", 1, 1);
    let mut near = Side::open(&near_namespace, &config(1, 1));
    let mut far = Side::open(&far_namespace, &config(1, 1));
    let total = 1_000_000;
    for first in (0..total).step_by(usize::try_from(WINDOW).unwrap()) {
        echo(&mut near.lanes[0], &mut far.lanes[0], first, WINDOW.min(total - first));
    }
    for side in [&mut near, &mut far] {
        side.assert_all_accounted_for();
        side.assert_no_loss();
        let statistics = side.lanes[0].statistics();
        assert_eq!((statistics.received, statistics.transmitted), (total, total));
        assert_eq!((statistics.tx_ring_full, statistics.strayed), (0, 0));
    }
}

#[test]
fn a_full_transmit_ring_drops_counts_and_recovers() {
    let (namespace, _far) = namespaces("full", 1, 1);
    let mut side = Side::open(&namespace, &config(1, 1));
    let lane = &mut side.lanes[0];
    for sequence in 0..u64::from(TRANSMIT_RING) + 100 {
        send(lane, 0, content(sequence));
    }
    let statistics = lane.statistics();
    assert_eq!(statistics.tx_ring_full, 100);
    assert_eq!(statistics.transmitted, u64::from(TRANSMIT_RING));
    assert!(lane.transmit_pending());
    side.assert_all_accounted_for();

    send(&mut side.lanes[0], 0, content(0));
    side.assert_all_accounted_for();
    assert_eq!(side.lanes[0].statistics().transmitted, u64::from(TRANSMIT_RING) + 1);
}

#[test]
fn a_frame_that_makes_no_sense_is_refused_counted_and_recycled() {
    let (namespace, _far) = namespaces("refused", 1, 1);
    let mut side = Side::open(&namespace, &config(1, 1));
    let lane = &mut side.lanes[0];
    for (device, length) in [(1, 60), (0, 13), (0, 0), (0, 1793)] {
        let frame = lane.allocate().unwrap();
        assert_eq!(frame.bytes().len(), 1792);
        lane.transmit(device, frame, length);
    }
    assert_eq!(lane.statistics().transmit_refused, 4);
    assert!(!lane.transmit_pending());
    side.assert_all_accounted_for();
}

#[test]
fn frames_wait_for_a_device_that_is_down_and_leave_when_it_is_up() {
    let (namespace, _far) = namespaces("down", 1, 1);
    let mut side = Side::open(&namespace, &config(1, 1));
    namespace.run(["ip", "link", "set", "eth0", "down"]);
    let lane = &mut side.lanes[0];
    for sequence in 0..10 {
        send(lane, 0, content(sequence));
    }
    lane.flush();
    assert!(lane.transmit_pending());
    assert_eq!(lane.statistics().transmit_failed, 1);
    namespace.run(["ip", "link", "set", "eth0", "up"]);
    side.assert_all_accounted_for();
}

#[test]
fn frames_between_two_umems_are_copied_and_accounted_for() {
    let (near_namespace, far_namespace) = namespaces("copy", 2, 1);
    let mut near = Side::open(&near_namespace, &config(2, 1));
    let mut apart = config(2, 1);
    apart.devices[1].umem_group = 1;
    let mut far = Side::open(&far_namespace, &apart);
    let total = 100 * WINDOW;
    let mut expected = 0..total;
    for first in (0..total).step_by(usize::try_from(WINDOW).unwrap()) {
        for sequence in first..first + WINDOW {
            send(&mut near.lanes[0], 0, content(sequence));
        }
        near.lanes[0].flush();
        receive(&mut far.lanes[0], WINDOW, |lane, frame| {
            let length = frame.bytes().len().try_into().unwrap();
            lane.transmit(1, frame, length);
        });
        receive(&mut near.lanes[0], WINDOW, |lane, frame| {
            assert_eq!(Content::read(frame.bytes()), content(expected.next().unwrap()));
            lane.recycle(frame);
        });
    }
    for side in [&mut near, &mut far] {
        side.assert_all_accounted_for();
        side.assert_no_loss();
    }
    let statistics = far.lanes[0].statistics();
    assert_eq!((statistics.copied, statistics.copy_failed, statistics.strayed), (total, 0, 0));
    assert_eq!(near.lanes[0].statistics().copied, 0);
}

#[test]
fn a_frame_that_finds_no_room_in_the_other_umem_is_dropped_and_counted() {
    let (namespace, _far) = namespaces("no-room", 2, 1);
    let mut apart = config(2, 1);
    apart.devices[1].umem_group = 1;
    let mut side = Side::open(&namespace, &apart);
    let lane = &mut side.lanes[0];
    // Frames of the first UMEM come first; with all allocated, none is left to copy into.
    let mut every: Vec<_> = std::iter::from_fn(|| lane.allocate()).collect();
    lane.transmit(1, every.swap_remove(0), 60);
    assert_eq!(lane.statistics().copy_failed, 1);
    every.into_iter().for_each(|frame| lane.recycle(frame));
    side.assert_all_accounted_for();
}

#[test]
fn frames_longer_than_a_small_chunk_pass_in_large_ones() {
    let (near_namespace, far_namespace) = namespaces("large", 1, 1);
    for namespace in [&near_namespace, &far_namespace] {
        namespace.run(["ip", "link", "set", "eth0", "mtu", "3400"]);
    }
    let mut large = config(1, 1);
    large.frame_size = 4096;
    let mut near = Side::open(&near_namespace, &large);
    let mut far = Side::open(&far_namespace, &large);
    let long = Content { length: 3414, ..content(1) };
    send(&mut near.lanes[0], 0, long);
    near.lanes[0].flush();
    receive(&mut far.lanes[0], 1, |lane, frame| {
        assert_eq!(Content::read(frame.bytes()), long);
        lane.recycle(frame);
    });
    far.assert_no_loss();
}

#[test]
fn a_dropped_frame_is_counted_and_found_again() {
    let (namespace, _far) = namespaces("dropped", 1, 1);
    let mut side = Side::open(&namespace, &config(1, 1));
    let lane = &mut side.lanes[0];
    let every: Vec<_> = std::iter::from_fn(|| lane.allocate()).collect();
    let count = every.len();
    drop(every);
    assert_eq!(lane.statistics().strayed, count as u64);
    let again: Vec<_> = std::iter::from_fn(|| lane.allocate()).collect();
    assert_eq!(again.len(), count);
    again.into_iter().for_each(|frame| lane.recycle(frame));
    side.assert_all_accounted_for();
}

#[test]
fn a_forgotten_frame_is_seen_to_be_held() {
    let (namespace, _far) = namespaces("forgotten", 1, 1);
    let mut side = Side::open(&namespace, &config(1, 1));
    std::mem::forget(side.lanes[0].allocate().unwrap());
    let accounting = Accounting::of(&side.statistics());
    assert_eq!((accounting.held, accounting.missing()), (1, 0));
}

#[test]
fn a_frame_outlives_its_lane() {
    let (namespace, _far) = namespaces("outlive", 1, 1);
    let mut side = Side::open(&namespace, &config(1, 1));
    let mut frame = side.lanes[0].allocate().unwrap();
    let length = content(3).write(frame.bytes_mut());
    drop(side);
    assert_eq!(Content::read(&frame.bytes()[..usize::from(length)]), content(3));
    std::thread::spawn(move || drop(frame)).join().unwrap();
}

#[test]
fn a_frame_of_other_devices_is_copied_and_finds_its_way_back() {
    let namespace = Namespace::new("foreign");
    veth_pair(&namespace, "eth0", &namespace, "eth1", 1);
    let mut first = Side::open(&namespace, &config(1, 1));
    let mut other = config(2, 1);
    other.devices.remove(0);
    let mut second = Side::open(&namespace, &other);
    let mut frame = first.lanes[0].allocate().unwrap();
    let length = content(1).write(frame.bytes_mut());
    second.lanes[0].transmit(0, frame, length);
    let unused = first.lanes[0].allocate().unwrap();
    second.lanes[0].recycle(unused);
    assert_eq!(second.lanes[0].statistics().copied, 1);
    second.lanes[0].flush();
    receive(&mut first.lanes[0], 1, |lane, frame| {
        assert_eq!(Content::read(frame.bytes()), content(1));
        lane.recycle(frame);
    });
    assert_eq!(first.lanes[0].statistics().strayed, 2);
    first.assert_all_accounted_for();
    second.assert_all_accounted_for();
}

#[test]
fn an_idle_lane_is_woken_by_a_frame() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let (near_namespace, far_namespace) = namespaces("wake", 1, 1);
    let mut near = Side::open(&near_namespace, &config(1, 1));
    let mut far = Side::open(&far_namespace, &config(1, 1));
    let lane = &mut far.lanes[0];
    assert_eq!(lane.receive(&mut ReceivedBurst::new()), 0);
    lane.flush();
    assert!(!lane.transmit_pending());
    let wait = |lane: &Lane, seconds| {
        let mut fds: Vec<_> =
            lane.wait_fds().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        poll(&mut fds, Some(&Timespec { tv_sec: seconds, tv_nsec: 0 })).unwrap()
    };
    assert_eq!(wait(lane, 0), 0);
    send(&mut near.lanes[0], 0, content(0));
    near.lanes[0].flush();
    assert_eq!(wait(lane, 10), 1);
    receive(lane, 1, Lane::recycle);
}
