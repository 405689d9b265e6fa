//! Everything that was measured, in full.

use super::input::{
    Direction, Forwarding, Instructions, Lab, Lease, Life, Measured, Scaling, Steering,
};
use super::markdown::{grouped, short, spread, table};

/// All tables of which there is something.
pub(super) fn sections(measured: &Measured) -> String {
    [
        forwarding(measured),
        lives(measured),
        ports(measured),
        scaling(measured),
        instructions(measured),
        steering(measured),
        rates(measured),
        latencies(measured),
        tcp(measured),
    ]
    .concat()
}

/// A heading, a sentence and a table, unless there are no rows.
fn section(heading: &str, text: &str, heads: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    format!("\n## {heading}\n\n{text}\n{}", table(heads, rows))
}

/// Each once, in the order in which they come first.
fn distinct<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for item in items {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen
}

fn forwarding(measured: &Measured) -> String {
    Direction::ALL.into_iter().map(|way| matrix(measured, way)).collect()
}

/// One way: rows of flows and distributions, columns of variants and bursts.
fn matrix(measured: &Measured, way: Direction) -> String {
    let lines: Vec<_> =
        measured.forwarding().filter(|(its, _)| *its == way).map(|(_, line)| line).collect();
    let columns = distinct(lines.iter().map(|line| (line.variant.as_str(), line.burst)));
    let key = |line: &Forwarding| {
        (line.family.clone(), line.protocol.clone(), line.flows, line.distribution.clone())
    };
    let mut rows = Vec::new();
    for row in distinct(lines.iter().map(|line| key(line))) {
        let cell = |(variant, burst): &(&str, u32)| {
            let line = lines
                .iter()
                .find(|line| key(line) == row && line.variant == *variant && line.burst == *burst);
            line.map_or("–".to_owned(), |line| {
                let [low, high] = line.ns_per_packet_quartiles;
                spread(line.ns_per_packet, low, high)
            })
        };
        let (family, protocol, flows, distribution) = &row;
        let head = format!("{family}, {protocol}, {}, {distribution}", grouped(*flows));
        rows.push([vec![head], columns.iter().map(cell).collect()].concat());
    }
    let heads: Vec<_> =
        columns.iter().map(|(variant, burst)| format!("{variant}, burst {burst}")).collect();
    let heads: Vec<_> = ["flows"].into_iter().chain(heads.iter().map(String::as_str)).collect();
    let text = "Nanoseconds a packet: the median of the rounds (and its quarter points).";
    section(&format!("Engine: {}", way.name()), text, &heads, &rows)
}

fn lives(measured: &Measured) -> String {
    let row = |(event, line): (&str, &Life)| {
        let [low, high] = line.ns_per_flow_quartiles;
        vec![
            format!("{event}, {}, {}", line.protocol, grouped(line.flows)),
            line.variant.clone(),
            spread(line.ns_per_flow, low, high),
            format!("{:.2}", 1e3 / line.ns_per_flow),
            line.round_us_longest_and_p999.map_or("–".to_owned(), |[longest, most_of]| {
                format!("{longest:.0} ({most_of:.0})")
            }),
        ]
    };
    let rows: Vec<_> = measured.lives().map(row).collect();
    let heads = [
        "event, flows",
        "variant",
        "ns a flow",
        "million a second",
        "longest round (999 in 1,000), µs",
    ];
    let text = "What a flow costs when it begins (half of the flows are there before) and when \
                all end at once.";
    section("Engine: lives of flows", text, &heads, &rows)
}

fn ports(measured: &Measured) -> String {
    let row = |line: &Lease| {
        let ([from, until], [low, high]) = (line.taken_percent, line.ns_per_flow_quartiles);
        let taken = format!("{from}–{until} %");
        vec![taken, spread(line.ns_per_flow, low, high), line.refused.to_string()]
    };
    let rows: Vec<_> = measured.leases().map(row).collect();
    let early: u64 =
        measured.leases().filter(|it| it.taken_percent[0] < 100).map(|it| it.refused).sum();
    let text = format!(
        "One egress address towards one remote, until no port is left: {early} flows were refused \
         before that. The last line asks for more than there are."
    );
    section("Engine: ports", &text, &["ports leased", "ns a new flow", "refused"], &rows)
}

fn scaling(measured: &Measured) -> String {
    let row = |line: &Scaling| {
        let [low, high] = line.mpps_quartiles;
        let flows = grouped(line.flows);
        let rate = spread(line.mpps, low, high);
        vec![line.workers.to_string(), flows, rate, format!("{:.2}", line.times_one)]
    };
    let rows: Vec<_> = measured.scaling().map(row).collect();
    let text = "Million packets a second of all workers, the writing of the frames and the \
                exchange of free frames included.";
    let heads = ["workers", "flows of each", "Mpps", "times one"];
    section("Engine: several workers", text, &heads, &rows)
}

fn instructions(measured: &Measured) -> String {
    let row = |line: &Instructions| {
        let budget = line.budget.map_or("–".to_owned(), |budget| format!("{budget:.1}"));
        vec![line.name.clone(), format!("{:.1}", line.instructions_per_packet), budget]
    };
    let rows: Vec<_> = measured.instructions.iter().map(row).collect();
    let text = "Counted by callgrind; `make bench-quick` fails at 2 % above the budget.";
    section("Engine: instructions", text, &["case", "instructions a packet", "budget"], &rows)
}

fn steering(measured: &Measured) -> String {
    let row = |line: &Steering| {
        let ns = &line.ns_per_frame;
        vec![
            line.frame.clone(),
            [line.pods, line.sets, line.cidrs_per_set].map(grouped).join(" × "),
            grouped(line.distinct_frames),
            spread(ns.median, ns.low, ns.high),
        ]
    };
    let rows: Vec<_> = measured.steering.iter().map(row).collect();
    let text = "What the steering program adds to a frame's way through the kernel: the median \
                of the calm samples (and their quarter points).";
    let heads = ["frame", "pods × sets × CIDRs a set", "different frames", "ns a frame"];
    section("Steering", text, &heads, &rows)
}

/// What the lab says of the same frames and system by another metric.
fn beside<'a>(
    measured: &'a Measured,
    line: &Lab,
    metric: &str,
    load: Option<u32>,
) -> Option<&'a Lab> {
    measured.lab.iter().find(|other| {
        other.metric == metric
            && other.load_percent == load
            && (&other.system, &other.direction, &other.size)
                == (&line.system, &line.direction, &line.size)
    })
}

/// A number of the lab with its extremes, divided by `unit`.
fn lab_cell(line: Option<&Lab>, unit: f64) -> String {
    line.map_or("–".to_owned(), |line| {
        if line.rounds == 1 {
            return short(line.median / unit);
        }
        spread(line.median / unit, line.min / unit, line.max / unit)
    })
}

fn rates(measured: &Measured) -> String {
    let row = |line: &Lab| {
        let of = |metric, load| beside(measured, line, metric, load);
        vec![
            format!("{} {}", line.direction, line.size),
            line.system.clone(),
            lab_cell(Some(line), 1e6),
            lab_cell(of("overload_pps", None), 1e6),
            lab_cell(of("cpu_seconds_per_million_packets", Some(90)), 1.0),
            lab_cell(of("new_flows_per_second", None), 1e6),
        ]
    };
    let rows: Vec<_> = measured.lab_metric("loss_free_pps").map(row).collect();
    let heads = [
        "frames",
        "system",
        "Mpps, loss ≤ 0.5 %",
        "Mpps at overload",
        "CPU-s per million packets",
        "new flows, million a second",
    ];
    section("Lab: rates", "Medians of the rounds (and extremes).", &heads, &rows)
}

fn latencies(measured: &Measured) -> String {
    let row = |line: &Lab| {
        let of = |metric| lab_cell(beside(measured, line, metric, line.load_percent), 1e3);
        let load = line.load_percent.map_or("–".to_owned(), |load| format!("{load} %"));
        vec![
            format!("{} {}", line.direction, line.size),
            load,
            line.system.clone(),
            lab_cell(Some(line), 1e3),
            of("latency_p99_ns"),
            of("latency_p999_ns"),
        ]
    };
    let rows: Vec<_> = measured.lab_metric("latency_p50_ns").map(row).collect();
    let heads = ["frames", "load", "system", "p50, µs", "p99, µs", "p99.9, µs"];
    let text = "At shares of each system's own loss-free rate.";
    section("Lab: latency", text, &heads, &rows)
}

fn tcp(measured: &Measured) -> String {
    let row = |line: &Lab| vec![line.size.clone(), line.system.clone(), lab_cell(Some(line), 1e9)];
    let rows: Vec<_> = measured.lab_metric("tcp_bits_per_second").map(row).collect();
    let text = "One connection of a pod. With GSO and GRO the kernel moves TCP in pieces of up to \
                64 kB, which AF_XDP cannot.";
    section("Lab: TCP", text, &["what TCP may use", "system", "Gbit/s"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_has_a_column_for_each_variant_and_burst() {
        let line = |variant: &str, burst: u32, ns: f64| {
            let line = serde_json::json!({
                "name": "mixed", "family": "IPv6", "protocol": "tcp", "flows": 1000, "distribution": "zipf 1.1",
                "burst": burst, "variant": variant, "ns_per_packet": ns,
                "ns_per_packet_quartiles": [ns - 1.0, ns + 1.0],
            });
            serde_json::from_value(line).unwrap()
        };
        let engine =
            vec![line("spillway", 1, 50.0), line("spillway", 64, 20.0), line("naive", 1, 30.0)];
        let text = sections(&Measured { engine, ..Measured::default() });
        for line in [
            "## Engine: mixed\n",
            "| flows | spillway, burst 1 | spillway, burst 64 | naive, burst 1 |\n",
            "| IPv6, tcp, 1,000, zipf 1.1 | 50.0 (49.0–51.0) | 20.0 (19.0–21.0) | 30.0 (29.0–31.0) |\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(!text.contains("forward"), "{text}");
    }

    #[test]
    fn what_was_refused_too_early_is_counted() {
        let line = |from: u32, refused: u64| {
            let line = serde_json::json!({
                "name": "lease", "taken_percent": [from, from + 5], "ns_per_flow": 100.0,
                "ns_per_flow_quartiles": [90.0, 110.0], "refused": refused,
            });
            serde_json::from_value(line).unwrap()
        };
        let engine = vec![line(90, 0), line(95, 7), line(100, 3000)];
        let text = sections(&Measured { engine, ..Measured::default() });
        assert!(text.contains("7 flows were refused before that"), "{text}");
        assert!(text.contains("| 95–100 % | 100 (90.0–110) | 7 |"), "{text}");
    }

    #[test]
    fn the_labs_numbers_of_the_same_frames_are_one_row() {
        let line = |system: &str, metric: &str, median: f64, load: Option<u32>| {
            let mut line = serde_json::json!({
                "name": "lab", "system": system, "metric": metric, "direction": "forward",
                "size": "imix", "median": median, "min": median, "max": median, "rounds": 1,
            });
            if let Some(load) = load {
                line["load_percent"] = load.into();
            }
            serde_json::from_value(line).unwrap()
        };
        let lab = vec![
            line("kernel", "loss_free_pps", 4e5, None),
            line("spillway", "loss_free_pps", 1e6, None),
            line("spillway", "cpu_seconds_per_million_packets", 2.0, Some(90)),
            line("spillway", "latency_p50_ns", 9e3, Some(50)),
            line("spillway", "latency_p99_ns", 20e3, Some(50)),
        ];
        let text = sections(&Measured { lab, ..Measured::default() });
        assert!(text.contains("| forward imix | spillway | 1.00 | – | 2.00 | – |"), "{text}");
        assert!(text.contains("| forward imix | kernel | 0.40 | – | – | – |"), "{text}");
        assert!(text.contains("| forward imix | 50 % | spillway | 9.00 | 20.0 | – |"), "{text}");
    }
}
