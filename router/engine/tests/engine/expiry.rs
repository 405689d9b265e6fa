//! When flows end, whatever the timeouts, the packets and the pace of the sweep: never before their
//! timeout, and soon after it.

use proptest::prelude::*;
use spillway_engine::{EngineConfig, Timeouts};

use crate::common::build::{Body, packet};
use crate::common::gateway::*;

const MILLISECOND: u64 = SECOND / 1000;

/// How long a test plays.
const PLAYED_MS: u64 = 30_000;

/// A pass of the sweep, and the ticks that times are kept in: one that was begun when the packet
/// came, one that the timeout is rounded up to, one that must be over.
const LATE_NS: u64 = 2 * SECOND + 3 * (1 << 24);

/// One pod's port: what it sends, and when.
#[derive(Clone, Debug)]
struct Sender {
    body: Body,
    /// From the packet before, in milliseconds.
    waits: Vec<u64>,
}

impl Sender {
    /// When it sends, in milliseconds.
    fn times(&self) -> impl Iterator<Item = u64> {
        self.waits.iter().scan(0, |time, wait| {
            *time += wait;
            Some(*time)
        })
    }

    fn timeout(&self, timeouts: &Timeouts) -> u64 {
        match self.body {
            Body::Syn => timeouts.tcp_opening_ns,
            Body::EchoRequest => timeouts.icmp_ns,
            _ => timeouts.udp_ns,
        }
    }
}

fn sender() -> impl Strategy<Value = Sender> {
    let body = prop::sample::select(&[Body::Syn, Body::Udp, Body::EchoRequest][..]);
    let waits = prop::collection::vec(0..12_000_u64, 1..5);
    (body, waits).prop_map(|(body, waits)| Sender { body, waits })
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    prop::array::uniform3(1..8000_u64).prop_map(|[opening, udp, icmp]| Timeouts {
        tcp_opening_ns: opening * MILLISECOND,
        udp_ns: udp * MILLISECOND,
        icmp_ns: icmp * MILLISECOND,
        ..Timeouts::default()
    })
}

/// The port of a sender.
fn port(number: usize) -> u16 {
    2000 + u16::try_from(number).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_flow_ends_after_its_timeout_and_within_a_pass_of_the_sweep(
        senders in prop::collection::vec(sender(), 1..40),
        timeouts in timeouts(),
        flows_max in 64..20_000_u32,
        call_ms in 1..100_u64,
    ) {
        let mut gateway = Gateway::with(EngineConfig { flows_max, timeouts, ..config() }, tables());
        let start = gateway.now;
        let mut last_seen = vec![None; senders.len()];
        for call in 0..PLAYED_MS / call_ms {
            for (number, sender) in senders.iter().enumerate() {
                let due = call * call_ms..(call + 1) * call_ms;
                if sender.times().any(|time| due.contains(&time)) {
                    let packet = packet(sender.body, (POD, port(number)), (REMOTE, 443), 64);
                    gateway.sent(tunnel_frame(&packet));
                    last_seen[number] = Some(gateway.now);
                }
            }
            gateway.now = start + (call + 1) * call_ms * MILLISECOND;
            gateway.engine.expire(gateway.now, &gateway.tables);
            let live: Vec<u16> =
                gateway.flows().iter().map(|flow| flow.original.source_port).collect();
            for (number, sender) in senders.iter().enumerate() {
                let Some(seen) = last_seen[number] else { continue };
                let (idle, timeout) = (gateway.now - seen, sender.timeout(&timeouts));
                let lives = live.contains(&port(number));
                prop_assert!(lives || idle > timeout, "{sender:?} has ended after {idle} ns");
                let late = timeout + LATE_NS + call_ms * MILLISECOND;
                prop_assert!(!lives || idle <= late, "{sender:?} lives after {idle} ns");
            }
        }
    }
}
