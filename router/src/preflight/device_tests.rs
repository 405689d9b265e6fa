use spillway_xdp::steering::AttachMode;

use super::super::Outcome::{Fail, Ok as Good, Unknown, Warn};
use super::super::facts::Found;
use super::super::fixture::{CONFIG, Case, case, found, hold, link};
use super::*;

const NATIVE: &str = "devices: [{name: eth0, mode: native}]";
const GENERIC: &str = "devices: [{name: eth0, mode: generic}]";
const ZERO_COPY: &str = "devices: [{name: eth0, zero_copy: true}]";

fn with(config: &'static str, case: Case) -> Case {
    Case { config, ..case }
}

/// Puts this in the place of the good device's XDP.
fn xdp(facts: &mut Facts, native: bool, occupant: Occupant) {
    let xdp = Ok(DeviceXdp { native, zero_copy: native, occupant });
    facts.devices = vec![Ok(Found { xdp, ..found() })];
}

fn occupied(facts: &mut Facts, name: Option<&str>) {
    let program = ForeignProgram { id: 47, name: name.map(Into::into), mode: AttachMode::Native };
    xdp(facts, true, Occupant::Other(program));
}

fn info(facts: &mut Facts, change: impl Fn(&mut DeviceInfo)) {
    let mut found = found();
    change(&mut found.info);
    facts.devices = vec![Ok(found)];
}

fn merging(facts: &mut Facts, native: bool, merging: Merging) {
    xdp(facts, native, Occupant::Nobody);
    for found in facts.devices.iter_mut().flatten() {
        found.merging = Ok(merging);
    }
}

fn without_native(facts: &mut Facts) {
    xdp(facts, false, Occupant::Nobody);
}

fn on_an_old_kernel(facts: &mut Facts) {
    without_native(facts);
    facts.release = "6.1.0".to_owned();
}

/// Makes the device a port of another link.
fn port_of(facts: &mut Facts, kind: &str) {
    let eth0 = Link { controller: Some(9), ..link(2, "eth0", None) };
    facts.links = Ok(vec![eth0, link(9, "above", Some(kind))]);
}

#[test]
fn the_mode_is_what_the_driver_can_do() {
    let mode = |config, result, says, change| with(config, case("XDP mode", result, says, change));
    let bond: fn(&mut Facts) = |facts| facts.links = Ok(vec![link(2, "eth0", Some("bond"))]);
    hold(&[
        mode(CONFIG, Good, &["native"], |_| {}),
        mode(NATIVE, Good, &["native"], |_| {}),
        mode(GENERIC, Good, &["generic"], |_| {}),
        mode(CONFIG, Warn, &["driver ice has no native XDP", "`mode: generic`"], without_native),
        mode(CONFIG, Warn, &["use another network card"], without_native),
        mode(CONFIG, Warn, &["use no vlan; or `mode: generic`"], |facts| {
            without_native(facts);
            facts.links = Ok(vec![link(2, "eth0", Some("vlan"))]);
        }),
        mode(NATIVE, Fail, &["`mode: auto`"], without_native),
        mode(GENERIC, Good, &["generic"], without_native),
        mode(CONFIG, Unknown, &["Linux 6.3"], on_an_old_kernel),
        mode(NATIVE, Unknown, &["Linux 6.3"], on_an_old_kernel),
        mode(CONFIG, Fail, &["sockets of the bond get nothing", "`mode: generic`"], bond),
        mode(GENERIC, Good, &["generic"], bond),
    ]);
}

#[test]
fn zero_copy_is_looked_at_where_it_is_wanted() {
    let zero_copy = |result, says, change| with(ZERO_COPY, case("zero-copy", result, says, change));
    hold(&[
        zero_copy(Good, &["says that it can"], |_| {}),
        zero_copy(Fail, &["`zero_copy: false`"], without_native),
        zero_copy(Unknown, &["Linux 6.3"], on_an_old_kernel),
    ]);
}

#[test]
fn somebody_elses_program_is_named_and_how_it_goes() {
    let check = "XDP program";
    hold(&[
        case(check, Good, &["none"], |_| {}),
        case(check, Good, &["Spillway's, native"], |facts| {
            xdp(facts, true, Occupant::Spillway(AttachMode::Native));
        }),
        case(check, Fail, &["number 47 (xdp_count)", "`ip link set dev eth0 xdp off`"], |facts| {
            occupied(facts, Some("xdp_count"));
        }),
        case(check, Fail, &["cil_xdp_entry", "loadBalancer.acceleration=disabled"], |facts| {
            occupied(facts, Some("cil_xdp_entry"));
        }),
        case(check, Fail, &["`xdp-loader unload eth0 --all`"], |facts| {
            occupied(facts, Some("xdp_dispatcher"));
        }),
        case(check, Fail, &["`spillway detach --runtime-dir DIRECTORY`"], |facts| {
            occupied(facts, Some("steer"));
        }),
        case(check, Fail, &["CAP_SYS_ADMIN", "`bpftool prog show id 47`"], |facts| {
            occupied(facts, None);
        }),
        case("XDP", Unknown, &["no answer"], |facts| {
            facts.devices = vec![Ok(Found { xdp: Err("no answer".to_owned()), ..found() })];
        }),
    ]);
}

#[test]
fn a_device_has_its_own_frames_and_is_up() {
    hold(&[
        case("device", Good, &["Ethernet, driver ice"], |_| {}),
        case("device", Fail, &["a port of above, a bond", "nomaster"], |f| port_of(f, "bond")),
        case("device", Fail, &["a port of above, a bridge"], |facts| port_of(facts, "bridge")),
        // Addresses and routes stay those of a device that is in a VRF.
        case("device", Good, &["driver ice"], |facts| port_of(facts, "vrf")),
        case("device", Fail, &["eth0 is not an Ethernet device"], |facts| {
            facts.devices = vec![Err("eth0 is not an Ethernet device".to_owned())];
        }),
        case("link", Good, &["up"], |_| {}),
        case("link", Warn, &["down", "`ip link set dev eth0 up`"], |facts| {
            facts.links = Ok(vec![Link { up: false, carrier: false, ..link(2, "eth0", None) }]);
        }),
        case("link", Warn, &["without a carrier", "`ethtool eth0`"], |facts| {
            facts.links = Ok(vec![Link { carrier: false, ..link(2, "eth0", None) }]);
        }),
        case("link", Unknown, &["does not list"], |facts| facts.links = Ok(vec![])),
    ]);
}

#[test]
fn merged_segments_matter_by_the_mode() {
    let lro: fn(&mut Facts) = |facts| merging(facts, true, Merging { gro: true, lro: true });
    let check = "offloads";
    hold(&[
        // The kernel's own merging comes behind native XDP.
        case(check, Good, &["no segments are merged before steering"], |_| {}),
        case(check, Warn, &["LRO is on", "`ethtool -K eth0 lro off`"], lro),
        with(GENERIC, case(check, Good, &["the router switches GRO and LRO off"], lro)),
        case(check, Good, &["the router switches GRO and LRO off"], without_native),
        case(check, Good, &["no segments are merged"], |facts| {
            merging(facts, false, Merging::default());
        }),
        case(check, Unknown, &["no answer"], |facts| {
            facts.devices = vec![Ok(Found { merging: Err("no answer".to_owned()), ..found() })];
        }),
    ]);
}

#[test]
fn queues_are_as_many_as_the_configuration_names() {
    let few = "devices: [{name: eth0, queues: 1}]";
    let many = "devices: [{name: eth0, queues: 8}]";
    let no_change: fn(&mut Facts) = |_| {};
    hold(&[
        case("queues", Good, &["2"], no_change),
        with(few, case("queues", Fail, &["`ethtool -L eth0 combined 1`"], no_change)),
        with(many, case("queues", Fail, &["2, the configuration names 8", "`queues: 2`"], |_| {})),
    ]);
}

#[test]
fn frames_hold_the_mtu_and_the_tunnel_has_room() {
    let frames = "{frame_size: 4096, devices: [{name: eth0}]}";
    let generic = "{frame_size: 4096, devices: [{name: eth0, mode: generic}]}";
    let mtu =
        |config, mtu: fn(&mut Facts), result, says| with(config, case("MTU", result, says, mtu));
    fn of(facts: &mut Facts, mtu: u32) {
        info(facts, |info| info.mtu = mtu);
    }
    hold(&[
        mtu(CONFIG, |_| {}, Good, &["packets of 1450 bytes, 1430 over IPv6"]),
        mtu(CONFIG, |facts| of(facts, 1708), Good, &["1708"]),
        mtu(CONFIG, |f| of(f, 1709), Fail, &["eth0 mtu 1708`, or `frame_size: 4096`"]),
        mtu(CONFIG, |f| of(f, 9000), Fail, &["`ip link set dev eth0 mtu 1708`"]),
        mtu(frames, |f| of(f, 9000), Fail, &["`ip link set dev eth0 mtu 3756`"]),
        mtu(frames, |f| of(f, 3600), Warn, &["`ip link set dev eth0 mtu 3498`"]),
        mtu(generic, |f| of(f, 3600), Good, &["3600"]),
        mtu(CONFIG, |facts| of(facts, 1330), Good, &["1330"]),
        mtu(CONFIG, |f| of(f, 1329), Warn, &["need 1330", "mtu 1330`, or 1350"]),
    ]);
}
