//! `spillway nat-log`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use jiff::SignedDuration;

use super::time::duration;
use crate::nat_log::export::{Exporter, Transport};
use crate::nat_log::file::{LogFile, Rotation};
use crate::nat_log::recorder::{Lines, Recorder, cursor_file};

/// Where the log goes.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The file that JSON lines are appended to. How far it goes is in FILE.cursor. Default: standard
    /// output, unless there is a collector.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Mebibytes of a file; then it becomes FILE.1, and that one FILE.2.
    #[arg(long, value_name = "MEBIBYTES", default_value_t = 100, requires = "to",
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    max_size: u64,
    /// How long one file is written to.
    #[arg(long, value_name = "DURATION", default_value = "1d", requires = "to",
          value_parser = duration)]
    max_age: Duration,
    /// Rotated files that are kept.
    #[arg(long, value_name = "NUMBER", default_value_t = 30, requires = "to",
          value_parser = clap::value_parser!(u32).range(1..=500))]
    keep: u32,
    /// A collector of IPFIX, which is told each session that is created or deleted (RFC 8158).
    #[arg(long, value_name = "HOST:PORT")]
    ipfix: Option<String>,
    /// How messages come to the collector.
    #[arg(long, value_enum, default_value_t = Transport::Udp, requires = "ipfix")]
    ipfix_transport: Transport,
}

/// Writes the log of the router that listens at `socket`, until SIGINT or SIGTERM.
pub(super) fn nat_log(options: &Options, socket: &Path) -> anyhow::Result<()> {
    let lines = match (&options.to, &options.ipfix) {
        (Some(path), _) => {
            let rotation = Rotation {
                bytes_max: options.max_size << 20,
                age_max: SignedDuration::try_from(options.max_age).unwrap_or(SignedDuration::MAX),
                keep: options.keep,
            };
            Lines::File(LogFile::open(path, rotation)?, cursor_file(path))
        }
        (None, None) => Lines::Output(Vec::new()),
        (None, Some(_)) => Lines::Nowhere,
    };
    let exporter = options.ipfix.as_ref().map(|to| Exporter::new(to, options.ipfix_transport));
    Recorder::new(lines, exporter).run(socket)
}
