//! The addresses of the host that this process runs on.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::gateway::Host;

const ROUTES: &str = "/proc/self/net/route";

/// Asks the kernel.
///
/// # Errors
///
/// When it does not answer.
pub fn read() -> Result<Host> {
    let mut interfaces: BTreeMap<String, Vec<Ipv4Addr>> = BTreeMap::new();
    let all = if_addrs::get_if_addrs().context("cannot read the host's addresses")?;
    for interface in all {
        if let IpAddr::V4(address) = interface.ip()
            && !address.is_loopback()
        {
            interfaces.entry(interface.name).or_default().push(address);
        }
    }
    let routes = std::fs::read_to_string(Path::new(ROUTES))
        .with_context(|| format!("cannot read the host's routes from {ROUTES}"))?;
    Ok(Host { interfaces, default_interface: default_interface(&routes) })
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
}
