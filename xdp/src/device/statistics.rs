//! What a lane counts, and the proof that no frame is lost.

/// A lane's counters, and where its frames are.
///
/// The gauges can be negative for one lane, since frames wander: their sum over all lanes cannot,
/// while the lanes rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneStatistics {
    /// Frames taken from receive rings.
    pub received: u64,
    /// Frames put on transmit rings.
    pub transmitted: u64,
    /// Frames dropped because the transmit ring was full.
    pub tx_ring_full: u64,
    /// Frames dropped because device or length made no sense: a fault of the caller.
    pub transmit_refused: u64,
    /// Times the kernel refused to transmit, for instance because the device is down.
    pub transmit_failed: u64,
    /// Frames copied into the UMEM of the device they leave on.
    pub copied: u64,
    /// Frames dropped because there was none to copy into, or the copy did not fit.
    pub copy_failed: u64,
    /// Times that no frame was free for a packet of the caller's own.
    pub allocate_failed: u64,
    /// Gauge: free frames in this worker's caches.
    pub cached: i64,
    /// Gauge: frames handed out by this lane, less those given to it.
    pub held: i64,
    /// Gauge: frames this lane put on fill rings, less those it received.
    pub receiving: i64,
    /// Gauge: frames this lane put on transmit rings, less those it took back.
    pub transmitting: i64,
    /// Of all lanes: the frames there are.
    pub frames: u64,
    /// Of all lanes: free frames in no worker's cache.
    pub depot: u64,
    /// Of all lanes: frames that were dropped instead of recycled, and found again.
    pub strayed: u64,
}

/// Where all frames are, summed over the lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accounting {
    /// The frames there are.
    pub frames: i64,
    /// Free, in workers' caches.
    pub cached: i64,
    /// Free, in the depot.
    pub depot: i64,
    /// With the kernel to receive, or received and not yet taken.
    pub receiving: i64,
    /// With the kernel to transmit.
    pub transmitting: i64,
    /// In somebody's hands.
    pub held: i64,
}

impl Accounting {
    /// Sums the statistics of every lane. Exact when they were all taken while the lanes rested.
    #[must_use]
    pub fn of(lanes: &[LaneStatistics]) -> Self {
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let sum = |gauge: fn(&LaneStatistics) -> i64| lanes.iter().map(gauge).sum::<i64>();
        // What all lanes share is the same in each.
        let shared = lanes.first().copied().unwrap_or_default();
        Self {
            frames: signed(shared.frames),
            cached: sum(|lane| lane.cached),
            depot: signed(shared.depot),
            receiving: sum(|lane| lane.receiving),
            transmitting: sum(|lane| lane.transmitting),
            held: sum(|lane| lane.held) - signed(shared.strayed),
        }
    }

    /// Frames that are nowhere; negative if some are in two places. Zero, or there is a fault.
    #[must_use]
    pub fn missing(&self) -> i64 {
        self.frames - self.cached - self.depot - self.receiving - self.transmitting - self.held
    }
}
