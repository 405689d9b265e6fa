//! What is said about a run: while it lasts, and at its end.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use super::options::{Backend, Output, Protocol, SendOptions, Traffic};
use super::sink::Received;
use super::stream::Sent;

/// All that is known at the end. Fields are in the README.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    name: &'static str,
    #[serde(flatten)]
    sent: Option<SentReport>,
    #[serde(flatten)]
    received: Option<ReceivedReport>,
}

#[derive(Debug, Serialize)]
struct SentReport {
    traffic: Traffic,
    backend: Backend,
    protocol: Protocol,
    distribution: String,
    size: String,
    flows: u32,
    threads: u8,
    rate_pps: Option<f64>,
    sent: u64,
    sent_bytes: u64,
    send_seconds: f64,
    sent_pps: f64,
}

#[derive(Debug, Serialize)]
struct ReceivedReport {
    received: u64,
    received_bytes: u64,
    receive_seconds: f64,
    received_pps: f64,
    lost: u64,
    loss: f64,
    tunnelled: u64,
    reordered: u64,
    duplicates: u64,
    corrupt: u64,
    unexpected: u64,
    untracked: u64,
    passed: u64,
    latency_ns: Option<Latency>,
}

#[derive(Debug, Serialize)]
struct Latency {
    count: u64,
    min: u64,
    mean: u64,
    p50: u64,
    p90: u64,
    p99: u64,
    #[serde(rename = "p99.9")]
    p99_9: u64,
    max: u64,
}

impl Report {
    pub(crate) fn new(sent: Option<(&SendOptions, Sent)>, received: Option<&Received>) -> Self {
        let frames = sent.map(|(_, sent)| sent.frames);
        Self {
            name: "pktgen",
            sent: sent.map(|(options, sent)| SentReport::new(options, sent)),
            received: received.map(|received| ReceivedReport::new(received, frames)),
        }
    }

    /// Prints it, as JSON or as a table.
    ///
    /// # Errors
    ///
    /// When nobody reads it.
    pub(crate) fn print(&self, output: Output) -> Result<()> {
        let mut out = std::io::stdout().lock();
        if output.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&[self])?)?;
            return Ok(());
        }
        for (label, value) in self.rows() {
            writeln!(out, "{label:<12} {value}")?;
        }
        Ok(())
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = Vec::new();
        if let Some(sent) = &self.sent {
            let pps = mega(sent.sent_pps);
            let value = format!("{:>12}   {pps} Mpps in {:.3} s", sent.sent, sent.send_seconds);
            rows.push(("sent", value));
        }
        let Some(received) = &self.received else { return rows };
        let pps = mega(received.received_pps);
        let seconds = received.receive_seconds;
        rows.push((
            "received",
            format!("{:>12}   {pps} Mpps in {seconds:.3} s", received.received),
        ));
        rows.push(("lost", format!("{:>12}   {:.4} %", received.lost, received.loss * 100.0)));
        for (label, count) in [
            ("reordered", received.reordered),
            ("duplicates", received.duplicates),
            ("corrupt", received.corrupt),
            ("unexpected", received.unexpected),
            ("in VXLAN", received.tunnelled),
        ] {
            rows.push((label, format!("{count:>12}")));
        }
        if let Some(latency) = &received.latency_ns {
            rows.push(("latency", latency.line()));
        }
        rows
    }
}

impl SentReport {
    fn new(options: &SendOptions, sent: Sent) -> Self {
        let traffic = &options.traffic;
        let default_size = if traffic.protocol == Protocol::Udp { "64" } else { "76" };
        Self {
            traffic: traffic.traffic,
            backend: options.backend,
            protocol: traffic.protocol,
            distribution: traffic.distribution.to_string(),
            size: traffic.size.map_or(default_size.to_owned(), |size| size.to_string()),
            flows: traffic.flows,
            threads: options.threads,
            rate_pps: options.rate.map(|rate| rate.0),
            sent: sent.frames,
            sent_bytes: sent.bytes,
            send_seconds: seconds(sent.first_ns, sent.last_ns),
            sent_pps: rate(sent.frames, sent.first_ns, sent.last_ns),
        }
    }
}

impl ReceivedReport {
    /// `sent` is how many were sent, if that is known.
    fn new(received: &Received, sent: Option<u64>) -> Self {
        let once = received.packets.saturating_sub(received.duplicates);
        let lost = sent.map_or(received.missing(), |sent| sent.saturating_sub(once));
        let all = sent.unwrap_or(once + lost);
        Self {
            received: received.packets,
            received_bytes: received.bytes,
            receive_seconds: seconds(received.first_ns, received.last_ns),
            received_pps: rate(received.packets, received.first_ns, received.last_ns),
            lost,
            loss: if all > 0 { lost as f64 / all as f64 } else { 0.0 },
            tunnelled: received.tunnelled,
            reordered: received.reordered,
            duplicates: received.duplicates,
            corrupt: received.corrupt,
            unexpected: received.unexpected,
            untracked: received.untracked,
            passed: received.passed,
            latency_ns: Latency::new(received),
        }
    }
}

impl Latency {
    /// None when no packet's time is of this machine's clock.
    fn new(received: &Received) -> Option<Self> {
        let latencies = &received.latencies;
        let count = latencies.count();
        // A bucket's middle may lie outside of what was seen.
        let (least, most) = (received.latency_least, received.latency_most);
        let quantile = |share| latencies.quantile(share).clamp(least, most.max(least));
        (count > 0).then(|| Self {
            count,
            min: least,
            mean: received.latency_sum / count,
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p99_9: quantile(0.999),
            max: most,
        })
    }

    fn line(&self) -> String {
        let us = |ns: u64| ns as f64 / 1000.0;
        format!(
            "p50 {:.1}  p90 {:.1}  p99 {:.1}  p99.9 {:.1}  max {:.1} µs",
            us(self.p50),
            us(self.p90),
            us(self.p99),
            us(self.p99_9),
            us(self.max)
        )
    }
}

fn seconds(first_ns: u64, last_ns: u64) -> f64 {
    Duration::from_nanos(last_ns.saturating_sub(first_ns)).as_secs_f64()
}

/// Packets per second: the first one starts the clock.
fn rate(packets: u64, first_ns: u64, last_ns: u64) -> f64 {
    let seconds = seconds(first_ns, last_ns);
    if seconds > 0.0 { packets.saturating_sub(1) as f64 / seconds } else { 0.0 }
}

fn mega(pps: f64) -> String {
    format!("{:.3}", pps / 1e6)
}

/// Shows how it goes, once a second, on standard error.
pub(crate) struct Progress {
    quiet: bool,
    /// When it was asked first.
    start: Option<Instant>,
    shown: Instant,
    /// What was sent and received when it was shown.
    counts: (u64, u64),
}

/// How often it is shown.
pub(crate) const SHOW: Duration = Duration::from_secs(1);

impl Progress {
    pub(crate) fn new(output: Output) -> Self {
        Self { quiet: output.quiet, start: None, shown: Instant::now(), counts: (0, 0) }
    }

    /// Shows both counts, if it is time; the one that is unknown is left out.
    ///
    /// # Errors
    ///
    /// When the counts cannot be read, or nobody reads what is shown.
    pub(crate) fn show(
        &mut self,
        counts: impl FnOnce() -> Result<(Option<u64>, Option<u64>)>,
    ) -> Result<()> {
        let start = *self.start.get_or_insert_with(|| {
            self.shown = Instant::now();
            self.shown
        });
        let passed = self.shown.elapsed();
        if self.quiet || passed < SHOW {
            return Ok(());
        }
        let (sent, received) = counts()?;
        let mut line = format!("{:>4.0} s", start.elapsed().as_secs_f64());
        let pps =
            |now: u64, before: u64| mega((now - before.min(now)) as f64 / passed.as_secs_f64());
        if let Some(sent) = sent {
            line += &format!("  sent {} Mpps", pps(sent, self.counts.0));
        }
        if let Some(received) = received {
            line += &format!("  received {} Mpps", pps(received, self.counts.1));
        }
        if let (Some(sent), Some(received)) = (sent, received) {
            let lost = sent.saturating_sub(received);
            let share = lost as f64 / sent.max(1) as f64 * 100.0;
            line += &format!("  lost or on the way {lost} ({share:.3} %)");
        }
        self.counts = (sent.unwrap_or_default(), received.unwrap_or_default());
        self.shown = Instant::now();
        self.say(&line)
    }

    /// Prints a line, unless it is to be quiet.
    ///
    /// # Errors
    ///
    /// When nobody reads it.
    pub(crate) fn say(&self, line: &str) -> Result<()> {
        if !self.quiet {
            writeln!(std::io::stderr().lock(), "{line}")?;
        }
        Ok(())
    }
}
