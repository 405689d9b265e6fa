//! Addresses in the place of addresses.

use std::hash::{BuildHasherDefault, DefaultHasher};

use proptest::prelude::*;

use super::*;

type Fixed = Addresses<BuildHasherDefault<DefaultHasher>>;

fn addresses() -> Fixed {
    Addresses::new(BuildHasherDefault::new())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// How many bits two addresses of one family begin with alike.
fn common(one: IpAddr, other: IpAddr) -> u32 {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        _ => panic!("{one} and {other} are of two families"),
    }
}

proptest! {
    #[test]
    fn what_is_alike_stays_alike(one: u32, other: u32, at in 0_u32..33) {
        // As far as they go together.
        let other = one ^ (other.checked_shr(at).unwrap_or(0));
        let mut addresses = addresses();
        let [one, other] = [one, other].map(|bits| IpAddr::from(Ipv4Addr::from_bits(bits)));
        let replaced = [one, other].map(|address| addresses.address(address));
        prop_assert_eq!(common(replaced[0], replaced[1]), common(one, other));
    }

    #[test]
    fn what_is_alike_stays_alike_in_ipv6(one: u128, other: u128, at in 0_u32..129) {
        let other = one ^ (other.checked_shr(at).unwrap_or(0));
        let mut addresses = addresses();
        let [one, other] = [one, other].map(|bits| IpAddr::from(Ipv6Addr::from_bits(bits)));
        let replaced = [one, other].map(|address| addresses.address(address));
        prop_assert_eq!(common(replaced[0], replaced[1]), common(one, other));
    }

    #[test]
    fn any_text_is_read(text in "[0-9a-f:./ x\\\\n-]{0,60}") {
        let replaced = addresses().in_text(&text);
        // Nothing but addresses is touched.
        let rest = |text: &str| text.replace(is_part, "");
        prop_assert_eq!(rest(&replaced), rest(&text));
    }
}

#[test]
fn known_ranges_stay_themselves() {
    let mut addresses = addresses();
    for (address, range) in [
        ("10.1.2.3", "10.0.0.0/8"),
        ("100.64.9.9", "100.64.0.0/10"),
        ("172.20.0.1", "172.16.0.0/12"),
        ("192.168.1.1", "192.168.0.0/16"),
        ("fd00:10:1::40", "fd00::/8"),
        ("fe80::1234", "fe80::/64"),
        ("2001:db8::1", "2000::/3"),
    ] {
        let other = addresses.address(ip(address));
        assert_ne!(other, ip(address));
        assert!(range.parse::<IpNet>().unwrap().contains(&other), "{address}: {other}");
    }
    for stays in ["0.0.0.0", "127.0.0.1", "169.254.1.1", "255.255.255.0", "::", "::1", "ff02::1"] {
        assert_eq!(addresses.address(ip(stays)), ip(stays));
    }
    let other = addresses.address(ip("203.0.113.10"));
    assert_ne!(other, ip("203.0.113.10"));
    let embedded = format!("64:ff9b::{other}").parse().unwrap();
    assert_eq!(addresses.address(ip("64:ff9b::203.0.113.10")), IpAddr::V6(embedded));
}

#[test]
fn addresses_are_found_wherever_they_stand() {
    let mut addresses = addresses();
    let [four, six] = ["203.0.113.10", "fd00:1::40"].map(|text| addresses.address(ip(text)));
    let mac = addresses.in_text("02:00:00:aa:bb:cc");
    assert!(mac.starts_with("02:00:00:") && mac != "02:00:00:aa:bb:cc", "{mac}");
    for text in [
        "FOUR",
        "FOUR:80 -> [SIX]:443",
        "src=FOUR,dst=SIX;",
        "\"address\": \"FOUR\",\"SIX\"",
        "inet FOUR/24 brd x\ninet6 SIX/64 scope",
        "eth0:FOUR eth0:SIX tcp:SIX",
        "to FOUR. Then SIX: yes, FOUR: no.",
        "x-FOUR-SIX-y",
        "one\\nFOUR\\nSIX",
        "SIX%eth0 FOUR@x",
        "lladdr MAC dev MAC",
    ] {
        let with = |four: &str, six: &str, mac: &str| {
            text.replace("FOUR", four).replace("SIX", six).replace("MAC", mac)
        };
        let given = with("203.0.113.10", "fd00:1::40", "02:00:00:aa:bb:cc");
        let expected = with(&four.to_string(), &six.to_string(), &mac);
        assert_eq!(addresses.in_text(&given), expected, "{given}");
    }
}

#[test]
fn what_is_no_address_stays() {
    let mut addresses = addresses();
    for text in [
        "",
        "16:02:37.488528 received",
        "0000:00:04.0",
        "spillway::kernel=debug,info",
        "version 6.18.44-fc 1.2.3 v1.2.3.4 1.2.3.4x",
        "16384-29999, 0x1f, cafe, a:b, ...",
        "ff:ff:ff:ff:ff:ff 00:00:00:00:00:00 33:33:00:00:00:01",
    ] {
        assert_eq!(addresses.in_text(text), text);
    }
}

#[test]
fn prefixes_stay_prefixes() {
    let mut addresses = addresses();
    let text =
        addresses.in_text("203.0.113.0/24 10.0.0.0/8 2001:db8::/32 0.0.0.0/0 203.0.113.9/32");
    let nets: Vec<IpNet> = text.split(' ').map(|net| net.parse().unwrap()).collect();
    assert!(nets.iter().all(|net| net.trunc() == *net), "{text}");
    assert!(nets[0].contains(&addresses.address(ip("203.0.113.10"))), "{text}");
    assert!(nets[2].contains(&addresses.address(ip("2001:db8:203::1"))), "{text}");
    assert_eq!(nets[1].to_string(), "10.0.0.0/8");
    // An interface's own address, with the length of its prefix.
    let own = addresses.address(ip("203.0.113.9"));
    assert_eq!(addresses.in_text("203.0.113.9/24"), format!("{own}/24"));
}

#[test]
fn the_kernels_tables_are_read_as_it_writes_them() {
    let mut addresses = addresses();
    let words = |address: IpAddr| match address {
        IpAddr::V4(address) => format!("{:08X}", address.to_bits().to_be()),
        IpAddr::V6(address) => format!("{:032x}", address.to_bits()),
    };
    let line = |to, by| {
        format!(
            "eth0\t{}\t{}\t0003\t0\t0\t100\t{}\t0\t0\t0  \n",
            words(to),
            words(by),
            words(ip("255.255.255.0"))
        )
    };
    let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\n";
    let net = addresses.prefix(ip("203.0.113.0"), Some(24));
    let by = addresses.address(ip("192.168.1.1"));
    let given = head.to_owned() + &line(ip("203.0.113.0"), ip("192.168.1.1"));
    assert_eq!(addresses.in_route(&given), head.to_owned() + &line(net, by));

    let line = |to, by| {
        format!(
            "{} 20 {} 00 {} 00000400 00000001 00000000 00000001     eth0\n",
            words(to),
            words(ip("::")),
            words(by)
        )
    };
    let net = addresses.prefix(ip("2001:db8::"), Some(32));
    let by = addresses.address(ip("fd00::1"));
    let given = line(ip("2001:db8::"), ip("fd00::1"));
    assert_eq!(addresses.in_digits(&given), line(net, by));
}
