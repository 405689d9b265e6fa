//! Two namespaces joined by veth pairs, with opened devices and a redirecting program on each side.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use spillway_testing::{Namespace, Redirect, veth_pair};
use spillway_xdp::device::{
    Accounting, DeviceConfig, DeviceError, DevicesConfig, Frame, Lane, LaneStatistics,
    ReceivedBurst, SocketFd, SocketStatistics, open, probe,
};

/// No step of a test takes longer than this.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Frames under way at a time: less than a veth's queue, so that none is lost there.
pub(crate) const WINDOW: u64 = 64;

/// The experimental EtherType, which the frames of these tests have.
const ETHER_TYPE: u16 = 0x88b5;

/// Workers that a frame can be for.
const WORKERS: u8 = 16;

/// Ethernet header with the experimental EtherType, owner, tag, sequence number.
const HEADER: usize = 14 + 1 + 1 + 8;

/// One side: its namespace, lanes, sockets, and what redirects to them.
pub(crate) struct Side {
    pub(crate) lanes: Vec<Lane>,
    pub(crate) sockets: Vec<SocketFd>,
    _links: Vec<OwnedFd>,
}

impl Side {
    /// Opens the devices of the configuration in the namespace and redirects to them.
    pub(crate) fn open(namespace: &Namespace, config: &DevicesConfig) -> Self {
        Self::try_open(namespace, config).unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn try_open(
        namespace: &Namespace,
        config: &DevicesConfig,
    ) -> Result<Self, DeviceError> {
        let opened = namespace.enter(|| {
            let infos: Vec<_> =
                config.devices.iter().map(|d| probe(&d.name)).collect::<Result<_, _>>()?;
            let (lanes, sockets) = open(config, &infos)?;
            let links = (0..).zip(&infos).map(|(device, info)| {
                let of_device = sockets.iter().filter(|s| s.device == device);
                let sockets = of_device.map(|s| (s.queue, s.worker, s.fd.as_fd()));
                redirect().attach(info.ifindex, sockets)
            });
            let links = links.collect();
            Ok((lanes, sockets, links))
        });
        opened.map(|(lanes, sockets, links)| Self { lanes, sockets, _links: links })
    }

    pub(crate) fn statistics(&self) -> Vec<LaneStatistics> {
        self.lanes.iter().map(Lane::statistics).collect()
    }

    /// Flushes until no frame is with the kernel for transmission, then checks that each is where
    /// it should be, and that nobody holds one.
    pub(crate) fn assert_all_accounted_for(&mut self) {
        let deadline = Instant::now() + LIMIT;
        let mut burst = ReceivedBurst::new();
        while self.lanes.iter().any(Lane::transmit_pending) {
            assert!(Instant::now() < deadline, "frames are not completed: {:?}", self.statistics());
            for lane in &mut self.lanes {
                lane.receive(&mut burst);
                assert!(burst.is_empty(), "a frame came that was not expected");
                lane.flush();
            }
        }
        let accounting = Accounting::of(&self.statistics());
        assert_eq!(accounting.missing(), 0, "{accounting:?}");
        assert_eq!((accounting.held, accounting.transmitting), (0, 0), "{accounting:?}");
    }

    /// Checks that the kernel dropped nothing and found no fault.
    pub(crate) fn assert_no_loss(&self) {
        for socket in &self.sockets {
            let statistics = socket.statistics().expect("statistics of an open socket");
            assert_eq!(statistics, SocketStatistics::default(), "{socket:?}");
        }
    }
}

/// The redirecting program, compiled once per test process.
fn redirect() -> &'static Redirect {
    static REDIRECT: OnceLock<Redirect> = OnceLock::new();
    REDIRECT.get_or_init(|| Redirect::new(ETHER_TYPE, WORKERS))
}

/// Two namespaces, near and far, joined by `pairs` veth pairs named eth0, eth1, … on both ends.
pub(crate) fn namespaces(name: &str, pairs: u32, queues: u32) -> (Namespace, Namespace) {
    let near = Namespace::new(&format!("{name}-near"));
    let far = Namespace::new(&format!("{name}-far"));
    for pair in 0..pairs {
        let device = format!("eth{pair}");
        veth_pair(&near, &device, &far, &device, queues);
    }
    (near, far)
}

/// Devices eth0, eth1, … with frames of 2048 bytes.
pub(crate) fn config(devices: u32, workers: u8) -> DevicesConfig {
    let devices = (0..devices).map(|index| DeviceConfig::new(format!("eth{index}"))).collect();
    DevicesConfig { workers, frame_size: 2048, umem_frames: 0, devices }
}

/// What a test frame says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    /// The worker it is for.
    pub(crate) owner: u8,
    /// Whatever the test likes.
    pub(crate) tag: u8,
    pub(crate) sequence: u64,
    /// Bytes in all, the header included.
    pub(crate) length: usize,
}

impl Content {
    /// Writes the frame; returns its length.
    pub(crate) fn write(self, bytes: &mut [u8]) -> u16 {
        bytes[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
        bytes[12..16].copy_from_slice(&[0x88, 0xb5, self.owner, self.tag]);
        bytes[16..HEADER].copy_from_slice(&self.sequence.to_be_bytes());
        for (offset, byte) in bytes[HEADER..self.length].iter_mut().enumerate() {
            *byte = pattern(self.sequence, offset);
        }
        self.length.try_into().unwrap()
    }

    /// Reads a frame and checks every byte of it.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        assert_eq!(bytes[12..14], [0x88, 0xb5]);
        let sequence = u64::from_be_bytes(bytes[16..HEADER].try_into().unwrap());
        let payload = bytes[HEADER..].iter().enumerate();
        let wrong = payload.filter(|&(offset, &byte)| byte != pattern(sequence, offset)).count();
        assert_eq!(wrong, 0, "bytes changed in frame {sequence}");
        Self { owner: bytes[14], tag: bytes[15], sequence, length: bytes.len() }
    }
}

#[allow(clippy::cast_possible_truncation)]
fn pattern(sequence: u64, offset: usize) -> u8 {
    (sequence as u8).wrapping_mul(31) ^ (offset as u8)
}

/// Sends one frame from a lane.
pub(crate) fn send(lane: &mut Lane, device: u16, content: Content) {
    let mut frame = lane.allocate().expect("a free frame");
    let length = content.write(frame.bytes_mut());
    lane.transmit(device, frame, length);
}

/// Receives with `lane` until `count` frames have come, giving each to `work`.
pub(crate) fn receive(lane: &mut Lane, count: u64, mut work: impl FnMut(&mut Lane, Frame)) {
    let deadline = Instant::now() + LIMIT;
    let mut burst = ReceivedBurst::new();
    let mut received = 0;
    while received < count {
        received += lane.receive(&mut burst) as u64;
        burst.drain(..).for_each(|frame| work(lane, frame));
        lane.flush();
        assert!(Instant::now() < deadline, "{received} of {count} frames came");
    }
    assert_eq!(received, count);
}
