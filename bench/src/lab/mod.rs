//! End to end in the namespaces lab: Spillway, AF_XDP forwarding without an engine (the floor), and
//! the kernel doing the same job, in turn, round after round. README.md beside this file says what
//! is measured, and how far it can be trusted.

mod generator;
mod host;
mod measure;
mod placement;
mod processor;
mod report;
mod search;
mod series;
mod system;
mod tcp;

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::stop;
use generator::Direction;
use measure::Plan;
use placement::Placement;
use series::{Key, Metric, Series};
use system::{Lab, System};

/// What to compare, and how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One short round, and less of it: under two minutes.
    #[arg(long)]
    quick: bool,
    /// How often each system is measured, in turn with the others.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=100))]
    rounds: Option<u8>,
    /// Which systems.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = System::ALL)]
    systems: Vec<System>,
    /// Spillway's and l2-forward's workers.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    workers: u8,
    /// Receive queues of the gateway's device.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    queues: u8,
    /// The gateway's processors; default: one for each worker, without the generator's, 0.
    #[arg(long, value_delimiter = ',')]
    processors: Vec<usize>,
    /// Let the gateway's processors also receive for Spillway, which the generator's does otherwise.
    #[arg(long)]
    one_processor: bool,
    /// Send all flows from this outer UDP source port: a tunnel that no queue can divide.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    outer_source_port: Option<u16>,
    /// Measure no TCP connections.
    #[arg(long)]
    no_tcp: bool,
    /// The lab's script. A lab that is up is replaced.
    #[arg(long, default_value = "vagrant/netns.sh")]
    script: PathBuf,
    /// The binary to measure; default: the one beside this program.
    #[arg(long)]
    spillway: Option<PathBuf>,
    /// Print what was measured as JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    fn lab(&self) -> Result<Lab> {
        ensure!(rustix::process::geteuid().is_root(), "the lab needs root: try sudo");
        let script = self.script.canonicalize().with_context(|| {
            format!(
                "there is no {}: run this in the project's directory, or say --script",
                self.script.display()
            )
        })?;
        let beside = std::env::current_exe()?.with_file_name("spillway");
        let spillway = self.spillway.as_ref().unwrap_or(&beside);
        let spillway = spillway.canonicalize().with_context(|| {
            format!("there is no {}: run `make build`, or say --spillway", spillway.display())
        })?;
        let processors = std::thread::available_parallelism()?.get();
        let mut placement = Placement::of(processors, self.workers, self.one_processor)?;
        if !self.processors.is_empty() {
            placement.gateway.clone_from(&self.processors);
        }
        let (workers, queues) = (self.workers, self.queues);
        Ok(Lab { script, spillway, placement, workers, queues })
    }

    fn plan(&self) -> Plan {
        let (forward, reply) = (Direction::Forward, Direction::Reply);
        let mut cases = vec![(forward, "64"), (reply, "64")];
        if !self.quick {
            // The largest that fits the tunnel, and so no mix with larger ones comes back.
            cases.extend([(forward, "1468"), (reply, "1468"), (forward, "imix")]);
        }
        Plan {
            cases,
            loads: if self.quick { vec![50] } else { vec![10, 50] },
            trial: Duration::from_millis(if self.quick { 250 } else { 500 }),
            precision: if self.quick { 1.1 } else { 1.04 },
            rates_max: if self.quick { 7 } else { 16 },
            outer_source_port: self.outer_source_port,
        }
    }

    fn rounds(&self) -> u8 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 })
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let lab = args.lab()?;
    let stop = stop::on_signals()?;
    placement::prefer(std::process::id())?;
    let mut series = Series::default();
    let measured = rounds(args, &lab, &mut series, &stop);
    // What was measured before a failure, or Ctrl-C, was measured.
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report::records(&series))?)?;
    } else {
        write!(out, "{}", report::tables(&series))?;
    }
    measured
}

/// Measures all systems in turn, again and again.
fn rounds(args: &Args, lab: &Lab, series: &mut Series, stop: &AtomicBool) -> Result<()> {
    let plan = args.plan();
    let started = Instant::now();
    for round in 1..=args.rounds() {
        for system in &args.systems {
            progress(started, &format!("round {round}: {}", system.name()));
            measure::round(lab, *system, &plan, series, stop)?;
        }
        if !args.no_tcp {
            progress(started, &format!("round {round}: TCP"));
            tcp_round(lab, args, series, stop)?;
        }
    }
    Ok(())
}

fn tcp_round(lab: &Lab, args: &Args, series: &mut Series, stop: &AtomicBool) -> Result<()> {
    let seconds = if args.quick { 1 } else { 3 };
    for (system, offloads) in
        [(System::Spillway, false), (System::Kernel, false), (System::Kernel, true)]
    {
        if stop.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        if !args.systems.contains(&system) {
            continue;
        }
        let rate = tcp::upload(lab, system, offloads, seconds)?;
        let size = if offloads { "TCP, GSO and GRO" } else { "TCP" };
        let metric = Metric::TcpBitsPerSecond;
        series.add(Key { metric, direction: Direction::Forward, size, load: 0, system }, rate);
    }
    Ok(())
}

/// Says on standard error how far it is; nobody reading is no reason to stop.
fn progress(started: Instant, what: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{:4} s  {what}", started.elapsed().as_secs());
}
