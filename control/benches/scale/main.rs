//! How long a cluster of 10,000 pods waits: the time from a change at the API server until the
//! router has programmed it, and what the control plane needs for that. With a real etcd,
//! kube-apiserver, `spillway-control` and `spillway`. Needs root; `make bench-control` runs it and
//! bench/README.md has its numbers.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark: it prints, and fails like a test"
)]

mod load;
#[path = "../../tests/api_server/server.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod server;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use spillway_api::Client;
use spillway_testing::{Namespace, Process, require_root, veth_pair, wait_until};
use tempfile::TempDir;

use load::{Load, PODS, POLICIES};
use server::ApiServer;

const SOON: Duration = Duration::from_secs(120);
/// What is promised.
const LATENCY_P99_MAX: Duration = Duration::from_secs(1);
const MEMORY_MAX_MB: u64 = 200;

fn main() {
    require_root();
    let control = binary("spillway-control");
    let api = ApiServer::start("scale");
    veth_pair(&api.namespace, "uplink", &api.namespace, "far", 1);
    for address in [load::GATEWAY, load::EGRESS] {
        api.namespace.run(["ip", "address", "add", &format!("{address}/24"), "dev", "uplink"]);
    }
    let kubeconfig = format!("KUBECONFIG={}", api.kubeconfig("admin").display());
    api.namespace.run(["env", &kubeconfig, &control, "crds", "install"]);
    let (namespace, admin) = (&api.namespace, api.kubeconfig("admin"));
    let mut well = true;
    // Enough changes for a 99th percentile; fewer where each is large.
    for (selected_by, changes) in [(1, 300), (POLICIES, 100)] {
        well &= namespace.enter(|| round(namespace, &admin, selected_by, changes));
    }
    std::process::exit(i32::from(!well));
}

/// Every pod is selected by so many policies.
fn round(namespace: &Namespace, kubeconfig: &Path, selected_by: usize, changes: usize) -> bool {
    println!("\n{PODS} pods, {POLICIES} policies x 10 CIDRs, each pod selected by {selected_by}");
    let load = Load::new(kubeconfig);
    let started = Instant::now();
    load.fill(selected_by);
    println!("  the API server has them after {:.0} s", started.elapsed().as_secs_f64());

    let router = Router::start(namespace);
    let started = Instant::now();
    let control = namespace.spawn([
        "env",
        &format!("KUBECONFIG={}", kubeconfig.display()),
        "RUST_LOG=warn",
        &binary("spillway-control"),
        "run",
        "--node",
        load::GATEWAY_NAME,
        "--socket",
        router.socket.to_str().unwrap(),
    ]);
    router.wait_beyond(1);
    println!("  programmed after the start: {:.2} s", started.elapsed().as_secs_f64());
    let mut well = true;
    for churn in [0, 50] {
        let p99 = router.changes(&load, changes, churn);
        well &= p99 <= LATENCY_P99_MAX;
    }
    let memory = peak_mb(control.id());
    println!("  peak memory: spillway-control {memory} MB, spillway {} MB", peak_mb(router.id()));
    well &= memory <= MEMORY_MAX_MB;
    println!("  p99 at most {LATENCY_P99_MAX:?}, at most {MEMORY_MAX_MB} MB: {well}");
    well
}

/// The peak of a process's resident memory.
fn peak_mb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024 / 1_000_000
}

/// A router that starts with nothing.
struct Router {
    socket: PathBuf,
    process: Process,
    _directory: TempDir,
}

impl Router {
    fn start(namespace: &Namespace) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let config = format!(
            "workers: 1\nruntime_dir: {}\ndevices:\n  - {{name: uplink, queues: 1}}\n",
            directory.path().display()
        );
        std::fs::write(path("config.yaml"), config).unwrap();
        let state = "generation: 1\ntunnels: []\negress_addresses: []\npolicies: []\n";
        std::fs::write(path("state.yaml"), state).unwrap();
        let process = namespace.spawn([
            "env".as_ref(),
            "RUST_LOG=warn".as_ref(),
            binary("spillway").as_ref(),
            "run".as_ref(),
            "--config".as_ref(),
            path("config.yaml").as_os_str(),
            "--state".as_ref(),
            path("state.yaml").as_os_str(),
        ]);
        let this = Self { socket: path("spillway.sock"), process, _directory: directory };
        wait_until("spillway runs", SOON, || {
            Client::connect(&this.socket).and_then(|mut client| client.status()).is_ok()
        });
        this
    }

    fn id(&self) -> u32 {
        self.process.id()
    }

    fn generation(&self) -> u64 {
        let status = Client::connect(&self.socket).unwrap().status().unwrap();
        status.generation.unwrap()
    }

    fn wait_beyond(&self, generation: u64) {
        wait_until("the next generation is programmed", SOON, || self.generation() > generation);
    }

    /// Pods get and lose a policy's label, one after another, while others change `churn` times a
    /// second without consequence. Returns the 99th percentile.
    fn changes(&self, load: &Load, count: usize, churn: u32) -> Duration {
        let mut taken = Vec::with_capacity(count);
        let _churn = load.churn(churn);
        for change in 0..count {
            let generation = self.generation();
            let started = Instant::now();
            load.turn(change);
            self.wait_beyond(generation);
            taken.push(started.elapsed());
        }
        taken.sort_unstable();
        let at = |percent: usize| taken[(count - 1) * percent / 100];
        println!(
            "  a change is programmed after: p50 {:.0} ms, p99 {:.0} ms, at most {:.0} ms ({churn} \
             other changes a second)",
            at(50).as_secs_f64() * 1e3,
            at(99).as_secs_f64() * 1e3,
            at(100).as_secs_f64() * 1e3
        );
        at(99)
    }
}

/// The path of one of the measured programs.
fn binary(name: &str) -> String {
    let directory = std::env::var("BINARIES").expect(
        "BINARIES names the directory of the programs to measure: run `make bench-control`",
    );
    let path = Path::new(&directory).join(name);
    assert!(path.exists(), "there is no {}: `make build` builds it", path.display());
    path.display().to_string()
}
