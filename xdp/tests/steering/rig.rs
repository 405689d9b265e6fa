//! A loaded steering program with real sockets, run on single frames by `BPF_PROG_TEST_RUN`.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::atomic::{AtomicU32, Ordering};

use libbpf_rs::libbpf_sys;
use spillway_testing::{Namespace, require_root, veth_pair};
use spillway_xdp::device::{self, DeviceConfig, DevicesConfig, SocketFd};
use spillway_xdp::steering::{
    self, EgressPorts, SteerFamily, SteerOutcome, SteerPeer, SteerTables, SteeredDevice, Steering,
    SteeringConfig, Unclassified, XdpMode,
};

pub(crate) const TUNNEL: Ipv4Addr = Ipv4Addr::new(192, 168, 44, 128);
pub(crate) const PEER: Ipv4Addr = Ipv4Addr::new(192, 168, 211, 128);
pub(crate) const OTHER_TUNNEL: Ipv4Addr = Ipv4Addr::new(169, 254, 44, 2);
pub(crate) const POD: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 40);
pub(crate) const REMOTE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub(crate) const EXCLUDED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);
pub(crate) const OWN: Ipv4Addr = Ipv4Addr::new(192, 168, 44, 129);
pub(crate) const ANNOUNCED: Ipv4Addr = Ipv4Addr::new(192, 168, 44, 130);
/// Announced, but on another device.
pub(crate) const ANNOUNCED_ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 168, 44, 131);
pub(crate) const POD_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x10, 1, 0, 0, 0, 0x28);
pub(crate) const REMOTE_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x203, 0, 0, 0, 0, 0x10);
pub(crate) const EXCLUDED_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x203, 0, 0, 0, 0, 0x20);
pub(crate) const OWN_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x44, 0, 0, 0, 0, 0x129);
pub(crate) const SHARED_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x44, 0, 0, 0, 0, 0x128);
pub(crate) const ANNOUNCED_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x44, 0, 0, 0, 0xab, 0xcd01);
/// Announced, but on another device.
pub(crate) const ANNOUNCED_ELSEWHERE_6: Ipv6Addr =
    Ipv6Addr::new(0x2001, 0xdb8, 0x44, 0, 0, 0, 0xab, 0xcd02);
/// A tunnel address that is a shared egress address too, as [`TUNNEL`] is.
pub(crate) const TUNNEL_6: Ipv6Addr = SHARED_6;
pub(crate) const OTHER_TUNNEL_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x44, 0, 0, 0, 0, 0, 2);
pub(crate) const PEER_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x211, 0, 0, 0, 0, 0x128);
/// What stands for [`PEER_6`] in the steer header.
pub(crate) const PEER_KEY: Ipv4Addr = Ipv4Addr::new(0, 0x12, 0x34, 0x56);
pub(crate) const WORKERS: u8 = 2;

/// What a test run's frames come from, in every network namespace.
const LOOPBACK: u32 = 1;

/// The values of `enum xdp_action` that steering returns.
pub(crate) const XDP_DROP: u32 = 1;
pub(crate) const XDP_PASS: u32 = 2;
pub(crate) const XDP_REDIRECT: u32 = 4;

pub(crate) fn tables() -> SteerTables {
    let own = EgressPorts { first: 1024, last: 65535, own: true, announce: None };
    let shared = EgressPorts { first: 16_384, last: 29_999, own: false, announce: None };
    let announced = |ifindex| EgressPorts { announce: Some(ifindex), ..own };
    SteerTables {
        tunnels: [TUNNEL.into(), OTHER_TUNNEL.into()].into(),
        peers: [(PEER.into(), SteerPeer { tunnel: TUNNEL.into(), key: PEER })].into(),
        v4: SteerFamily {
            pods: [(POD, 0)].into(),
            sets: vec![vec![("203.0.113.0/24".parse().unwrap(), true), (EXCLUDED.into(), false)]],
            egress: [
                (OWN, own),
                (TUNNEL, shared),
                (ANNOUNCED, announced(LOOPBACK)),
                (ANNOUNCED_ELSEWHERE, announced(LOOPBACK + 1)),
            ]
            .into(),
        },
        v6: SteerFamily {
            pods: [(POD_6, 0)].into(),
            sets: vec![vec![
                ("2001:db8:203::/48".parse().unwrap(), true),
                (EXCLUDED_6.into(), false),
            ]],
            egress: [
                (OWN_6, own),
                (SHARED_6, shared),
                (ANNOUNCED_6, announced(LOOPBACK)),
                (ANNOUNCED_ELSEWHERE_6, announced(LOOPBACK + 1)),
            ]
            .into(),
        },
    }
}

/// The same policies with tunnels over IPv6.
pub(crate) fn tables_over_ipv6() -> SteerTables {
    SteerTables {
        tunnels: [TUNNEL_6.into(), OTHER_TUNNEL_6.into()].into(),
        peers: [(PEER_6.into(), SteerPeer { tunnel: TUNNEL_6.into(), key: PEER_KEY })].into(),
        ..tables()
    }
}

/// The program, and what keeps its sockets alive.
pub(crate) struct Rig {
    pub(crate) steering: Steering,
    pub(crate) place: Place,
    _lanes: Vec<device::Lane>,
}

/// Where a program can be attached, and the sockets there.
pub(crate) struct Place {
    pub(crate) device: SteeredDevice,
    pub(crate) sockets: Vec<SocketFd>,
    pub(crate) namespace: Namespace,
    _peer: Namespace,
}

/// What became of one frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) action: u32,
    pub(crate) outcome: SteerOutcome,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn config(unclassified: Unclassified, pins: &str) -> SteeringConfig {
    SteeringConfig {
        tunnel_port: 8472,
        workers: WORKERS,
        owners: std::array::from_fn(|class| (class % usize::from(WORKERS)) as u8),
        port_mask: u16::MAX,
        unclassified,
        pin_directory: pins.into(),
    }
}

impl Rig {
    /// A program whose map has the sockets of these workers only.
    pub(crate) fn new(unclassified: Unclassified, workers: &[u8]) -> Self {
        Self::configured(&config(unclassified, "/nonexistent"), workers)
    }

    /// The same with another configuration.
    pub(crate) fn configured(config: &SteeringConfig, workers: &[u8]) -> Self {
        require_root();
        static RIGS: AtomicU32 = AtomicU32::new(0);
        let rig = RIGS.fetch_add(1, Ordering::Relaxed);
        let namespace = Namespace::new(&format!("steer{rig}"));
        let peer = Namespace::new(&format!("peer{rig}"));
        veth_pair(&namespace, "eth0", &peer, "eth0", 1);
        let (steering, device, sockets, lanes) = namespace.enter(|| {
            let info = device::probe("eth0").unwrap();
            let devices = DevicesConfig {
                workers: WORKERS,
                frame_size: 2048,
                umem_frames: 0,
                devices: vec![DeviceConfig::new("eth0")],
            };
            let (lanes, sockets) = device::open(&devices, std::slice::from_ref(&info)).unwrap();
            let device = SteeredDevice {
                name: info.name,
                ifindex: info.ifindex,
                queues: info.queues,
                mode: XdpMode::Native,
            };
            let mut steering = Steering::load(config, std::slice::from_ref(&device)).unwrap();
            for socket in sockets.iter().filter(|socket| workers.contains(&socket.worker)) {
                let fd = socket.fd.as_fd();
                steering.register_socket(0, socket.queue, socket.worker, fd).unwrap();
            }
            steering.apply(&tables()).unwrap();
            (steering, device, sockets, lanes)
        });
        let place = Place { device, sockets, namespace, _peer: peer };
        Self { steering, place, _lanes: lanes }
    }

    /// Runs the program on a frame. Exactly one outcome must be counted, with the frame's bytes.
    pub(crate) fn run(&self, frame: &[u8]) -> Run {
        let before = self.steering.outcomes().unwrap()[0];
        let (action, bytes) = test_run(&self.steering, frame);
        let after = self.steering.outcomes().unwrap()[0];
        let mut counted = SteerOutcome::ALL.iter().zip(before.iter().zip(&after)).filter_map(
            |(outcome, (before, after))| {
                let packets = after.packets - before.packets;
                (packets > 0).then_some((*outcome, packets, after.bytes - before.bytes))
            },
        );
        let (outcome, packets, counted_bytes) = counted.next().expect("an outcome is counted");
        assert_eq!((packets, counted_bytes), (1, frame.len() as u64), "{outcome:?}");
        assert_eq!(counted.next(), None, "two outcomes of one frame");
        Run { action, outcome, bytes }
    }
}

/// How many instructions the kernel looked at to verify a program.
#[allow(unsafe_code, reason = "libbpf-rs does not know this figure")]
pub(crate) fn verified_instructions(steering: &Steering) -> u32 {
    // SAFETY: all zeros is a valid value of this plain structure.
    let mut info: libbpf_sys::bpf_prog_info = unsafe { std::mem::zeroed() };
    let mut size = u32::try_from(size_of_val(&info)).unwrap();
    let program = steering.program(0).expect("one device").as_raw_fd();
    // SAFETY: `info` outlives the call and `size` says its length.
    let result = unsafe {
        libbpf_sys::bpf_obj_get_info_by_fd(program, (&raw mut info).cast(), &raw mut size)
    };
    assert_eq!(result, 0, "the kernel tells about its programs");
    info.verified_insns
}

fn test_run(steering: &Steering, frame: &[u8]) -> (u32, Vec<u8>) {
    let program = steering.program(0).expect("one device");
    steering::test_run(program, frame).expect("the kernel runs the program")
}
