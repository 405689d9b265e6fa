//! What workers hand each other: frames of flows that live with another one, and news of such flows.
//!
//! Each worker has one bounded queue, which all others put into without a lock. Whoever put something
//! there wakes the worker after its own burst, once. When a queue is full the frame is the sender's
//! again, who drops it by name; news are lost then, and found out by the time.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use spillway_engine::{Notice, Ticket};

/// How much waits for one worker at most: some bursts of each of the others.
pub(crate) const INBOX_MAX: usize = 1024;

/// What one worker hands another.
#[derive(Debug)]
pub(crate) enum Handed<F> {
    /// A frame to go on with.
    Frame {
        /// Untouched, as steering gave it to the first worker.
        frame: F,
        /// What is known of it.
        ticket: Ticket,
    },
    /// News of a flow.
    Notice(Notice),
}

/// Where others put what is for one worker.
pub(crate) struct Inbox<F> {
    queue: ArrayQueue<Handed<F>>,
    /// Makes the worker's sleep end.
    wake: OwnedFd,
}

impl<F> Inbox<F> {
    pub(crate) fn new(wake: OwnedFd) -> Self {
        Self { queue: ArrayQueue::new(INBOX_MAX), wake }
    }
}

/// One worker's access to all inboxes: to take from its own, and to put into the others'.
pub(crate) struct Exchange<F> {
    inboxes: Arc<[Inbox<F>]>,
    worker: u8,
    /// Who has to be woken, a bit for each.
    to_wake: u64,
}

impl<F> Exchange<F> {
    pub(crate) fn new(inboxes: Arc<[Inbox<F>]>, worker: u8) -> Self {
        Self { inboxes, worker, to_wake: 0 }
    }

    /// The next thing that is for this worker.
    pub(crate) fn take(&mut self) -> Option<Handed<F>> {
        self.inboxes.get(usize::from(self.worker))?.queue.pop()
    }

    /// Puts something into another worker's inbox; gives it back when there is no room.
    pub(crate) fn hand(&mut self, worker: u8, handed: Handed<F>) -> Result<(), Handed<F>> {
        let Some(inbox) = self.inboxes.get(usize::from(worker)) else { return Err(handed) };
        inbox.queue.push(handed)?;
        self.to_wake |= 1_u64.checked_shl(worker.into()).unwrap_or_default();
        Ok(())
    }

    /// Wakes those that something was put in for since the last call.
    pub(crate) fn wake_others(&mut self) {
        while self.to_wake != 0 {
            let worker = self.to_wake.trailing_zeros() as usize;
            self.to_wake &= self.to_wake - 1;
            if let Some(inbox) = self.inboxes.get(worker) {
                // It fails only when the worker has been woken 2^64 times and never slept.
                let _ = rustix::io::write(&inbox.wake, &1_u64.to_ne_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::thread;

    use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

    use super::*;

    fn eventfd() -> OwnedFd {
        rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
    }

    fn exchanges(workers: u8) -> (Vec<Exchange<u64>>, Vec<OwnedFd>) {
        let fds: Vec<OwnedFd> = (0..workers).map(|_| eventfd()).collect();
        let inboxes = fds.iter().map(|fd| Inbox::new(fd.try_clone().unwrap())).collect();
        let inboxes: Arc<[Inbox<u64>]> = inboxes;
        let exchange = |worker| Exchange::new(Arc::clone(&inboxes), worker);
        ((0..workers).map(exchange).collect(), fds)
    }

    fn frame(frame: u64) -> Handed<u64> {
        Handed::Frame { frame, ticket: Ticket::default() }
    }

    /// Sleeps as a worker does; whether it was woken.
    fn sleep(wake: &OwnedFd) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(wake.as_fd(), PollFlags::IN)];
        let timeout = Timespec { tv_sec: 20, tv_nsec: 0 };
        let woken = rustix::event::poll(&mut fds, Some(&timeout)).unwrap() == 1;
        let mut count = [0; 8];
        let _ = rustix::io::read(wake, &mut count);
        woken
    }

    #[test]
    fn a_full_inbox_gives_the_frame_back() {
        let (mut exchanges, _fds) = exchanges(2);
        for number in 0..INBOX_MAX {
            exchanges[0].hand(1, frame(number as u64)).unwrap();
        }
        let back = exchanges[0].hand(1, frame(7777));
        assert!(matches!(back, Err(Handed::Frame { frame: 7777, .. })));
        assert!(exchanges[0].hand(5, frame(1)).is_err(), "there is no worker 5");
        assert!(matches!(exchanges[1].take(), Some(Handed::Frame { frame: 0, .. })));
        assert!(exchanges[0].take().is_none());
    }

    #[test]
    fn everything_arrives_in_order_and_no_sleeper_misses_it() {
        const EACH: u64 = 20_000;
        let (exchanges, fds) = exchanges(4);
        // Every worker sends to the next and to the one after it, and sleeps when nothing came.
        let threads =
            exchanges.into_iter().zip(fds).zip(0_u8..).map(|((mut exchange, wake), id)| {
                thread::spawn(move || {
                    let targets = [(id + 1) % 4, (id + 2) % 4];
                    let (mut sent, mut got, mut last) = ([0; 2], 0, [None; 4]);
                    while got < 2 * EACH || sent != [EACH; 2] {
                        let mut moved = 0;
                        for (target, sent) in targets.into_iter().zip(&mut sent) {
                            while *sent < EACH
                                && exchange.hand(target, frame(u64::from(id) << 32 | *sent)).is_ok()
                            {
                                *sent += 1;
                                moved += 1;
                            }
                        }
                        exchange.wake_others();
                        while let Some(Handed::Frame { frame, .. }) = exchange.take() {
                            let (from, number) = ((frame >> 32) as usize, frame & 0xffff_ffff);
                            assert!(last[from].is_none_or(|last| last < number), "out of order");
                            last[from] = Some(number);
                            got += 1;
                            moved += 1;
                        }
                        // Who has something to send goes on trying, as a worker with traffic does.
                        if moved == 0 && sent == [EACH; 2] {
                            assert!(sleep(&wake), "worker {id} slept on {got} of {}", 2 * EACH);
                        }
                    }
                })
            });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
