//! Neighbours: listed, followed, and kept resolved.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use spillway_engine::{V4, V6};

use super::super::neighbour::{MANAGED_NEIGHBOURS_MAX, NeighbourKey};
use super::super::{Kernel, KernelError};
use super::{Namespace, follow_until, ifindex, pair};

/// The far end: by its IPv4 address, its IPv6 address and, as a router is named, the one of the
/// link alone.
const PEERS: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2)),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2)),
];
const PEER: IpAddr = PEERS[0];

/// The link address of a neighbour, as the engine is told.
fn mac_of(kernel: &Kernel, peer: IpAddr) -> Option<[u8; 6]> {
    let devices = [9999, ifindex(kernel, "eth0")];
    let (device, mac) = match peer {
        IpAddr::V4(peer) => {
            let neighbours = kernel.neighbours::<V4>(&devices);
            let found = neighbours.iter().find(|neighbour| neighbour.address == peer);
            found.map(|neighbour| (neighbour.device, neighbour.mac))
        }
        IpAddr::V6(peer) => {
            let neighbours = kernel.neighbours::<V6>(&devices);
            let found = neighbours.iter().find(|neighbour| neighbour.address == peer);
            found.map(|neighbour| (neighbour.device, neighbour.mac))
        }
    }?;
    assert_eq!(device, 1);
    Some(mac)
}

/// Runs `test` for each name of the far end, in namespaces of its own: here and there.
fn for_each_peer(name: &str, test: impl Fn(&Namespace, &Namespace, IpAddr) + Sync) {
    for (number, peer) in PEERS.into_iter().enumerate() {
        let (here, there) = pair(&format!("{name}{number}"));
        here.enter(|| test(&here, &there, peer));
    }
}

/// `ip neigh` for a neighbour.
fn shown(here: &Namespace, peer: IpAddr) -> String {
    here.ip(&format!("neigh show {peer} dev eth0"))
}

/// Makes the kernel notice within a second what takes it half a minute by default.
fn hurry() {
    for (name, value) in [
        ("interval_probe_time_ms", "100"),
        ("base_reachable_time_ms", "200"),
        ("retrans_time_ms", "50"),
        ("delay_first_probe_time", "1"),
    ] {
        for family in ["ipv4", "ipv6"] {
            std::fs::write(format!("/proc/sys/net/{family}/neigh/eth0/{name}"), value).unwrap();
        }
    }
}

#[test]
fn a_managed_neighbour_is_resolved_and_stays_so_when_the_peer_changes_its_mac() {
    for_each_peer("manage", |here, there, peer| {
        hurry();
        let mut kernel = Kernel::open().unwrap();
        let device = ifindex(&kernel, "eth0");
        there.ip("link set eth0 address 02:00:00:00:00:01");
        kernel.resolve_neighbour(device, peer).unwrap();
        assert!(!shown(here, peer).contains("managed"), "{}", shown(here, peer));
        let first = Some([2, 0, 0, 0, 0, 1]);
        follow_until(&mut kernel, "the first MAC", |kernel| mac_of(kernel, peer) == first);
        assert!(shown(here, peer).contains("managed"), "{}", shown(here, peer));

        there.ip("link set eth0 address 02:00:00:00:00:02");
        let second = Some([2, 0, 0, 0, 0, 2]);
        follow_until(&mut kernel, "the second MAC", |kernel| mac_of(kernel, peer) == second);
        assert!(shown(here, peer).contains("managed"), "{}", shown(here, peer));

        kernel.release_neighbours();
        assert!(!shown(here, peer).contains("managed"), "{}", shown(here, peer));
        follow_until(&mut kernel, "still usable", |kernel| mac_of(kernel, peer) == second);
    });
}

#[test]
fn a_managed_neighbour_that_goes_away_is_forgotten_and_comes_back_when_it_is_asked_for() {
    for_each_peer("delete", |here, there, peer| {
        hurry();
        let mut kernel = Kernel::open().unwrap();
        let device = ifindex(&kernel, "eth0");
        let resolve = |kernel: &mut Kernel, when: &str| {
            kernel.resolve_neighbour(device, peer).unwrap();
            follow_until(kernel, when, |kernel| mac_of(kernel, peer).is_some());
            assert!(shown(here, peer).contains("managed"), "{when}: {}", shown(here, peer));
        };
        let lose = |kernel: &mut Kernel, how: &str| {
            follow_until(kernel, how, |kernel| mac_of(kernel, peer).is_none());
            assert_eq!(kernel.managed.keys(), [], "{how}");
            assert!(!shown(here, peer).contains("managed"), "{how}: {}", shown(here, peer));
        };
        resolve(&mut kernel, "at first");
        here.ip("neigh flush dev eth0");
        here.try_ip(&format!("neigh del {peer} dev eth0"));
        lose(&mut kernel, "deleted");

        resolve(&mut kernel, "after it was deleted");
        here.ip("link set eth0 down");
        lose(&mut kernel, "its link is down");
        here.ip("link set eth0 up");
        // IPv6 addresses went with the link, and nobody is asked without one.
        here.try_ip("addr add fe80::1/64 dev eth0 nodad");
        resolve(&mut kernel, "after its link came up");

        there.ip("link set eth0 arp off");
        there.ip("addr flush dev eth0");
        lose(&mut kernel, "it does not answer");
    });
}

#[test]
fn neighbours_of_others_are_followed_and_left_as_they_are() {
    for_each_peer("others", |here, _there, peer| {
        let mut kernel = Kernel::open().unwrap();
        let device = ifindex(&kernel, "eth0");
        here.ip(&format!("neigh add {peer} lladdr 02:00:00:00:00:03 dev eth0 nud permanent"));
        assert!(kernel.follow().unwrap().neighbours);
        assert_eq!(mac_of(&kernel, peer), Some([2, 0, 0, 0, 0, 3]));
        kernel.resolve_neighbour(device, peer).unwrap();
        kernel.release_neighbours();
        assert!(shown(here, peer).contains("PERMANENT"), "{}", shown(here, peer));

        here.ip(&format!("neigh replace {peer} lladdr 02:00:00:00:00:04 dev eth0 nud permanent"));
        assert!(kernel.follow().unwrap().neighbours);
        assert_eq!(mac_of(&kernel, peer), Some([2, 0, 0, 0, 0, 4]));
        here.ip(&format!("neigh del {peer} dev eth0"));
        assert!(kernel.follow().unwrap().neighbours);
        assert_eq!(mac_of(&kernel, peer), None);
    });
}

#[test]
fn another_programs_learned_entry_stays_learned() {
    for_each_peer("learned", |here, _there, peer| {
        let mut kernel = Kernel::open().unwrap();
        let device = ifindex(&kernel, "eth0");
        here.ip(&format!(
            "neigh add {peer} lladdr 02:00:00:00:00:05 dev eth0 nud stale extern_learn"
        ));
        kernel.follow().unwrap();
        kernel.resolve_neighbour(device, peer).unwrap();
        let managed = shown(here, peer);
        assert!(managed.contains("extern_learn") && managed.contains("managed"), "{managed}");
        kernel.follow().unwrap();
        kernel.release_neighbours();
        let shown = shown(here, peer);
        assert!(shown.contains("extern_learn") && !shown.contains("managed"), "{shown}");
    });
}

#[test]
fn a_silent_neighbour_is_not_usable_and_an_unknown_link_is_an_error() {
    let (here, _there) = pair("silence");
    here.enter(|| {
        let mut kernel = Kernel::open().unwrap();
        let device = ifindex(&kernel, "eth0");
        for silent in ["192.0.2.99", "2001:db8:2::99", "fe80::99"] {
            kernel.resolve_neighbour(device, silent.parse().unwrap()).unwrap();
        }
        kernel.follow().unwrap();
        assert_eq!(kernel.neighbours::<V4>(&[device]), vec![]);
        assert_eq!(kernel.neighbours::<V6>(&[device]), vec![]);
        let error = kernel.resolve_neighbour(9999, PEER).unwrap_err();
        assert!(matches!(error, KernelError::Neighbour { ifindex: 9999, .. }), "{error}");
    });
}

#[test]
fn the_neighbour_that_was_not_asked_for_the_longest_is_released_for_a_new_one() {
    let (here, _there) = pair("bound");
    here.enter(|| {
        let mut kernel = Kernel::open().unwrap();
        let device = ifindex(&kernel, "eth0");
        kernel.resolve_neighbour(device, PEER).unwrap();
        follow_until(&mut kernel, "resolved", |kernel| mac_of(kernel, PEER).is_some());
        here.ip("neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev eth0 nud stale");
        kernel.follow().unwrap();
        for ifindex in (10_000..).take(MANAGED_NEIGHBOURS_MAX - 1) {
            let address = IpAddr::from([192, 0, 2, 3]);
            assert_eq!(kernel.managed.insert(NeighbourKey { ifindex, address }), None);
        }
        let newcomer = IpAddr::from([192, 0, 2, 9]);
        kernel.resolve_neighbour(device, newcomer).unwrap();
        assert!(!shown(&here, PEER).contains("managed"), "{}", shown(&here, PEER));
        assert!(shown(&here, newcomer).contains("managed"), "{}", shown(&here, newcomer));
    });
}

/// Each address of a link is tried once, many more than a link has hosts: those that do not answer
/// take little of the kernel's table, which all network namespaces share, and the one that does is
/// found meanwhile.
#[test]
fn a_scan_of_a_link_leaves_room_in_the_kernels_table() {
    const TRIED: u16 = 600;
    let (here, _there) = pair("scan");
    here.enter(|| {
        let mut kernel = Kernel::open().unwrap();
        let device = ifindex(&kernel, "eth0");
        here.ip("addr add 10.9.0.1/16 dev eth0");
        follow_until(&mut kernel, "the address", |kernel| {
            kernel.addresses().any(|local| local.address.addr() == IpAddr::from([10, 9, 0, 1]))
        });
        let scan = |kernel: &mut Kernel, silent: &dyn Fn(u16) -> IpAddr, peer: IpAddr| {
            for number in 0..TRIED {
                if number == TRIED / 2 {
                    kernel.resolve_neighbour(device, peer).unwrap();
                    follow_until(kernel, "resolved", |kernel| mac_of(kernel, peer).is_some());
                }
                kernel.resolve_neighbour(device, silent(number)).unwrap();
            }
            let all = here.ip("neigh show nud all dev eth0");
            let taken = all.lines().filter(|line| !line.contains("lladdr")).count();
            assert!((1..=128).contains(&taken), "{taken} entries");
            assert!(shown(&here, peer).contains("managed"), "{}", shown(&here, peer));
        };
        scan(
            &mut kernel,
            &|number| {
                let [high, low] = (number + 256).to_be_bytes();
                IpAddr::from([10, 9, high, low])
            },
            PEERS[0],
        );
        let host = |number| IpAddr::from([0x2001, 0xdb8, 2, 0, 0, 0, 1, number]);
        scan(&mut kernel, &host, PEERS[1]);

        kernel.release_neighbours();
        let all = here.ip("neigh show nud all dev eth0");
        assert!(all.lines().all(|line| line.contains("lladdr")), "{all}");
    });
}
