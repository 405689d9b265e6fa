//! What the benchmarks of engine and steering print, the report reads: names of fields do not drift apart.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::path::Path;
use std::process::{Command, Output};

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_spillway-bench")).args(arguments).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_measurement_of_the_engine_becomes_a_report() {
    let directory = tempfile::tempdir().unwrap();
    let [json, results] = ["engine.json", "results"].map(|name| directory.path().join(name));
    let few = ["--flows", "1000", "--lives", "1000", "--workers", "1", "--rounds", "1"];
    let measured = bench(&[&["engine", "--json"][..], &few].concat());
    assert!(measured.status.success(), "{measured:?}");
    std::fs::write(&json, measured.stdout).unwrap();

    let report = bench(&["report", "--engine", text(&json), "--out", text(&results)]);
    assert!(report.status.success(), "{report:?}");
    let tables = std::fs::read_to_string(results.join("results.md")).unwrap();
    let sections = ["forward", "reply", "mixed", "lives of flows", "ports", "several workers"];
    for section in sections {
        assert!(tables.contains(&format!("\n## Engine: {section}\n")), "{section}: {tables}");
    }
    assert!(!tables.contains("| forward, 1,000 flows, ns | ≤ 20 | – |"), "{tables}");
    let families = "| forward, 1,000 flows, IPv6's ns times IPv4's | ≤ 1.2 |";
    assert!(tables.contains(families), "{tables}");
    assert!(!tables.contains(&format!("{families} – |")), "{tables}");
    let plot = std::fs::read_to_string(results.join("engine.svg")).unwrap();
    assert!(plot.starts_with("<svg ") && plot.contains("nanoseconds a packet"), "{plot}");
}

#[test]
fn a_measurement_of_steering_becomes_a_report() {
    let directory = tempfile::tempdir().unwrap();
    let [json, results] = ["steering.json", "results"].map(|name| directory.path().join(name));
    let measured = bench(&["steering", "--json", "--rounds", "1"]);
    assert!(measured.status.success(), "as root? {measured:?}");
    std::fs::write(&json, measured.stdout).unwrap();

    let report = bench(&["report", "--steering", text(&json), "--out", text(&results)]);
    assert!(report.status.success(), "{report:?}");
    let tables = std::fs::read_to_string(results.join("results.md")).unwrap();
    for rows in ["steered, a reply", "steered, from a tunnel"] {
        assert!(tables.contains(rows), "{rows}: {tables}");
    }
    assert!(results.join("steering.svg").exists(), "{tables}");
}
