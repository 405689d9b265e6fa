//! One device of the configuration.

use spillway_api::IpFamily;
use spillway_xdp::device::ethtool::Merging;
use spillway_xdp::device::{DeviceInfo, mtu_max};
use spillway_xdp::steering::{DeviceXdp, ForeignProgram, Occupant};

use super::Check;
use super::facts::{DeviceFacts, Facts};
use super::host::version;
use crate::config::{Config, DeviceConfig, Mode};
use crate::kernel::Link;
use crate::mtu::{IPV6_MTU_MIN, overhead};

/// The first kernel that says what drivers do with XDP.
const TELLS_FEATURES: (u32, u32) = (6, 3);

/// The largest MTU that veth runs XDP programs at, which want a packet in one page; other drivers'
/// limits are near it.
const NATIVE_MTU: u32 = 3498;

/// Kinds of devices that give their frames to another one, which has the addresses and routes.
const CONTROLLERS: [&str; 4] = ["bond", "bridge", "openvswitch", "team"];

/// Judges one device.
pub(super) fn judge(
    config: &Config,
    device: &DeviceConfig,
    facts: &Facts,
    of_device: &DeviceFacts,
) -> Vec<Check> {
    let found = match of_device {
        Ok(found) => found,
        Err(words) => return vec![Check::refused("device", words.as_str()).on(&device.name)],
    };
    let links = facts.links.as_deref().unwrap_or_default();
    let link = links.iter().find(|link| link.ifindex == found.info.ifindex);
    let mut checks = vec![kind(&found.info, link, links), state(&found.info, link)];
    match &found.xdp {
        Err(why) => checks.push(Check::unknown("XDP", why.as_str())),
        Ok(xdp) => {
            let tells = version(&facts.release).is_some_and(|version| version >= TELLS_FEATURES);
            let native = (xdp.native || tells).then_some(xdp.native);
            checks.push(mode(device, &found.info, native, link));
            if device.zero_copy {
                checks.push(zero_copy(
                    &found.info,
                    (xdp.zero_copy || tells).then_some(xdp.zero_copy),
                ));
            }
            checks.push(occupant(&device.name, xdp));
            let generic = device.mode == Mode::Generic || native == Some(false);
            checks.push(offloads(&device.name, &found.merging, generic));
        }
    }
    checks.push(queues(device, &found.info));
    checks.push(mtu(config, device, &found.info));
    checks.into_iter().map(|check| check.on(&device.name)).collect()
}

/// What it is, and whether its frames are its own.
fn kind(info: &DeviceInfo, link: Option<&Link>, links: &[Link]) -> Check {
    const CHECK: &str = "device";
    let kind = link.and_then(|link| link.kind.as_deref()).unwrap_or("Ethernet");
    let controller = link.and_then(|link| link.controller);
    let controller = controller.and_then(|at| links.iter().find(|link| link.ifindex == at));
    let named = controller.and_then(|link| Some((link.name.as_str(), link.kind.as_deref()?)));
    match named.filter(|(_, kind)| CONTROLLERS.contains(kind)) {
        Some((name, of)) => Check::fail(
            CHECK,
            format!("a port of {name}, a {of}, which has the addresses and routes"),
            format!(
                "take it out: `ip link set dev {} nomaster`; or name another device",
                info.name
            ),
        ),
        None => Check::ok(CHECK, format!("{kind}, driver {}", info.driver)),
    }
}

fn state(info: &DeviceInfo, link: Option<&Link>) -> Check {
    const CHECK: &str = "link";
    let name = &info.name;
    match link {
        None => Check::unknown(CHECK, "the kernel does not list it"),
        Some(link) if !link.up => {
            Check::warn(CHECK, "down", format!("`ip link set dev {name} up`"))
        }
        Some(link) if !link.carrier => Check::warn(
            CHECK,
            "up, without a carrier",
            format!("look at the cable and its other end: `ethtool {name}`"),
        ),
        Some(_) => Check::ok(CHECK, "up"),
    }
}

/// Where in the kernel the steering program would run. `native` is what the driver can do, where the
/// kernel tells.
fn mode(
    device: &DeviceConfig,
    info: &DeviceInfo,
    native: Option<bool>,
    link: Option<&Link>,
) -> Check {
    const CHECK: &str = "XDP mode";
    let driver = &info.driver;
    let kind = link.and_then(|link| link.kind.as_deref());
    match (device.mode, native) {
        (Mode::Generic, _) => Check::ok(CHECK, "generic"),
        // Its ports' drivers run the program, and their frames are not this device's: no socket
        // gets them.
        (_, Some(true)) if kind == Some("bond") => Check::fail(
            CHECK,
            "native, in the bond's ports: sockets of the bond get nothing",
            "`mode: generic` for it in the configuration, or a device that is in no bond",
        ),
        (_, Some(true)) => Check::ok(CHECK, "native"),
        (Mode::Auto, Some(false)) => Check::warn(
            CHECK,
            format!("generic, which is slower: driver {driver} has no native XDP"),
            format!(
                "use {}; or `mode: generic` for it, to be content with that",
                kind.map_or("another network card".to_owned(), |kind| format!("no {kind}"))
            ),
        ),
        (Mode::Native, Some(false)) => Check::fail(
            CHECK,
            format!("driver {driver} has no native XDP"),
            "`mode: auto` for it in the configuration",
        ),
        (_, None) => Check::unknown(
            CHECK,
            format!("this kernel does not tell whether driver {driver} has native XDP (Linux 6.3)"),
        ),
    }
}

fn zero_copy(info: &DeviceInfo, zero_copy: Option<bool>) -> Check {
    const CHECK: &str = "zero-copy";
    let driver = &info.driver;
    match zero_copy {
        Some(true) => Check::ok(CHECK, format!("driver {driver} says that it can")),
        Some(false) => Check::fail(
            CHECK,
            format!("driver {driver} cannot"),
            "`zero_copy: false` for it in the configuration",
        ),
        None => Check::unknown(
            CHECK,
            format!("this kernel does not tell whether driver {driver} can (Linux 6.3)"),
        ),
    }
}

/// Whose program is on the device.
fn occupant(device: &str, xdp: &DeviceXdp) -> Check {
    const CHECK: &str = "XDP program";
    match &xdp.occupant {
        Occupant::Nobody => Check::ok(CHECK, "none"),
        Occupant::Spillway(mode) => {
            Check::ok(CHECK, format!("Spillway's, {}: the router takes it over", mode.name()))
        }
        Occupant::Other(program) => {
            let ForeignProgram { id, name, mode } = program;
            let shown = name.as_deref().unwrap_or("its name is not told without CAP_SYS_ADMIN");
            let seen = format!("number {id} ({shown}), {}", mode.name());
            Check::fail(CHECK, seen, removal(device, program))
        }
    }
}

/// How somebody else's program is removed.
fn removal(device: &str, program: &ForeignProgram) -> String {
    match program.name.as_deref() {
        Some(name) if name.starts_with("cil_") => {
            "`helm upgrade cilium cilium/cilium -n kube-system --reuse-values --set \
             loadBalancer.acceleration=disabled`"
                .to_owned()
        }
        Some("steer") => "a router with another `runtime_dir` may have left it: `spillway detach \
                          --runtime-dir DIRECTORY`"
            .to_owned(),
        Some("xdp_dispatcher") => format!("`xdp-loader unload {device} --all`"),
        _ => format!(
            "`bpftool prog show id {}` says more, `ip link set dev {device} xdp off` removes it; where \
             that is refused, end whoever holds it: `bpftool link`",
            program.id
        ),
    }
}

/// Merged segments do not fit a frame. In generic mode the router itself switches both off.
fn offloads(device: &str, merging: &Result<Merging, String>, generic: bool) -> Check {
    const CHECK: &str = "offloads";
    let Merging { gro, lro } = match merging {
        Ok(merging) => *merging,
        Err(why) => return Check::unknown(CHECK, why.as_str()),
    };
    match (generic, gro, lro) {
        (true, true, _) | (true, _, true) => {
            Check::ok(CHECK, "merges segments: the router switches GRO and LRO off")
        }
        (false, _, true) => Check::warn(
            CHECK,
            "LRO is on: drivers may refuse native XDP",
            format!("`ethtool -K {device} lro off`"),
        ),
        _ => Check::ok(CHECK, "no segments are merged before steering"),
    }
}

fn queues(device: &DeviceConfig, info: &DeviceInfo) -> Check {
    const CHECK: &str = "queues";
    let queues = info.queues;
    match device.queues {
        Some(wanted) if wanted != queues => Check::fail(
            CHECK,
            format!("{queues}, the configuration names {wanted}"),
            format!("`{}`, or `queues: {queues}` in the configuration", info.set_queues(wanted)),
        ),
        _ => Check::ok(CHECK, queues.to_string()),
    }
}

fn mtu(config: &Config, device: &DeviceConfig, info: &DeviceInfo) -> Check {
    const CHECK: &str = "MTU";
    let (mtu, name) = (info.mtu, &info.name);
    let set = |mtu| format!("`ip link set dev {name} mtu {mtu}`");
    let max = mtu_max(config.frame_size);
    if mtu > max {
        let larger = mtu_max(4096);
        let or = match config.frame_size {
            2048 if mtu <= larger => ", or `frame_size: 4096` in the configuration",
            _ => "",
        };
        let seen = format!("{mtu}, frames of {} bytes hold {max}", config.frame_size);
        return Check::fail(CHECK, seen, set(max) + or);
    }
    if mtu > NATIVE_MTU && device.mode != Mode::Generic {
        return Check::warn(
            CHECK,
            format!("{mtu}: drivers may refuse native XDP above {NATIVE_MTU}"),
            set(NATIVE_MTU),
        );
    }
    let needed = IPV6_MTU_MIN + overhead(IpFamily::V4);
    if mtu < needed {
        return Check::warn(
            CHECK,
            format!("{mtu}: too small for tunnels with pods' IPv6, which need {needed}"),
            format!(
                "{}, or {} where tunnels go over IPv6",
                set(needed),
                IPV6_MTU_MIN + overhead(IpFamily::V6)
            ),
        );
    }
    let (inner, inner_ipv6) = (mtu - overhead(IpFamily::V4), mtu - overhead(IpFamily::V6));
    Check::ok(
        CHECK,
        format!("{mtu}: a tunnel carries packets of {inner} bytes, {inner_ipv6} over IPv6"),
    )
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
