//! `../../REFERENCE.md`: generated from the code, and a test that it is what the code says.
//! `make reference` writes it.

use std::fmt::Write as _;
use std::path::Path;

use clap::CommandFactory as _;
use spillway_engine::DropReason;
use spillway_xdp::SteerOutcome;
use spillway_xdp::steering::Verdict;

use super::CommandLine;
use crate::remedy::remedy;

const CONFIGURATION: &str = include_str!("../../config.example.yaml");
const LIMITS: &str = include_str!("../../api/src/limits.rs");

/// What asks the test to write the file instead.
const WRITE: &str = "SPILLWAY_REFERENCE_WRITE";

/// Columns that `--help` is broken to.
const HELP_WIDTH: usize = 100;

fn reference() -> String {
    let mut text = String::from(
        "# Reference\n\nGenerated from the code by `make reference`; do not edit. The metrics are in \
         [serve](src/serve/README.md#metrics), the state document and the operator's requests in \
         [api](api/README.md), the custom resources in [k8s](../k8s/CRDS.md).\n\n\
         [Configuration](#configuration) · [Commands](#commands) · \
         [Steering outcomes](#steering-outcomes) · [Drop reasons](#drop-reasons) · \
         [Limits](#limits-of-the-state-document-and-the-socket)\n",
    );
    configuration(&mut text);
    commands(&mut text);
    steering_outcomes(&mut text);
    drop_reasons(&mut text);
    limits(&mut text);
    text
}

fn configuration(text: &mut String) {
    text.push_str("\n## Configuration\n\n```yaml\n");
    text.push_str(CONFIGURATION);
    text.push_str("```\n");
}

/// What `--help` of each command says.
fn commands(text: &mut String) {
    text.push_str("\n## Commands\n");
    let mut whole = CommandLine::command().term_width(HELP_WIDTH);
    whole.build();
    for command in whole.get_subcommands_mut() {
        if command.is_hide_set() || command.get_name() == "help" {
            continue;
        }
        // The environment of whoever generates this is nobody's business.
        let mut command =
            command.clone().term_width(HELP_WIDTH).mut_args(|arg| arg.hide_env_values(true));
        let help = command.render_long_help().to_string();
        let name = command.get_name().to_owned();
        write!(text, "\n### spillway {name}\n\n```text\n").unwrap();
        for line in help.trim_end().lines() {
            writeln!(text, "{}", line.trim_end()).unwrap();
        }
        text.push_str("```\n");
    }
}

fn steering_outcomes(text: &mut String) {
    text.push_str(
        "\n## Steering outcomes\n\nWhat the steering program does with a frame, as `spillway drops` and the \
         label `outcome` of `spillway_steering_frames_total` name it. `pass`: the kernel has it, untouched; \
         `steer`: a worker has it.\n\n| outcome | verdict | what it means |\n|---|---|---|\n",
    );
    for outcome in SteerOutcome::ALL {
        let verdict = match outcome.verdict() {
            Verdict::Pass => "pass",
            Verdict::Steer => "steer",
            Verdict::Drop => "drop",
        };
        let description = cell(outcome.description());
        writeln!(text, "| `{}` | {verdict} | {description} |", outcome.name()).unwrap();
    }
}

fn drop_reasons(text: &mut String) {
    text.push_str(
        "\n## Drop reasons\n\nWhy the engine drops a packet, as `spillway drops`, `spillway trace` and the \
         label `reason` of `spillway_dropped_packets_total` name it. Where nothing is to be done, the packet \
         itself is wrong, or must not pass.\n\n| reason | what it means | what to do |\n|---|---|---|\n",
    );
    for reason in DropReason::ALL {
        let (description, remedy) = (cell(reason.description()), remedy(*reason).map(cell));
        let remedy = remedy.unwrap_or_default();
        writeln!(text, "| `{}` | {description} | {remedy} |", reason.name()).unwrap();
    }
}

fn limits(text: &mut String) {
    text.push_str(
        "\n## Limits of the state document and the socket\n\nA document that exceeds one is refused, and says \
         where; the one before stays in force. What the router itself bounds is in [its \
         README](README.md#limits).\n\n| limit | value | of what |\n|---|---|---|\n",
    );
    for (name, value, words) in constants(LIMITS) {
        // 65_536 is Rust's way; names have underscores of their own.
        let is_number = value.starts_with(|first: char| first.is_ascii_digit());
        let value = if is_number { value.replace('_', "") } else { value.to_owned() };
        writeln!(text, "| `{name}` | {value} | {} |", cell(&words)).unwrap();
    }
}

/// Name, value and words of each public constant of a source.
fn constants(source: &str) -> Vec<(&str, &str, String)> {
    let mut found = Vec::new();
    let mut words = Vec::new();
    for line in source.lines() {
        if let Some(said) = line.strip_prefix("///") {
            words.push(said.trim());
        } else if let Some(constant) = line.strip_prefix("pub const ") {
            let (name, rest) = constant.split_once(": ").unwrap();
            let (_, value) = rest.trim_end_matches(';').split_once(" = ").unwrap();
            found.push((name, value, words.join(" ")));
            words.clear();
        }
    }
    found
}

/// Fit for a table; links of Rust's documentation are names only.
fn cell(words: &str) -> String {
    let mut text = String::new();
    let mut rest = words.trim();
    while let Some((before, link)) = rest.split_once("[`") {
        let (name, after) = link.split_once("`]").unwrap();
        let after =
            after.strip_prefix('(').and_then(|url| url.split_once(')')).map_or(after, |of| of.1);
        write!(text, "{before}`{name}`").unwrap();
        rest = after;
    }
    text.push_str(rest);
    text.replace('|', "\\|")
}

#[test]
fn the_reference_is_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("REFERENCE.md");
    let expected = reference();
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, expected).unwrap();
        return;
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = found.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
    assert!(
        found == expected,
        "router/REFERENCE.md is not what the code says: run `make reference`, and commit it. The first \
         line that differs: {differs:?}"
    );
}

#[test]
fn tables_have_what_they_should() {
    let text = reference();
    for command in CommandLine::command().get_subcommands().filter(|c| !c.is_hide_set()) {
        assert!(text.contains(&format!("\n### spillway {}\n", command.get_name())));
    }
    for named in ["| `steer-tunnel` | steer |", "| `ports-exhausted` |", "| `PODS_MAX` | 65536 |"] {
        assert!(text.contains(named), "{named}");
    }
    assert!(!text.contains("[`"), "a link of Rust's documentation is left");
}
