//! What a packet of a known flow costs: each number of flows, order of flows, size of burst and way;
//! the variants in turn, round by round, so that they meet the same machine.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rand_distr::Zipf;
use serde::Serialize;
use spillway_engine::BURST_MAX;

use super::frames::{Frames, Protocol};
use super::gateway::{Gateway, Variant, Way};
use crate::measure::Spread;

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
}

impl Draw {
    fn new(flows: u32, distribution: Distribution) -> Result<Self> {
        let zipf = match distribution {
            Distribution::Uniform => None,
            Distribution::Zipf => Some(Zipf::new(f64::from(flows), 1.1)?),
        };
        Ok(Self { random: SmallRng::seed_from_u64(7), flows, zipf })
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

    fn way(&mut self, direction: Direction) -> Way {
        match direction {
            Direction::Forward => Way::Forward,
            Direction::Reply => Way::Reply,
            Direction::Mixed if self.random.random() => Way::Forward,
            Direction::Mixed => Way::Reply,
        }
    }
}

/// Measures it all, and gives each line to `tell` as it is known.
pub(crate) fn measure(
    matrix: &Matrix,
    tell: &mut dyn FnMut(Forwarding) -> Result<()>,
) -> Result<()> {
    let mut frames = Frames::new(matrix.protocol);
    for &flows in &matrix.flows {
        let mut gateways = Vec::new();
        for is_naive in [false, true] {
            let variants =
                matrix.variants.iter().filter(|each| (**each == Variant::Naive) == is_naive);
            let variants: Vec<_> = variants.copied().collect();
            if let Some(first) = variants.first() {
                let mut gateway = Gateway::new(*first, flows);
                gateway.fill(flows, &mut frames)?;
                gateways.push((gateway, variants));
            }
        }
        for &distribution in &matrix.distributions {
            for &name in &matrix.directions {
                for &burst in &matrix.bursts {
                    let mut draw = Draw::new(flows, distribution)?;
                    let mut samples =
                        vec![Vec::new(); gateways.iter().map(|(_, each)| each.len()).sum()];
                    for _ in 0..matrix.rounds {
                        let mut samples = samples.iter_mut();
                        for (gateway, variants) in &mut gateways {
                            for variant in variants {
                                let way = (name, burst, *variant);
                                let nanos = round(gateway, &mut frames, &mut draw, way);
                                samples.next().into_iter().for_each(|each| each.push(nanos));
                            }
                        }
                    }
                    let variants = gateways.iter().flat_map(|(_, variants)| variants);
                    for (variant, samples) in variants.zip(samples) {
                        let Spread { low, median, high } = Spread::of(samples);
                        tell(Forwarding {
                            name,
                            protocol: matrix.protocol,
                            flows,
                            distribution,
                            burst,
                            variant: *variant,
                            ns_per_packet: median,
                            ns_per_packet_quartiles: [low, high],
                        })?;
                    }
                }
            }
        }
        for (gateway, _) in &gateways {
            ensure!(gateway.dropped() == 0, "{} packets were dropped", gateway.dropped());
        }
    }
    Ok(())
}

/// One round; gives nanoseconds per packet.
fn round(
    gateway: &mut Gateway,
    frames: &mut Frames,
    draw: &mut Draw,
    (direction, burst, variant): (Direction, usize, Variant),
) -> f64 {
    let mut taken = Duration::ZERO;
    for number in 0..WARM_UP + BURSTS {
        for at in 0..BURST_MAX {
            let (flow, way) = (draw.flow(), draw.way(direction));
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
    #[expect(clippy::cast_precision_loss, reason = "of a few milliseconds nothing is lost")]
    let nanos = taken.as_nanos() as f64;
    nanos / (f64::from(BURSTS) * BURST_MAX as f64)
}
