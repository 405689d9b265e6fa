//! `spillway-bench pktgen`: a generator and sink of packets, for any device. README.md says how.

mod clock;
mod flows;
mod generator;
mod histogram;
mod label;
mod live;
mod namespace;
mod options;
mod pace;
mod report;
mod schedule;
mod sink;
mod sockets;
mod stream;
mod template;

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

pub(crate) use options::Args;
use options::{Command, Output, ReceiveSink, RunSink, SendOptions};
use report::{Progress, Report, SHOW};
use sink::{Received, Sink, SinkConfig};

/// When nothing has come for so long, nothing more is on its way.
const SETTLED: Duration = Duration::from_millis(200);

/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// How long it is looked at, at most.
const SETTLE_MAX: Duration = Duration::from_secs(3);

pub(crate) fn run(args: &Args) -> Result<()> {
    let interrupted = interruption()?;
    match &args.command {
        Command::Run { send, sink, output } => send_and_receive(send, sink, *output, &interrupted),
        Command::Send { send, output } => send_only(send, *output, &interrupted),
        Command::Receive { sink, output } => receive_only(sink, *output, &interrupted),
    }
}

/// A message for every Ctrl-C or SIGTERM. SIGUSR1, which wakes sending threads, does nothing else.
fn interruption() -> Result<Receiver<()>> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGUSR1])?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for signal in &mut signals {
            if signal != SIGUSR1 && sender.send(()).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

fn send_and_receive(
    options: &SendOptions,
    sink: &RunSink,
    output: Output,
    interrupted: &Receiver<()>,
) -> Result<()> {
    let sink = Sink::open(&SinkConfig {
        device: &sink.sink_device,
        netns: sink.sink_netns.as_deref(),
        tunnel_port: sink.sink_tunnel_port,
        source: sink.expect_source,
        reflect: false,
        flows: options.traffic.flows,
    })?;
    let mut progress = Progress::new(output);
    let sent = generator::send(options, interrupted, |sent| {
        progress.show(|| Ok((Some(sent.frames), Some(sink.read()?.packets))))
    })?;
    let received = settle(&sink, sent.frames, interrupted)?;
    Report::new(Some((options, sent)), Some(&received)).print(output)
}

/// Waits until all has come, or nothing comes any more.
fn settle(sink: &Sink, sent: u64, interrupted: &Receiver<()>) -> Result<Received> {
    let start = Instant::now();
    let mut received = sink.read()?;
    let mut came = Instant::now();
    while received.packets < sent && came.elapsed() < SETTLED && start.elapsed() < SETTLE_MAX {
        if interrupted.recv_timeout(LOOK).is_ok() {
            break;
        }
        let now = sink.read()?;
        if now.packets > received.packets {
            came = Instant::now();
        }
        received = now;
    }
    Ok(received)
}

fn send_only(options: &SendOptions, output: Output, interrupted: &Receiver<()>) -> Result<()> {
    let mut progress = Progress::new(output);
    let sent = generator::send(options, interrupted, |sent| {
        progress.show(|| Ok((Some(sent.frames), None)))
    })?;
    Report::new(Some((options, sent)), None).print(output)
}

fn receive_only(options: &ReceiveSink, output: Output, interrupted: &Receiver<()>) -> Result<()> {
    let seconds = options.seconds.unwrap_or(0.0);
    ensure!((0.0..=86_400.0).contains(&seconds), "--seconds {seconds}: 0 to a day");
    let end = options.seconds.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
    let sink = Sink::open(&SinkConfig {
        device: &options.device,
        netns: options.netns.as_deref(),
        tunnel_port: options.tunnel_port,
        source: options.expect_source,
        reflect: options.reflect,
        flows: options.flows,
    })?;
    let mut progress = Progress::new(output);
    progress.say(&format!("receiving on {}", options.device))?;
    loop {
        let left = end.map_or(SHOW, |end| end.saturating_duration_since(Instant::now()));
        match interrupted.recv_timeout(left.min(SHOW)) {
            Err(RecvTimeoutError::Timeout) if end.is_none_or(|end| Instant::now() < end) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(anyhow::anyhow!("signals are not heard any more"))
                    .context("cannot wait for the end");
            }
            _ => break,
        }
        progress.show(|| Ok((None, Some(sink.read()?.packets))))?;
    }
    Report::new(None, Some(&sink.read()?)).print(output)
}
