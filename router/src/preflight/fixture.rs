//! A host on which nothing is wrong, for tests to change.

use netlink_packet_route::link::State;
use rustix::thread::CapabilitySet;
use spillway_xdp::device::DeviceInfo;
use spillway_xdp::device::ethtool::Merging;
use spillway_xdp::steering::{DeviceXdp, Occupant};

use super::facts::{Directory, Facts, Found, Memory, Trial};
use super::{Check, Outcome, judge};
use crate::compile::HostPorts;
use crate::config::Config;
use crate::kernel::Link;

/// A router with one device and the defaults.
pub(super) const CONFIG: &str = "devices: [{name: eth0}]";

/// A host with that device, and one for Cilium's tunnels.
pub(super) fn good() -> Facts {
    Facts {
        release: "6.18.2-amd64".to_owned(),
        capabilities: Ok(CapabilitySet::all()),
        locked_max: Some(64 << 10),
        processors: Ok(2),
        memory: Memory { available: Some(1 << 30), limit: None, huge_free: Some(0) },
        runtime_dir: Directory { writable: true, on_tmpfs: true },
        socket_dir: Directory { writable: true, on_tmpfs: true },
        bpffs: Ok(true),
        socket: Ok(()),
        ports: Ok(HostPorts::parse("32768 60999", "").unwrap()),
        links: Ok(vec![
            link(2, "eth0", None),
            Link { vxlan_port: Some(8472), ..link(3, "cilium_vxlan", Some("vxlan")) },
        ]),
        ipsec_states: Ok(0),
        devices: vec![Ok(found())],
        af_xdp: Ok(()),
        program: Trial::Done,
        sockets: Trial::Done,
    }
}

/// A link of this kind, in working order.
pub(super) fn link(ifindex: u32, name: &str, kind: Option<&str>) -> Link {
    Link {
        ifindex,
        name: name.to_owned(),
        mac: Some([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        up: true,
        carrier: true,
        state: State::Up,
        kind: kind.map(str::to_owned),
        controller: None,
        vxlan_port: None,
    }
}

/// The device of [`good`].
pub(super) fn found() -> Found {
    Found {
        info: DeviceInfo {
            name: "eth0".to_owned(),
            ifindex: 2,
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            queues: 2,
            combined: true,
            driver: "ice".to_owned(),
        },
        xdp: Ok(DeviceXdp { native: true, zero_copy: true, occupant: Occupant::Nobody }),
        merging: Ok(Merging { gro: true, lro: false }),
        holder: Ok(None),
    }
}

/// A case of a table: what is changed of [`good`], and what the check then says.
#[derive(Clone, Copy)]
pub(super) struct Case {
    pub(super) config: &'static str,
    pub(super) change: fn(&mut Facts),
    pub(super) check: &'static str,
    pub(super) result: Outcome,
    /// Parts of what was seen and of what to do.
    pub(super) says: &'static [&'static str],
}

/// A case with the usual configuration.
pub(super) fn case(
    check: &'static str,
    result: Outcome,
    says: &'static [&'static str],
    change: fn(&mut Facts),
) -> Case {
    Case { config: CONFIG, change, check, result, says }
}

/// Runs a table.
pub(super) fn hold(cases: &[Case]) {
    for (index, case) in cases.iter().enumerate() {
        let mut facts = good();
        (case.change)(&mut facts);
        let checks = judge(&Config::parse(case.config).unwrap(), &facts);
        let named: Vec<&Check> = checks.iter().filter(|one| one.check == case.check).collect();
        let [check] = named.as_slice() else { panic!("case {index}, {}: {named:?}", case.check) };
        assert_eq!(check.result, case.result, "case {index}: {check:?}");
        let said = format!("{} | {}", check.seen, check.remedy.as_deref().unwrap_or_default());
        for part in case.says {
            assert!(said.contains(part), "case {index}: {said:?} does not say {part:?}");
        }
    }
}

#[test]
fn on_a_good_host_every_check_passes() {
    let config = Config::parse(CONFIG).unwrap();
    for check in judge(&config, &good()) {
        assert_eq!((check.result, &check.remedy), (Outcome::Ok, &None), "{check:?}");
    }
}

#[test]
fn a_host_that_tells_nothing_is_unknown_and_not_wrong() {
    let nothing = || Err("it does not tell".to_owned());
    let found = Found { xdp: Err("no".into()), merging: Err("no".into()), ..found() };
    let facts = Facts {
        release: "like Linux".to_owned(),
        processors: Err("no".to_owned()),
        memory: Memory::default(),
        bpffs: Err("no".to_owned()),
        ports: Err("no".to_owned()),
        links: Err("no".to_owned()),
        ipsec_states: Err("no".to_owned()),
        devices: vec![Ok(Found { holder: nothing(), ..found })],
        program: Trial::NotTried("no"),
        sockets: Trial::NotTried("no"),
        ..good()
    };
    let checks = judge(&Config::parse(CONFIG).unwrap(), &facts);
    let with = |result| -> Vec<&str> {
        checks.iter().filter(|one| one.result == result).map(|one| one.check).collect()
    };
    assert_eq!(with(Outcome::Fail), [""; 0]);
    assert_eq!(with(Outcome::Warn), [""; 0]);
    let known = ["capabilities", "locked memory", "runtime directory", "device", "queues", "MTU"];
    assert_eq!(with(Outcome::Ok), known);
}

#[test]
fn a_device_that_is_missing_is_told_once() {
    let missing = "device eth0 does not exist in this network namespace".to_owned();
    let facts = Facts { devices: vec![Err(missing.clone())], ..good() };
    let checks = judge(&Config::parse(CONFIG).unwrap(), &facts);
    let of_device: Vec<_> = checks.iter().filter(|one| one.device.is_some()).collect();
    let [check] = of_device.as_slice() else { panic!("{of_device:?}") };
    assert_eq!((check.result, &check.seen), (Outcome::Fail, &missing));
}
