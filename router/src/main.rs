//! `spillway`: the data-plane daemon of an egress gateway, and the operator's command line.
//!
//! This file is a table of contents. `run` forwards; every other command asks a running router
//! over its Unix socket, `serve` for whoever asks by HTTP, except `check`, `preflight` and `detach`, which
//! need none.

mod accounts;
mod announce;
mod answer;
mod capture;
mod census;
mod cli;
mod compile;
mod config;
mod events;
mod gateway;
mod grace;
mod groups;
mod handover;
mod held;
mod inbox;
mod kernel;
mod limits;
mod log;
mod mtu;
mod nat_log;
mod numbers;
mod observe;
mod pod_names;
mod policy_names;
mod preflight;
mod remedy;
mod run;
mod seldom;
mod serve;
mod server;
mod state_file;
mod sysdump;
mod trace;
mod usage;
mod who_had;
mod worker;
mod workers;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
