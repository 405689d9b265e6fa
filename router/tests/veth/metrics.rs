//! `spillway serve` beside a real router, and a real Prometheus that scrapes it: every series that the
//! rules and the dashboard of k8s/monitoring ask for is there.

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::*;

const MONITORING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../k8s/monitoring");
pub(crate) const SERVE_PORT: u16 = 9602;
const PROMETHEUS_PORT: u16 = 9090;

/// Panels that show what should not happen, and leave out what has not.
const EMPTY_WHEN_HEALTHY: &[&str] = &["Drops"];

/// The directory of `prometheus` and `promtool`, fetched if they are not there yet.
static TOOLS: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools/prometheus");
    let output = Command::new(format!("{MONITORING}/tools.sh")).arg(directory).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "k8s/monitoring/tools.sh {directory}: {said}");
    String::from_utf8(output.stdout).unwrap().trim_end().into()
});

/// What a server in the gateway's namespace answers: its status and the body.
fn get(rig: &Rig, port: u16, path: &str) -> Option<(u16, String)> {
    let mut text = String::new();
    rig.gateway.enter(|| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // Nothing newer: the body ends with the connection.
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
        stream.read_to_string(&mut text).ok()
    })?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// Starts `spillway serve` on the router's socket, with these options besides.
pub(crate) fn serve(rig: &Rig, options: &[&str]) -> Process {
    let listen = format!("127.0.0.1:{SERVE_PORT}");
    let socket = rig.directory.path().join("read-only/spillway.sock");
    let command: [&OsStr; 6] = [
        env!("CARGO_BIN_EXE_spillway").as_ref(),
        "serve".as_ref(),
        "--listen".as_ref(),
        listen.as_ref(),
        "--socket".as_ref(),
        socket.as_os_str(),
    ];
    let mut server =
        rig.gateway.spawn(command.into_iter().chain(options.iter().map(AsRef::as_ref)));
    wait_until("metrics are served", Duration::from_secs(10), || {
        assert!(server.is_running(), "spillway serve has ended: see what it printed above");
        get(rig, SERVE_PORT, "/livez").is_some_and(|(status, _)| status == 200)
    });
    server
}

fn metrics(rig: &Rig) -> String {
    let (status, text) = get(rig, SERVE_PORT, "/metrics").unwrap();
    assert_eq!(status, 200, "{text}");
    text
}

/// The sum of a metric's series that have all of these labels.
fn sum(text: &str, name: &str, labels: &[&str]) -> f64 {
    let lines = text.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    });
    let values: Vec<f64> =
        lines.map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap()).collect();
    assert!(!values.is_empty(), "no {name} with {labels:?} in\n{text}");
    values.iter().sum()
}

#[test]
fn what_is_served_is_what_the_router_has_counted() {
    let mut rig = Rig::new("metrics", true);
    let _server = serve(&rig, &[]);
    assert_eq!(get(&rig, SERVE_PORT, "/readyz"), Some((200, "ok\n".to_owned())));
    converse(&rig);
    let text = metrics(&rig);
    let (flows, packets) = (f64::from(FLOWS), f64::from(FLOWS) * f64::from(ROUNDS));
    for (name, labels, expected) in [
        ("spillway_up", &[][..], 1.0),
        ("spillway_generation", &[], 1.0),
        ("spillway_documents_applied_total", &[], 1.0),
        ("spillway_worker_flows", &[], flows),
        ("spillway_worker_flows_created_total", &[], flows),
        ("spillway_worker_received_packets_total", &[], 2.0 * packets),
        ("spillway_worker_forwarded_packets_total", &["direction=\"original\""], packets),
        ("spillway_worker_forwarded_packets_total", &["direction=\"reply\""], packets),
        ("spillway_steering_frames_total", &["outcome=\"steer-tunnel\""], packets),
        ("spillway_dropped_packets_total", &[], 0.0),
        ("spillway_device_attached", &[], 2.0),
        ("spillway_egress_addresses", &[], 2.0),
        ("spillway_peers", &[], 1.0),
        ("spillway_usage_counted", &[], 1.0),
        ("spillway_egress_flows", &[], flows),
        ("spillway_policy_flows", &["policy=\"all\""], flows),
        ("spillway_policy_flows_unknown", &[], 0.0),
        (
            "spillway_policy_forwarded_packets_total",
            &["policy=\"all\"", "direction=\"original\""],
            packets,
        ),
        ("spillway_egress_forwarded_packets_total", &["direction=\"reply\""], packets),
        ("spillway_events_total", &[], flows),
        ("spillway_events_lost_total", &[], 0.0),
        ("spillway_egress_ports_max", &[], 2.0 * 64_512.0),
    ] {
        assert_eq!(sum(&text, name, labels), expected, "{name} {labels:?}");
    }
    let of_family = |family: &str| sum(&text, "spillway_worker_flows", &[family]);
    assert!(of_family("\"ipv4\"") > 0.0 && of_family("\"ipv6\"") > 0.0, "{text}");
    assert!(sum(&text, "spillway_last_apply_seconds", &[]) > 0.0, "{text}");
    let fullest = sum(&text, "spillway_egress_ports_fullest", &[]);
    assert_eq!(fullest, f64::from(fullest_remotes()), "{text}");
    check_by_promtool(&text);

    rig.spillway.signal("TERM");
    wait_until("the router has ended", Duration::from_secs(10), || !rig.spillway.is_running());
    let (status, said) = get(&rig, SERVE_PORT, "/readyz").unwrap();
    assert_eq!(status, 503);
    assert!(said.starts_with("[-]router failed: cannot reach Spillway at "), "{said}");
    assert_eq!(sum(&metrics(&rig), "spillway_up", &[]), 0.0);
    assert_eq!(get(&rig, SERVE_PORT, "/livez"), Some((200, "ok\n".to_owned())));
}

/// Flows of `converse` to the port of the server that most go to, of both families together. Each has a
/// port of the egress address.
fn fullest_remotes() -> u16 {
    let of_port = |of: IpFamily, port: u16| {
        let flows = (0..FLOWS).filter(|flow| family(*flow) == of && server_port(*flow) == port);
        flows.count() as u16
    };
    let most = |of| (SERVER_PORT..=SERVER_PORT + 1).map(|port| of_port(of, port)).max().unwrap();
    IpFamily::ALL.map(most).into_iter().sum()
}

/// Names, units and help texts as Prometheus' own linter wants them.
fn check_by_promtool(text: &str) {
    let mut promtool = Command::new(TOOLS.join("promtool"));
    promtool.args(["check", "metrics"]).stdin(Stdio::piped());
    promtool.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "promtool check metrics: {said}");
}

/// What Prometheus is told of a container of a gateway's pod.
fn of_container(name: &str, pod_ip: &str) -> Value {
    json!({
        "__meta_kubernetes_pod_container_name": name,
        "__meta_kubernetes_pod_ip": pod_ip,
        "__meta_kubernetes_pod_node_name": "worker2",
    })
}

/// How the operator has Prometheus find the metrics, as Prometheus itself is told.
fn relabelings() -> Value {
    let monitor: Value = serde_saphyr::from_str(&monitoring("podmonitor.yaml")).unwrap();
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    let text = endpoint["relabelings"].to_string();
    let text = text.replace("sourceLabels", "source_labels").replace("targetLabel", "target_label");
    serde_json::from_str(&text).unwrap()
}

/// A Prometheus in the gateway's namespace that scrapes the served metrics each second, with our rules.
struct Prometheus<'a> {
    rig: &'a Rig,
    _process: Process,
    _directory: TempDir,
}

impl<'a> Prometheus<'a> {
    fn start(rig: &'a Rig, rules: &Value) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let config = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [path("rules.json")],
            "scrape_configs": [{
                "job_name": "spillway",
                // As Kubernetes tells them: ours, another one, and one of a node that is not here.
                "static_configs": [
                    {"targets": ["a"], "labels": of_container("metrics", "127.0.0.1")},
                    {"targets": ["b"], "labels": of_container("router", "127.0.0.1")},
                    {"targets": ["c"], "labels": of_container("metrics", "2001:db8::1")},
                ],
                "relabel_configs": relabelings(),
            }],
        });
        // What is JSON is YAML too.
        std::fs::write(path("rules.json"), rules.to_string()).unwrap();
        std::fs::write(path("prometheus.json"), config.to_string()).unwrap();
        let process = rig.gateway.spawn([
            TOOLS.join("prometheus").display().to_string(),
            format!("--config.file={}", path("prometheus.json").display()),
            format!("--storage.tsdb.path={}", path("data").display()),
            format!("--web.listen-address=127.0.0.1:{PROMETHEUS_PORT}"),
            "--log.level=warn".to_owned(),
        ]);
        Self { rig, _process: process, _directory: directory }
    }

    /// What a query finds, or why it cannot be asked; none when Prometheus is not there yet.
    fn query(&self, query: &str) -> Option<Result<Vec<Value>, String>> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let path = format!("/api/v1/query?query={encoded}");
        let (_, body) = get(self.rig, PROMETHEUS_PORT, &path)?;
        let answer: Value = serde_json::from_str(&body).ok()?;
        Some(match answer["status"].as_str() {
            Some("success") => Ok(answer["data"]["result"].as_array().unwrap().clone()),
            _ => Err(answer["error"].to_string()),
        })
    }

    fn finds(&self, query: &str) -> bool {
        self.query(query).is_some_and(|found| found.is_ok_and(|found| !found.is_empty()))
    }

    fn wait_for(&self, query: &str) {
        wait_until(query, Duration::from_secs(30), || self.finds(query));
    }
}

/// Each series that a query of ours asks for: a name, with the labels that it must have.
fn selectors(query: &str) -> Vec<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let starts = query.match_indices("spillway").map(|(at, _)| at);
    let starts = starts.filter(|at| !query[..*at].ends_with(is_name));
    let named = starts.filter_map(|at| {
        let name = query[at..].find(|c| !is_name(c)).map_or(query.len(), |length| at + length);
        let end = match query[name..].strip_prefix('{') {
            Some(labels) => name + 2 + labels.find('}').unwrap(),
            None => name,
        };
        (name > at + "spillway".len()).then(|| &query[at..end])
    });
    named.collect()
}

#[test]
fn series_are_found_in_a_query() {
    let query = "a or on (x) spillway_up offset 1m - rate(spillway_x_total{reason=\"a-b\"}[5m]) / \
                 spillway:used:ratio";
    let expected = ["spillway_up", "spillway_x_total{reason=\"a-b\"}", "spillway:used:ratio"];
    assert_eq!(selectors(query), expected);
}

/// What the rules ask and what the panels of the dashboard do, with their names.
fn queries(rules: &Value, dashboard: &Value) -> (Vec<String>, Vec<(String, String)>) {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let groups = rules["groups"].as_array().unwrap().iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
    let of_rules = rules.map(|rule| text(&rule["expr"])).collect();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| {
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(|target| (text(&panel["title"]), text(&target["expr"])))
    });
    (of_rules, targets.collect())
}

fn monitoring(name: &str) -> String {
    std::fs::read_to_string(Path::new(MONITORING).join(name)).unwrap()
}

#[test]
fn a_prometheus_finds_every_series_that_rules_and_dashboard_ask_for() {
    let custom_resource: Value = serde_saphyr::from_str(&monitoring("rules.yaml")).unwrap();
    let rules = &custom_resource["spec"];
    let dashboard: Value = serde_json::from_str(&monitoring("dashboard.json")).unwrap();
    let (of_rules, of_panels) = queries(rules, &dashboard);
    assert!(of_rules.len() > 10 && of_panels.len() > 20, "{of_rules:?} {of_panels:?}");

    let rig = Rig::new("queries", true);
    // There is no control plane here: it asks as this does.
    rig.client().status_for_author().unwrap();
    let _server = serve(&rig, &[]);
    let prometheus = Prometheus::start(&rig, rules);
    prometheus.wait_for("spillway_up{instance=\"127.0.0.1:9602\", node=\"worker2\"} == 1");
    prometheus.wait_for("up{instance=\"[2001:db8::1]:9602\"} == 0");
    assert!(prometheus.finds("count(up) == 2"), "it asks other containers");
    converse(&rig);
    let created = format!("sum(spillway_worker_flows_created_total) == {FLOWS}");
    prometheus.wait_for(&created);
    prometheus.wait_for("spillway:flow_table_used:ratio > 0");

    for query in &of_rules {
        let asked = prometheus.query(query).unwrap();
        assert!(asked.is_ok(), "{query}: {asked:?}");
        for selector in selectors(query) {
            assert!(prometheus.finds(selector), "nothing is {selector}, which a rule asks for");
        }
    }
    for (panel, query) in &of_panels {
        let query = query.replace("$__rate_interval", "1m").replace("$instance", ".+");
        let found = prometheus.query(&query).unwrap().unwrap_or_else(|error| {
            panic!("panel {panel}: {query}: {error}");
        });
        let is_quiet = EMPTY_WHEN_HEALTHY.contains(&panel.as_str());
        assert_eq!(found.is_empty(), is_quiet, "panel {panel}: {query}: {found:?}");
    }
    let alerts = prometheus.query("ALERTS").unwrap().unwrap();
    assert!(alerts.is_empty(), "nothing is wrong, and yet: {alerts:?}");
}
