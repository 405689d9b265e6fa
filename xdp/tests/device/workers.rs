//! Several workers: each gets its own frames from every queue, and nobody needs another to be
//! awake.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use spillway_xdp::device::{FILL_RING, Frame, Lane, ReceivedBurst, receive_ring};

use crate::rig::{Content, LIMIT, Side, WINDOW, config, namespaces, receive, send};

/// Runs a lane as a worker does, sleeping when idle, until it has received `count` frames; returns
/// how many there were of each tag.
fn work(lane: &mut Lane, count: u64, arrived: &AtomicU64) -> [u64; 2] {
    let deadline = Instant::now() + LIMIT;
    let mut tags = [0; 2];
    let mut burst = ReceivedBurst::new();
    while tags.iter().sum::<u64>() < count {
        assert!(Instant::now() < deadline, "worker {} got {tags:?} of {count}", lane.worker());
        let received = lane.receive(&mut burst);
        for frame in burst.drain(..) {
            let content = Content::read(frame.bytes());
            assert_eq!(content.owner, lane.worker());
            tags[usize::from(content.tag)] += 1;
            lane.recycle(frame);
        }
        lane.flush();
        arrived.fetch_add(received as u64, Ordering::Release);
        if received == 0 {
            sleep(lane);
        }
    }
    tags
}

fn sleep(lane: &Lane) {
    let mut fds: Vec<_> =
        lane.wait_fds().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    let nanoseconds = if lane.transmit_pending() { 1_000_000 } else { 100_000_000 };
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: nanoseconds })).unwrap();
}

#[test]
fn two_workers_on_two_queues_get_their_own_frames_from_both() {
    let (near_namespace, far_namespace) = namespaces("matrix", 1, 2);
    let mut near = Side::open(&near_namespace, &config(1, 2));
    let mut far = Side::open(&far_namespace, &config(1, 2));
    assert_eq!(far.sockets.len(), 4);
    let per_pair = 50_000;
    let arrived = AtomicU64::new(0);
    let tags: Vec<[u64; 2]> = thread::scope(|scope| {
        let running: Vec<_> = far
            .lanes
            .iter_mut()
            .map(|lane| scope.spawn(|| work(lane, 2 * per_pair, &arrived)))
            .collect();
        let deadline = Instant::now() + LIMIT;
        let mut sent = 0;
        while sent < 4 * per_pair && Instant::now() < deadline {
            // The tag is the queue it leaves on, and so the one it arrives on.
            if sent + 4 > arrived.load(Ordering::Acquire) + WINDOW {
                thread::yield_now();
                continue;
            }
            for tag in 0..2_u8 {
                let lane = &mut near.lanes[usize::from(tag)];
                for owner in 0..2 {
                    send(lane, 0, Content { owner, tag, sequence: sent, length: 200 });
                    sent += 1;
                }
                lane.flush();
            }
        }
        running.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    assert_eq!(tags, [[per_pair; 2]; 2]);
    near.assert_all_accounted_for();
    far.assert_all_accounted_for();
    far.assert_no_loss();
}

#[test]
fn a_sleeping_worker_starves_nobody_who_shares_its_queue() {
    let (near_namespace, far_namespace) = namespaces("sleeping", 1, 1);
    let mut near = Side::open(&near_namespace, &config(1, 2));
    let mut far = Side::open(&far_namespace, &config(1, 2));
    // Lane 0 of both sides does nothing at all; ten times what one fill ring holds passes.
    let rounds = 10 * u64::from(FILL_RING) / WINDOW;
    for round in 0..rounds {
        for sequence in round * WINDOW..(round + 1) * WINDOW {
            send(&mut near.lanes[1], 0, Content { owner: 1, tag: 0, sequence, length: 60 });
        }
        near.lanes[1].flush();
        receive(&mut far.lanes[1], WINDOW, |lane, frame| {
            let length = frame.bytes().len().try_into().unwrap();
            lane.transmit(0, frame, length);
        });
        receive(&mut near.lanes[1], WINDOW, Lane::recycle);
    }
    for side in [&mut near, &mut far] {
        assert_eq!(side.lanes[0].statistics().received, 0);
        side.assert_all_accounted_for();
        side.assert_no_loss();
    }
}

#[test]
fn frames_freed_by_another_worker_return_through_the_depot() {
    let (near_namespace, far_namespace) = namespaces("handoff", 1, 1);
    let mut near = Side::open(&near_namespace, &config(1, 1));
    let mut far = Side::open(&far_namespace, &config(1, 2));
    let frames = far.lanes[0].statistics().frames;
    let mut sequence = 0;
    while sequence < 3 * frames {
        for _ in 0..WINDOW {
            send(&mut near.lanes[0], 0, Content { owner: 0, tag: 0, sequence, length: 60 });
            sequence += 1;
        }
        near.lanes[0].flush();
        // Worker 0 receives all and frees none; worker 1 frees all and receives none.
        let mut handed_over: Vec<Frame> = Vec::new();
        receive(&mut far.lanes[0], WINDOW, |_, frame| handed_over.push(frame));
        handed_over.into_iter().for_each(|frame| far.lanes[1].recycle(frame));
    }
    near.assert_all_accounted_for();
    far.assert_all_accounted_for();
    far.assert_no_loss();
    assert_eq!(far.lanes[0].statistics().strayed, 0);
}

#[test]
fn slow_workers_lose_what_their_rings_cannot_hold_and_starve_nobody() {
    const WORKERS: u8 = 4;
    let (near_namespace, far_namespace) = namespaces("slow", 1, 1);
    let mut near = Side::open(&near_namespace, &config(1, 1));
    let mut far = Side::open(&far_namespace, &config(1, WORKERS));
    let ring = u64::from(receive_ring(WORKERS));
    let awake = usize::from(WORKERS) - 1;
    // All but the last sleep, while more comes for each than its ring holds.
    for sequence in 0..ring + 500 {
        for owner in 0..WORKERS {
            send(&mut near.lanes[0], 0, Content { owner, tag: 0, sequence, length: 60 });
        }
        near.lanes[0].flush();
        receive(&mut far.lanes[awake], 1, Lane::recycle);
    }
    for socket in &far.sockets {
        let statistics = socket.statistics().unwrap();
        let lost = if usize::from(socket.worker) == awake { 0 } else { 500 };
        assert_eq!((statistics.rx_ring_full, statistics.fill_ring_empty), (lost, 0));
    }
    let mut burst = ReceivedBurst::new();
    for lane in &mut far.lanes[..awake] {
        let mut taken = 0;
        while lane.receive(&mut burst) > 0 {
            for frame in burst.drain(..) {
                assert_eq!(Content::read(frame.bytes()).sequence, taken);
                taken += 1;
                lane.recycle(frame);
            }
        }
        assert_eq!(taken, ring);
    }
    far.assert_all_accounted_for();
    near.assert_all_accounted_for();
}
