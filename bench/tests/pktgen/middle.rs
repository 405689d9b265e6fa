//! A host between generator and sink that loses, swaps, repeats and harms packets, and knows which.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use spillway_testing::{Namespace, Redirect};
use spillway_xdp::Frame;
use spillway_xdp::device::{DeviceConfig, DevicesConfig, Lane, ReceivedBurst, open, probe};

/// What it forwards; all else is the kernel's.
const ETHER_TYPE_IPV4: u16 = 0x0800;

/// What was done to packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Harm {
    pub(crate) forwarded: u64,
    pub(crate) dropped: u64,
    pub(crate) swapped: u64,
    pub(crate) repeated: u64,
    pub(crate) broken: u64,
}

/// Forwards from eth0 to eth1 of a namespace.
pub(crate) struct Middle {
    lane: Lane,
    _link: OwnedFd,
    harm: Harm,
    seen: u64,
    /// A packet that another one shall overtake.
    held: Option<Frame>,
}

impl Middle {
    pub(crate) fn new(namespace: &Namespace) -> Self {
        let redirect = Redirect::new(ETHER_TYPE_IPV4, 1);
        let (lane, link) = namespace.enter(|| {
            let devices = vec![DeviceConfig::new("eth0"), DeviceConfig::new("eth1")];
            let infos: Vec<_> = devices.iter().map(|d| probe(&d.name).unwrap()).collect();
            let config = DevicesConfig { workers: 1, frame_size: 2048, umem_frames: 0, devices };
            let (mut lanes, sockets) = open(&config, &infos).unwrap();
            let received = sockets.iter().filter(|socket| socket.device == 0);
            let received = received.map(|socket| (socket.queue, 0, socket.fd.as_fd()));
            let link = redirect.attach(infos[0].ifindex, received);
            (lanes.remove(0), link)
        });
        Self { lane, _link: link, harm: Harm::default(), seen: 0, held: None }
    }

    /// Forwards until it is told to stop; says what it did.
    pub(crate) fn run(mut self, stop: &AtomicBool) -> Harm {
        let mut burst = ReceivedBurst::new();
        while !stop.load(Ordering::Relaxed) {
            if self.lane.receive(&mut burst) == 0 {
                std::thread::yield_now();
            }
            for frame in burst.drain(..) {
                self.pass(frame);
            }
            self.lane.flush();
        }
        if let Some(held) = self.held.take() {
            self.lane.recycle(held);
        }
        self.harm
    }

    /// What becomes of a packet depends on its number alone.
    fn pass(&mut self, mut frame: Frame) {
        let number = self.seen;
        self.seen += 1;
        match number % 1000 {
            50 | 150 | 250 => {
                self.harm.dropped += 1;
                return self.lane.recycle(frame);
            }
            400 => {
                self.held = Some(frame);
                return;
            }
            600 => {
                let mut copy = self.lane.allocate().unwrap();
                let length = frame.bytes().len();
                copy.bytes_mut()[..length].copy_from_slice(frame.bytes());
                self.lane.transmit(1, copy, length.try_into().unwrap());
                self.harm.repeated += 1;
            }
            800 => {
                *frame.bytes_mut().last_mut().unwrap() ^= 1;
                self.harm.broken += 1;
            }
            _ => {}
        }
        self.send(frame);
        if let Some(held) = self.held.take() {
            self.harm.swapped += 1;
            self.send(held);
        }
    }

    fn send(&mut self, frame: Frame) {
        let length = frame.bytes().len().try_into().unwrap();
        self.lane.transmit(1, frame, length);
        self.harm.forwarded += 1;
    }
}
