//! What was measured, for people and for programs, each promise beside what came of it.

use std::fmt::Write as _;

use serde::Serialize;

use super::generator::Direction;
use super::series::{Key, Metric, Series, Summary};
use super::system::System;

/// How many times the kernel's rate Spillway aims at.
const TIMES_THE_KERNEL: f64 = 2.5;

/// Which share of the floor's rate it aims at.
const OF_THE_FLOOR: f64 = 0.9;

/// One line of the JSON array.
#[derive(Debug, Serialize)]
pub(crate) struct Record {
    name: &'static str,
    system: &'static str,
    metric: Metric,
    direction: &'static str,
    size: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    load_percent: Option<u8>,
    #[serde(flatten)]
    summary: Summary,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    targets: Vec<Target>,
}

/// A promise, and whether it was kept.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Target {
    against: &'static str,
    ratio_target: f64,
    ratio: f64,
    met: bool,
}

impl Target {
    fn new(against: System, ratio_target: f64, ratio: f64) -> Self {
        Self { against: against.name(), ratio_target, ratio, met: ratio >= ratio_target }
    }
}

/// What Spillway promises of a number, as far as the others were measured too.
fn targets(series: &Series, key: &Key) -> Vec<Target> {
    if key.system != System::Spillway || key.metric != Metric::LossFreePps {
        return Vec::new();
    }
    [(System::Kernel, TIMES_THE_KERNEL), (System::L2Forward, OF_THE_FLOOR)]
        .into_iter()
        .filter_map(|(other, least)| Some(Target::new(other, least, series.ratio(key, other)?)))
        .collect()
}

/// For programs.
pub(crate) fn records(series: &Series) -> Vec<Record> {
    let record = |(key, summary): (&Key, Summary)| Record {
        name: "lab",
        system: key.system.name(),
        metric: key.metric,
        direction: key.direction.name(),
        size: key.size,
        load_percent: (key.load > 0).then_some(key.load),
        summary,
        targets: targets(series, key),
    };
    series.iter().map(record).collect()
}

/// For people, in Markdown.
pub(crate) fn tables(series: &Series) -> String {
    [rates(series), latencies(series), tcp(series), promises(series)].concat()
}

/// A number with its spread, divided by `unit`.
fn cell(summary: Option<Summary>, unit: f64, digits: usize) -> String {
    summary.map_or_else(
        || "–".to_owned(),
        |Summary { median, min, max, rounds }| {
            let median = format!("{:.digits$}", median / unit);
            if rounds == 1 {
                return median;
            }
            format!("{median} ({:.digits$}–{:.digits$})", min / unit, max / unit)
        },
    )
}

/// The systems, ways and sizes of which there is something.
fn cases(series: &Series, metric: Metric) -> Vec<Key> {
    series.iter().map(|(key, _)| key).filter(|key| key.metric == metric).cloned().collect()
}

fn rates(series: &Series) -> String {
    let mut text = String::from(
        "\n| frames | system | Mpps, loss ≤ 0.5 % | Mpps at overload | CPU-s per M packets | new flows, M/s |\n|---|---|---|---|---|---|\n",
    );
    for key in cases(series, Metric::LossFreePps) {
        let of = |metric, load| series.get(&Key { metric, load, ..key.clone() });
        let cpu = of(Metric::CpuSecondsPerMillionPackets, 90);
        let new_flows = match key.direction {
            Direction::Forward => cell(of(Metric::NewFlowsPerSecond, 0), 1e6, 2),
            Direction::Reply => "–".to_owned(),
        };
        let _ = writeln!(
            text,
            "| {} {} | {} | {} | {} | {} | {} |",
            key.direction.name(),
            key.size,
            key.system.name(),
            cell(of(Metric::LossFreePps, 0), 1e6, 2),
            cell(of(Metric::OverloadPps, 0), 1e6, 2),
            cell(cpu, 1.0, 2),
            new_flows,
        );
    }
    text
}

fn latencies(series: &Series) -> String {
    let mut text = String::from(
        "\n| frames | load | system | p50, µs | p99, µs | p99.9, µs |\n|---|---|---|---|---|---|\n",
    );
    for key in cases(series, Metric::LatencyP50Ns) {
        let of = |metric| cell(series.get(&Key { metric, ..key.clone() }), 1e3, 0);
        let _ = writeln!(
            text,
            "| {} {} | {} % | {} | {} | {} | {} |",
            key.direction.name(),
            key.size,
            key.load,
            key.system.name(),
            of(Metric::LatencyP50Ns),
            of(Metric::LatencyP99Ns),
            of(Metric::LatencyP999Ns),
        );
    }
    text
}

fn tcp(series: &Series) -> String {
    let keys = cases(series, Metric::TcpBitsPerSecond);
    if keys.is_empty() {
        return String::new();
    }
    let mut text = String::from("\n| one connection | system | Gbit/s |\n|---|---|---|\n");
    for key in keys {
        let rate = cell(series.get(&key), 1e9, 1);
        let _ = writeln!(text, "| {} | {} | {rate} |", key.size, key.system.name());
    }
    text
}

fn promises(series: &Series) -> String {
    let mut text = String::from(
        "\n| Spillway's rate without loss | target | measured | |\n|---|---|---|---|\n",
    );
    for key in cases(series, Metric::LossFreePps) {
        for Target { against, ratio_target, ratio, met } in targets(series, &key) {
            let _ = writeln!(
                text,
                "| {} {}, times that of {against} | ≥ {ratio_target} | {ratio:.2} | {} |",
                key.direction.name(),
                key.size,
                if met { "met" } else { "**missed**" },
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(spillway: f64) -> Series {
        let mut series = Series::default();
        for (system, rate) in
            [(System::Spillway, spillway), (System::L2Forward, 1e6), (System::Kernel, 0.4e6)]
        {
            let metric = Metric::LossFreePps;
            let direction = Direction::Forward;
            series.add(Key { metric, direction, size: "64", load: 0, system }, rate);
        }
        series
    }

    #[test]
    fn a_missed_target_is_said_to_be_missed() {
        let text = tables(&series(0.95e6));
        assert!(text.contains("times that of kernel | ≥ 2.5 | 2.38 | **missed**"), "{text}");
        assert!(text.contains("times that of l2-forward | ≥ 0.9 | 0.95 | met"), "{text}");
    }

    #[test]
    fn programs_read_the_same() {
        let json = serde_json::to_value(records(&series(1e6))).unwrap();
        let ours = &json[0];
        assert_eq!(ours["name"], "lab");
        assert_eq!(ours["system"], "spillway");
        assert_eq!(ours["metric"], "loss_free_pps");
        assert_eq!(ours["median"], 1e6);
        assert_eq!(ours["targets"][0]["met"], true);
        assert!(json[1].get("targets").is_none(), "{json}");
    }

    #[test]
    fn the_report_reads_every_line() {
        let mut series = series(1e6);
        let (metric, direction) = (Metric::LatencyP50Ns, Direction::Reply);
        let key = Key { metric, direction, size: "imix", load: 90, system: System::Kernel };
        series.add(key, 16_000.0);
        let json = serde_json::to_string(&records(&series)).unwrap();
        assert_eq!(crate::report::lab_lines(&json).unwrap(), 4, "{json}");
    }

    #[test]
    fn several_rounds_show_their_spread() {
        let mut twice = series(1e6);
        for (key, summary) in series(2e6).iter() {
            twice.add(key.clone(), summary.median);
        }
        assert!(tables(&twice).contains("| forward 64 | spillway | 1.50 (1.00–2.00) |"));
    }
}
