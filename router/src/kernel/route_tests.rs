//! Routes without a kernel: each notification's effect, as `fib_table_insert` of the kernel's
//! `fib_trie.c` orders it.

use std::net::{Ipv4Addr, Ipv6Addr};

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::AddressFamily;

use super::*;

const ADD: u16 = NLM_F_CREATE | NLM_F_EXCL;
const APPEND: u16 = NLM_F_CREATE | NLM_F_APPEND;
const PREPEND: u16 = NLM_F_CREATE;
const REPLACE: u16 = NLM_F_REPLACE;

fn gateway(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, last)
}

/// `203.0.113.0/24 via 192.0.2.LAST dev 3 table 1000 metric 5`
fn via(last: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = 24;
    message.header.table = 252;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        RouteAttribute::Table(1000),
        RouteAttribute::Destination(RouteAddress::Inet(Ipv4Addr::new(203, 0, 113, 0))),
        RouteAttribute::Priority(5),
        RouteAttribute::Oif(3),
        RouteAttribute::Gateway(RouteAddress::Inet(gateway(last))),
    ];
    message
}

fn leg(last: u8) -> Leg {
    Leg { ifindex: 3, reach: Reach::Gateway(gateway(last).into()), weight: 1, dead: false }
}

/// The last bytes of the gateways of the only key, in order.
fn order(routes: &Routes) -> Vec<u8> {
    let targets = routes.iter().flat_map(|(_, targets)| targets);
    let last = |target: &KernelTarget| match target {
        KernelTarget::Forward(legs) => match legs[0].reach {
            Reach::Gateway(IpAddr::V4(gateway)) => gateway.octets()[3],
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    targets.map(last).collect()
}

#[test]
fn a_route_is_read_with_its_wide_table_number() {
    let (key, target) = route(&via(1)).unwrap();
    assert_eq!((key.table, key.metric, key.condition), (1000, 5, Condition::Nothing));
    assert_eq!(key.destination.to_string(), "203.0.113.0/24");
    assert_eq!(target, KernelTarget::Forward(vec![leg(1)]));
}

#[test]
fn every_type_of_route_has_its_meaning() {
    let cases = [
        (RouteType::Local, Some(KernelTarget::Local)),
        (RouteType::Broadcast, Some(KernelTarget::Local)),
        (RouteType::BlackHole, Some(KernelTarget::Unreachable)),
        (RouteType::Unreachable, Some(KernelTarget::Unreachable)),
        (RouteType::Prohibit, Some(KernelTarget::Unreachable)),
        (RouteType::Throw, Some(KernelTarget::Throw)),
        (RouteType::Multicast, None),
    ];
    for (kind, expected) in cases {
        let mut message = via(1);
        message.header.kind = kind;
        assert_eq!(route(&message).map(|(_, target)| target), expected, "{kind:?}");
    }
}

#[test]
fn a_cached_exception_is_no_route() {
    let mut message = via(1);
    message.header.flags = RouteFlags::Cloned;
    assert_eq!(route(&message), None);
}

#[test]
fn what_the_engine_cannot_reach_is_told_apart() {
    let mut message = via(1);
    message.attributes.pop();
    assert_eq!(legs(&message)[0].reach, Reach::OnLink);
    let router: IpAddr = "fe80::1".parse().unwrap();
    message.attributes.push(RouteAttribute::Via(router.into()));
    assert_eq!(legs(&message)[0].reach, Reach::Gateway(router));
    message.attributes.push(RouteAttribute::Encap(vec![]));
    assert_eq!(legs(&message)[0].reach, Reach::Encapsulated);
    message.attributes = vec![RouteAttribute::NhId(9)];
    assert_eq!(legs(&message)[0].reach, Reach::Hidden);
}

#[test]
fn multipath_weights_start_at_one_and_dead_legs_are_marked() {
    let mut hops = [RouteNextHop::default(), RouteNextHop::default()];
    hops[0].hops = 0;
    hops[1].hops = 255;
    hops[1].flags = RouteNextHopFlags::Dead;
    let mut message = via(1);
    message.attributes = vec![RouteAttribute::MultiPath(hops.to_vec())];
    let legs = legs(&message);
    assert_eq!((legs[0].weight, legs[0].dead), (1, false));
    assert_eq!((legs[1].weight, legs[1].dead), (256, true));
}

#[test]
fn notifications_order_the_routes_of_one_key_as_the_kernel_does() {
    let mut routes = Routes::default();
    let steps: [(u8, u16, &[u8]); 5] = [
        (1, ADD, &[1]),
        (2, APPEND, &[1, 2]),
        (3, PREPEND, &[3, 1, 2]),
        (4, REPLACE, &[4, 1, 2]),
        (5, APPEND, &[4, 1, 2, 5]),
    ];
    for (last, flags, expected) in steps {
        assert_eq!(routes.add(&via(last), flags), Applied::Changed);
        assert_eq!(order(&routes), expected);
    }
    assert_eq!(routes.remove(&via(1)), Applied::Changed);
    assert_eq!(order(&routes), [4, 2, 5]);
}

#[test]
fn removing_the_last_route_leaves_nothing() {
    let mut routes = Routes::default();
    routes.list(&via(1));
    assert_eq!(routes.remove(&via(1)), Applied::Changed);
    assert_eq!(routes, Routes::default());
    assert_eq!(routes.remove(&via(1)), Applied::Unchanged);
}

#[test]
fn a_notification_that_the_list_already_held_changes_nothing() {
    let mut routes = Routes::default();
    routes.list(&via(1));
    assert_eq!(routes.add(&via(1), ADD), Applied::Unchanged);
    assert_eq!(routes.add(&via(1), REPLACE), Applied::Unchanged);
    assert_eq!(order(&routes), [1]);
}

#[test]
fn a_notification_that_does_not_fit_asks_for_the_whole_list() {
    let mut routes = Routes::default();
    routes.list(&via(1));
    assert_eq!(routes.add(&via(1), APPEND), Applied::Unclear);
    assert_eq!(routes.remove(&via(2)), Applied::Unclear);
    routes.list(&via(1));
    assert_eq!(routes.remove(&via(1)), Applied::Unclear);
}

#[test]
fn a_route_whose_next_hop_died_meanwhile_is_still_the_same() {
    let mut routes = Routes::default();
    let mut dead = via(1);
    dead.header.flags = RouteFlags::Dead;
    routes.list(&dead);
    assert_eq!(routes.add(&via(1), REPLACE), Applied::Changed);
    assert_eq!(routes.remove(&dead), Applied::Changed);
}

fn router(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last)
}

/// `2001:db8:1::/48 metric 1024`, with these next hops on device 3: one alone, or several.
fn via_routers(last: &[u16]) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet6;
    message.header.destination_prefix_length = 48;
    message.header.table = 254;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        RouteAttribute::Destination(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0).into()),
        RouteAttribute::Priority(1024),
        RouteAttribute::Preference(RoutePreference::Medium),
    ];
    match last {
        [alone] => message
            .attributes
            .extend([RouteAttribute::Gateway(router(*alone).into()), RouteAttribute::Oif(3)]),
        several => message.attributes.push(RouteAttribute::MultiPath(
            several
                .iter()
                .map(|last| {
                    let mut next_hop = RouteNextHop::default();
                    next_hop.interface_index = 3;
                    next_hop.attributes = vec![RouteAttribute::Gateway(router(*last).into())];
                    next_hop
                })
                .collect(),
        )),
    }
    message
}

/// The last parts of the routers of the only route.
fn routers(routes: &Routes) -> Vec<u16> {
    let targets: Vec<_> = routes.iter().flat_map(|(_, targets)| targets).collect();
    let [KernelTarget::Forward(legs)] = targets.as_slice() else { panic!("{targets:?}") };
    let last = |leg: &Leg| match leg.reach {
        Reach::Gateway(IpAddr::V6(gateway)) => gateway.segments()[7],
        other => panic!("{other:?}"),
    };
    legs.iter().map(last).collect()
}

#[test]
fn an_ipv6_route_is_read_like_one_of_ipv4() {
    let (key, target) = route(&via_routers(&[1])).unwrap();
    assert_eq!((key.table, key.metric, key.condition), (254, 1024, Condition::Nothing));
    assert_eq!(key.destination.to_string(), "2001:db8:1::/48");
    let leg = Leg { reach: Reach::Gateway(router(1).into()), ..leg(1) };
    assert_eq!(target, KernelTarget::Forward(vec![leg]));
}

#[test]
fn a_better_preference_comes_first() {
    let of = |preference| {
        let mut message = via_routers(&[1]);
        message.attributes.push(RouteAttribute::Preference(preference));
        route(&message).unwrap().0
    };
    let ascending = [RoutePreference::High, RoutePreference::Medium, RoutePreference::Low].map(of);
    assert!(ascending.is_sorted_by(|a, b| a < b), "{ascending:?}");
    // RFC 4191, section 2.1: a receiver treats the reserved value as medium.
    assert_eq!(of(RoutePreference::Invalid), of(RoutePreference::Medium));
}

#[test]
fn a_route_for_some_sources_is_told_apart() {
    let mut message = via_routers(&[1]);
    message.header.source_prefix_length = 48;
    message
        .attributes
        .push(RouteAttribute::Source(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0).into()));
    let expected = Condition::Source("2001:db8:2::/48".parse().unwrap());
    assert_eq!(route(&message).unwrap().0.condition, expected);
}

#[test]
fn the_next_hops_of_an_ipv6_route_have_one_order() {
    let mut routes = Routes::default();
    routes.list(&via_routers(&[2, 3, 1]));
    assert_eq!(routers(&routes), [1, 2, 3]);
    assert_eq!(routes.add(&via_routers(&[3, 1, 2]), ADD), Applied::Unchanged);
    assert_eq!(routes.remove(&via_routers(&[3, 1, 2])), Applied::Changed);
    assert_eq!(routes, Routes::default());
}

#[test]
fn an_ipv6_notification_tells_a_multipath_route_whole() {
    let mut routes = Routes::default();
    let steps: [(&[u16], u16); 4] =
        [(&[1], ADD), (&[2, 1], APPEND), (&[3, 1, 2], APPEND), (&[4], REPLACE)];
    for (last, flags) in steps {
        assert_eq!(routes.add(&via_routers(last), flags), Applied::Changed, "{last:?}");
        let mut expected = last.to_vec();
        expected.sort_unstable();
        assert_eq!(routers(&routes), expected);
    }
}

#[test]
fn what_an_ipv6_notification_leaves_open_asks_for_the_whole_list() {
    let mut routes = Routes::default();
    assert_eq!(routes.add(&via_routers(&[1]), REPLACE), Applied::Unclear, "nothing known");
    routes.list(&via_routers(&[1, 2]));
    let mut better = via_routers(&[3]);
    better.attributes.push(RouteAttribute::Preference(RoutePreference::High));
    routes.list(&better);
    assert_eq!(routes.add(&better, REPLACE), Applied::Unclear, "which preference");
    assert_eq!(routes.add(&via_routers(&[1, 2]), APPEND), Applied::Unclear, "one more alike");
    assert_eq!(routes.remove(&via_routers(&[1])), Applied::Unclear, "one of two next hops");
    assert_eq!(routes.add(&via_routers(&[3]), APPEND), Applied::Unclear, "not a sibling");
    routes.list(&via_routers(&[3]));
    assert_eq!(routes.add(&via_routers(&[3]), REPLACE), Applied::Unclear, "which of two");
}
