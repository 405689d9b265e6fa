//! The addresses of the host that this process runs on.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use anyhow::{Context as _, Result};

use spillway_api::check_host_address;

use crate::family::PerFamily;
use crate::gateway::Host;

const ROUTES: &str = "/proc/self/net/route";

/// Not there where the kernel has no IPv6.
const ROUTES_IPV6: &str = "/proc/self/net/ipv6_route";

/// The flags of IPv6 addresses; not there where the kernel has no IPv6.
const ADDRESSES_IPV6: &str = "/proc/self/net/if_inet6";

/// Asks the kernel.
///
/// # Errors
///
/// When it does not answer.
pub fn read() -> Result<Host> {
    let all = if_addrs::get_if_addrs().context("cannot read the host's addresses")?;
    let all = all.into_iter().map(|interface| (interface.name.clone(), interface.ip()));
    let default_interfaces = PerFamily {
        v4: default_interface(&text(ROUTES)?),
        v6: default_interface_v6(&text_if_there(ROUTES_IPV6)?),
    };
    let states = states(&text_if_there(ADDRESSES_IPV6)?);
    Ok(Host { interfaces: interfaces(all, &states), default_interfaces })
}

fn text(path: &str) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read the host's {path}"))
}

fn text_if_there(path: &str) -> Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        read => read.with_context(|| format!("cannot read the host's {path}")),
    }
}

/// What the kernel says of an IPv6 address beyond that it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Duplicate address detection is not over, or has found another host with it (RFC 4862, 5.4).
    NotOurs,
    /// The host's own traffic takes another one where it can: it is deprecated (RFC 6724, rule 3),
    /// or temporary and soon gone (RFC 8981).
    NotFirst,
}

/// Addresses by interface, as the kernel lists them, those last that are nobody's first choice.
fn interfaces(
    all: impl Iterator<Item = (String, IpAddr)>,
    states: &[(String, Ipv6Addr, State)],
) -> BTreeMap<String, Vec<IpAddr>> {
    let has = |name: &str, address: IpAddr, state| {
        states.iter().any(|(of, known, is)| of == name && *known == address && *is == state)
    };
    let mut interfaces: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for (name, address) in all {
        if check_host_address(address).is_ok() && !has(&name, address, State::NotOurs) {
            interfaces.entry(name).or_default().push(address);
        }
    }
    for (name, addresses) in &mut interfaces {
        addresses.sort_by_key(|address| has(name, *address, State::NotFirst));
    }
    interfaces
}

/// Reads `if_inet6`: address, interface index, length, scope, flags (`IFA_F_*`), name.
fn states(addresses: &str) -> Vec<(String, Ipv6Addr, State)> {
    const TEMPORARY: u8 = 0x01;
    const DUPLICATE: u8 = 0x08;
    const DEPRECATED: u8 = 0x20;
    const TENTATIVE: u8 = 0x40;
    let state = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let address = u128::from_str_radix(fields.first()?, 16).ok()?;
        let flags = u8::from_str_radix(fields.get(4)?, 16).ok()?;
        let state = if flags & (DUPLICATE | TENTATIVE) != 0 {
            State::NotOurs
        } else if flags & (TEMPORARY | DEPRECATED) != 0 {
            State::NotFirst
        } else {
            return None;
        };
        Some(((*fields.get(5)?).to_owned(), Ipv6Addr::from_bits(address), state))
    };
    addresses.lines().filter_map(state).collect()
}

/// The device of the default route with the lowest metric (proc_pid_net(5), `route`).
fn default_interface(routes: &str) -> Option<String> {
    let default = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (destination, metric, mask) = (fields.get(1)?, fields.get(6)?, fields.get(7)?);
        let is_default = *destination == "00000000" && *mask == "00000000";
        is_default.then_some((metric.parse::<u32>().ok()?, (*fields.first()?).to_owned()))
    };
    routes.lines().skip(1).filter_map(default).min().map(|(_, device)| device)
}

/// The same of `ipv6_route`: destination, its length, source, its length, next hop, metric, two
/// counts, flags, device; numbers in hexadecimal.
fn default_interface_v6(routes: &str) -> Option<String> {
    // `RTF_REJECT`: what the kernel refuses where there is no route.
    const REJECT: u32 = 0x0200;
    let number = |text: &str| u32::from_str_radix(text, 16).ok();
    let default = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let flags = number(fields.get(8)?)?;
        let is_default = *fields.get(1)? == "00" && *fields.get(3)? == "00" && flags & REJECT == 0;
        is_default.then_some((number(fields.get(5)?)?, (*fields.get(9)?).to_owned()))
    };
    routes.lines().filter_map(default).min().map(|(_, device)| device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_with_the_lowest_metric_counts() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                      wlan0\t00000000\t0102A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
                      eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                      eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(default_interface(routes).as_deref(), Some("eth0"));
        assert_eq!(default_interface("Iface\n"), None);
    }

    #[test]
    fn ipv6_has_a_default_route_of_its_own() {
        let zeros = "0".repeat(32);
        let route = |destination: &str, length: &str, metric: &str, flags: &str, device: &str| {
            format!(
                "{destination} {length} {zeros} 00 {zeros} {metric} 00000001 00000000 {flags}     \
                 {device}\n"
            )
        };
        let network =
            route("fd000000000000000000000000000000", "40", "00000100", "00000001", "eth0");
        let reject = route(&zeros, "00", "ffffffff", "00200200", "lo");
        assert_eq!(default_interface_v6(&format!("{network}{reject}")), None);
        let far = route(&zeros, "00", "00000400", "00000003", "eth1");
        let near = route(&zeros, "00", "00000064", "00000003", "eth0");
        let all = [network, far, near, reject].concat();
        assert_eq!(default_interface_v6(&all).as_deref(), Some("eth0"));
    }

    #[test]
    fn only_addresses_in_use_count_and_the_hosts_own_choice_comes_first() {
        let known = states(
            "20010db8000000000000000000000001 02 40 00 80     eth0\n\
             20010db8000000000000000000000002 02 40 00 a0     eth0\n\
             20010db8000000000000000000000003 02 40 00 c0     eth0\n\
             20010db8000000000000000000000004 02 40 00 88     eth0\n\
             20010db8000000000000000000000005 02 40 00 01     eth0\n",
        );
        let listed = "192.0.2.1 127.0.0.1 2001:db8::5 2001:db8::4 2001:db8::3 2001:db8::2 \
                      2001:db8::1 fe80::1 ::1";
        let all = listed.split(' ').map(|text| ("eth0".to_owned(), text.parse().unwrap()));
        let found: Vec<String> =
            interfaces(all, &known)["eth0"].iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1", "2001:db8::1", "2001:db8::5", "2001:db8::2"]);
    }
}
