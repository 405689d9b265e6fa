//! The configuration of `spillway run`: what is fixed for the life of the process. Every option
//! with its default stands in `router/config.example.yaml`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Deserialize;
use spillway_api::limits::{DOCUMENT_BYTES_MAX, TIMEOUT_S_MAX};
use spillway_api::{
    Document, FieldPath, PolicyTimeouts, Problem, check_device_name, list, os_error, whole,
};
use spillway_engine::steer::Run;
use spillway_engine::{Nanos, Timeouts};

/// Devices at most.
const DEVICES_MAX: usize = 16;

/// Receive queues of one device, at most.
const QUEUES_MAX: u64 = 256;

/// Worker threads at most.
const WORKERS_MAX: u64 = 64;

/// Frames of one UMEM at most: 16 GiB of the larger ones.
const UMEM_FRAMES_MAX: u64 = 4_194_304;

/// Flows of one worker at most.
const FLOWS_MAX: u64 = 16_777_216;

/// Events that are kept at most: some 200 bytes each.
const EVENTS_MAX: u64 = 1_048_576;

/// Bytes of a Unix socket's path at most (`sun_path` less its end).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Port blocks of a pod at most.
const BLOCKS_PER_POD_MAX: u64 = spillway_engine::BLOCKS_PER_POD_MAX as u64;

/// The largest number of a group: one more says "none" to the kernel.
const GROUP_MAX: u64 = u32::MAX as u64 - 1;

/// One second in nanoseconds.
const SECOND: Nanos = 1_000_000_000;

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The devices to receive and send on; 1 to 16.
    #[serde(deserialize_with = "list")]
    pub(crate) devices: Vec<DeviceConfig>,
    /// Worker threads; 1 to 64. Default: 1.
    #[serde(default = "one", deserialize_with = "whole::<_, _, 1, WORKERS_MAX>")]
    pub(crate) workers: u8,
    /// UDP port of the VXLAN tunnel; 1 to 65535. Default: 8472, as Cilium has it.
    #[serde(default = "tunnel_port", deserialize_with = "whole::<_, _, 1, 65_535>")]
    pub(crate) tunnel_port: u16,
    /// Bytes of a frame of the UMEM; 2048 or 4096. Default: 2048.
    #[serde(default = "frame_size", deserialize_with = "whole::<_, _, 2_048, 4_096>")]
    pub(crate) frame_size: u32,
    /// Frames of the UMEM; up to 4,194,304. Default: 0, as many as the rings need.
    #[serde(default, deserialize_with = "whole::<_, _, 0, UMEM_FRAMES_MAX>")]
    pub(crate) umem_frames: u32,
    /// Flows of each address family that one worker keeps at most; 1 to 16,777,216. Default: 65536.
    #[serde(default = "flows_max", deserialize_with = "whole::<_, _, 1, FLOWS_MAX>")]
    pub(crate) flows_max: u32,
    /// Whether TCP segment sizes that do not fit the tunnel are lowered when they are announced.
    /// Default: yes.
    #[serde(default = "yes")]
    pub(crate) mss_clamp: bool,
    /// How long flows may stay idle.
    #[serde(default)]
    pub(crate) timeouts: TimeoutsConfig,
    /// Directory of the steering program's pins, of lock files, and of the flows that the next
    /// process takes up. Default: `/run/spillway`.
    #[serde(default = "runtime_dir")]
    pub(crate) runtime_dir: PathBuf,
    /// The operator's socket. Default: `spillway.sock` in `runtime_dir`.
    #[serde(default)]
    pub(crate) socket: Option<PathBuf>,
    /// The socket that changes nothing. Default: `read-only/spillway.sock` in `runtime_dir`.
    #[serde(default)]
    pub(crate) read_only_socket: Option<PathBuf>,
    /// The number of the group that may use it; up to 4,294,967,294. Default: root alone may.
    #[serde(default, deserialize_with = "some_group")]
    pub(crate) read_only_group: Option<u32>,
    /// What a worker does when there is nothing to do. Default: sleep.
    #[serde(default)]
    pub(crate) idle: Idle,
    /// What becomes of tunnel frames that steering cannot classify. Default: drop.
    #[serde(default)]
    pub(crate) unclassified_tunnel_frames: Unclassified,
    /// What is kept of what happens to flows and packets.
    #[serde(default)]
    pub(crate) events: EventsConfig,
    /// Whether pods have whole blocks of ports.
    #[serde(default)]
    pub(crate) port_blocks: PortBlocksConfig,
}

/// Whether pods have whole blocks of ports on egress addresses, so that who keeps a record of them writes
/// down blocks instead of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PortBlocksConfig {
    /// Ports of a block; 8, 16, 32, 64, 128 or 256. Default: 0, ports are leased one by one.
    #[serde(deserialize_with = "whole::<_, _, 0, 256>")]
    pub(crate) size: u16,
    /// Blocks that a pod can have on one egress address with one worker; 1 to 16. Default: 16.
    #[serde(deserialize_with = "whole::<_, _, 1, BLOCKS_PER_POD_MAX>")]
    pub(crate) per_pod: u8,
}

impl Default for PortBlocksConfig {
    fn default() -> Self {
        Self { size: 0, per_pod: 16 }
    }
}

impl PortBlocksConfig {
    /// Ports that are of one class in a row.
    pub(crate) fn run(self) -> Run {
        Run::of(self.size).unwrap_or(Run::ONE)
    }

    /// As the engine takes it: 0 where there are no blocks.
    pub(crate) fn blocks_per_pod(self) -> u8 {
        if self.size == 0 { 0 } else { self.per_pod }
    }
}

/// What is kept of what happens to flows and packets, for those who ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct EventsConfig {
    /// Events that are kept, the last ones; up to 1,048,576. Default: 65536. 0: nothing is noted.
    #[serde(deserialize_with = "whole::<_, _, 0, EVENTS_MAX>")]
    pub(crate) kept: u32,
    /// Dropped packets that each worker tells of in a second, of each drop reason; up to 1,000. Default: 10.
    #[serde(deserialize_with = "whole::<_, _, 0, 1_000>")]
    pub(crate) drops_per_second: u16,
    /// Of so many packets that a worker receives, it tells of one if it is forwarded; up to 4,294,967,295.
    /// Default: 0, of none.
    #[serde(deserialize_with = "whole::<_, _, 0, { u32::MAX as u64 }>")]
    pub(crate) forwarded_one_in: u32,
}

impl Default for EventsConfig {
    fn default() -> Self {
        Self { kept: 65_536, drops_per_second: 10, forwarded_one_in: 0 }
    }
}

/// How long a flow may stay idle in both directions before it ends, in seconds; 1 to 604,800 each.
/// The defaults are the engine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TimeoutsConfig {
    /// TCP until both sides have spoken after the SYN. Default: 240 (RFC 5382).
    #[serde(deserialize_with = "whole::<_, _, 1, TIMEOUT_S_MAX>")]
    tcp_opening: u32,
    /// TCP that is established. Default: 7440 (RFC 5382).
    #[serde(deserialize_with = "whole::<_, _, 1, TIMEOUT_S_MAX>")]
    tcp_established: u32,
    /// TCP that one side has closed. Default: 900.
    #[serde(deserialize_with = "whole::<_, _, 1, TIMEOUT_S_MAX>")]
    tcp_half_closed: u32,
    /// TCP that both sides have closed or one has reset. Default: 10.
    #[serde(deserialize_with = "whole::<_, _, 1, TIMEOUT_S_MAX>")]
    tcp_closing: u32,
    /// UDP. Default: 300 (RFC 4787).
    #[serde(deserialize_with = "whole::<_, _, 1, TIMEOUT_S_MAX>")]
    udp: u32,
    /// ICMP echo. Default: 60 (RFC 5508).
    #[serde(deserialize_with = "whole::<_, _, 1, TIMEOUT_S_MAX>")]
    icmp: u32,
}

impl Default for TimeoutsConfig {
    fn default() -> Self {
        let engine = Timeouts::default();
        let seconds = |ns: Nanos| u32::try_from(ns / SECOND).unwrap_or(u32::MAX);
        Self {
            tcp_opening: seconds(engine.tcp_opening_ns),
            tcp_established: seconds(engine.tcp_established_ns),
            tcp_half_closed: seconds(engine.tcp_half_closed_ns),
            tcp_closing: seconds(engine.tcp_closing_ns),
            udp: seconds(engine.udp_ns),
            icmp: seconds(engine.icmp_ns),
        }
    }
}

impl TimeoutsConfig {
    /// With what a policy says in their place.
    pub(crate) fn overridden(self, policy: &PolicyTimeouts) -> Self {
        Self {
            tcp_opening: policy.tcp_opening.unwrap_or(self.tcp_opening),
            tcp_established: policy.tcp_established.unwrap_or(self.tcp_established),
            tcp_half_closed: policy.tcp_half_closed.unwrap_or(self.tcp_half_closed),
            tcp_closing: policy.tcp_closing.unwrap_or(self.tcp_closing),
            udp: policy.udp.unwrap_or(self.udp),
            icmp: policy.icmp.unwrap_or(self.icmp),
        }
    }

    /// As the engine takes them.
    pub(crate) fn to_engine(self) -> Timeouts {
        let ns = |seconds: u32| Nanos::from(seconds) * SECOND;
        Timeouts {
            tcp_opening_ns: ns(self.tcp_opening),
            tcp_established_ns: ns(self.tcp_established),
            tcp_half_closed_ns: ns(self.tcp_half_closed),
            tcp_closing_ns: ns(self.tcp_closing),
            udp_ns: ns(self.udp),
            icmp_ns: ns(self.icmp),
        }
    }
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields)]
pub(crate) struct DeviceConfig {
    /// Its name, as `ip link` shows it.
    pub(crate) name: String,
    /// Receive queues; 1 to 256. Default: all that the device has; fewer are refused at start.
    #[serde(default, deserialize_with = "some_queues")]
    pub(crate) queues: Option<u32>,
    /// How the steering program is attached. Default: auto.
    #[serde(default)]
    pub(crate) mode: Mode,
    /// Whether the driver shall hand over frames without copying. Default: false.
    #[serde(default)]
    pub(crate) zero_copy: bool,
}

/// How the steering program is attached to a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    /// In the driver if it can, else generic with a warning.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the kernel's common receive path.
    Generic,
}

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "snake_case")]
pub(crate) enum Idle {
    /// It sleeps until a frame comes.
    #[default]
    Sleep,
    /// It goes on looking: less latency, a whole processor.
    Spin,
}

/// What becomes of tunnel frames that steering cannot classify.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unclassified {
    /// They are dropped and counted.
    #[default]
    Drop,
    /// The kernel has them, and a selected pod's packet may leave with another address.
    Pass,
}

const fn one() -> u8 {
    1
}

const fn yes() -> bool {
    true
}

fn tunnel_port() -> u16 {
    8_472
}

const fn frame_size() -> u32 {
    2_048
}

const fn flows_max() -> u32 {
    65_536
}

fn runtime_dir() -> PathBuf {
    PathBuf::from("/run/spillway")
}

fn some_queues<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    whole::<_, _, 1, QUEUES_MAX>(deserializer).map(Some)
}

fn some_group<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    whole::<_, _, 0, GROUP_MAX>(deserializer).map(Some)
}

impl Config {
    /// Reads and checks the configuration in a file.
    ///
    /// # Errors
    ///
    /// The file, line, column and field, and what was expected there.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = read_text(path)?;
        Self::parse(&text)
            .with_context(|| format!("cannot use the configuration {}", path.display()))
    }

    /// Reads and checks a configuration.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        spillway_api::parse(text, Self::validate)
    }

    /// Reads a state document and checks it, also against this configuration.
    pub(crate) fn parse_document(&self, text: &str) -> Result<Document, Problem> {
        spillway_api::parse(text, |document: &Document| {
            document.validate()?;
            self.check_peer_devices(document)?;
            self.check_announcing_devices(document)?;
            self.check_tunnel_port(document)
        })
    }

    /// Where the operator's socket is.
    pub(crate) fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.runtime_dir.join("spillway.sock"))
    }

    /// Where the socket is that changes nothing. By default it has a directory of its own, so that a
    /// container can be given that one alone.
    pub(crate) fn read_only_socket(&self) -> PathBuf {
        let default = || self.runtime_dir.join("read-only/spillway.sock");
        self.read_only_socket.clone().unwrap_or_else(default)
    }

    /// Where the steering program's links are pinned.
    pub(crate) fn pin_directory(&self) -> PathBuf {
        pin_directory(&self.runtime_dir)
    }

    fn validate(&self) -> Result<(), Problem> {
        self.check_devices()?;
        if !matches!(self.frame_size, 2_048 | 4_096) {
            let message = format!("expected 2048 or 4096, found {}", self.frame_size);
            return Err(FieldPath::root("frame_size").problem(message));
        }
        let size = self.port_blocks.size;
        if !matches!(size, 0 | 8 | 16 | 32 | 64 | 128 | 256) {
            let message =
                format!("expected 8, 16, 32, 64, 128 or 256, or 0 for none, found {size}");
            return Err(FieldPath::root("port_blocks").field("size").problem(message));
        }
        check_path(&FieldPath::root("runtime_dir"), &self.runtime_dir)?;
        self.check_sockets()
    }

    fn check_sockets(&self) -> Result<(), Problem> {
        let (socket, read_only) = (self.socket(), self.read_only_socket());
        for (name, given, socket) in [
            ("socket", &self.socket, &socket),
            ("read_only_socket", &self.read_only_socket, &read_only),
        ] {
            let path = FieldPath::root(if given.is_some() { name } else { "runtime_dir" });
            check_path(&path, socket)?;
            if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
                let message = format!(
                    "expected a socket path of at most {SOCKET_PATH_BYTES_MAX} bytes, found {}",
                    socket.display()
                );
                return Err(path.problem(message));
            }
        }
        if socket == read_only {
            let message = "expected another path than that of `socket`, which takes every request";
            return Err(FieldPath::root("read_only_socket").problem(message));
        }
        Ok(())
    }

    fn check_devices(&self) -> Result<(), Problem> {
        let path = FieldPath::root("devices");
        let count = self.devices.len();
        if !(1..=DEVICES_MAX).contains(&count) {
            let message = format!("expected 1 to {DEVICES_MAX} devices, found {count}");
            return Err(path.problem(message));
        }
        let mut names = HashSet::new();
        for (index, device) in self.devices.iter().enumerate() {
            let path = path.clone().index(index);
            let name = path.clone().field("name");
            check_device_name(&device.name).map_err(|message| name.problem(message))?;
            if !names.insert(&device.name) {
                return Err(name.problem(format!("{} is listed twice", device.name)));
            }
            if device.zero_copy && device.mode == Mode::Generic {
                let message = "only a driver can do it; expected mode native or auto beside it";
                return Err(path.field("zero_copy").problem(message));
            }
        }
        Ok(())
    }

    fn check_peer_devices(&self, document: &Document) -> Result<(), Problem> {
        let tunnels = FieldPath::root("tunnels");
        for (tunnel_index, tunnel) in document.tunnels.iter().enumerate() {
            for (peer_index, peer) in tunnel.peers.iter().enumerate() {
                let Some(device) = &peer.device else { continue };
                let path = tunnels.clone().index(tunnel_index).field("peers").index(peer_index);
                self.check_is_driven(&path.field("device"), device)?;
            }
        }
        Ok(())
    }

    fn check_announcing_devices(&self, document: &Document) -> Result<(), Problem> {
        for (index, egress) in document.egress_addresses.iter().enumerate() {
            let Some(device) = &egress.announce else { continue };
            let path = FieldPath::root("egress_addresses").index(index).field("announce");
            self.check_is_driven(&path, device)?;
        }
        Ok(())
    }

    fn check_is_driven(&self, path: &FieldPath, device: &str) -> Result<(), Problem> {
        let names: Vec<&str> = self.devices.iter().map(|device| device.name.as_str()).collect();
        if names.contains(&device) {
            return Ok(());
        }
        let known = names.join(", ");
        let message = format!("{device} is no device of the configuration, which has {known}");
        Err(path.problem(message))
    }

    /// A reply to the tunnel port of a tunnel address would be taken for a tunnel frame.
    fn check_tunnel_port(&self, document: &Document) -> Result<(), Problem> {
        for (index, egress) in document.egress_addresses.iter().enumerate() {
            let ports = egress.port_range();
            let is_tunnel = document.tunnels.iter().any(|t| t.address == egress.address);
            if is_tunnel && (ports.first..=ports.last).contains(&self.tunnel_port) {
                let path = FieldPath::root("egress_addresses").index(index).field("ports");
                let message = format!(
                    "{ports} holds the tunnel port {}, and {} is a tunnel address; expected a \
                     range without it",
                    self.tunnel_port, egress.address
                );
                return Err(path.problem(message));
            }
        }
        Ok(())
    }
}

/// Where the steering program's links are pinned, below a runtime directory.
pub(crate) fn pin_directory(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("bpf")
}

/// Reads a document or a configuration as text.
///
/// # Errors
///
/// The file and what is wrong with it; more than 64 MiB is.
pub(crate) fn read_text(path: &Path) -> anyhow::Result<String> {
    use std::io::Read as _;
    let name = path.display();
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(DOCUMENT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| anyhow::anyhow!("cannot read {name}: {}", os_error(&error)))?;
    anyhow::ensure!(
        bytes.len() <= DOCUMENT_BYTES_MAX,
        "cannot read {name}: it has more than {DOCUMENT_BYTES_MAX} bytes"
    );
    String::from_utf8(bytes)
        .map_err(|_| anyhow::anyhow!("cannot read {name}: it is not UTF-8 text"))
}

fn check_path(path: &FieldPath, value: &Path) -> Result<(), Problem> {
    if value.is_absolute() {
        return Ok(());
    }
    let message = format!("expected an absolute path, found \"{}\"", value.display());
    Err(path.problem(message))
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
