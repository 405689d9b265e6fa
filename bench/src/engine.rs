//! The engine alone: frames in memory, one core, no system call.

mod forwarding;
mod frames;
mod gateway;
mod naive;
mod world;

use std::io::Write as _;

use anyhow::Result;
use forwarding::{Direction, Distribution, Forwarding, Matrix};
use frames::Protocol;
use gateway::Variant;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many flows there are.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1000, 64_512, 1_032_192, 4_128_768])]
    flows: Vec<u32>,
    /// Which flows packets belong to.
    #[arg(long, value_delimiter = ',', default_values = ["uniform", "zipf"])]
    distributions: Vec<Distribution>,
    /// Which way they go.
    #[arg(long, value_delimiter = ',', default_values = ["forward", "reply", "mixed"])]
    directions: Vec<Direction>,
    /// How many frames come at a time, 1 to 64.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 64])]
    bursts: Vec<usize>,
    /// Who does the work.
    #[arg(long, value_delimiter = ',', default_values = ["spillway", "no-prefetch", "naive"])]
    variants: Vec<Variant>,
    /// What the packets are.
    #[arg(long, default_value = "udp")]
    protocol: Protocol,
    /// How often each is measured.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Print a JSON array.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let matrix = Matrix {
        flows: args.flows.clone(),
        distributions: args.distributions.clone(),
        directions: args.directions.clone(),
        bursts: args.bursts.clone(),
        variants: args.variants.clone(),
        protocol: args.protocol,
        rounds: args.rounds,
    };
    let mut out = std::io::stdout().lock();
    forwarding::measure(&matrix, &mut |line: Forwarding| {
        let [low, high] = line.ns_per_packet_quartiles;
        let Forwarding { name, flows, distribution, burst, variant, ns_per_packet, .. } = line;
        Ok(writeln!(
            out,
            "{name:?} {flows} {distribution:?} {burst} {variant:?} {ns_per_packet:.1} [{low:.1} {high:.1}]"
        )?)
    })
}
