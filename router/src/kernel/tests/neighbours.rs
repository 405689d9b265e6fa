//! Neighbours: listed, followed, and kept resolved.

use std::net::Ipv4Addr;

use super::super::neighbour::{MANAGED_NEIGHBOURS_MAX, NeighbourKey};
use super::super::{Kernel, KernelError};
use super::{Namespace, follow_until, ifindex, pair};

const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// The link address of `PEER`, as the engine is told.
fn mac_of_peer(kernel: &Kernel) -> Option<[u8; 6]> {
    let neighbours = kernel.neighbours(&[9999, ifindex(kernel, "eth0")]);
    let peer = neighbours.iter().find(|neighbour| neighbour.address == PEER)?;
    assert_eq!(peer.device, 1);
    Some(peer.mac)
}

/// `ip neigh` for `PEER`.
fn shown(here: &Namespace) -> String {
    here.ip(&format!("neigh show {PEER} dev eth0"))
}

/// Makes the kernel notice within a second what takes it half a minute by default.
fn hurry() {
    for (name, value) in [
        ("interval_probe_time_ms", "100"),
        ("base_reachable_time_ms", "200"),
        ("retrans_time_ms", "50"),
        ("delay_first_probe_time", "1"),
    ] {
        std::fs::write(format!("/proc/sys/net/ipv4/neigh/eth0/{name}"), value).unwrap();
    }
}

#[test]
fn a_managed_neighbour_is_resolved_and_stays_so_when_the_peer_changes_its_mac() {
    let (here, there) = pair("manage");
    here.enter(|| {
        hurry();
        let mut kernel = Kernel::open().unwrap();
        let device = ifindex(&kernel, "eth0");
        there.ip("link set eth0 address 02:00:00:00:00:01");
        kernel.manage_neighbour(device, PEER).unwrap();
        let first = Some([2, 0, 0, 0, 0, 1]);
        follow_until(&mut kernel, "the first MAC", |kernel| mac_of_peer(kernel) == first);
        assert!(shown(&here).contains("managed"), "{}", shown(&here));

        there.ip("link set eth0 address 02:00:00:00:00:02");
        let second = Some([2, 0, 0, 0, 0, 2]);
        follow_until(&mut kernel, "the second MAC", |kernel| mac_of_peer(kernel) == second);
        assert!(shown(&here).contains("managed"), "{}", shown(&here));

        kernel.release_neighbours();
        assert!(!shown(&here).contains("managed"), "{}", shown(&here));
        follow_until(&mut kernel, "still usable", |kernel| mac_of_peer(kernel) == second);
    });
}

#[test]
fn a_managed_neighbour_that_somebody_deletes_comes_back() {
    let (here, _there) = pair("delete");
    here.enter(|| {
        let mut kernel = Kernel::open().unwrap();
        let device = ifindex(&kernel, "eth0");
        kernel.manage_neighbour(device, PEER).unwrap();
        follow_until(&mut kernel, "resolved", |kernel| mac_of_peer(kernel).is_some());
        here.ip("neigh flush dev eth0");
        here.try_ip(&format!("neigh del {PEER} dev eth0"));
        follow_until(&mut kernel, "deleted and resolved again", |kernel| {
            mac_of_peer(kernel).is_some() && shown(&here).contains("managed")
        });

        here.ip("link set eth0 down");
        follow_until(&mut kernel, "link down", |kernel| mac_of_peer(kernel).is_none());
        here.ip("link set eth0 up");
        follow_until(&mut kernel, "resolved after link up", |kernel| mac_of_peer(kernel).is_some());
        assert!(shown(&here).contains("managed"), "{}", shown(&here));
    });
}

#[test]
fn neighbours_of_others_are_followed_and_left_as_they_are() {
    let (here, _there) = pair("others");
    here.enter(|| {
        let mut kernel = Kernel::open().unwrap();
        let device = ifindex(&kernel, "eth0");
        here.ip(&format!("neigh add {PEER} lladdr 02:00:00:00:00:03 dev eth0 nud permanent"));
        assert!(kernel.follow().unwrap().neighbours);
        assert_eq!(mac_of_peer(&kernel), Some([2, 0, 0, 0, 0, 3]));
        kernel.manage_neighbour(device, PEER).unwrap();
        kernel.release_neighbours();
        assert!(shown(&here).contains("PERMANENT"), "{}", shown(&here));

        here.ip(&format!("neigh replace {PEER} lladdr 02:00:00:00:00:04 dev eth0 nud permanent"));
        assert!(kernel.follow().unwrap().neighbours);
        assert_eq!(mac_of_peer(&kernel), Some([2, 0, 0, 0, 0, 4]));
        here.ip(&format!("neigh del {PEER} dev eth0"));
        assert!(kernel.follow().unwrap().neighbours);
        assert_eq!(mac_of_peer(&kernel), None);
    });
}

#[test]
fn another_programs_learned_entry_stays_learned() {
    let (here, _there) = pair("learned");
    here.enter(|| {
        let mut kernel = Kernel::open().unwrap();
        let device = ifindex(&kernel, "eth0");
        here.ip(&format!(
            "neigh add {PEER} lladdr 02:00:00:00:00:05 dev eth0 nud stale extern_learn"
        ));
        kernel.follow().unwrap();
        kernel.manage_neighbour(device, PEER).unwrap();
        let managed = shown(&here);
        assert!(managed.contains("extern_learn") && managed.contains("managed"), "{managed}");
        kernel.follow().unwrap();
        kernel.release_neighbours();
        let shown = shown(&here);
        assert!(shown.contains("extern_learn") && !shown.contains("managed"), "{shown}");
    });
}

#[test]
fn a_silent_neighbour_is_not_usable_and_an_unknown_link_is_an_error() {
    let (here, _there) = pair("silence");
    here.enter(|| {
        let mut kernel = Kernel::open().unwrap();
        let device = ifindex(&kernel, "eth0");
        let silent = Ipv4Addr::new(192, 0, 2, 99);
        kernel.manage_neighbour(device, silent).unwrap();
        kernel.follow().unwrap();
        assert_eq!(kernel.neighbours(&[device]), vec![]);
        let error = kernel.manage_neighbour(9999, PEER).unwrap_err();
        assert!(matches!(error, KernelError::Neighbour { ifindex: 9999, .. }), "{error}");
    });
}

#[test]
fn the_neighbour_that_was_not_asked_for_the_longest_is_released_for_a_new_one() {
    let (here, _there) = pair("bound");
    here.enter(|| {
        let mut kernel = Kernel::open().unwrap();
        let device = ifindex(&kernel, "eth0");
        kernel.manage_neighbour(device, PEER).unwrap();
        follow_until(&mut kernel, "resolved", |kernel| mac_of_peer(kernel).is_some());
        for ifindex in (10_000..).take(MANAGED_NEIGHBOURS_MAX - 1) {
            let address = Ipv4Addr::new(192, 0, 2, 3);
            assert_eq!(kernel.managed.insert(NeighbourKey { ifindex, address }), None);
        }
        kernel.manage_neighbour(device, Ipv4Addr::new(192, 0, 2, 4)).unwrap();
        assert_eq!(kernel.managed.keys().len(), MANAGED_NEIGHBOURS_MAX);
        assert!(!shown(&here).contains("managed"), "{}", shown(&here));
    });
}
