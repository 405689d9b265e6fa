//! Answers to the operator's requests: the gateway's state in the API's words.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use anyhow::Context as _;
use spillway_api::limits::PAGE_ROWS_MAX;
use spillway_api::{
    API_VERSION, Applied, Device, Drops, EngineDrop, EventPage, Flow, FlowPage, Frames, LogLevel,
    MacAddress, Nat64Prefix, POLICY_NOT_KNOWN, PolicyPage, PortBlock, PortBlockPage, RefusedState,
    Request, Response, RingStatistics, Status, SteeringOutcome, Tuple, Verdict, Worker,
    policy_page,
};
use spillway_engine::{DropReason, FlowRecord, FlowState, Nanos};
use spillway_xdp::SteerOutcome;
use spillway_xdp::device::Accounting;
use spillway_xdp::steering;

use crate::capture;
use crate::census;
use crate::compile::pairing;
use crate::gateway::Gateway;
use crate::numbers::{self, Assigned};
use crate::trace::trace;
use crate::worker::Report;

/// Flows of one page at most: a worker copies them between two bursts.
const FLOWS_MAX: usize = 256;

/// Answers one request.
pub(crate) fn answer(gateway: &mut Gateway, request: Request) -> Response {
    let answered = match request {
        Request::Status { author } => {
            if author {
                gateway.author_asked = Some(Instant::now());
            }
            status(gateway).map(Response::Status)
        }
        Request::Policies { cursor, limit } => {
            Ok(Response::Policies(policies(gateway, cursor, limit)))
        }
        Request::Flows { cursor, limit } => flows(gateway, cursor, limit).map(Response::Flows),
        Request::PortBlocks { cursor, limit } => {
            port_blocks(gateway, cursor, limit).map(Response::PortBlocks)
        }
        Request::Drops => drops(gateway).map(Response::Drops),
        Request::Usage => census::usage(gateway, Instant::now()).map(Response::Usage),
        Request::Trace(packet) => trace(gateway, &packet).map(Response::Trace),
        Request::Events { cursor, limit } => events(gateway, cursor, limit).map(Response::Events),
        Request::State => state(gateway).map(|document| Response::State { document }),
        Request::PutState { document } => return put_state(gateway, &document),
        Request::Drain { draining } => {
            gateway.drain(draining).map(|()| Response::Drained { draining })
        }
        Request::Capture(request) => {
            capture::begin(gateway, &request, Instant::now()).map(|id| Response::Capturing { id })
        }
        Request::TakeCaptured { id, end } => {
            capture::take(gateway, id, end, Instant::now()).map(Response::Captured)
        }
        Request::LogLevel { filter, for_s } => {
            log_level(gateway, filter.as_deref(), for_s, Instant::now()).map(Response::LogLevel)
        }
    };
    answered.unwrap_or_else(|error| Response::refused(format!("{error:#}")))
}

/// The document in force.
fn state(gateway: &Gateway) -> anyhow::Result<Option<String>> {
    let programmed = gateway.programmed.as_ref();
    Ok(programmed.map(|programmed| serde_json::to_string(&programmed.document)).transpose()?)
}

/// What is logged, and, with a filter, from now on.
fn log_level(
    gateway: &mut Gateway,
    filter: Option<&str>,
    for_s: Option<u64>,
    now: Instant,
) -> anyhow::Result<LogLevel> {
    if let Some(filter) = filter {
        gateway.log.set(filter, for_s, now)?;
    }
    Ok(gateway.log.level(now))
}

fn put_state(gateway: &mut Gateway, text: &str) -> Response {
    const SOURCE: &str = "socket";
    let parsed = gateway.config.parse_document(text).and_then(|document| {
        let running = gateway.programmed.as_ref().map_or(0, |p| p.document.generation);
        document.check_generation(running).map(|()| document)
    });
    let document = match parsed {
        Ok(document) => document,
        Err(problem) => {
            gateway.refuse(SOURCE, problem.to_string());
            return problem.into();
        }
    };
    let generation = document.generation;
    match gateway.apply(document, SOURCE) {
        Ok(()) => Response::Applied(Applied { generation }),
        Err(error) => {
            gateway.refuse(SOURCE, format!("{error:#}"));
            Response::refused(format!("{error:#}"))
        }
    }
}

fn policies(gateway: &Gateway, cursor: u64, limit: u32) -> PolicyPage {
    match &gateway.programmed {
        Some(programmed) => {
            let pairing =
                |pod, outside, egress: &_| pairing(&gateway.numbers, pod, outside, egress);
            policy_page(&programmed.document, cursor, limit, &pairing)
        }
        None => PolicyPage { rows: Vec::new(), next: None },
    }
}

fn status(gateway: &mut Gateway) -> anyhow::Result<Status> {
    gateway.follow_events();
    let lost = gateway.events_lost();
    let reports = gateway.workers.reports()?;
    let programmed = gateway.programmed.as_ref();
    let devices = (0u16..).zip(&gateway.devices).map(|(index, _)| device(gateway, index));
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api_version: API_VERSION,
        pid: std::process::id(),
        uptime_s: gateway.started.elapsed().as_secs(),
        generation: programmed.map(|programmed| programmed.document.generation),
        state_source: programmed.map_or("none".to_owned(), |p| p.source.clone()),
        refused: gateway.refused.as_ref().map(|refused| RefusedState {
            source: refused.source.clone(),
            message: refused.message.clone(),
            age_s: refused.at.elapsed().as_secs(),
        }),
        draining_s: gateway.draining.map(|since| since.elapsed().as_secs()),
        author_age_s: gateway.author_asked.map(|at| at.elapsed().as_secs()),
        programmed: programmed.map(|programmed| programmed.extent).unwrap_or_default(),
        programming: gateway.programming,
        flows_max: gateway.config.flows_max.into(),
        devices: devices.collect::<anyhow::Result<_>>()?,
        workers: (0..).zip(&reports).map(|(id, report)| worker(id, report)).collect(),
        frames: frames(&reports),
        events: gateway.record.as_ref().map(|record| record.counts(lost)).unwrap_or_default(),
        reports: gateway.reports(),
    })
}

fn device(gateway: &Gateway, index: u16) -> anyhow::Result<Device> {
    let at = usize::from(index);
    let info = gateway.devices.get(at).context("a device is missing")?;
    let link = gateway.kernel.link_at(info.ifindex);
    let mut rings = RingStatistics::default();
    for socket in gateway.sockets.iter().filter(|socket| socket.device == index) {
        let counted = socket.statistics()?;
        rings.rx_dropped += counted.rx_dropped;
        rings.rx_ring_full += counted.rx_ring_full;
        rings.fill_ring_empty += counted.fill_ring_empty;
        rings.rx_invalid_descriptors += counted.rx_invalid_descriptors;
        rings.tx_invalid_descriptors += counted.tx_invalid_descriptors;
    }
    let attachment = gateway.attachments.get(at);
    Ok(Device {
        name: info.name.clone(),
        ifindex: info.ifindex,
        mac: MacAddress(link.and_then(|link| link.mac).unwrap_or(info.mac)),
        mtu: link.map_or(info.mtu, |link| link.mtu),
        queues: info.queues,
        xdp_mode: Device::xdp_mode(attachment.map(|to| to.mode.name())),
        zero_copy: gateway.config.devices.get(at).is_some_and(|device| device.zero_copy),
        rings,
    })
}

fn worker(id: u32, report: &Report) -> Worker {
    let Report { engine, flows_ipv6, lane, held } = report;
    Worker {
        id,
        flows: engine.flows_live,
        flows_ipv6: *flows_ipv6,
        flows_created: engine.flows_created,
        flows_restored: engine.flows_restored,
        flows_expired: engine.flows_expired,
        flows_deselected: engine.flows_deselected,
        leases_crowded: engine.leases_crowded,
        port_blocks: engine.port_blocks,
        received: engine.received,
        transmitted: engine.transmitted,
        dropped: engine.dropped.iter().sum(),
        held: *held as u64,
        tx_ring_full: lane.tx_ring_full,
        frames_missing: lane.allocate_failed + lane.copy_failed,
        fragmented: engine.fragmented,
        handed_off: engine.handed_off,
        taken_over: engine.taken_over,
        forward_packets: engine.forward.packets,
        forward_bytes: engine.forward.bytes,
        reply_packets: engine.reply.packets,
        reply_bytes: engine.reply.bytes,
        answered: engine.answered,
        announced: engine.announced,
        errors_sent: engine.errors_sent,
        errors_limited: engine.errors_limited,
    }
}

fn frames(reports: &[Report]) -> Frames {
    let lanes: Vec<_> = reports.iter().map(|report| report.lane).collect();
    let accounting = Accounting::of(&lanes);
    // A gauge that was read while frames moved can be off by a burst, also below zero.
    let count = |gauge: i64| u64::try_from(gauge).unwrap_or_default();
    Frames {
        total: count(accounting.frames),
        free: count(accounting.cached + accounting.depot),
        receiving: count(accounting.receiving),
        transmitting: count(accounting.transmitting),
        held: count(accounting.held),
    }
}

/// A page of flows, worker by worker. The cursor is the worker's number and its own cursor.
fn flows(gateway: &Gateway, cursor: u64, limit: u32) -> anyhow::Result<FlowPage> {
    let at = Cursor::of(cursor, limit)?;
    let Some(page) = gateway.workers.flows(at.worker, at.within, at.limit)? else {
        return Ok(FlowPage { rows: Vec::new(), next: None });
    };
    let row = |record| flow(gateway, at.worker, page.now, record);
    Ok(FlowPage { rows: page.flows.iter().map(row).collect(), next: at.next(gateway, page.next) })
}

fn port_blocks(gateway: &Gateway, cursor: u64, limit: u32) -> anyhow::Result<PortBlockPage> {
    let at = Cursor::of(cursor, limit)?;
    let Some(page) = gateway.workers.port_blocks(at.worker, at.within, at.limit)? else {
        return Ok(PortBlockPage { rows: Vec::new(), next: None });
    };
    let row = |block: &spillway_engine::PortBlock| {
        let pod_address = pod_as_sent(block.pod, &gateway.numbers);
        PortBlock {
            worker: u32::try_from(at.worker).unwrap_or(u32::MAX),
            pod: gateway.pod_names.of_flow(pod_address, block.since_ns).map(ToString::to_string),
            pod_address,
            egress_address: block.egress,
            first_port: block.first,
            last_port: block.last,
            flows: block.flows,
            age_s: page.now.saturating_sub(block.since_ns) / 1_000_000_000,
        }
    };
    let next = at.next(gateway, page.next);
    Ok(PortBlockPage { rows: page.blocks.iter().map(row).collect(), next })
}

/// Where a page of what workers have starts: the worker, and where with it.
struct Cursor {
    worker: usize,
    within: u32,
    limit: usize,
}

impl Cursor {
    fn of(cursor: u64, limit: u32) -> anyhow::Result<Self> {
        Ok(Self {
            worker: usize::try_from(cursor >> 32)?,
            within: u32::try_from(cursor & 0xffff_ffff)?,
            limit: usize::try_from(limit.clamp(1, PAGE_ROWS_MAX))?.min(FLOWS_MAX),
        })
    }

    /// That of the next page: with the same worker, or the one after it.
    fn next(&self, gateway: &Gateway, within: Option<u32>) -> Option<u64> {
        let worker = self.worker as u64;
        let has_other = self.worker + 1 < usize::from(gateway.config.workers);
        let of_same = within.map(|within| worker << 32 | u64::from(within));
        of_same.or_else(|| has_other.then_some((worker + 1) << 32))
    }
}

/// A page of what has happened until now.
fn events(gateway: &mut Gateway, cursor: u64, limit: u32) -> anyhow::Result<EventPage> {
    gateway.follow_events();
    let record = gateway.record.as_ref().context(
        "this router keeps no events: `events.kept` of its configuration says how many it should",
    )?;
    let page = record.page(cursor, limit, gateway.events_lost());
    Ok(EventPage { port_blocks: gateway.config.port_blocks.blocks_per_pod() > 0, ..page })
}

/// A worker's flow at a time of its clock.
pub(crate) fn flow(gateway: &Gateway, worker: usize, now: Nanos, record: &FlowRecord) -> Flow {
    let policy = gateway.policy_names.name_now(record.epoch, record.policy);
    let seconds_since = |at: Nanos| now.saturating_sub(at) / 1_000_000_000;
    let nat64_prefix = gateway.programmed.as_ref().and_then(|p| p.document.nat64_prefix);
    let original = as_sent(tuple(&record.original), &gateway.numbers, nat64_prefix);
    let pod = gateway.pod_names.of_flow(original.source, record.created_ns);
    Flow {
        worker: u32::try_from(worker).unwrap_or(u32::MAX),
        protocol: protocol_name(record.original.protocol),
        original,
        reply: tuple(&record.reply),
        state: state_name(record.state).to_owned(),
        age_s: seconds_since(record.created_ns),
        idle_s: seconds_since(record.last_seen_ns),
        original_packets: record.forward_traffic.packets,
        original_bytes: record.forward_traffic.bytes,
        reply_packets: record.reply_traffic.packets,
        reply_bytes: record.reply_traffic.bytes,
        policy: policy.map_or(POLICY_NOT_KNOWN, AsRef::as_ref).to_owned(),
        peer: gateway.numbers.peer(record.peer),
        pod: pod.map(ToString::to_string),
    }
}

/// A tuple in the API's words.
pub(crate) fn tuple(tuple: &spillway_engine::Tuple) -> Tuple {
    Tuple {
        source: tuple.source,
        source_port: tuple.source_port,
        destination: tuple.destination,
        destination_port: tuple.destination_port,
    }
}

/// A flow's original tuple as its pod sends: where a number stands for the pod, it has sent from its
/// IPv6 address to one with the destination in it. `prefix` is what NAT64 has now: a flow that goes
/// on without it, until it has been idle for long enough, shows the destination alone.
pub(crate) fn as_sent(tuple: Tuple, numbers: &Assigned, prefix: Option<Nat64Prefix>) -> Tuple {
    let IpAddr::V4(number) = tuple.source else { return tuple };
    if !numbers::is_pod(number) {
        return tuple;
    }
    // One that has gone long ago is nobody's.
    let source = numbers.pods.address(number).unwrap_or(Ipv6Addr::UNSPECIFIED);
    let destination = match (tuple.destination, prefix) {
        (IpAddr::V4(destination), Some(prefix)) => prefix.embed(destination.into()).addr().into(),
        (destination, _) => destination,
    };
    Tuple { source: source.into(), destination, ..tuple }
}

/// A pod's address as it sends, where a number may stand for it.
pub(crate) fn pod_as_sent(pod: IpAddr, numbers: &Assigned) -> IpAddr {
    let tuple = Tuple { source: pod, source_port: 0, destination: pod, destination_port: 0 };
    as_sent(tuple, numbers, None).source
}

pub(crate) fn protocol_name(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        47 => "gre".to_owned(),
        50 => "esp".to_owned(),
        58 => "icmpv6".to_owned(),
        132 => "sctp".to_owned(),
        other => other.to_string(),
    }
}

/// A protocol's number, from its name or its number.
///
/// # Errors
/// When it is neither.
pub(crate) fn protocol_number(text: &str) -> Result<u8, String> {
    let is_named = |number: &u8| protocol_name(*number).eq_ignore_ascii_case(text);
    let named = || (0..=u8::MAX).find(is_named);
    text.parse().ok().or_else(named).ok_or_else(|| {
        "expected tcp, udp, icmp, icmpv6, sctp, gre, esp or a number from 0 to 255".to_owned()
    })
}

/// A protocol as [`protocol_name`] has it, from its name or its number.
///
/// # Errors
/// When it is neither.
pub(crate) fn protocol(text: &str) -> Result<String, String> {
    protocol_number(text).map(protocol_name)
}

fn state_name(state: FlowState) -> &'static str {
    match state {
        FlowState::Opening => "opening",
        FlowState::Established => "established",
        FlowState::HalfClosed => "half-closed",
        FlowState::Closing => "closing",
    }
}

fn drops(gateway: &Gateway) -> anyhow::Result<Drops> {
    let reports = gateway.workers.reports()?;
    let mut steering = Vec::new();
    for (info, counts) in gateway.devices.iter().zip(gateway.steering.outcomes()?) {
        for (outcome, count) in SteerOutcome::ALL.iter().zip(counts) {
            steering.push(SteeringOutcome {
                device: info.name.clone(),
                outcome: outcome.name().to_owned(),
                verdict: match outcome.verdict() {
                    steering::Verdict::Pass => Verdict::Pass,
                    steering::Verdict::Steer => Verdict::Steer,
                    steering::Verdict::Drop => Verdict::Drop,
                },
                packets: count.packets,
                bytes: count.bytes,
                description: outcome.description().trim().to_owned(),
            });
        }
    }
    let engine = DropReason::ALL.iter().enumerate().map(|(index, reason)| EngineDrop {
        reason: reason.name().to_owned(),
        packets: reports.iter().filter_map(|report| report.engine.dropped.get(index)).sum(),
        description: reason.description().trim().to_owned(),
    });
    Ok(Drops { steering, engine: engine.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_translated_flow_is_shown_as_its_pod_sends() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let tuple = |source, destination| Tuple {
            source: address(source),
            source_port: 4000,
            destination: address(destination),
            destination_port: 443,
        };
        let (number, pod) = ("243.163.224.22".parse().unwrap(), "fd00:10:1::40".parse().unwrap());
        let numbers = Assigned::restore([(number, pod)].into_iter(), [].into_iter()).unwrap();
        let prefix = "64:ff9b::/96".parse().ok();
        let numbered = tuple("243.163.224.22", "203.0.113.10");
        for (of, prefix, shown) in [
            (numbered, prefix, tuple("fd00:10:1::40", "64:ff9b::203.0.113.10")),
            (numbered, None, tuple("fd00:10:1::40", "203.0.113.10")),
            (tuple("241.0.0.1", "203.0.113.10"), None, tuple("::", "203.0.113.10")),
            (tuple("10.0.1.40", "203.0.113.10"), prefix, tuple("10.0.1.40", "203.0.113.10")),
            (tuple("fd00::1", "2001:db8::1"), prefix, tuple("fd00::1", "2001:db8::1")),
        ] {
            assert_eq!(as_sent(of, &numbers, prefix), shown);
        }
    }
}
