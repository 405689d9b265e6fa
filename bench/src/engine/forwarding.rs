//! What a packet of a known flow costs: each number of flows, order of flows, size of burst and way;
//! the families and variants in turn, round by round, so that they meet the same machine.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rand_distr::Zipf;
use serde::Serialize;
use spillway_engine::BURST_MAX;

use super::family::AddressFamily;
use super::frames::{BURST, Frames, Protocol};
use super::gateway::{Gateway, Variant, Way};
use crate::measure::{Spread, nanos_per};

/// Full bursts of a round that are measured, and before them those that are not: the variants have
/// emptied each other's caches.
const BURSTS: u32 = 256;
const WARM_UP: u32 = 64;

/// Which flows the packets belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
pub(crate) enum Distribution {
    /// Each flow is as likely as any other.
    #[serde(rename = "uniform")]
    Uniform,
    /// Few flows have most packets: Zipf's law with exponent 1.1.
    #[serde(rename = "zipf 1.1")]
    #[value(name = "zipf")]
    Zipf,
}

/// What packets go which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    /// From pods.
    Forward,
    /// To pods.
    Reply,
    /// One or the other, at random.
    Mixed,
}

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Forwarding {
    pub(crate) name: Direction,
    pub(crate) family: AddressFamily,
    pub(crate) protocol: Protocol,
    pub(crate) flows: u32,
    pub(crate) distribution: Distribution,
    pub(crate) burst: usize,
    pub(crate) variant: Variant,
    /// The median of the rounds.
    pub(crate) ns_per_packet: f64,
    /// A quarter of the rounds was no slower than the first, and one no faster than the second.
    pub(crate) ns_per_packet_quartiles: [f64; 2],
}

/// What is measured.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    pub(crate) families: Vec<AddressFamily>,
    pub(crate) flows: Vec<u32>,
    pub(crate) distributions: Vec<Distribution>,
    pub(crate) directions: Vec<Direction>,
    pub(crate) bursts: Vec<usize>,
    pub(crate) variants: Vec<Variant>,
    pub(crate) protocol: Protocol,
    pub(crate) rounds: usize,
}

/// Draws flows.
struct Draw {
    random: SmallRng,
    flows: u32,
    zipf: Option<Zipf<f64>>,
    direction: Direction,
}

impl Draw {
    fn new(flows: u32, distribution: Distribution, direction: Direction) -> Result<Self> {
        let zipf = match distribution {
            Distribution::Uniform => None,
            Distribution::Zipf => Some(Zipf::new(f64::from(flows), 1.1)?),
        };
        Ok(Self { random: SmallRng::seed_from_u64(7), flows, zipf, direction })
    }

    /// The next packet's flow. The busiest are not those that were opened first.
    fn flow(&mut self) -> u32 {
        match &self.zipf {
            None => self.random.random_range(0..self.flows),
            Some(zipf) => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a rank"
                )]
                let rank = self.random.sample(zipf) as u64;
                let flow = rank * 2_654_435_761 % u64::from(self.flows);
                u32::try_from(flow).unwrap_or_default()
            }
        }
    }

    fn way(&mut self) -> Way {
        match self.direction {
            Direction::Forward => Way::Forward,
            Direction::Reply => Way::Reply,
            Direction::Mixed if self.random.random() => Way::Forward,
            Direction::Mixed => Way::Reply,
        }
    }
}

/// A gateway and who forwards with it: the engine with and without prefetching has the same flows.
struct Stand {
    gateway: Gateway,
    family: AddressFamily,
    variants: Vec<Variant>,
}

/// One combination of what is varied, and what was seen of it.
struct Case {
    distribution: Distribution,
    direction: Direction,
    burst: usize,
    draw: Draw,
    /// Nanoseconds per packet of each round, by family and variant.
    samples: Vec<(AddressFamily, Variant, Vec<f64>)>,
}

/// Measures it all, and gives each line to `tell`. Rounds go over all cases, so that a machine that is
/// slow for a while is slow for all of them, in some rounds.
pub(crate) fn measure(
    matrix: &Matrix,
    tell: &mut dyn FnMut(Forwarding) -> Result<()>,
) -> Result<()> {
    let mut frames = Frames::new(matrix.protocol);
    for &flows in &matrix.flows {
        let mut stands = stands(matrix, flows, &mut frames)?;
        let mut cases = cases(matrix, flows, &stands)?;
        for _ in 0..matrix.rounds {
            for case in &mut cases {
                in_turn(&mut stands, &mut frames, case);
            }
        }
        for case in cases {
            let Case { distribution, direction, burst, samples, .. } = case;
            for (family, variant, samples) in samples {
                let Spread { low, median, high } = Spread::of(samples);
                tell(Forwarding {
                    name: direction,
                    family,
                    protocol: matrix.protocol,
                    flows,
                    distribution,
                    burst,
                    variant,
                    ns_per_packet: median,
                    ns_per_packet_quartiles: [low, high],
                })?;
            }
        }
        for Stand { gateway, .. } in &stands {
            ensure!(gateway.dropped() == 0, "{} packets were dropped", gateway.dropped());
        }
    }
    Ok(())
}

/// Every combination, before anything is measured of it.
fn cases(matrix: &Matrix, flows: u32, stands: &[Stand]) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for &distribution in &matrix.distributions {
        for &direction in &matrix.directions {
            for &burst in &matrix.bursts {
                let draw = Draw::new(flows, distribution, direction)?;
                let samples = stands.iter().flat_map(|stand| {
                    stand.variants.iter().map(|variant| (stand.family, *variant, Vec::new()))
                });
                let samples = samples.collect();
                cases.push(Case { distribution, direction, burst, draw, samples });
            }
        }
    }
    Ok(cases)
}

/// Gateways with so many flows for all families and variants.
fn stands(matrix: &Matrix, flows: u32, frames: &mut Frames) -> Result<Vec<Stand>> {
    let mut stands = Vec::new();
    for &family in &matrix.families {
        let known = matrix.variants.iter().filter(|variant| variant.knows(family));
        let (naive, ours): (Vec<_>, Vec<_>) = known.partition(|it| **it == Variant::Naive);
        for variants in [ours, naive] {
            if let Some(first) = variants.first() {
                let mut gateway = Gateway::new(*first, family, flows);
                gateway.fill(flows, frames)?;
                stands.push(Stand { gateway, family, variants });
            }
        }
    }
    ensure!(!stands.is_empty(), "no variant of those named forwards packets of those families");
    Ok(stands)
}

/// One round of a case: all families and variants in turn.
fn in_turn(stands: &mut [Stand], frames: &mut Frames, case: &mut Case) {
    let mut samples = case.samples.iter_mut();
    for Stand { gateway, variants, .. } in stands {
        for variant in variants {
            let nanos = round(gateway, frames, &mut case.draw, case.burst, *variant);
            if let Some((.., samples)) = samples.next() {
                samples.push(nanos);
            }
        }
    }
}

/// One round; gives nanoseconds per packet.
fn round(
    gateway: &mut Gateway,
    frames: &mut Frames,
    draw: &mut Draw,
    burst: usize,
    variant: Variant,
) -> f64 {
    let mut taken = Duration::ZERO;
    for number in 0..WARM_UP + BURSTS {
        for at in 0..BURST_MAX {
            let (flow, way) = (draw.flow(), draw.way());
            gateway.write(frames, at, flow, way, false);
        }
        let slices = &mut frames.slices();
        let started = Instant::now();
        gateway.pass(variant == Variant::NoPrefetch, burst, slices);
        let elapsed = started.elapsed();
        if number >= WARM_UP {
            taken += elapsed;
        }
    }
    nanos_per(taken, BURSTS * BURST)
}
