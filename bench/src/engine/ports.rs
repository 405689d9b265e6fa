//! What a lease of a port costs while fewer and fewer are left towards one remote, and whether one is
//! refused too early.

use anyhow::{Result, ensure};
use serde::Serialize;

use super::family::AddressFamily;
use super::frames::{Frames, Protocol};
use super::gateway::{Gateway, Variant};
use crate::measure::{Spread, nanos_per};

/// The ports of an address that may be leased, from 1024 on.
const PORTS: u32 = 64_512;

/// How finely the way to exhaustion is told: in shares of it.
const STEPS: u32 = 20;

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Lease {
    name: &'static str,
    /// Per cent of the ports that are leased before and after.
    pub(crate) taken_percent: [u32; 2],
    /// The whole packet that opens a flow.
    pub(crate) ns_per_flow: f64,
    pub(crate) ns_per_flow_quartiles: [f64; 2],
    /// Packets that were refused; of those before 100 % there should be none.
    pub(crate) refused: u64,
}

/// Leases every port of an address towards one remote, and asks for as many again as one step has.
pub(crate) fn measure(protocol: Protocol, rounds: usize) -> Result<Vec<Lease>> {
    let mut samples = vec![Vec::new(); STEPS as usize + 1];
    let mut refused = vec![0; STEPS as usize + 1];
    let mut frames = Frames::new(protocol);
    for _ in 0..rounds {
        let mut gateway = Gateway::new(Variant::Spillway, AddressFamily::Ipv4, 2 * PORTS);
        for (step, (samples, refused)) in (0..).zip(samples.iter_mut().zip(&mut refused)) {
            let until = PORTS * (step + 1) / STEPS;
            let flows = PORTS * step / STEPS..until;
            let count = flows.end - flows.start;
            let dropped = gateway.dropped();
            let taken = gateway.open_towards_one_remote(flows, &mut frames);
            samples.push(nanos_per(taken, count));
            *refused = gateway.dropped() - dropped;
            ensure!(step == STEPS || *refused == 0, "{refused} refused before {until} ports");
        }
        ensure!(gateway.flows() == u64::from(PORTS), "{} of {PORTS} ports", gateway.flows());
    }
    let lines = (0..).zip(samples.into_iter().zip(refused)).map(|(step, (samples, refused))| {
        let Spread { low, median, high } = Spread::of(samples);
        Lease {
            name: "lease",
            taken_percent: [step, step + 1].map(|step| (100 * step / STEPS).min(100)),
            ns_per_flow: median,
            ns_per_flow_quartiles: [low, high],
            refused,
        }
    });
    Ok(lines.collect())
}
