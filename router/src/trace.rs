//! `spillway trace`: what would become of a packet, told step by step.
//!
//! It is no second opinion. The steering program itself is tried on the frame that would bring the packet
//! ([`Trial`]). What it makes of that is given to an engine of its own, which has the workers' tables and
//! the packet's flow, if there is one. What only a worker knows, its flows and ports, it is asked for
//! ([`Outlook`]). Nothing is opened, leased or counted: neither the copy of the program nor that engine is
//! anybody's.

mod packet;
mod selection;
mod words;

use std::os::fd::AsFd as _;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, ensure};
use spillway_api::{Trace, TraceRequest, TraceStep};
use spillway_engine::steer::CLASSES;
use spillway_engine::{DropReason, Engine, EngineConfig, Outlook, PortOutlook, SavedFlow, Verdict};
use spillway_xdp::steering::{self, Trial, Tried};

use crate::gateway::Gateway;
use crate::worker::now;
use packet::{Arrival, Packet};

/// What is found out about a packet.
struct Findings {
    packet: Packet,
    tried: Tried,
    /// Of a packet that steering takes.
    taken: Option<Taken>,
}

/// What is found out about a packet that steering takes.
struct Taken {
    /// Who gets it first.
    owner: u8,
    /// Who sends it on, and what it says.
    worker: u8,
    outlook: Outlook,
    decision: Decision,
}

/// What the engine makes of a frame.
struct Decision {
    verdict: Verdict,
    /// As it leaves, if it does.
    frame: Vec<u8>,
    /// In how many pieces.
    pieces: usize,
    /// Whether the sender of a dropped packet hears of it, by ICMP.
    is_told: bool,
}

/// Traces a packet.
///
/// # Errors
/// When there can be no such packet, or somebody who is asked does not answer.
pub(crate) fn trace(gateway: &mut Gateway, asked: &TraceRequest) -> anyhow::Result<Trace> {
    if gateway.trial.is_none() {
        gateway.trial = Some(trial(gateway)?);
    }
    let programmed = gateway.programmed.as_ref();
    let document = &programmed.context(NOT_PROGRAMMED)?.document;
    let Some(packet) = Packet::new(document, asked)? else { return Ok(without_tunnel()) };
    check_size(gateway, &packet)?;
    let findings = find_out(gateway, packet)?;
    Ok(Trace { steps: words::steps(gateway, document, &findings) })
}

const NOT_PROGRAMMED: &str =
    "no state document is in force, so no packet is Spillway's: see `spillway status`";

/// What is told where no pod's packet can come.
fn without_tunnel() -> Trace {
    let detail = "Spillway never sees it: the state document has no tunnel with a peer";
    let step = "verdict".to_owned();
    Trace {
        steps: vec![TraceStep { step, verdict: "kernel".to_owned(), detail: detail.to_owned() }],
    }
}

/// A copy of the steering program, with a socket of each worker.
fn trial(gateway: &Gateway) -> anyhow::Result<Trial> {
    let sockets = (0..gateway.config.workers).filter_map(|worker| {
        let mut sockets = gateway.sockets.iter();
        let socket = sockets.find(|socket| socket.worker == worker)?;
        Some((worker, socket.fd.as_fd()))
    });
    Ok(gateway.steering.trial(sockets)?)
}

/// Whether the packet could come whole: a larger one its node has to cut or to refuse.
fn check_size(gateway: &Gateway, packet: &Packet) -> anyhow::Result<()> {
    let size = u32::from(packet.size) + packet.arrival.overhead();
    let mtus = (0..).zip(&gateway.devices).filter_map(|(index, _)| gateway.mtu(index));
    let largest = mtus.max().unwrap_or_default();
    ensure!(
        size <= largest,
        "no packet of {size} bytes{} comes to the gateway: the largest MTU of its devices is \
         {largest}. Say a smaller --size",
        packet.arrival.with_overhead()
    );
    Ok(())
}

/// Finds out about a packet; about a later one of its flow, if it has one.
fn find_out(gateway: &Gateway, packet: Packet) -> anyhow::Result<Findings> {
    let tried = try_frame(gateway, &packet)?;
    if tried.outcome.verdict() != steering::Verdict::Steer {
        return Ok(Findings { packet, tried, taken: None });
    }
    let (owner, worker, outlook) = look(gateway, packet.owner_port(), &tried.frame)?;
    let Some((record, saved)) = &outlook.flow else {
        let decision = decide(gateway, None, tried.frame.clone())?;
        let taken = Some(Taken { owner, worker, outlook, decision });
        return Ok(Findings { packet, tried, taken });
    };
    let packet = match packet.arrival {
        Arrival::Tunnel { .. } => {
            let document = gateway.programmed.as_ref().map(|programmed| &programmed.document);
            let peer = gateway.numbers.peer(record.peer);
            document.map_or(packet, |document| packet.of_flow(document, peer))
        }
        Arrival::Outside => packet,
    };
    let tried = try_frame(gateway, &packet)?;
    let decision = decide(gateway, Some(saved), tried.frame.clone())?;
    Ok(Findings { packet, tried, taken: Some(Taken { owner, worker, outlook, decision }) })
}

/// What steering makes of a packet.
fn try_frame(gateway: &Gateway, packet: &Packet) -> anyhow::Result<Tried> {
    let trial = gateway.trial.as_ref().context("no steering program is there to try")?;
    Ok(trial.run(&packet.frame(gateway.config.tunnel_port)?)?)
}

/// Asks the workers in the order in which they would get the packet: the owner of its port, the one that
/// its flow lives with, and where the owner has no port left, each of the others. Gives the owner, and what
/// the one says that would send it on.
fn look(gateway: &Gateway, port: u16, frame: &[u8]) -> anyhow::Result<(u8, u8, Outlook)> {
    let (owner, workers) = (gateway.engine.owners.owner(port), gateway.config.workers);
    let ask = |worker| gateway.workers.look(worker, frame.to_vec());
    let outlook = ask(owner)?;
    if let Some(other) = outlook.handed_to {
        let theirs = ask(other)?;
        // Else it has ended there, and the packet comes back.
        let is_mapped = matches!(theirs.port, Some(Ok(PortOutlook::Mapped(_))));
        if theirs.flow.is_some() || is_mapped {
            return Ok((owner, other, theirs));
        }
    }
    if outlook.port != Some(Err(DropReason::PortsExhausted)) {
        return Ok((owner, owner, outlook));
    }
    for asked in 1..workers {
        let next = (u16::from(owner) + u16::from(asked)) % u16::from(workers);
        let other = u8::try_from(next)?;
        let theirs = ask(other)?;
        if !matches!(
            theirs.port,
            Some(Err(DropReason::PortsExhausted
                | DropReason::FlowTableFull
                | DropReason::MappingsExhausted))
        ) {
            return Ok((owner, other, theirs));
        }
    }
    Ok((owner, owner, outlook))
}

/// What an engine makes of a frame that owns every port, and has no flow but the packet's.
fn decide(
    gateway: &Gateway,
    flow: Option<&SavedFlow>,
    mut frame: Vec<u8>,
) -> anyhow::Result<Decision> {
    let mut engine = Engine::new(&EngineConfig {
        worker: 0,
        owners: [0; CLASSES].into(),
        blocks_per_pod: 0,
        flows_max: 1,
        flows_max_ipv6: 1,
        pod_flows: Arc::default(),
        events: false,
        ..gateway.engine.clone()
    });
    let (now, tables) = (now(), &*gateway.tables);
    if let Some(flow) = flow {
        let restored = engine.restore(now, flow);
        restored.map_err(|why| anyhow!("the packet's flow cannot be tried: {why}"))?;
    }
    let mut verdicts = [Verdict::Drop(DropReason::UnknownKind)];
    engine.process(now, tables, &mut [frame.as_mut_slice()], &mut verdicts);
    let [verdict] = verdicts;
    let pieces = match verdict {
        Verdict::Fragment { fragments, .. } => fragments.count(tables, &frame),
        _ => 1,
    };
    let is_told = match verdict {
        Verdict::Drop(reason) => engine.owed_error(now, tables, reason, &mut frame).is_some(),
        _ => false,
    };
    Ok(Decision { verdict, frame, pieces, is_told })
}
