//! `spillway-bench`: what Spillway costs, measured on the machine at hand.
#![forbid(unsafe_code)]

mod bpf;
mod engine;
mod instructions;
mod l2_forward;
mod lab;
mod measure;
mod pktgen;
mod report;
mod steering;
mod stop;

use anyhow::Result;
use clap::Parser;

/// Measures Spillway. Each command says what it measures, and with --json says it to programs.
#[derive(Debug, Parser)]
#[command(version)]
enum Command {
    /// The engine alone, one core, in memory.
    Engine(engine::Args),
    /// The engine's instructions per packet, against the committed budget.
    Instructions(instructions::Args),
    /// AF_XDP forwarding without an engine: the floor.
    L2Forward(l2_forward::Args),
    /// Spillway, the floor and the kernel's own NAT, end to end in network namespaces.
    Lab(lab::Args),
    /// Packets from pods, or replies to them, and what becomes of them.
    Pktgen(Box<pktgen::Args>),
    /// Tables and plots from what the others print with --json.
    Report(report::Args),
    /// The steering program alone: nanoseconds per frame, in the kernel. Needs root.
    Steering(steering::Args),
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Engine(args) => engine::run(&args),
        Command::Instructions(args) => instructions::run(&args),
        Command::L2Forward(args) => l2_forward::run(&args),
        Command::Lab(args) => lab::run(&args),
        Command::Pktgen(args) => pktgen::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Steering(args) => steering::run(&args),
    }
}
