//! The command line: its words, and what each command does.
//!
//! A command that fails says why on standard error and exits with 1; a wrong command line exits
//! with 2; `who-had` has codes of its own for what it does not find. With `-o json` a command prints one JSON document.

mod apply;
mod capture;
mod check;
mod completion;
mod detach;
mod drain;
mod drops;
mod flows;
mod log_level;
mod man;
mod nat_log;
mod observe;
mod place;
mod policies;
mod port_blocks;
mod preflight;
mod ready;
#[cfg(test)]
mod reference;
mod serve;
mod status;
mod sysdump;
mod table;
mod time;
mod top;
mod trace;
mod usage;
mod who_had;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use serde::Serialize;
use spillway_api::{Client, ClientError, SOCKET_DEFAULT, os_error};

use crate::log::Log;

/// A Kubernetes egress gateway: pods that a policy selects leave with its egress address.
#[derive(Debug, Parser)]
#[command(name = "spillway", version, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one, once")]
enum Command {
    /// Forward traffic until SIGTERM; selected traffic is dropped from then on, never leaked.
    Run {
        /// The configuration, YAML.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The state document, YAML or JSON; followed for changes. Without it the document comes
        /// over the socket.
        #[arg(long, value_name = "FILE")]
        state: Option<PathBuf>,
    },
    /// Check a configuration and a state document without running anything.
    Check {
        /// The configuration, YAML.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The state document, YAML or JSON.
        #[arg(long, value_name = "FILE")]
        state: Option<PathBuf>,
    },
    /// Say what is wrong on this host before the router runs on it, and how to mend it. Changes
    /// nothing; exits with 1 when the router would not work.
    Preflight {
        /// The configuration, YAML. Without it: the defaults, on the devices of the default routes.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Exit with 0 whatever is found: the router itself refuses what it cannot do.
        #[arg(long)]
        advise: bool,
        /// As what the checks are shown.
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Show how the router is: state, devices, workers, frames.
    Status(Query),
    /// Show which pods leave to where, and as whom.
    Policies(Query),
    /// Show the live flows.
    Flows(Query),
    /// Show which pods have which blocks of ports, where `port_blocks` of the configuration says that they have
    /// some.
    PortBlocks(Query),
    /// Show what was dropped, passed and steered, by reason.
    Drops {
        #[command(flatten)]
        query: Query,
        /// Show also what never happened.
        #[arg(long)]
        all: bool,
    },
    /// Show how many flows egress addresses and policies have, and which remote is nearest to its last
    /// port.
    Usage(Query),
    /// Say whether the gateway is ready to forward, as /readyz does; exits with 1 when it is not.
    Ready(Socket),
    /// Serve a running router's metrics and health over HTTP: /metrics, /livez and /readyz.
    Serve {
        #[command(flatten)]
        listen: serve::Listen,
        /// Serve also a page for people, at /. It shows flows, so who speaks with whom: whoever gets
        /// there can read that too.
        #[arg(long)]
        page: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Watch what the router does now: throughput, workers, drops, egress addresses and flows.
    Top {
        #[command(flatten)]
        top: top::Options,
        #[command(flatten)]
        socket: Socket,
    },
    /// Show flows that begin and end, and packets that are dropped: the last ones, or as it happens.
    Observe {
        #[command(flatten)]
        options: observe::Options,
        #[command(flatten)]
        socket: Socket,
    },
    /// Write down who has which egress address and port, from when to when: as JSON lines, to a
    /// collector of IPFIX, or both. Until SIGINT or SIGTERM.
    NatLog {
        #[command(flatten)]
        options: nat_log::Options,
        #[command(flatten)]
        socket: Socket,
    },
    /// Say which pod had an egress address and port at a time. Exits with 3 when nobody had, with 4 when
    /// that is not known.
    WhoHad {
        #[command(flatten)]
        options: who_had::Options,
        #[command(flatten)]
        query: Query,
    },
    /// Tell what would become of a packet, step by step, without sending one.
    Trace {
        #[command(flatten)]
        packet: trace::Packet,
        #[command(flatten)]
        query: Query,
    },
    /// Capture packets as the router receives, translates, sends and drops them: pcapng for Wireshark, or a
    /// line for each.
    Capture {
        #[command(flatten)]
        capture: capture::Options,
        #[command(flatten)]
        socket: Socket,
    },
    /// Show or change what the running router logs.
    LogLevel {
        #[command(flatten)]
        level: log_level::Options,
        #[command(flatten)]
        query: Query,
    },
    /// Put what a report of a fault needs into one archive: what the router says, the host's network,
    /// preflight. No secrets are read.
    Sysdump {
        #[command(flatten)]
        sysdump: sysdump::Options,
        #[command(flatten)]
        socket: Socket,
    },
    /// Replace the running state document by the one in a file.
    Apply {
        /// The state document, YAML or JSON; `-` is standard input.
        file: PathBuf,
        #[command(flatten)]
        socket: Socket,
    },
    /// Let no new flow begin, and wait until those that there are have ended.
    Drain {
        #[command(flatten)]
        drain: drain::Options,
        #[command(flatten)]
        socket: Socket,
    },
    /// Remove the steering program from this network namespace: the kernel has all traffic again,
    /// and selected pods are no longer held back.
    Detach {
        /// The configuration's `runtime_dir`.
        #[arg(long, value_name = "DIRECTORY", default_value = "/run/spillway")]
        runtime_dir: PathBuf,
    },
    /// Print what a shell reads to complete this command line, such as
    /// `source <(spillway completion bash)`.
    Completion {
        /// The shell.
        shell: Shell,
    },
    /// Write the manual's pages.
    #[command(hide = true)]
    Man {
        /// Where to.
        directory: PathBuf,
    },
}

/// How a router is asked, and its answer shown.
#[derive(Debug, Args)]
struct Query {
    /// As what the answer is shown.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    socket: Socket,
}

#[derive(Debug, Args)]
struct Socket {
    /// The running router's socket.
    #[arg(long = "socket", value_name = "PATH", env = "SPILLWAY_SOCKET",
          default_value = SOCKET_DEFAULT)]
    path: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For machines.
    Json,
}

/// Does what the command line says.
pub(crate) fn main() -> ExitCode {
    // clap prints its own errors and exits with 2.
    match run(CommandLine::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed: then nobody wants to know.
            let _ = writeln!(io::stderr(), "spillway: {error:#}");
            who_had::exit_code(&error)
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run { config, state } => {
            let config = crate::config::Config::load(&config)?;
            crate::run::run(config, state.as_deref(), Log::start())
        }
        Command::Check { config, state } => print(&check::check(&config, state.as_deref())?),
        Command::Preflight { config, advise, output } => {
            preflight::preflight(config.as_deref(), output, advise)
        }
        Command::Status(query) => {
            let status = query.connect()?.status()?;
            let socket = query.socket.path.display().to_string();
            query.show(&status, |status| status::table(status, &socket))
        }
        Command::Policies(query) => {
            let rows = policies::all(&mut query.connect()?)?;
            query.show(&rows, |rows| policies::table(rows))
        }
        Command::Flows(query) => {
            let rows = flows::all(&mut query.connect()?)?;
            query.show(&rows, |rows| flows::table(rows))
        }
        Command::PortBlocks(query) => {
            let rows = port_blocks::all(&mut query.connect()?)?;
            query.show(&rows, |rows| port_blocks::table(rows))
        }
        Command::Drops { query, all } => {
            let drops = query.connect()?.drops()?;
            query.show(&drops, |drops| drops::table(drops, all))
        }
        Command::Usage(query) => {
            let usage = query.connect()?.usage_counted_anew()?;
            query.show(&usage, usage::table)
        }
        Command::Ready(socket) => ready::ready(&socket.path),
        Command::Serve { listen, page, socket } => {
            Log::start();
            crate::serve::serve(listen.listen, listen.probes, &socket.path, page)
        }
        Command::Observe { options, socket } => observe::observe(&options, &socket.path),
        Command::NatLog { options, socket } => {
            Log::start();
            nat_log::nat_log(&options, &socket.path)
        }
        Command::Top { top, socket } => top::top(&top, &socket.path),
        Command::WhoHad { options, query } => who_had::who_had(&options, &query),
        Command::Trace { packet, query } => {
            let trace = query.connect()?.trace(packet.request()?)?;
            query.show(&trace, trace::table)
        }
        Command::Capture { capture, socket } => capture::capture(&capture, &socket.path),
        Command::LogLevel { level, query } => {
            let level = query.connect()?.log_level(level.filter, level.for_s)?;
            query.show(&level, log_level::table)
        }
        Command::Sysdump { sysdump, socket } => sysdump::sysdump(&sysdump, &socket.path),
        Command::Apply { file, socket } => print(&apply::apply(&file, &socket.path)?),
        Command::Drain { drain, socket } => drain::drain(&drain, &socket.path),
        Command::Detach { runtime_dir } => print(&detach::detach(&runtime_dir)?),
        Command::Completion { shell } => print(&completion::script(shell, CommandLine::command())),
        Command::Man { directory } => print(&man::write(&directory, CommandLine::command())?),
    }
}

impl Query {
    fn connect(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(&self.socket.path)?)
    }

    /// Shows an answer as it is wanted.
    fn show<T: Serialize>(
        &self,
        answer: &T,
        table: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        self.output.show(answer, table)
    }
}

impl Output {
    fn show<T: Serialize>(
        self,
        answer: &T,
        table: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        match self {
            Self::Table => print(&table(answer)),
            Self::Json => print(&(serde_json::to_string_pretty(answer)? + "\n")),
        }
    }
}

/// Prints to standard output. Whoever has seen enough, such as `head`, may close it.
fn print(text: &str) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow::anyhow!("cannot write to standard output: {}", os_error(&error)))
        }
        _ => Ok(()),
    }
}

/// A document's text, from a file or, as `-`, from standard input.
fn read_document(path: &Path) -> anyhow::Result<String> {
    let path = if path == Path::new("-") { Path::new("/dev/stdin") } else { path };
    crate::config::read_text(path)
}

/// The rows of all pages: `page` gives those from a cursor on, and the next page's cursor.
fn every_page<T>(
    mut page: impl FnMut(u64) -> Result<(Vec<T>, Option<u64>), ClientError>,
) -> Result<Vec<T>, ClientError> {
    let mut all = Vec::new();
    let mut cursor = Some(0);
    while let Some(start) = cursor {
        let (rows, next) = page(start)?;
        all.extend(rows);
        cursor = next;
    }
    Ok(all)
}

/// A time for people: the two largest units.
fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn times_have_their_two_largest_units() {
        for (seconds, shown) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m0s"),
            (3_599, "59m59s"),
            (3_600, "1h0m"),
            (86_399, "23h59m"),
            (86_400, "1d0h"),
            (u64::MAX, "213503982334601d7h"),
        ] {
            assert_eq!(duration(seconds), shown);
        }
    }
}
