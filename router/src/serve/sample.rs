//! What a router might answer.

use spillway_api::{
    API_VERSION, Device, Drops, EgressUsage, EngineDrop, EventCounts, Flow, Frames, MacAddress,
    PolicyUsage, Programmed, Programming, RemoteUsage, RingStatistics, Status, SteeringOutcome,
    Traffic, Tuple, Usage, Verdict, Worker,
};
use spillway_engine::DropReason;
use spillway_xdp::SteerOutcome;
use spillway_xdp::steering;

/// Of a router with one device and two workers that forwards.
pub(crate) fn status() -> Status {
    Status {
        version: "0.1.0".to_owned(),
        api_version: API_VERSION,
        pid: 4_711,
        uptime_s: 3_725,
        generation: Some(7),
        state_source: "socket".to_owned(),
        refused: None,
        draining_s: None,
        author_age_s: Some(1),
        programmed: Programmed {
            policies: 2,
            pods_ipv4: 30,
            pods_ipv6: 20,
            egress_addresses: 3,
            tunnels: 1,
            peers: 4,
        },
        programming: programming(),
        flows_max: 65_536,
        devices: vec![Device {
            name: "eth0".to_owned(),
            ifindex: 2,
            mac: MacAddress([2, 0, 0, 0, 0, 1]),
            mtu: 1_500,
            queues: 4,
            xdp_mode: Device::xdp_mode(Some("native")),
            zero_copy: false,
            rings: RingStatistics { rx_ring_full: 12, ..RingStatistics::default() },
        }],
        workers: vec![
            Worker {
                flows: 10,
                flows_ipv6: 3,
                received: 1_000,
                forward_packets: 600,
                forward_bytes: 60_000,
                reply_packets: 400,
                reply_bytes: 400_000,
                ..Worker::default()
            },
            Worker { id: 1, flows_created: 77, ..Worker::default() },
        ],
        frames: Frames { total: 16_384, free: 8_192, receiving: 8_190, transmitting: 2, held: 0 },
        events: EventCounts { noted: 154, kept: 150, lost: 6 },
        reports: vec!["rule 100: fwmark 0x1 is not supported and is ignored".to_owned()],
    }
}

/// Five documents, and one that was refused.
fn programming() -> Programming {
    let mut programming = Programming { refused: 1, ..Programming::default() };
    for took_us in [1_000, 2_000, 2_000, 2_243_500, 1_500] {
        programming.count_applied(took_us);
    }
    programming
}

/// Nothing was dropped yet but for want of ports.
pub(crate) fn drops() -> Drops {
    let steering = SteerOutcome::ALL.iter().map(|outcome| SteeringOutcome {
        device: "eth0".to_owned(),
        outcome: outcome.name().to_owned(),
        verdict: match outcome.verdict() {
            steering::Verdict::Pass => Verdict::Pass,
            steering::Verdict::Steer => Verdict::Steer,
            steering::Verdict::Drop => Verdict::Drop,
        },
        packets: 9,
        bytes: 900,
        description: outcome.description().to_owned(),
    });
    let engine = DropReason::ALL.iter().map(|reason| EngineDrop {
        reason: reason.name().to_owned(),
        packets: if *reason == DropReason::PortsExhausted { 8 } else { 0 },
        description: reason.description().to_owned(),
    });
    Drops { steering: steering.collect(), engine: engine.collect() }
}

/// Of two egress addresses, one of which has flows, and one policy.
pub(crate) fn usage() -> Usage {
    let [used, unused] = ["192.0.2.1", "2001:db8::1"].map(|address| address.parse().unwrap());
    let address = "203.0.113.10".parse().unwrap();
    let fullest = Some(RemoteUsage { protocol: "tcp".to_owned(), address, port: 443, ports: 4 });
    let traffic = Traffic {
        original_packets: 12,
        original_bytes: 3_456,
        reply_packets: 7,
        reply_bytes: 89_012,
    };
    Usage {
        counted: true,
        counting: false,
        counted_at_ms: 3_720_000,
        egress_addresses: vec![
            EgressUsage { address: used, flows: 9, ports: 64_512, fullest, traffic },
            EgressUsage {
                address: unused,
                flows: 0,
                ports: 64_512,
                fullest: None,
                traffic: Traffic::default(),
            },
        ],
        policies: vec![PolicyUsage { name: "team/\"app\"".to_owned(), flows: 8, traffic }],
        flows_of_no_policy: 1,
    }
}

/// A flow of a pod that kept its port, which has sent so many bytes, in packets of 1,000.
pub(crate) fn flow(port: u16, bytes: u64) -> Flow {
    let [source, destination, egress, peer] =
        ["10.0.1.40", "203.0.113.10", "192.0.2.1", "192.168.211.128"]
            .map(|address| address.parse().unwrap());
    let (source_port, destination_port) = (port, 443);
    Flow {
        worker: 0,
        protocol: "tcp".to_owned(),
        original: Tuple { source, source_port, destination, destination_port },
        reply: Tuple {
            source: destination,
            source_port: destination_port,
            destination: egress,
            destination_port: source_port,
        },
        state: "established".to_owned(),
        age_s: 1,
        idle_s: 0,
        original_packets: bytes / 1_000,
        original_bytes: bytes,
        reply_packets: 0,
        reply_bytes: 0,
        policy: "team/App1".to_owned(),
        pod: None,
        peer,
    }
}
