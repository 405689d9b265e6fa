//! What the host is like. It is read here and judged elsewhere, and nothing is changed: what the
//! router would load and open is loaded and opened for a moment, in copy mode and not attached.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use rustix::fs::{Access, AtFlags, CWD};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Resource, getrlimit};
use rustix::thread::CapabilitySet;
use spillway_api::os_error;
use spillway_engine::fib::Fib;
use spillway_engine::{Family, V4, V6};
use spillway_xdp::device::ethtool::{self, Merging};
use spillway_xdp::device::{self, DeviceInfo, packet_memory};
use spillway_xdp::steering::{self, DeviceLock, DeviceXdp, Occupant};

use crate::compile::HostPorts;
use crate::config::Config;
use crate::gateway::host_ports;
use crate::kernel::{Kernel, Link, ipsec_states};
use crate::run::{devices_config, load_steering, owners};
use crate::server;

/// `f_type` of a tmpfs, from linux/magic.h.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Why something is not known, in words.
type Unknown = String;

/// What the kernel says about this host.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// As `uname -r` shows it.
    pub(super) release: String,
    /// Those in force.
    pub(super) capabilities: Result<CapabilitySet, Unknown>,
    /// The limit of locked memory in bytes; none when there is no limit.
    pub(super) locked_max: Option<u64>,
    /// That threads may run on.
    pub(super) processors: Result<usize, Unknown>,
    pub(super) memory: Memory,
    pub(super) runtime_dir: Directory,
    /// That of the operator's socket.
    pub(super) socket_dir: Directory,
    /// Whether a bpffs is where links are pinned.
    pub(super) bpffs: Result<bool, Unknown>,
    /// What the router would say of its sockets.
    pub(super) socket: Result<(), String>,
    pub(super) ports: Result<HostPorts, Unknown>,
    pub(super) links: Result<Vec<Link>, Unknown>,
    pub(super) ipsec_states: Result<u32, Unknown>,
    /// In the configuration's order.
    pub(super) devices: Vec<DeviceFacts>,
    /// Whether the kernel gives an AF_XDP socket.
    pub(super) af_xdp: Result<(), rustix::io::Errno>,
    pub(super) program: Trial,
    pub(super) sockets: Trial,
}

/// Memory in bytes, as far as the kernel tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// What new processes can have.
    pub(super) available: Option<u64>,
    /// What this control group may have.
    pub(super) limit: Option<u64>,
    /// Free huge pages of the default size.
    pub(super) huge_free: Option<u64>,
}

/// A directory, or the one that it would be made in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Directory {
    pub(super) writable: bool,
    pub(super) on_tmpfs: bool,
}

/// What became of doing for a moment what the router does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trial {
    Done,
    /// With the reason.
    NotTried(&'static str),
    /// Spillway's program is pinned on every device: pods wait for the router, and what was done there
    /// once is not done again for a test.
    Pinned,
    /// In the router's words.
    Refused(String),
}

/// What is known of a configured device; or why the router would refuse it.
pub(super) type DeviceFacts = Result<Found, String>;

/// A device that is there.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) info: DeviceInfo,
    pub(super) xdp: Result<DeviceXdp, Unknown>,
    pub(super) merging: Result<Merging, Unknown>,
    /// The process that drives it, if one does.
    pub(super) holder: Result<Option<String>, Unknown>,
}

impl Facts {
    /// Asks the kernel, in the calling thread's network namespace.
    pub(super) fn gather(config: &Config) -> Self {
        let devices: Vec<_> = config.devices.iter().map(|one| found(config, &one.name)).collect();
        let socket = config.socket();
        let links = Kernel::open().map(|kernel| kernel.links().cloned().collect());
        let facts = Self {
            release: rustix::system::uname().release().to_string_lossy().into_owned(),
            capabilities: rustix::thread::capabilities(None)
                .map(|sets| sets.effective)
                .map_err(|errno| os_error(&errno.into())),
            locked_max: getrlimit(Resource::Memlock).current,
            processors: std::thread::available_parallelism()
                .map(Into::into)
                .map_err(|error| os_error(&error)),
            memory: memory(),
            runtime_dir: directory(&config.runtime_dir),
            socket_dir: directory(socket.parent().unwrap_or(&socket)),
            bpffs: steering::is_bpffs(&config.pin_directory()).map_err(|error| error.to_string()),
            socket: [&socket, &config.read_only_socket()]
                .into_iter()
                .try_for_each(|path| server::is_stale(path).map(drop))
                .map_err(|e| e.to_string()),
            ports: host_ports().map_err(|error| format!("{error:#}")),
            links: links.map_err(|error| error.to_string()),
            ipsec_states: ipsec_states().map_err(|error| os_error(&error)),
            devices,
            af_xdp: af_xdp(),
            program: Trial::NotTried("no device is there"),
            sockets: Trial::NotTried("a device is missing"),
        };
        let is_pinned = facts.is_pinned();
        let unless_pinned = |trial: &dyn Fn() -> Trial| {
            if is_pinned { Trial::Pinned } else { trial() }
        };
        let program = unless_pinned(&|| load(config, &facts.infos()));
        let sockets = unless_pinned(&|| facts.open(config));
        Self { program, sockets, ..facts }
    }

    /// Whether every device has Spillway's program: a router has run here, or does.
    fn is_pinned(&self) -> bool {
        self.devices.iter().all(|device| {
            let xdp = device.as_ref().ok().and_then(|found| found.xdp.as_ref().ok());
            xdp.is_some_and(|xdp| matches!(xdp.occupant, Occupant::Spillway(_)))
        })
    }

    /// The devices that are there.
    pub(super) fn infos(&self) -> Vec<DeviceInfo> {
        self.found().map(|found| found.info.clone()).collect()
    }

    /// The devices that are there.
    pub(super) fn found(&self) -> impl Iterator<Item = &Found> {
        self.devices.iter().flatten()
    }

    /// Opens every socket that the router would open, in copy mode, and closes it again.
    fn open(&self, config: &Config) -> Trial {
        let infos = self.infos();
        let mut devices = devices_config(config);
        // A driver that is asked for zero-copy stops its queues for it.
        devices.devices.iter_mut().for_each(|device| device.zero_copy = false);
        if infos.len() < config.devices.len() {
            return Trial::NotTried("a device is missing");
        }
        if self.found().any(|found| !matches!(found.holder, Ok(None))) {
            return Trial::NotTried("another router drives a device, or that is not known");
        }
        if packet_memory(&devices, &infos).is_err() {
            return Trial::NotTried("devices and configuration do not fit");
        }
        match device::open(&devices, &infos) {
            Ok(_) => Trial::Done,
            Err(error) => Trial::Refused(error.to_string()),
        }
    }
}

/// The configuration of a router that nobody has configured: the defaults, on the devices that the
/// default routes lead out of.
///
/// # Errors
/// When there is no default route.
pub(crate) fn assumed_config() -> anyhow::Result<Config> {
    let kernel = Kernel::open()?;
    let ways = [way_out::<V4>(&kernel), way_out::<V6>(&kernel)];
    let mut names: Vec<_> = ways.into_iter().flatten().collect();
    names.dedup();
    anyhow::ensure!(
        !names.is_empty(),
        "no default route names a device: write a configuration and name it with --config"
    );
    let devices: Vec<_> = names.iter().map(|name| format!("{{name: {name:?}}}")).collect();
    Config::parse(&format!("devices: [{}]", devices.join(", ")))
        .context("cannot use the devices of the default routes")
}

/// The device of one family's default route.
fn way_out<F: Family>(kernel: &Kernel) -> Option<String> {
    let links: Vec<&Link> = kernel.links().collect();
    let indexes: Vec<u32> = links.iter().map(|link| link.ifindex).collect();
    let input = kernel.fib::<F>(&indexes);
    let fib = Fib::new(&input.rules, input.routes);
    // No route but the default one leads to the unspecified address.
    let way = fib.lookup(F::UNSPECIFIED, F::UNSPECIFIED, 0).ok()?;
    links.get(usize::from(way.device)).map(|link| link.name.clone())
}

fn found(config: &Config, name: &str) -> DeviceFacts {
    let info = device::probe(name).map_err(|error| error.to_string())?;
    Ok(Found {
        xdp: steering::inspect(name, info.ifindex, &config.pin_directory())
            .map_err(|error| error.to_string()),
        merging: ethtool::merging(name).map_err(|error| error.to_string()),
        holder: DeviceLock::holder(&config.runtime_dir, info.ifindex)
            .map_err(|error| error.to_string()),
        info,
    })
}

/// Loads the steering programs as the router would, and lets them go.
fn load(config: &Config, infos: &[DeviceInfo]) -> Trial {
    if infos.is_empty() {
        return Trial::NotTried("no device is there");
    }
    match load_steering(config, owners(config), infos, &[]) {
        Ok(_) => Trial::Done,
        Err(error) => Trial::Refused(format!("{error:#}")),
    }
}

fn af_xdp() -> Result<(), rustix::io::Errno> {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, flags, None).map(drop)
}

fn memory() -> Memory {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    // Of control groups of version 2; seen from inside a container, its own is at the root.
    let limit = read("/sys/fs/cgroup/memory.max").trim().parse().ok();
    Memory { limit, ..parse_memory(&read("/proc/meminfo")) }
}

/// Reads what `/proc/meminfo` has.
fn parse_memory(text: &str) -> Memory {
    let value = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let pages = value("HugePages_Free");
    Memory {
        available: value("MemAvailable").map(|kib| kib << 10),
        limit: None,
        huge_free: pages.zip(value("Hugepagesize")).map(|(pages, kib)| pages * (kib << 10)),
    }
}

/// Looks at a directory, or at the nearest one above it that is there.
fn directory(path: &Path) -> Directory {
    let there = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path);
    let access = Access::WRITE_OK | Access::EXEC_OK;
    let writable = rustix::fs::accessat(CWD, there, access, AtFlags::EACCESS).is_ok();
    let kind = rustix::fs::statfs(there).ok().and_then(|found| u64::try_from(found.f_type).ok());
    Directory { writable: writable && there.is_dir(), on_tmpfs: kind == Some(TMPFS_MAGIC) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "MemTotal:  8000000 kB\nMemAvailable:    2048 kB\nHugePages_Free:       3\n\
                    Hugepagesize:       2048 kB\n";
        let expected =
            Memory { available: Some(2 << 20), limit: None, huge_free: Some(3 * (2 << 20)) };
        assert_eq!(parse_memory(text), expected);
        assert_eq!(parse_memory("MemAvailable: much\n"), Memory::default());
    }

    #[test]
    fn a_directory_that_is_not_there_is_as_the_one_it_would_be_made_in() {
        assert!(Path::new("/dev/shm").exists(), "a tmpfs");
        assert!(directory(Path::new("/dev/shm/spillway/bpf")).on_tmpfs);
        assert!(!directory(Path::new("/proc/spillway")).on_tmpfs);
        assert!(!directory(Path::new("/proc/version/spillway")).writable, "that is a file");
    }
}
