use rustix::io::Errno;
use rustix::thread::CapabilitySet;
use spillway_xdp::device::DeviceInfo;

use super::super::Outcome::{Fail, Ok as Good, Unknown, Warn};
use super::super::facts::{Found, Memory};
use super::super::fixture::{CONFIG, Case, case, found, good, hold};
use super::*;
use crate::compile::HostPorts;

#[test]
fn kernels_are_old_enough_or_take_the_program_all_the_same() {
    let refused = |facts: &mut Facts| facts.program = Trial::Refused("EINVAL".to_owned());
    hold(&[
        case("kernel", Good, &["5.15.0"], |facts| facts.release = "5.15.0-91-generic".into()),
        case("kernel", Warn, &["5.14.0-427.el9"], |facts| facts.release = "5.14.0-427.el9".into()),
        case("kernel", Fail, &["4.18.0", "5.15 or newer"], |facts| {
            facts.release = "4.18.0".into();
            facts.program = Trial::Refused("EINVAL".to_owned());
        }),
        case("kernel", Unknown, &["rolling"], |facts| facts.release = "rolling".into()),
        case("steering program", Fail, &["EINVAL", "newer kernel"], refused),
        case("kernel", Warn, &["takes the steering program"], |facts| {
            facts.release = "5.14.0-427.el9".into();
            facts.program = Trial::Pinned;
        }),
    ]);
    assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
    assert_eq!(version("6"), None);
}

#[test]
fn what_the_process_may_not_do_is_named() {
    hold(&[
        case("capabilities", Fail, &["without BPF, PERFMON", "add: [NET_ADMIN,"], |facts| {
            facts.capabilities = Ok(CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW);
        }),
        case("capabilities", Fail, &["without NET_ADMIN"], |facts| {
            facts.capabilities = Ok(CapabilitySet::all() - CapabilitySet::NET_ADMIN);
        }),
        // They were split off CAP_SYS_ADMIN, which still has them.
        case("capabilities", Good, &["BPF, PERFMON"], |facts| {
            let split = CapabilitySet::BPF | CapabilitySet::PERFMON;
            facts.capabilities = Ok(CapabilitySet::all() - split);
        }),
        case("capabilities", Unknown, &["no"], |facts| facts.capabilities = Err("no".into())),
        case("steering program", Fail, &["EPERM", "add: [NET_ADMIN,"], |facts| {
            facts.capabilities = Ok(CapabilitySet::NET_RAW);
            facts.program = Trial::Refused("EPERM".to_owned());
        }),
        case("steering program", Fail, &["EPERM", "seccomp"], |facts| {
            facts.program = Trial::Refused("EPERM".to_owned());
        }),
        case("AF_XDP sockets", Fail, &["CONFIG_XDP_SOCKETS"], |facts| {
            facts.af_xdp = Err(Errno::AFNOSUPPORT);
        }),
        case("AF_XDP sockets", Fail, &["NET_RAW"], |facts| facts.af_xdp = Err(Errno::PERM)),
        case("AF_XDP sockets", Fail, &["seccomp"], |facts| facts.af_xdp = Err(Errno::NOSYS)),
        case("AF_XDP sockets", Fail, &["queue 0 of eth0 is in use"], |facts| {
            facts.sockets = Trial::Refused("queue 0 of eth0 is in use".to_owned());
        }),
    ]);
}

#[test]
fn where_steering_is_pinned_nothing_is_tried_and_it_is_said() {
    fn pinned(facts: &mut Facts) {
        (facts.program, facts.sockets) = (Trial::Pinned, Trial::Pinned);
    }
    hold(&[
        case("steering program", Good, &["not tried", "has taken it before"], pinned),
        case("AF_XDP sockets", Unknown, &["not tried", "pods wait for the router"], pinned),
        case("AF_XDP sockets", Fail, &["CONFIG_XDP_SOCKETS"], |facts| {
            pinned(facts);
            facts.af_xdp = Err(Errno::AFNOSUPPORT);
        }),
    ]);
}

#[test]
fn locked_memory_is_enough_for_the_frames() {
    fn limit(facts: &mut Facts, locked_max: Option<u64>) {
        facts.capabilities = Ok(CapabilitySet::all() - CapabilitySet::IPC_LOCK);
        facts.locked_max = locked_max;
    }
    hold(&[
        case("locked memory", Good, &["CAP_IPC_LOCK"], |facts| facts.locked_max = Some(0)),
        case("locked memory", Good, &["no limit"], |facts| limit(facts, None)),
        case("locked memory", Good, &["of which frames need 24 MiB"], |facts| {
            limit(facts, Some(24 << 20));
        }),
        case("locked memory", Fail, &["at most 64 KiB", "`ulimit -l unlimited`"], |facts| {
            limit(facts, Some(64 << 10));
        }),
        case("locked memory", Unknown, &["not known"], |facts| {
            limit(facts, Some(64 << 10));
            facts.devices = vec![Err("missing".to_owned())];
        }),
    ]);
}

#[test]
fn memory_is_enough_for_frames_flows_and_steering() {
    let many = |config: &'static str, result, says| Case {
        config,
        change: |_| {},
        check: "memory",
        result,
        says,
    };
    hold(&[
        many(CONFIG, Good, &["frames 24 MiB, flows 29 MiB", "1024 MiB are available"]),
        many("{devices: [{name: eth0}], flows_max: 4000000}", Fail, &["lower `flows_max`"]),
        // As `spillway run` refuses it.
        many("{devices: [{name: eth0}], umem_frames: 64}", Fail, &["umem_frames: 64 is too few"]),
        case("memory", Fail, &["control group's limit is 64 MiB"], |facts| {
            facts.memory.limit = Some(64 << 20);
        }),
        case("memory", Fail, &["needs 99 MiB", "98 MiB are available"], |facts| {
            facts.memory.available = Some(98 << 20);
        }),
        case("memory", Unknown, &["not known"], |facts| facts.memory = Memory::default()),
        // They have their frames already.
        case("memory", Good, &["needs 75 MiB (frames in huge pages, flows 29 MiB)"], |facts| {
            facts.memory.huge_free = Some(24 << 20);
            facts.memory.available = Some(75 << 20);
            facts.memory.limit = Some(75 << 20);
        }),
        case("memory", Fail, &["frames 24 MiB", "98 MiB are available on the host"], |facts| {
            facts.memory.huge_free = Some(22 << 20);
            facts.memory.available = Some(98 << 20);
        }),
        case("huge pages", Good, &["not used: 0 MiB are free", "need 24 MiB"], |_| {}),
        case("huge pages", Good, &["take 24 MiB of them"], |facts| {
            facts.memory.huge_free = Some(24 << 20);
        }),
        case("huge pages", Unknown, &[], |facts| facts.memory.huge_free = None),
    ]);
}

#[test]
fn what_does_not_fit_a_device_is_said_of_the_device_only() {
    let mut facts = good();
    facts.devices = vec![Ok(Found { info: DeviceInfo { mtu: 9000, ..found().info }, ..found() })];
    let checks = super::super::judge(&Config::parse(CONFIG).unwrap(), &facts);
    let failed: Vec<_> = checks.iter().filter(|check| check.result == Fail).collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!((failed[0].check, failed[0].device.as_deref()), ("MTU", Some("eth0")));
}

#[test]
fn directories_can_be_used() {
    let without_admin = |facts: &mut Facts| {
        facts.bpffs = Ok(false);
        facts.capabilities = Ok(CapabilitySet::all() - CapabilitySet::SYS_ADMIN);
    };
    hold(&[
        case("bpffs", Good, &["/run/spillway/bpf"], |_| {}),
        case("bpffs", Good, &["mounts one"], |facts| facts.bpffs = Ok(false)),
        case("bpffs", Fail, &["mount -t bpf bpf /run/spillway/bpf"], without_admin),
        case("runtime directory", Good, &["/run/spillway, on a tmpfs"], |_| {}),
        case("runtime directory", Fail, &["mkdir -p /run/spillway"], |facts| {
            facts.runtime_dir.writable = false;
        }),
        Case {
            config: "{devices: [{name: eth0}], socket: /srv/sockets/spillway}",
            ..case("runtime directory", Fail, &["/srv/sockets cannot be written to"], |facts| {
                facts.socket_dir.writable = false;
            })
        },
        case("runtime directory", Warn, &["mount -t tmpfs tmpfs /run/spillway`"], |facts| {
            facts.runtime_dir.on_tmpfs = false;
        }),
    ]);
}

#[test]
fn another_router_is_named() {
    hold(&[
        case("other router", Good, &["/run/spillway/spillway.sock is free"], |_| {}),
        case("other router", Fail, &["process 4711 drives eth0", "stop that one"], |facts| {
            let holder = Ok(Some("4711".to_owned()));
            facts.devices = vec![Ok(Found { holder, ..found() })];
        }),
        case("other router", Fail, &["listens on /run"], |facts| {
            facts.socket = Err("another process listens on /run".to_owned());
        }),
    ]);
}

#[test]
fn each_worker_has_a_processor() {
    hold(&[
        case("processors", Good, &["2, workers: 1"], |_| {}),
        Case {
            config: "{devices: [{name: eth0}], workers: 3}",
            ..case("processors", Warn, &["2 for 3 workers", "`workers: 2`"], |_| {})
        },
    ]);
}

#[test]
fn the_kernel_keeps_off_shared_ports() {
    hold(&[
        case("shared ports", Good, &["16384-29999"], |_| {}),
        case("shared ports", Warn, &["ip_local_reserved_ports=8080-8080,16384-29999`"], |facts| {
            facts.ports = Ok(HostPorts::parse("1024 65535", "8080").unwrap());
        }),
    ]);
}
