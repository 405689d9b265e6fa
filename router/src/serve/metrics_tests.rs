//! The exposition of prepared answers, and that the README lists what it has.

use std::collections::{BTreeMap, BTreeSet};

use spillway_api::limits::{EGRESS_ADDRESSES_MAX, POLICIES_MAX};

use super::*;
use crate::serve::sample::{drops, status, usage};

fn exposed(status: Status) -> String {
    open_metrics(Some(Answers { status, drops: drops(), usage: Some(usage()) })).unwrap()
}

/// The value of the one series that is written so.
fn value(text: &str, series: &str) -> f64 {
    let mut found = text.lines().filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let value = found.next().unwrap_or_else(|| panic!("no {series} in\n{text}"));
    assert_eq!(found.next(), None, "{series} is there twice");
    value.parse().unwrap()
}

#[test]
fn every_answer_is_exposed_under_its_name() {
    let text = exposed(status());
    for (series, expected) in [
        ("spillway_up", 1.0),
        ("spillway_build_info{version=\"0.1.0\",api_version=\"1\"}", 1.0),
        ("spillway_uptime_seconds", 3_725.0),
        ("spillway_programmed", 1.0),
        ("spillway_generation", 7.0),
        ("spillway_document_refused", 0.0),
        ("spillway_draining", 0.0),
        ("spillway_documents_applied_total", 5.0),
        ("spillway_documents_refused_total", 1.0),
        ("spillway_last_apply_seconds", 0.001_5),
        ("spillway_apply_duration_seconds_sum", 2.25),
        ("spillway_apply_duration_seconds_count", 5.0),
        ("spillway_apply_duration_seconds_bucket{le=\"0.001\"}", 1.0),
        ("spillway_apply_duration_seconds_bucket{le=\"1.0\"}", 4.0),
        ("spillway_apply_duration_seconds_bucket{le=\"2.5\"}", 5.0),
        ("spillway_apply_duration_seconds_bucket{le=\"+Inf\"}", 5.0),
        ("spillway_author_age_seconds", 1.0),
        ("spillway_policies", 2.0),
        ("spillway_pods{family=\"ipv4\"}", 30.0),
        ("spillway_pods{family=\"ipv6\"}", 20.0),
        ("spillway_egress_addresses", 3.0),
        ("spillway_peers", 4.0),
        ("spillway_reports", 1.0),
        ("spillway_worker_flows_max", 65_536.0),
        ("spillway_worker_flows{worker=\"0\",family=\"ipv4\"}", 7.0),
        ("spillway_worker_flows{worker=\"0\",family=\"ipv6\"}", 3.0),
        ("spillway_worker_received_packets_total{worker=\"0\"}", 1_000.0),
        ("spillway_worker_flows_created_total{worker=\"1\"}", 77.0),
        ("spillway_worker_forwarded_packets_total{worker=\"0\",direction=\"original\"}", 600.0),
        ("spillway_worker_forwarded_bytes_total{worker=\"0\",direction=\"reply\"}", 400_000.0),
        ("spillway_device_attached{device=\"eth0\"}", 1.0),
        ("spillway_device_rx_ring_full_frames_total{device=\"eth0\"}", 12.0),
        ("spillway_umem_frames{place=\"receiving\"}", 8_190.0),
        ("spillway_umem_frames_max", 16_384.0),
        ("spillway_events_kept", 150.0),
        ("spillway_events_total", 154.0),
        ("spillway_events_lost_total", 6.0),
        ("spillway_dropped_packets_total{reason=\"ports-exhausted\"}", 8.0),
        ("spillway_dropped_packets_total{reason=\"no-route\"}", 0.0),
        ("spillway_usage_counted", 1.0),
        ("spillway_egress_flows{egress_address=\"192.0.2.1\"}", 9.0),
        ("spillway_egress_ports_max{egress_address=\"192.0.2.1\"}", 64_512.0),
        ("spillway_egress_ports_fullest{egress_address=\"192.0.2.1\"}", 4.0),
        ("spillway_egress_ports_fullest{egress_address=\"2001:db8::1\"}", 0.0),
        ("spillway_policy_flows{policy=\"team/\\\"app\\\"\"}", 8.0),
        ("spillway_policy_flows_unknown", 1.0),
        (
            "spillway_policy_forwarded_packets_total{policy=\"team/\\\"app\\\"\",direction=\"original\"}",
            12.0,
        ),
        (
            "spillway_egress_forwarded_bytes_total{egress_address=\"192.0.2.1\",direction=\"reply\"}",
            89_012.0,
        ),
        (
            "spillway_egress_forwarded_packets_total{egress_address=\"2001:db8::1\",direction=\"reply\"}",
            0.0,
        ),
    ] {
        assert_eq!(value(&text, series), expected, "{series}");
    }
    let steered = "{device=\"eth0\",outcome=\"steer-tunnel\",verdict=\"steer\"}";
    assert_eq!(value(&text, &format!("spillway_steering_frames_total{steered}")), 9.0);
    assert_eq!(value(&text, &format!("spillway_steering_bytes_total{steered}")), 900.0);
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn every_reason_has_a_series_before_it_ever_happened() {
    let text = exposed(status());
    let reasons = text.lines().filter(|line| line.starts_with("spillway_dropped_packets_total{"));
    assert_eq!(reasons.count(), spillway_engine::DROP_REASONS);
}

#[test]
fn of_a_router_that_does_not_answer_only_that_is_told() {
    let text = open_metrics(None).unwrap();
    let expected = "# HELP spillway_up Whether the router answers on its socket: 0 or 1.\n\
                    # TYPE spillway_up gauge\nspillway_up 0.0\n# EOF\n";
    assert_eq!(text, expected);
}

#[test]
fn a_refused_document_has_an_age() {
    let (source, message) = ("socket".to_owned(), "no".to_owned());
    let refused = Some(spillway_api::RefusedState { source, message, age_s: 33 });
    let text = exposed(Status { refused, generation: None, ..status() });
    assert_eq!(value(&text, "spillway_document_refused"), 1.0);
    assert_eq!(value(&text, "spillway_document_refused_age_seconds"), 33.0);
    assert_eq!(value(&text, "spillway_programmed"), 0.0);
    assert!(!exposed(status()).contains("refused_age"), "there is no age of what never happened");
}

/// `"`, `\` and line breaks would end a label, and whatever came behind be believed: the library sees to
/// that.
#[test]
fn no_name_gets_out_of_its_label() {
    let mut with = status();
    with.devices[0].name = "e\"} 1\\\nh".to_owned();
    let text = exposed(with);
    assert_eq!(value(&text, "spillway_device_attached{device=\"e\\\"} 1\\\\\\nh\"}"), 1.0);
}

#[test]
fn in_the_older_format_families_are_named_as_their_samples() {
    let open_metrics = "# HELP spillway_up Up.\n# TYPE spillway_up gauge\nspillway_up 1.0\n\
                        # HELP spillway_x X.\n# TYPE spillway_x counter\nspillway_x_total 3\n\
                        # HELP spillway_build B.\n# TYPE spillway_build info\n\
                        spillway_build_info{version=\"1\"} 1\n# EOF\n";
    let expected = "# HELP spillway_up Up.\n# TYPE spillway_up gauge\nspillway_up 1.0\n\
                    # HELP spillway_x_total X.\n# TYPE spillway_x_total counter\nspillway_x_total 3\n\
                    # HELP spillway_build_info B.\n# TYPE spillway_build_info gauge\n\
                    spillway_build_info{version=\"1\"} 1\n";
    assert_eq!(plain(open_metrics), expected);
}

/// A row of the README's table for each family: name, type, labels, meaning.
fn rows(text: &str) -> Vec<String> {
    let mut labels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    for (name, inside) in samples.filter_map(|line| line.split_once('{')) {
        let inside = inside.split_once('}').map_or("", |(inside, _)| inside);
        let names =
            inside.split("\",").filter_map(|pair| pair.split_once('=')).map(|(name, _)| name);
        let name = name.strip_suffix("_bucket").unwrap_or(name);
        labels.entry(name).or_default().extend(names);
    }
    let mut rows = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|of| of.split_once(' '))
        else {
            continue;
        };
        let kind = lines.next().and_then(|line| line.rsplit_once(' ')).map_or("", |(_, kind)| kind);
        let of_name = labels.get(name).into_iter().flatten();
        let named: Vec<String> = of_name.map(|label| format!("`{label}`")).collect();
        rows.push(format!("| `{name}` | {kind} | {} | {help} |", named.join(", ")));
    }
    rows
}

#[test]
fn the_readme_lists_every_metric() {
    let (source, message) = (String::new(), String::new());
    let refused = Some(spillway_api::RefusedState { source, message, age_s: 0 });
    let text = plain(&exposed(Status { refused, ..status() }));
    let expected = rows(&text);
    let readme = include_str!("README.md");
    let listed: Vec<&str> =
        readme.lines().filter(|line| line.starts_with("| `spillway_")).collect();
    assert_eq!(
        listed,
        expected,
        "router/src/serve/README.md: its table should be\n{}",
        expected.join("\n")
    );
}

#[test]
fn flows_that_were_not_counted_are_not_shown_as_none() {
    let of =
        |usage| open_metrics(Some(Answers { status: status(), drops: drops(), usage })).unwrap();
    let text = of(Some(Usage::default()));
    assert_eq!(value(&text, "spillway_usage_counted"), 0.0);
    assert!(!text.contains("spillway_policy_flows") && !text.contains("spillway_egress_flows"));
    assert!(!of(None).contains("spillway_usage_counted"), "an older router does not say");
}

/// How many series a gateway can have: all that a configuration and a document allow.
#[test]
fn the_readme_tells_how_many_series_there_can_be() {
    let mut with = status();
    with.workers = (0..64).map(|id| Worker { id, ..Worker::default() }).collect();
    let device = |number| Device { name: format!("eth{number}"), ..with.devices[0].clone() };
    with.devices = (0..16).map(device).collect();
    let of_one = drops();
    let steering = with.devices.iter().flat_map(|device| {
        let of_device =
            |of: &SteeringOutcome| SteeringOutcome { device: device.name.clone(), ..of.clone() };
        of_one.steering.iter().map(of_device).collect::<Vec<_>>()
    });
    let drops = Drops { steering: steering.collect(), engine: of_one.engine.clone() };
    let mut usage = usage();
    usage.egress_addresses = vec![usage.egress_addresses[0].clone(); EGRESS_ADDRESSES_MAX];
    usage.policies = vec![usage.policies[0].clone(); POLICIES_MAX];
    let answers = Answers { status: with, drops, usage: Some(usage) };
    let text = open_metrics(Some(answers)).unwrap();
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    let said = format!("{series} series");
    assert!(
        include_str!("README.md").contains(&said),
        "router/src/serve/README.md should say: {said}"
    );
}
