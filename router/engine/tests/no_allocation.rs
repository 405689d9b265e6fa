//! After start the engine allocates nothing: no new flow, no expiry, no page of flows. What it takes at
//! start is told.
#![allow(unsafe_code, reason = "a global allocator that counts needs it")]

#[path = "common/mod.rs"]
mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::build::{Body, arp, changed, cut, packet};
use common::gateway::*;
use etherparse::ArpOperation;
use spillway_engine::policy::{NatOptions, Policies, Policy};
use spillway_engine::steer::{Owners, Run};
use spillway_engine::tables::TablesInput;
use spillway_engine::{ANNOUNCEMENT_ROOM, BURST_MAX, DropReason, EngineConfig, Timeouts, Verdict};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, which counts the calls of each thread.
struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending has no counter any more, and nothing to count.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        let _ = BYTES.try_with(|bytes| bytes.set(bytes.get() + layout.size()));
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Frames of new flows and of known ones, replies, fragments, and questions to an address of our own.
fn bursts() -> Vec<Vec<Vec<u8>>> {
    let request = |port| tunnel_frame(&packet(Body::Udp, (POD, port), (REMOTE, 53), 64));
    let reply = |port| reply_frame(&packet(Body::Udp, (REMOTE, 53), (EGRESS, port), 64));
    // A stray, which comes in fragments, the first one last.
    let part = |port: u16| {
        let stray = packet(Body::Udp, (REMOTE, 53), (EGRESS, 52_000 + port / 2), 64);
        let stray = changed(stray, |bytes| bytes[4..6].copy_from_slice(&(port / 2).to_be_bytes()));
        reply_frame(&cut(&stray, 16)[usize::from(port.is_multiple_of(2))])
    };
    let ports: Vec<u16> = (2000..12_000).collect();
    let bursts = ports.chunks(BURST_MAX / 4).map(|ports| {
        let frames = ports
            .iter()
            .flat_map(|port| [request(*port), request(*port), reply(*port), part(*port)]);
        frames.collect()
    });
    let ping = ping_frame(&packet(Body::EchoRequest, (REMOTE, 7), (ANNOUNCED, 0), 64));
    let request = arp(ArpOperation::REQUEST, (ROUTER_MAC, ROUTER), ([0; 6], ANNOUNCED));
    bursts.chain([vec![ping, arp_frame(ROUTER_MAC, &request)]]).collect()
}

/// As the README says: bytes of a flow beyond so many, and of a mapping with each of the first 65,536; and what
/// port blocks take.
#[test]
fn a_flow_takes_as_much_memory_as_the_readme_says() {
    let [flows, mappings] = bytes_of_each(|flows_max| EngineConfig { flows_max, ..config() });
    let [flows6, mappings6] =
        bytes_of_each(|flows_max_ipv6| EngineConfig { flows_max_ipv6, ..config() });
    let blocks = mebibytes_of_blocks(|flows_max| EngineConfig { flows_max, ..config() });
    let blocks6 = mebibytes_of_blocks(|flows_max_ipv6| EngineConfig { flows_max_ipv6, ..config() });
    let readme = include_str!("../README.md");
    for said in [
        format!("Memory: {flows} bytes for each flow of `flows_max`, {flows6} of"),
        format!("{mappings} for each of at most 65,536"),
        format!("mappings ({mappings6} of IPv6)"),
        format!("65,536 blocks take {blocks} MiB at start ({blocks6} of IPv6;"),
    ] {
        assert!(readme.contains(&said), "{said}");
    }
}

/// Bytes that an engine takes at start.
fn bytes_of(config: &EngineConfig) -> usize {
    let before = BYTES.get();
    drop(spillway_engine::Engine::new(config));
    BYTES.get() - before
}

/// Mebibytes of as many port blocks of one family as there can be, rounded up.
fn mebibytes_of_blocks(config: impl Fn(u32) -> EngineConfig) -> usize {
    let bytes_of_blocks = |flows_max| {
        let with = EngineConfig { blocks_per_pod: 1, ..config(flows_max) };
        bytes_of(&with) - bytes_of(&config(flows_max))
    };
    // The other family keeps its few.
    (bytes_of_blocks(65_536) - bytes_of_blocks(1)).div_ceil(1 << 20)
}

/// Bytes of a flow, and of a mapping.
fn bytes_of_each(config: impl Fn(u32) -> EngineConfig) -> [usize; 2] {
    let bytes_of = |flows_max| bytes_of(&config(flows_max));
    // So many more flows fill whole huge pages of each table; the few fill none, and can all be mapped.
    let (many, few) = (15 * (7 << 14), 14_000);
    let of_many = bytes_of(2 * many) - bytes_of(many);
    let of_few = bytes_of(2 * few) - bytes_of(few);
    let (many, few) = (many as usize, few as usize);
    let of_mappings = of_few - of_many * few / many;
    [of_many.div_ceil(many), of_mappings.div_ceil(few)]
}

/// What a policy may ask for, and what it gets that asks for nothing.
#[test]
fn nothing_is_allocated_after_start() {
    allocates_nothing(NatOptions::default(), tables(), bursts());
    let all = NatOptions {
        timeouts: Some(Timeouts::default()),
        midstream_pickup: true,
        flows_per_pod_max: Some(20_000),
        endpoint_independent: true,
    };
    allocates_nothing(all, tables(), bursts());
}

#[test]
fn nothing_is_allocated_for_tunnels_over_ipv6() {
    let mut input = tables_over_ipv6();
    input.peers[0].key = PEER;
    let bursts = bursts().into_iter().map(|burst| burst.into_iter().map(over_ipv6).collect());
    allocates_nothing(NatOptions::default(), input, bursts.collect());
}

fn allocates_nothing(options: NatOptions, mut input: TablesInput, mut bursts: Vec<Vec<Vec<u8>>>) {
    let config = EngineConfig { flows_max: 9_000, ..config() };
    let policy = Policy { options, ..policy(EGRESS, &[POD], &["203.0.113.0/24"]) };
    let policies = Policies::new(vec![policy], &[]);
    input.v4.policies = policies;
    let mut gateway = Gateway::with(config, input);
    let mut bursts: Vec<Vec<&mut [u8]>> =
        bursts.iter_mut().map(|burst| burst.iter_mut().map(Vec::as_mut_slice).collect()).collect();
    let mut flows = Vec::with_capacity(20_000);
    let mut verdicts = [Verdict::Drop(DropReason::UnknownKind); BURST_MAX];

    let before = ALLOCATIONS.get();
    for burst in &mut bursts {
        gateway.engine.process(gateway.now, &gateway.tables, burst, &mut verdicts);
        gateway.engine.expire(gateway.now, &gateway.tables);
    }
    gateway.engine.announce(&gateway.tables, ANNOUNCED.into(), &mut [0; ANNOUNCEMENT_ROOM]);
    gateway.engine.flows(0, 10_000, &mut flows);
    gateway.pass(304);
    let allocated = ALLOCATIONS.get() - before;

    let counters = gateway.engine.counters();
    assert_eq!(allocated, 0);
    assert_eq!((counters.answered, counters.announced), (2, 1));
    assert_eq!((counters.flows_created, counters.flows_expired), (9_000, 9_000));
    assert_eq!(counters.dropped_for(DropReason::FlowTableFull), 2_000);
    assert_eq!(counters.dropped_for(DropReason::NoFlow), 1_000 + 5_000);
    assert_eq!(counters.held, 64, "later ones that came first; for the others there was no room");
    assert!(flows.len() >= 9_000);
}

/// Blocks that begin, are full, rest and end.
#[test]
fn port_blocks_allocate_nothing() {
    let owners = Owners { run: Run::of(64).unwrap(), ..config().owners };
    let config = EngineConfig { owners, blocks_per_pod: 16, flows_max: 9_000, ..config() };
    let mut gateway = Gateway::with(config, tables());
    let request = |port| tunnel_frame(&packet(Body::Udp, (POD, port), (REMOTE, 53), 64));
    let mut frames: Vec<Vec<u8>> = (2_000..4_048).map(request).collect();
    let mut frames: Vec<&mut [u8]> = frames.iter_mut().map(Vec::as_mut_slice).collect();
    let mut verdicts = [Verdict::Drop(DropReason::UnknownKind); BURST_MAX];
    let (mut blocks, mut events) = (Vec::with_capacity(100), 0);

    let before = ALLOCATIONS.get();
    for burst in frames.chunks_mut(BURST_MAX) {
        gateway.engine.process(gateway.now, &gateway.tables, burst, &mut verdicts);
        gateway.engine.take_block_events(|_| events += 1);
        gateway.engine.take_events(drop);
    }
    gateway.engine.port_blocks(0, 50, &mut blocks);
    gateway.pass(304);
    gateway.pass(100);
    gateway.engine.take_block_events(|_| events += 1);
    let allocated = ALLOCATIONS.get() - before;

    let counters = gateway.engine.counters();
    assert_eq!((allocated, blocks.len(), events), (0, 16, 32));
    assert_eq!(counters.dropped_for(DropReason::PortsExhausted), 1_024);
    assert_eq!((counters.flows_expired, counters.port_blocks), (1_024, 0));
}

/// Both ways, and the copies that replies leave as.
#[test]
fn what_changes_its_family_allocates_nothing() {
    let mut gateway = Gateway::with(config(), nat64_tables());
    let remote = (embedded(REMOTE), 53);
    let ports = 2000..2000 + u16::try_from(BURST_MAX).unwrap();
    let request = |port| tunnel_frame(&packet(Body::Udp, (POD6, port), remote, 64));
    let reply = |port| reply_frame(&packet(Body::Udp, (REMOTE, 53), (EGRESS, port), 64));
    let mut requests: Vec<Vec<u8>> = ports.clone().map(request).collect();
    let mut replies: Vec<Vec<u8>> = ports.map(reply).collect();
    let mut requests: Vec<&mut [u8]> = requests.iter_mut().map(Vec::as_mut_slice).collect();
    let mut replies: Vec<&mut [u8]> = replies.iter_mut().map(Vec::as_mut_slice).collect();
    let mut verdicts = [Verdict::Drop(DropReason::UnknownKind); BURST_MAX];
    let (mut out, mut written) = ([0; 2048], 0);

    let before = ALLOCATIONS.get();
    let Gateway { engine, tables, now, .. } = &mut gateway;
    engine.process(*now, tables, &mut requests, &mut verdicts);
    engine.process(*now, tables, &mut replies, &mut verdicts);
    for (frame, verdict) in replies.iter().zip(verdicts) {
        if let Verdict::Fragment { fragments, .. } = verdict {
            written += usize::from(fragments.write(tables, frame, 0, &mut out).is_some());
        }
    }
    let allocated = ALLOCATIONS.get() - before;

    assert_eq!((allocated, written), (0, BURST_MAX));
    assert_eq!(gateway.engine.counters().transmitted, 2 * BURST_MAX as u64);
}
