//! One worker's side of all devices.

use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;
use xsk_rs::FrameDesc;

use super::cache::Cache;
use super::frame::Frame;
use super::receiver::Receiver;
use super::statistics::LaneStatistics;
use super::transmitter::Transmitter;
use super::{BURST_MAX, ETHERNET_HEADER};

/// Room for what one [`Lane::receive`] takes.
pub type ReceivedBurst = ArrayVec<Frame, BURST_MAX>;

/// A worker's receive sockets, transmit rings and free frames. It can move to the worker's thread
/// and is used by that thread only.
///
/// The worker's loop is: [`receive`](Self::receive), then for every frame
/// [`transmit`](Self::transmit), [`recycle`](Self::recycle) or keep it, then
/// [`flush`](Self::flush); when nothing came, poll [`wait_fds`](Self::wait_fds). After the flush
/// that follows an empty receive it may sleep as long as it likes, unless
/// [`transmit_pending`](Self::transmit_pending) says otherwise.
pub struct Lane {
    worker: u8,
    caches: Vec<Cache>,
    receivers: Vec<Receiver>,
    transmitters: Vec<Transmitter>,
    /// The receiver whose turn is next.
    turn: usize,
    /// Whether the last receive found nothing.
    idle: bool,
    counters: LaneStatistics,
}

impl Lane {
    /// Puts a lane together; `filled` frames are on fill rings in its name.
    pub(super) fn new(
        worker: u8,
        caches: Vec<Cache>,
        receivers: Vec<Receiver>,
        transmitters: Vec<Transmitter>,
        filled: u64,
    ) -> Self {
        let receiving = i64::try_from(filled).unwrap_or(i64::MAX);
        let counters = LaneStatistics { receiving, ..LaneStatistics::default() };
        Self { worker, caches, receivers, transmitters, turn: 0, idle: false, counters }
    }

    /// Whose lane it is.
    #[must_use]
    pub fn worker(&self) -> u8 {
        self.worker
    }

    /// Takes received frames, as many as `burst` has room for and [`BURST_MAX`] from each socket,
    /// and returns how many. Sockets come first in turn, so that none starves.
    pub fn receive<const ROOM: usize>(&mut self, burst: &mut ArrayVec<Frame, ROOM>) -> usize {
        let mut descriptors = [FrameDesc::default(); BURST_MAX];
        let before = burst.len();
        let sockets = self.receivers.len();
        for offset in 0..sockets {
            let room = burst.remaining_capacity().min(BURST_MAX);
            if room == 0 {
                break;
            }
            let receiver = &mut self.receivers[(self.turn + offset) % sockets];
            let received = receiver.receive(&mut descriptors[..room]);
            let cache = &mut self.caches[receiver.cache];
            burst.extend(descriptors[..received].iter().map(|&desc| cache.hand_out(desc)));
        }
        self.turn = (self.turn + 1) % sockets.max(1);
        let received = burst.len() - before;
        self.idle = received == 0;
        self.count_received(received);
        received
    }

    fn count_received(&mut self, received: usize) {
        self.counters.received += received as u64;
        self.counters.receiving -= i64::try_from(received).unwrap_or_default();
    }

    /// Queues the first `length` bytes of a frame for transmission on a device. Never blocks: if
    /// the ring is full the frame is dropped and counted. The kernel sees it at the next flush.
    pub fn transmit(&mut self, device: u16, frame: Frame, length: u16) {
        let length = usize::from(length);
        let Some(transmitter) = self.transmitters.get(usize::from(device)) else {
            return self.refuse(frame);
        };
        let cache = transmitter.cache;
        let mut frame = frame;
        if length < ETHERNET_HEADER as usize || length > frame.capacity() {
            return self.refuse(frame);
        }
        frame.set_length(length);
        if !frame.is_of(self.caches[cache].pool_pointer()) {
            let Some(copy) = self.copy_into(cache, frame) else { return };
            frame = copy;
        }
        self.enqueue(usize::from(device), frame);
    }

    /// Drops a frame that cannot be transmitted as asked.
    fn refuse(&mut self, frame: Frame) {
        self.counters.transmit_refused += 1;
        self.recycle(frame);
    }

    /// Copies a frame into another UMEM, since its device cannot reach this one.
    fn copy_into(&mut self, cache: usize, frame: Frame) -> Option<Frame> {
        let mut copy = self.caches[cache].allocate();
        match copy.as_mut().and_then(|copy| copy.bytes_mut().get_mut(..frame.bytes().len())) {
            Some(room) => room.copy_from_slice(frame.bytes()),
            None => {
                self.counters.copy_failed += 1;
                if let Some(copy) = copy {
                    self.recycle(copy);
                }
                self.recycle(frame);
                return None;
            }
        }
        self.counters.copied += 1;
        if let Some(copy) = copy.as_mut() {
            copy.set_length(frame.bytes().len());
        }
        self.recycle(frame);
        copy
    }

    /// Puts a frame of the device's UMEM on its transmit ring.
    fn enqueue(&mut self, device: usize, frame: Frame) {
        let transmitter = &mut self.transmitters[device];
        let cache = &mut self.caches[transmitter.cache];
        let descriptor = cache.take_back(frame);
        if transmitter.enqueue(descriptor) {
            self.counters.transmitted += 1;
            self.counters.transmitting += 1;
        } else {
            self.counters.tx_ring_full += 1;
            cache.put(&[descriptor]);
        }
    }

    /// Takes back a frame that is not needed any more, whichever worker received it.
    pub fn recycle(&mut self, frame: Frame) {
        match self.caches.iter_mut().find(|cache| frame.is_of(cache.pool_pointer())) {
            Some(cache) => cache.recycle(frame),
            // Of devices that were opened apart from these: it finds its own way back.
            None => drop(frame),
        }
    }

    /// A free frame for a packet of our own, as long as its chunk allows. `None` when all are in
    /// use.
    #[must_use]
    pub fn allocate(&mut self) -> Option<Frame> {
        let frame = self.caches.iter_mut().find_map(Cache::allocate);
        self.counters.allocate_failed += u64::from(frame.is_none());
        frame
    }

    /// Once per loop: makes the kernel transmit, takes back what it has sent, and gives fill rings
    /// what this worker owes them.
    pub fn flush(&mut self) {
        for transmitter in &mut self.transmitters {
            let flushed = transmitter.flush(&mut self.caches[transmitter.cache]);
            self.counters.transmitting -= i64::try_from(flushed.completed).unwrap_or_default();
            self.counters.transmit_failed += u64::from(flushed.failed);
        }
        for receiver in &mut self.receivers {
            // Whole batches under load; everything before sleep.
            if receiver.owed() >= BURST_MAX || (self.idle && receiver.owed() > 0) {
                let repaid = receiver.repay(&mut self.caches[receiver.cache]);
                self.counters.receiving += i64::try_from(repaid).unwrap_or_default();
            }
        }
    }

    /// Whether frames are with the kernel for transmission, or owed to a fill ring: then nothing
    /// wakes the worker when they come back, and it should not sleep longer than a millisecond.
    #[must_use]
    pub fn transmit_pending(&self) -> bool {
        self.transmitters.iter().any(Transmitter::is_pending)
            || self.receivers.iter().any(|receiver| receiver.owed() > 0)
    }

    /// What becomes readable when frames arrive for this worker.
    pub fn wait_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.receivers.iter().map(Receiver::fd)
    }

    /// The counters, and where this lane's frames are.
    #[must_use]
    pub fn statistics(&self) -> LaneStatistics {
        let mut statistics = self.counters;
        for cache in &self.caches {
            let pool = cache.pool();
            statistics.cached += cache.free();
            statistics.held += cache.held();
            statistics.frames += u64::from(pool.frames);
            statistics.depot += pool.free();
            statistics.strayed += pool.strayed();
        }
        statistics
    }
}
