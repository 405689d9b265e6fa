//! The engine alone: frames in memory, no system call.

mod cases;
mod family;
mod forwarding;
mod frames;
mod gateway;
mod lives;
mod naive;
mod ports;
mod scaling;
mod table;
mod world;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use spillway_engine::BURST_MAX;

pub(crate) use cases::Case;
use family::AddressFamily;
use forwarding::{Direction, Distribution, Matrix};
use frames::Protocol;
use gateway::Variant;
use table::Table;

/// What to measure, and of what.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to measure.
    #[arg(long, value_delimiter = ',', default_values = ["forwarding", "lives", "ports", "scaling"])]
    measure: Vec<Measure>,
    /// Forwarding: how many flows there are.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1000, 64_512, 1_032_192, 4_128_768])]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=FLOWS_MAX))]
    flows: Vec<u32>,
    /// Forwarding: which IP packets are; the naive engine knows IPv4 alone, like the other groups.
    #[arg(long, value_delimiter = ',', default_values = ["4", "6"])]
    families: Vec<AddressFamily>,
    /// Forwarding: which flows packets belong to.
    #[arg(long, value_delimiter = ',', default_values = ["uniform", "zipf"])]
    distributions: Vec<Distribution>,
    /// Forwarding: which way packets go.
    #[arg(long, value_delimiter = ',', default_values = ["forward", "reply", "mixed"])]
    directions: Vec<Direction>,
    /// Forwarding: how many frames come at a time, 1 to 64.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 64])]
    bursts: Vec<usize>,
    /// Who does the work.
    #[arg(long, value_delimiter = ',', default_values = ["spillway", "no-prefetch", "naive"])]
    variants: Vec<Variant>,
    /// Lives: how many flows are opened, and end.
    #[arg(long, value_delimiter = ',', default_values_t = [258_048, 1_032_192])]
    #[arg(value_parser = clap::value_parser!(u32).range(2..=FLOWS_MAX))]
    lives: Vec<u32>,
    /// What packets are.
    #[arg(long, default_value = "udp")]
    protocol: Protocol,
    /// Scaling: how many workers, each on a processor of its own.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// How often each is measured; the median counts.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Print a JSON array.
    #[arg(long)]
    json: bool,
}

/// Half of the flows that the benchmark's remotes have ports for.
const FLOWS_MAX: i64 = 1 << 25;

/// A group of measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Measure {
    /// Packets of known flows.
    Forwarding,
    /// New flows, and their end.
    Lives,
    /// Leases, until no port is left.
    Ports,
    /// Several workers.
    Scaling,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let bursts_are_right = args.bursts.iter().all(|burst| (1..=BURST_MAX).contains(burst));
    ensure!(bursts_are_right, "--bursts are 1 to {BURST_MAX}");
    ensure!(args.rounds > 0, "--rounds is at least 1");
    let mut table = Table::new(args.json);
    for measure in &args.measure {
        match measure {
            Measure::Forwarding => {
                forwarding::measure(&args.matrix(), &mut |line| table.add(&line))?;
            }
            Measure::Lives => {
                for flows in &args.lives {
                    for variant in args.variants.iter().filter(|each| each.has_own_lives()) {
                        for life in lives::measure(*variant, *flows, args.protocol, args.rounds)? {
                            table.add(&life)?;
                        }
                    }
                }
            }
            Measure::Ports => {
                for lease in ports::measure(args.protocol, args.rounds)? {
                    table.add(&lease)?;
                }
            }
            Measure::Scaling => {
                for line in scaling::measure(64_512, args.workers, args.rounds)? {
                    table.add(&line)?;
                }
            }
        }
    }
    table.end()
}

impl Args {
    fn matrix(&self) -> Matrix {
        Matrix {
            families: self.families.clone(),
            flows: self.flows.clone(),
            distributions: self.distributions.clone(),
            directions: self.directions.clone(),
            bursts: self.bursts.clone(),
            variants: self.variants.clone(),
            protocol: self.protocol,
            rounds: self.rounds,
        }
    }
}
