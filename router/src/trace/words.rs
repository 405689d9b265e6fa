//! What was found out about a packet, in words.

use std::net::{IpAddr, SocketAddr};

use spillway_api::{Document, EgressAddress, MacAddress, TraceProtocol, TraceStep};
use spillway_engine::tables::DeviceIndex;
use spillway_engine::{DropReason, PortOutlook, Verdict};
use spillway_xdp::SteerOutcome;
use spillway_xdp::steering;

use super::packet::{Arrival, Packet, Turn};
use super::selection::{self, outside};
use super::{Decision, Findings, Taken};
use crate::answer;
use crate::gateway::Gateway;
use crate::mtu::overhead;
use crate::remedy::remedy;
use crate::worker::now;

/// The steps so far.
#[derive(Default)]
struct Steps(Vec<TraceStep>);

impl Steps {
    fn add(&mut self, step: &str, verdict: impl Into<String>, detail: impl Into<String>) {
        let (verdict, detail) = (verdict.into(), detail.into());
        self.0.push(TraceStep { step: step.to_owned(), verdict, detail });
    }
}

/// Everything, in the order in which it is decided.
pub(super) fn steps(gateway: &Gateway, document: &Document, findings: &Findings) -> Vec<TraceStep> {
    let Findings { packet, tried, taken } = findings;
    let mut steps = Steps::default();
    tell_packet(&mut steps, packet);
    let (source, destination) = (packet.source.ip(), packet.destination.ip());
    let (verdict, why) = match packet.arrival {
        Arrival::Tunnel { peer, tunnel } => {
            tell_tunnel(&mut steps, document, peer, tunnel);
            selection::of_pod(document, source, destination)
        }
        Arrival::Outside => selection::of_egress(document, destination),
    };
    steps.add("document", verdict, why);
    let (outcome, description) = (tried.outcome.name(), tried.outcome.description().trim());
    steps.add("steering", outcome, description);
    match (tried.outcome.verdict(), taken) {
        (steering::Verdict::Pass, _) => {
            steps.add("verdict", "kernel", format!("Spillway never sees it. {description}"));
        }
        (steering::Verdict::Steer, Some(taken)) => {
            tell_taken(&mut steps, gateway, document, findings, taken);
        }
        (steering::Verdict::Drop, _) | (steering::Verdict::Steer, None) => {
            steps.add("verdict", "dropped", format!("{outcome}: {description}"));
        }
    }
    steps.0
}

fn tell_packet(steps: &mut Steps, packet: &Packet) {
    let Packet { source, destination, protocol, turn, size, may_fragment, .. } = packet;
    let (name, kind) = match (protocol, turn) {
        (TraceProtocol::Tcp, Turn::Opens) => ("tcp", "SYN, "),
        (TraceProtocol::Tcp, Turn::GoesOn) => ("tcp", "ACK, "),
        (TraceProtocol::Udp, _) => ("udp", ""),
        (TraceProtocol::Icmp, Turn::Opens) => ("icmp", "echo request, "),
        (TraceProtocol::Icmp, Turn::GoesOn) => ("icmp", "echo reply, "),
    };
    let way = match (protocol, turn) {
        (TraceProtocol::Icmp, Turn::Opens) => {
            format!("{} -> {}, identifier {}", source.ip(), destination.ip(), source.port())
        }
        (TraceProtocol::Icmp, Turn::GoesOn) => {
            format!("{} -> {}, identifier {}", source.ip(), destination.ip(), destination.port())
        }
        _ => format!("{source} -> {destination}"),
    };
    let fragments = match (source.is_ipv4(), may_fragment) {
        (true, true) => ", may be fragmented",
        (true, false) => ", not to be fragmented",
        (false, _) => "",
    };
    steps.add("packet", name, format!("{way}, {kind}{size} bytes{fragments}"));
}

fn tell_tunnel(steps: &mut Steps, document: &Document, peer: IpAddr, tunnel: IpAddr) {
    let peers = document.tunnels.iter().flat_map(|tunnel| &tunnel.peers);
    let addresses: Vec<IpAddr> = peers.map(|peer| peer.address).collect();
    let verdict = if addresses.contains(&peer) { "peer" } else { "no peer" };
    let others = match addresses.len() {
        0 | 1 => String::new(),
        count => format!(", one of {count} peers: --peer chooses another"),
    };
    steps.add("tunnel", verdict, format!("VXLAN from {peer} to {tunnel}{others}"));
}

/// What Spillway does with a packet that steering has taken.
fn tell_taken(
    steps: &mut Steps,
    gateway: &Gateway,
    document: &Document,
    findings: &Findings,
    taken: &Taken,
) {
    let Findings { packet, tried, .. } = findings;
    tell_nat64(steps, document, packet);
    tell_worker(steps, packet, taken);
    let is_ping = tried.outcome == SteerOutcome::SteerPing;
    if !is_ping {
        tell_flow(steps, gateway, packet, taken);
        tell_route(steps, gateway, packet, taken);
        tell_mtu(steps, gateway, document, packet, &taken.decision);
    }
    match (&taken.outlook.port, taken.decision.verdict) {
        (_, Verdict::Drop(reason)) => tell_drop(steps, reason, taken.decision.is_told),
        (_, Verdict::Hold { device, address, .. }) => {
            let reason = DropReason::NeighbourUnresolved;
            let device = device_name(gateway, device);
            let why = format!(
                "for a second at most, until {address} answers on {device}; then dropped as {}: {}",
                reason.name(),
                explained(reason)
            );
            steps.add("verdict", "held", why);
        }
        (Some(Err(reason)), _) => tell_drop(steps, *reason, false),
        (_, Verdict::Transmit { device, .. } | Verdict::Fragment { device, .. }) => {
            let device = device_name(gateway, device);
            let why = match (packet.arrival, is_ping) {
                (_, true) => format!("Spillway itself answers the ping, out of {device}"),
                (Arrival::Tunnel { .. }, _) => format!("to the outside, out of {device}"),
                (Arrival::Outside, _) => format!("to the pod, through the tunnel, out of {device}"),
            };
            steps.add("verdict", "sent", why);
        }
        // No fragment is traced, and the engine that was asked is alone.
        (_, Verdict::Await { .. } | Verdict::HandOff { .. }) => {
            steps.add("verdict", "held", "for another part of it");
        }
    }
}

fn tell_drop(steps: &mut Steps, reason: DropReason, is_told: bool) {
    let told = if is_told { " Its sender hears of it by ICMP." } else { "" };
    steps.add("verdict", "dropped", format!("{}: {}{told}", reason.name(), explained(reason)));
}

/// A reason's description, and what to do.
fn explained(reason: DropReason) -> String {
    match remedy(reason) {
        Some(remedy) => format!("{} {remedy}", reason.description()),
        None => reason.description().to_owned(),
    }
}

fn tell_nat64(steps: &mut Steps, document: &Document, packet: &Packet) {
    let written = packet.destination.ip();
    let meant = outside(document, written);
    if let Some(prefix) = document.nat64_prefix.filter(|_| meant != written) {
        steps.add("nat64", "translated", format!("in {prefix}, {written} is {meant}"));
    }
}

fn tell_worker(steps: &mut Steps, packet: &Packet, taken: &Taken) {
    let Taken { owner, worker, .. } = taken;
    let port = packet.owner_port();
    let why = match owner == worker {
        true => format!("owns the class of port {port}"),
        false => format!("worker {owner}, which owns the class of port {port}, hands it over"),
    };
    steps.add("worker", worker.to_string(), why);
}

/// The policy that covers the packet, and its flow.
fn tell_flow(steps: &mut Steps, gateway: &Gateway, packet: &Packet, taken: &Taken) {
    let outlook = &taken.outlook;
    let flow = outlook.flow.as_ref();
    let flow = flow.map(|(record, _)| answer::flow(gateway, taken.worker.into(), now(), record));
    if matches!(packet.arrival, Arrival::Tunnel { .. }) {
        let name = outlook
            .policy
            .and_then(|index| gateway.policy_names.name_now(gateway.tables.epoch(), index))
            .map(AsRef::as_ref);
        match (name, outlook.egress) {
            (Some(name), Some(egress)) => {
                steps.add("policy", name, format!("the egress address is {egress}"));
            }
            (Some(name), None) => steps.add("policy", name, "has no egress address of this family"),
            (None, _) => steps.add("policy", "none", "no policy in force covers the packet"),
        }
    }
    if let Some(flow) = flow {
        let (from, to) = (&flow.original, &flow.reply);
        let original = SocketAddr::new(from.source, from.source_port);
        let remote = SocketAddr::new(from.destination, from.destination_port);
        let public = SocketAddr::new(to.destination, to.destination_port);
        let why = format!(
            "{}, {} s old, idle for {} s: {original} to {remote} as {public}, peer {}",
            flow.state, flow.age_s, flow.idle_s, flow.peer
        );
        return steps.add("flow", "known", why);
    }
    match (&outlook.port, outlook.egress) {
        (Some(Ok(port)), Some(egress)) => {
            let why = new_flow(gateway, packet, egress, *port);
            steps.add("flow", "new", why);
        }
        (Some(Err(reason)), _) => steps.add("flow", "refused", reason.description()),
        _ if packet.arrival == Arrival::Outside => {
            steps.add("flow", "none", "no flow has sent to there from this port");
        }
        _ => {}
    }
}

/// As what a new flow would leave.
fn new_flow(gateway: &Gateway, packet: &Packet, egress: IpAddr, port: PortOutlook) -> String {
    let own = packet.source.port();
    let public = |port| SocketAddr::new(egress, port);
    match port {
        PortOutlook::Own => format!("would leave as {}: the pod's own port is free", public(own)),
        PortOutlook::Mapped(port) => {
            format!("would leave as {}, as all of the pod's port {own} does", public(port))
        }
        PortOutlook::Drawn => {
            let document = gateway.programmed.as_ref().map(|programmed| &programmed.document);
            let mut listed = document.iter().flat_map(|document| &document.egress_addresses);
            let range =
                listed.find(|listed| listed.address == egress).map(EgressAddress::port_range);
            let Some(range) = range else { return format!("would leave as {egress}") };
            let is_in = (range.first..=range.last).contains(&own);
            let why = if is_in { "is taken, or was lately" } else { "is not in there" };
            format!(
                "would leave as {egress} from a free port of {range}: the pod's own, {own}, {why}"
            )
        }
    }
}

/// Where the packet leaves.
fn tell_route(steps: &mut Steps, gateway: &Gateway, packet: &Packet, taken: &Taken) {
    let Taken { outlook, decision, .. } = taken;
    if let Some(Err(reason)) = outlook.way {
        return steps.add("route", reason.name(), reason.description());
    }
    let leaves_to = outlook.way.and_then(Result::ok);
    let (device, resolved) = match decision.verdict {
        Verdict::Transmit { device, .. } | Verdict::Fragment { device, .. } => {
            let mac = decision.frame.first_chunk().map(|mac| MacAddress(*mac));
            (device, mac.map(|mac| format!("link address {mac}")).unwrap_or_default())
        }
        Verdict::Hold { device, .. } => (device, "link address unknown yet".to_owned()),
        _ => match leaves_to {
            Some((device, _)) => (device, "not asked for its link address".to_owned()),
            None => return,
        },
    };
    let to = match (leaves_to, decision.verdict, &outlook.flow) {
        (Some((_, next_hop)), ..) => format!("next hop {next_hop}, "),
        (None, Verdict::Hold { address, .. }, _) => format!("next hop {address}, "),
        (None, _, Some((record, _))) if packet.arrival == Arrival::Outside => {
            format!("tunnel to {}, ", gateway.numbers.peer(record.peer))
        }
        _ => String::new(),
    };
    steps.add("route", device_name(gateway, device), format!("{to}{resolved}"));
}

/// Whether the packet fits where it leaves.
fn tell_mtu(
    steps: &mut Steps,
    gateway: &Gateway,
    document: &Document,
    packet: &Packet,
    decision: &Decision,
) {
    let tunnel = match packet.arrival {
        Arrival::Tunnel { .. } => String::new(),
        Arrival::Outside => {
            format!(" and {} of the tunnel", overhead(document.underlay()))
        }
    };
    let size = packet.size;
    match decision.verdict {
        Verdict::Transmit { device, .. } | Verdict::Fragment { device, .. } => {
            let verdict = match decision.pieces {
                1 => "fits".to_owned(),
                pieces => format!("{pieces} fragments"),
            };
            let mtu = gateway.mtu(device).unwrap_or_default();
            let device = device_name(gateway, device);
            steps.add("mtu", verdict, format!("{size} bytes{tunnel}; {device} carries {mtu}"));
        }
        Verdict::Drop(reason @ (DropReason::ExceedsMtu | DropReason::ExceedsTunnelMtu)) => {
            steps.add("mtu", reason.name(), format!("{size} bytes{tunnel}"));
        }
        _ => {}
    }
}

fn device_name(gateway: &Gateway, device: DeviceIndex) -> &str {
    let device = gateway.devices.get(usize::from(device));
    device.map_or("a device that is gone", |device| &device.name)
}
