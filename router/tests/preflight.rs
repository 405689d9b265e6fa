//! `spillway preflight` on hosts that are as they should be, or not, and `spillway run` after it.
//! Needs root.
#![allow(clippy::unwrap_used, reason = "a test panics when its rig fails")]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use spillway_api::Client;
use spillway_testing::{Bpffs, Namespace, Process, Redirect, veth_pair, wait_until};
use spillway_xdp::device::{DeviceConfig, DevicesConfig, open, probe};
use tempfile::TempDir;

const SPILLWAY: &str = env!("CARGO_BIN_EXE_spillway");

/// A host with one device, and a configuration.
struct Host {
    namespace: Namespace,
    _far: Namespace,
    _pins: Bpffs,
    directory: TempDir,
}

impl Host {
    /// With two queues, and what else the configuration says of the device.
    fn new(name: &str, device: &str) -> Self {
        let namespace = Namespace::new(name);
        let far = Namespace::new(&format!("{name}-far"));
        veth_pair(&namespace, "eth0", &far, "eth0", 2);
        let directory = tempfile::tempdir().unwrap();
        let pins = Bpffs::mount(&directory.path().join("bpf"));
        let host = Self { namespace, _far: far, _pins: pins, directory };
        host.configure(&format!("{{name: eth0{device}}}"));
        host
    }

    fn configure(&self, device: &str) {
        let directory = self.directory.path().display();
        let text = format!("{{runtime_dir: {directory}, devices: [{device}]}}");
        std::fs::write(self.config(), text).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("config.yaml")
    }

    fn ip<const N: usize>(&self, arguments: [&str; N]) -> String {
        self.namespace.run(std::iter::once("ip").chain(arguments))
    }

    /// Runs the command to its end, behind others such as `setpriv`.
    fn spillway(&self, before: &[&str], arguments: &[&OsStr]) -> Output {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.namespace.name()]).args(before).arg(SPILLWAY);
        command.args(arguments).output().unwrap()
    }

    fn preflight(&self) -> Report {
        self.preflight_behind(&[])
    }

    fn preflight_behind(&self, before: &[&str]) -> Report {
        let config = self.config();
        let words = ["preflight", "-o", "json", "--config"].map(OsStr::new);
        let output = self.spillway(before, &[&words, [config.as_os_str()].as_slice()].concat());
        Report::of(&output)
    }

    /// What `spillway run` says when it refuses.
    fn refusal(&self) -> String {
        let config = self.config();
        let words = ["run".as_ref(), "--config".as_ref(), config.as_os_str()];
        let output = self.spillway(&[], &words);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Runs the router, and waits until it answers.
    fn run(&self) -> Process {
        let config = self.config();
        let words = [SPILLWAY.as_ref(), "run".as_ref(), "--config".as_ref(), config.as_os_str()];
        let mut router = self.namespace.spawn(words);
        let socket = self.directory.path().join("spillway.sock");
        wait_until("the router answers", Duration::from_secs(15), || {
            assert!(router.is_running(), "spillway has ended: see what it printed above");
            Client::connect(&socket).and_then(|mut client| client.status()).is_ok()
        });
        router
    }
}

/// What preflight has printed.
#[derive(Debug)]
struct Report(Value);

impl Report {
    fn of(output: &Output) -> Self {
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let passed = report["passed"].as_bool().unwrap();
        assert_eq!(output.status.code(), Some(i32::from(!passed)), "{output:?}");
        Self(report)
    }

    fn checks(&self) -> &[Value] {
        self.0["checks"].as_array().unwrap()
    }

    /// Result, what was seen and what to do of a check.
    fn check(&self, name: &str) -> [&str; 3] {
        let check = self.checks().iter().find(|check| check["check"] == name);
        let check = check.unwrap_or_else(|| panic!("no check of {name}: {self:?}"));
        ["result", "seen", "remedy"].map(|field| check[field].as_str().unwrap_or_default())
    }

    /// The names of the checks with a result.
    fn with(&self, result: &str) -> Vec<&str> {
        let checks = self.checks().iter().filter(|check| check["result"] == result);
        checks.map(|check| check["check"].as_str().unwrap()).collect()
    }
}

#[test]
fn what_preflight_passes_run_starts_on_and_it_changes_nothing() {
    for (name, device, mode) in
        [("pf-auto", "", "native"), ("pf-generic", ", mode: generic", "generic")]
    {
        let host = Host::new(name, device);
        let files = |of: &str| -> BTreeSet<_> {
            let entries = std::fs::read_dir(host.directory.path().join(of)).unwrap();
            entries.map(|entry| entry.unwrap().file_name()).collect()
        };
        let features = || host.namespace.run(["ethtool", "-k", "eth0"]);
        let state = || (host.ip(["link"]), features(), files(""), files("bpf"));
        let before = state();
        let report = host.preflight();
        assert_eq!(report.with("fail"), [""; 0], "{report:?}");
        assert_eq!(report.with("unknown"), ["tunnel port"], "{report:?}");
        assert_eq!(report.check("XDP mode")[..2], ["ok", mode]);
        assert_eq!(report.check("XDP program")[..2], ["ok", "none"]);
        assert_eq!(state(), before);

        let mut router = host.run();
        let report = host.preflight();
        assert_eq!(report.with("fail"), ["other router"], "{report:?}");
        let [_, seen, _] = report.check("other router");
        assert_eq!(seen, format!("process {} drives eth0", router.id()));
        router.signal("TERM");
        wait_until("the router has ended", Duration::from_secs(15), || !router.is_running());

        let report = host.preflight();
        assert_eq!(report.with("fail"), [""; 0], "{report:?}");
        let taken_over = format!("Spillway's, {mode}: the router takes it over");
        assert_eq!(report.check("XDP program")[..2], ["ok", &taken_over]);
        // What the pods wait for is not kept from them for a test.
        let tried = ["steering program", "AF_XDP sockets"].map(|name| report.check(name));
        assert!(tried.iter().all(|[_, seen, _]| seen.starts_with("not tried")), "{tried:?}");
        drop(host.run());
    }
}

#[test]
fn a_device_that_is_not_there_is_told_and_refused() {
    let host = Host::new("pf-missing", "");
    host.configure("{name: eth7}");
    let report = host.preflight();
    let [result, seen, _] = report.check("device");
    assert_eq!((result, report.with("fail")), ("fail", vec!["device"]));
    assert!(seen.contains("eth7 does not exist in this network namespace"), "{seen}");
    assert!(host.refusal().contains(seen));
}

#[test]
fn a_device_that_is_down_or_too_small_is_told() {
    let host = Host::new("pf-down", "");
    host.ip(["link", "set", "eth0", "mtu", "1300", "down"]);
    let report = host.preflight();
    assert_eq!(report.with("fail"), [""; 0], "{report:?}");
    assert_eq!(report.check("link"), ["warn", "down", "`ip link set dev eth0 up`"]);
    let [result, seen, remedy] = report.check("MTU");
    assert_eq!(result, "warn", "{seen}");
    assert!(remedy.starts_with("`ip link set dev eth0 mtu 1330`"), "{remedy}");
    drop(host.run());
}

#[test]
fn what_does_not_fit_a_device_is_told_and_refused() {
    let host = Host::new("pf-fit", "");
    host.ip(["link", "set", "eth0", "mtu", "9000"]);
    assert_eq!(host.preflight().with("fail"), ["MTU"]);
    assert!(host.refusal().contains("eth0's MTU 9000"));
    let [_, _, remedy] = host.preflight().check("MTU").map(str::to_owned);
    let command = remedy.trim_matches('`').to_owned();
    host.namespace.run(command.split(' '));
    assert_eq!(host.preflight().with("fail"), [""; 0], "after {command}");

    host.configure("{name: eth0, queues: 1}");
    assert_eq!(host.preflight().with("fail"), ["queues"]);
    assert!(host.refusal().contains("eth0 has 2 receive queues"));

    host.configure("{name: eth0, zero_copy: true}");
    assert_eq!(host.preflight().with("fail"), ["zero-copy"]);
    assert!(host.refusal().contains("eth0 (driver veth) cannot do zero-copy"));
}

#[test]
fn somebody_elses_program_is_named_and_refused() {
    let host = Host::new("pf-foreign", "");
    let ifindex = host.namespace.enter(|| probe("eth0")).unwrap().ifindex;
    let foreign = host.namespace.enter(|| Redirect::new(0x88b5, 1).attach(ifindex, []));
    let report = host.preflight();
    assert_eq!(report.with("fail"), ["XDP program"], "{report:?}");
    let [_, seen, remedy] = report.check("XDP program");
    assert!(seen.contains("(redirect), native") && remedy.contains("xdp off"), "{seen} {remedy}");
    assert!(host.refusal().contains("eth0 already runs XDP program"));

    // Without CAP_SYS_ADMIN, as in the init container, the kernel does not tell its name.
    let report = host.preflight_behind(&["setpriv", "--bounding-set=-sys_admin", "--"]);
    assert_eq!(report.with("fail"), ["XDP program"], "{report:?}");
    let [_, seen, _] = report.check("XDP program");
    assert!(seen.contains("CAP_SYS_ADMIN"), "{seen}");
    drop(foreign);
}

#[test]
fn a_queue_that_another_program_receives_on_is_told_and_refused() {
    let host = Host::new("pf-busy", "");
    let config = DevicesConfig {
        workers: 1,
        frame_size: 2048,
        umem_frames: 0,
        devices: vec![DeviceConfig::new("eth0")],
    };
    let opened = host.namespace.enter(|| open(&config, &[probe("eth0").unwrap()])).unwrap();
    let report = host.preflight();
    assert_eq!(report.with("fail"), ["AF_XDP sockets"], "{report:?}");
    let [_, seen, _] = report.check("AF_XDP sockets");
    assert!(seen.contains("in use by another AF_XDP socket"), "{seen}");
    assert!(host.refusal().contains(seen));
    drop(opened);
}

#[test]
fn a_capability_that_is_missing_is_named() {
    let host = Host::new("pf-caps", "");
    let without = ["setpriv", "--bounding-set=-sys_admin,-bpf,-ipc_lock", "--"];
    let limited = [&["prlimit", "--memlock=65536"], without.as_slice()].concat();
    let report = host.preflight_behind(&limited);
    let [_, seen, remedy] = report.check("capabilities");
    assert_eq!(seen, "without BPF");
    assert!(remedy.contains("add: [NET_ADMIN, NET_RAW, BPF"), "{remedy}");
    let failed = report.with("fail");
    assert!(failed.contains(&"locked memory"), "{failed:?}");
    assert!(failed.contains(&"steering program"), "{failed:?}");
}

#[test]
fn the_init_containers_capabilities_are_enough() {
    let host = Host::new("pf-init", "");
    let five = "--bounding-set=-all,+net_admin,+net_raw,+bpf,+perfmon,+ipc_lock";
    let limited = ["prlimit", "--memlock=65536", "setpriv", "--no-new-privs", five, "--"];
    let report = host.preflight_behind(&limited);
    assert_eq!(report.with("fail"), [""; 0], "{report:?}");
    assert_eq!(report.with("unknown"), ["tunnel port"], "{report:?}");
}

#[test]
fn other_devices_of_the_host_are_looked_at() {
    let host = Host::new("pf-links", "");
    host.ip(["link", "add", "cilium_vxlan", "type", "vxlan", "external", "dstport", "4789"]);
    host.ip(["link", "add", "br0", "type", "bridge"]);
    host.ip(["link", "set", "eth0", "master", "br0"]);
    let report = host.preflight();
    assert_eq!(report.with("fail"), ["tunnel port", "device"], "{report:?}");
    assert_eq!(report.check("tunnel port")[2], "`tunnel_port: 4789` in the configuration");
    assert_eq!(
        report.check("device")[1],
        "a port of br0, a bridge, which has the addresses and routes"
    );
}

#[test]
fn without_a_configuration_it_is_the_device_of_the_default_route() {
    let host = Host::new("pf-assumed", "");
    let preflight = || host.spillway(&[], &["preflight", "-o", "json"].map(OsStr::new));
    let output = preflight();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("no default route names a device") && said.contains("--config"),
        "{said}"
    );

    host.ip(["address", "add", "192.0.2.2/24", "dev", "eth0"]);
    host.ip(["route", "add", "default", "via", "192.0.2.1"]);
    let report = Report::of(&preflight());
    let devices: Vec<&Value> = report.checks().iter().map(|check| &check["device"]).collect();
    assert!(devices.contains(&&Value::from("eth0")), "{report:?}");
}

#[test]
fn people_read_a_table() {
    let host = Host::new("pf-table", "");
    host.ip(["link", "set", "eth0", "mtu", "9000"]);
    let config = host.config();
    let words = ["preflight".as_ref(), "--config".as_ref(), config.as_os_str()];
    let output = host.spillway(&[], &words);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.starts_with("Result    Where   Check"), "{text}");
    let failed: Vec<&str> = text.lines().filter(|line| line.starts_with("FAIL")).collect();
    let [line] = failed.as_slice() else { panic!("{text}") };
    assert!(line.contains("eth0    MTU") && line.ends_with("mtu 1708`"), "{line}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("spillway: 1 of ") && said.contains("checks have failed"), "{said}");
    let advised = host.spillway(&[], &[words.as_slice(), &["--advise".as_ref()]].concat());
    assert_eq!((advised.status.code(), advised.stderr), (Some(0), Vec::new()));
    assert_eq!(String::from_utf8(advised.stdout).unwrap(), text);
}
