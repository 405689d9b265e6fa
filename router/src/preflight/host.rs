//! What all devices share: the kernel, what the process may do, memory, directories, ports.

use rustix::thread::CapabilitySet;
use spillway_api::SHARED_PORTS_DEFAULT;
use spillway_xdp::device::DeviceError;

use super::facts::{Facts, Trial};
use super::{Check, PacketMemory, mib};
use crate::config::Config;

/// The oldest kernel that the steering program is made for.
const KERNEL_MIN: (u32, u32) = (5, 15);

/// Capabilities that the router needs, beside that for locked memory.
const CAPABILITIES: [(CapabilitySet, &str); 4] = [
    (CapabilitySet::NET_ADMIN, "NET_ADMIN"),
    (CapabilitySet::NET_RAW, "NET_RAW"),
    (CapabilitySet::BPF, "BPF"),
    (CapabilitySet::PERFMON, "PERFMON"),
];

/// What to do where a capability is missing.
const GIVE_CAPABILITIES: &str = "run as root; in a container `capabilities: {add: [NET_ADMIN, \
                                 NET_RAW, BPF, PERFMON, IPC_LOCK]}`";

/// What the steering program's maps take, in bytes (xdp/README.md, Limits).
const STEERING_BYTES: u64 = 46 << 20;

/// What a flow of each family takes together, in bytes (engine/README.md, Flows).
const FLOW_BYTES: u64 = 154 + 300;

/// Judges the host. `memory` is what the frames take.
pub(super) fn judge(config: &Config, facts: &Facts, memory: PacketMemory) -> Vec<Check> {
    let frames = memory.as_ref().and_then(|memory| memory.as_ref().ok()).copied();
    let mut checks = vec![
        kernel(facts),
        capabilities(facts),
        locked_memory(facts, frames),
        program(facts),
        sockets(facts),
        bpffs(config, facts),
        runtime_dir(config, facts),
        other_router(config, facts),
        processors(config, facts),
    ];
    checks.extend(self::memory(config, facts, memory));
    checks.extend(frames.map(|frames| huge_pages(facts, frames)));
    checks.push(ports(facts));
    checks
}

/// The first two numbers of a kernel's release.
pub(super) fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn kernel(facts: &Facts) -> Check {
    const CHECK: &str = "kernel";
    let release = &facts.release;
    let (major, minor) = KERNEL_MIN;
    match version(release) {
        None => Check::unknown(CHECK, format!("{release}: not a version that is understood")),
        Some(version) if version >= KERNEL_MIN => Check::ok(CHECK, release.as_str()),
        // Distributions take newer code into older kernels.
        Some(_) if matches!(facts.program, Trial::Done | Trial::Pinned) => Check::warn(
            CHECK,
            format!("{release}, older than {major}.{minor}, takes the steering program"),
            "run a newer kernel: nobody has tried this one",
        ),
        Some(_) => Check::fail(
            CHECK,
            format!("{release}, older than {major}.{minor}"),
            format!("run Linux {major}.{minor} or newer"),
        ),
    }
}

fn capabilities(facts: &Facts) -> Check {
    const CHECK: &str = "capabilities";
    let held = match &facts.capabilities {
        Ok(held) => with_implied(*held),
        Err(why) => return Check::unknown(CHECK, why.as_str()),
    };
    let missing: Vec<_> = CAPABILITIES.iter().filter(|(one, _)| !held.contains(*one)).collect();
    let names = |list: &[&(CapabilitySet, &'static str)]| -> String {
        list.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
    };
    if missing.is_empty() {
        return Check::ok(CHECK, names(&CAPABILITIES.iter().collect::<Vec<_>>()));
    }
    Check::fail(CHECK, format!("without {}", names(&missing)), GIVE_CAPABILITIES)
}

/// CAP_SYS_ADMIN stands for those that were split off it.
fn with_implied(held: CapabilitySet) -> CapabilitySet {
    if held.contains(CapabilitySet::SYS_ADMIN) {
        held | CapabilitySet::BPF | CapabilitySet::PERFMON
    } else {
        held
    }
}

/// Whether the frames may stay in memory.
fn locked_memory(facts: &Facts, frames: Option<u64>) -> Check {
    const CHECK: &str = "locked memory";
    if facts.capabilities.as_ref().is_ok_and(|held| held.contains(CapabilitySet::IPC_LOCK)) {
        return Check::ok(CHECK, "no limit: CAP_IPC_LOCK");
    }
    let Some(limit) = facts.locked_max else { return Check::ok(CHECK, "no limit") };
    let limited = format!("at most {} KiB", limit >> 10);
    match frames {
        None => Check::unknown(CHECK, format!("{limited}, and the devices' need is not known")),
        Some(frames) if frames <= limit => {
            Check::ok(CHECK, format!("{limited}, of which frames need {}", mib(frames)))
        }
        Some(frames) => Check::fail(
            CHECK,
            format!("{limited}, and frames need {}", mib(frames)),
            "`ulimit -l unlimited`, or give it CAP_IPC_LOCK",
        ),
    }
}

fn program(facts: &Facts) -> Check {
    const CHECK: &str = "steering program";
    match &facts.program {
        Trial::Done => Check::ok(CHECK, "the kernel takes it"),
        Trial::Pinned => {
            Check::ok(CHECK, "not tried: the kernel has taken it before, it is on every device")
        }
        Trial::NotTried(why) => Check::unknown(CHECK, format!("not tried: {why}")),
        Trial::Refused(words) if facts.capabilities.as_ref().is_ok_and(|held| may_load(*held)) => {
            Check::fail(
                CHECK,
                words.as_str(),
                "where it says `Operation not permitted`, a seccomp profile or kernel lockdown \
                 forbids bpf(2): in a container `seccompProfile: {type: Unconfined}`; else run a \
                 newer kernel",
            )
        }
        Trial::Refused(words) => Check::fail(CHECK, words.as_str(), GIVE_CAPABILITIES),
    }
}

/// Whether capabilities are not what the kernel could refuse the program for.
fn may_load(held: CapabilitySet) -> bool {
    let needed = CapabilitySet::NET_ADMIN | CapabilitySet::BPF | CapabilitySet::PERFMON;
    with_implied(held).contains(needed)
}

fn sockets(facts: &Facts) -> Check {
    use rustix::io::Errno;
    const CHECK: &str = "AF_XDP sockets";
    match facts.af_xdp {
        Err(Errno::AFNOSUPPORT) => {
            return Check::fail(
                CHECK,
                "this kernel has none",
                "run one that is built with CONFIG_XDP_SOCKETS",
            );
        }
        Err(Errno::PERM) => return Check::fail(CHECK, "not permitted", GIVE_CAPABILITIES),
        Err(errno) => {
            return Check::fail(
                CHECK,
                format!("the kernel gives none: {errno}"),
                "look for a seccomp profile that forbids socket(AF_XDP)",
            );
        }
        Ok(()) => {}
    }
    match &facts.sockets {
        Trial::Done => Check::ok(CHECK, "one for each queue and worker, opened and closed again"),
        Trial::NotTried(why) => Check::unknown(CHECK, format!("not tried on the devices: {why}")),
        Trial::Pinned => Check::unknown(
            CHECK,
            "not tried on the devices: steering is on all of them, and pods wait for the router",
        ),
        Trial::Refused(words) => Check::refused(CHECK, words.as_str()),
    }
}

/// Whether steering can outlive the router.
fn bpffs(config: &Config, facts: &Facts) -> Check {
    const CHECK: &str = "bpffs";
    let directory = config.pin_directory();
    let directory = directory.display();
    let may_mount =
        facts.capabilities.as_ref().is_ok_and(|held| held.contains(CapabilitySet::SYS_ADMIN));
    match &facts.bpffs {
        Err(why) => Check::unknown(CHECK, why.as_str()),
        Ok(true) => Check::ok(CHECK, directory.to_string()),
        Ok(false) if may_mount => {
            Check::ok(CHECK, format!("none on {directory} yet: the router mounts one"))
        }
        Ok(false) => Check::fail(
            CHECK,
            format!("none on {directory}, and without CAP_SYS_ADMIN the router cannot mount one"),
            format!("`mkdir -p {directory} && mount -t bpf bpf {directory}`"),
        ),
    }
}

fn runtime_dir(config: &Config, facts: &Facts) -> Check {
    const CHECK: &str = "runtime directory";
    let directory = config.runtime_dir.display();
    let socket = config.socket();
    let socket_dir = socket.parent().unwrap_or(&socket).display();
    for (place, directory) in [(facts.runtime_dir, &directory), (facts.socket_dir, &socket_dir)] {
        if !place.writable {
            return Check::fail(
                CHECK,
                format!("{directory} cannot be written to"),
                format!("`mkdir -p {directory}` as root; in a container mount a volume there"),
            );
        }
    }
    if !facts.runtime_dir.on_tmpfs {
        return Check::warn(
            CHECK,
            format!("{directory} is not on a tmpfs: it outlives a boot, what is in it does not"),
            format!(
                "`mkdir -p {directory} && mount -t tmpfs tmpfs {directory}`, or another \
                 `runtime_dir` in the configuration"
            ),
        );
    }
    Check::ok(CHECK, format!("{directory}, on a tmpfs"))
}

fn other_router(config: &Config, facts: &Facts) -> Check {
    const CHECK: &str = "other router";
    let mut held = facts.found().filter_map(|found| {
        let pid = found.holder.as_ref().ok()?.as_ref()?;
        Some((&found.info.name, pid))
    });
    if let Some((name, pid)) = held.next() {
        return Check::fail(
            CHECK,
            format!("process {pid} drives {name}"),
            "stop that one first, or give this one other devices, `runtime_dir` and `socket`",
        );
    }
    if let Err(words) = &facts.socket {
        return Check::refused(CHECK, words.as_str());
    }
    match facts.found().find_map(|found| found.holder.as_ref().err()) {
        Some(why) => Check::unknown(CHECK, why.as_str()),
        None => Check::ok(CHECK, format!("none, and {} is free", config.socket().display())),
    }
}

fn processors(config: &Config, facts: &Facts) -> Check {
    const CHECK: &str = "processors";
    let workers = usize::from(config.workers);
    match &facts.processors {
        Err(why) => Check::unknown(CHECK, why.as_str()),
        Ok(processors) if workers > *processors => Check::warn(
            CHECK,
            format!("{processors} for {workers} workers, which wait for each other"),
            format!("`workers: {processors}` in the configuration, or more processors"),
        ),
        Ok(processors) => Check::ok(CHECK, format!("{processors}, workers: {workers}")),
    }
}

fn memory(config: &Config, facts: &Facts, frames: PacketMemory) -> Option<Check> {
    const CHECK: &str = "memory";
    let frames = match frames? {
        Ok(frames) => frames,
        // A device's own check says it.
        Err(
            DeviceError::QueuesWithoutSocket { .. }
            | DeviceError::QueuesMissing { .. }
            | DeviceError::MtuTooLarge { .. },
        ) => return None,
        Err(refusal) => return Some(Check::refused(CHECK, refusal.to_string())),
    };
    let flows = u64::from(config.flows_max) * u64::from(config.workers) * FLOW_BYTES;
    // Huge pages are set aside: they are no part of what is available, nor of a control group's limit.
    let in_huge_pages = facts.memory.huge_free.is_some_and(|free| free >= frames);
    let needed = flows + STEERING_BYTES + if in_huge_pages { 0 } else { frames };
    let (flows, total) = (mib(flows), mib(needed));
    let frames = if in_huge_pages { "in huge pages".to_owned() } else { mib(frames) };
    let need = format!("needs {total} (frames {frames}, flows {flows})");
    let remedy = "lower `flows_max`, `workers` or `umem_frames`, or give it more memory";
    let enough = |limit: u64| needed <= limit;
    let Some(available) = facts.memory.available else {
        return Some(Check::unknown(CHECK, format!("{need}; what is available is not known")));
    };
    Some(match facts.memory.limit {
        Some(limit) if !enough(limit) => {
            let seen = format!("{need}, and this control group's limit is {}", mib(limit));
            Check::fail(CHECK, seen, remedy)
        }
        _ if !enough(available) => {
            let seen = format!("{need}, and {} are available on the host", mib(available));
            Check::fail(CHECK, seen, remedy)
        }
        _ => Check::ok(CHECK, format!("{need}, {} are available on the host", mib(available))),
    })
}

/// It runs without them, too.
fn huge_pages(facts: &Facts, frames: u64) -> Check {
    const CHECK: &str = "huge pages";
    let need = mib(frames);
    match facts.memory.huge_free {
        None => Check::unknown(CHECK, "the kernel does not say how many are free"),
        Some(free) if free >= frames => Check::ok(CHECK, format!("frames take {need} of them")),
        Some(free) => Check::ok(
            CHECK,
            format!("not used: {} are free (vm.nr_hugepages), frames need {need}", mib(free)),
        ),
    }
}

/// Ports of egress addresses that are shared with the host.
fn ports(facts: &Facts) -> Check {
    const CHECK: &str = "shared ports";
    let shared = SHARED_PORTS_DEFAULT;
    match &facts.ports {
        Err(why) => Check::unknown(CHECK, why.as_str()),
        Ok(ports) if ports.keeps_off(shared.first, shared.last) => {
            Check::ok(CHECK, format!("the kernel keeps off {shared}"))
        }
        Ok(ports) => Check::warn(
            CHECK,
            format!(
                "the kernel may give {shared} to its own connections, which break where an egress \
                 address is shared"
            ),
            format!("`{}`", ports.reserve(shared.first, shared.last)),
        ),
    }
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
