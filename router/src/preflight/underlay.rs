//! What brings the pods' packets to this host. Steering knows VXLAN, and nothing that is inside of
//! something else.

use super::Check;
use super::facts::Facts;
use crate::config::Config;
use crate::kernel::Link;

/// Cilium's devices.
const CILIUM_WIREGUARD: &str = "cilium_wg0";
const CILIUM_GENEVE: &str = "cilium_geneve";
const CILIUM_VXLAN: &str = "cilium_vxlan";

/// Judges the devices of the host that tunnels could come through.
pub(super) fn judge(config: &Config, facts: &Facts) -> Vec<Check> {
    let links = match &facts.links {
        Ok(links) => links,
        Err(why) => return vec![Check::unknown("underlay", why.as_str())],
    };
    vec![wireguard(links), ipsec(facts), geneve(links), tunnel_port(links, config.tunnel_port)]
}

/// Links of a kind, with their names.
fn of_kind<'a>(links: &'a [Link], kind: &str) -> Vec<&'a str> {
    let of_kind = links.iter().filter(|link| link.kind.as_deref() == Some(kind));
    of_kind.map(|link| link.name.as_str()).collect()
}

fn wireguard(links: &[Link]) -> Check {
    const CHECK: &str = "WireGuard";
    let names = of_kind(links, "wireguard");
    if names.contains(&CILIUM_WIREGUARD) {
        return Check::fail(
            CHECK,
            format!(
                "{CILIUM_WIREGUARD}: the nodes encrypt, and steering does not see what is inside"
            ),
            "`helm upgrade cilium cilium/cilium -n kube-system --reuse-values --set \
             encryption.enabled=false`",
        );
    }
    if names.is_empty() {
        return Check::ok(CHECK, "none");
    }
    Check::warn(
        CHECK,
        format!("{}: steering does not see what comes through it", names.join(", ")),
        "none is needed where pods' tunnels do not go through it; else take them out of it",
    )
}

/// States of IPsec: what comes in ESP is decrypted behind steering.
fn ipsec(facts: &Facts) -> Check {
    const CHECK: &str = "IPsec";
    match &facts.ipsec_states {
        Err(why) => Check::unknown(CHECK, why.as_str()),
        Ok(0) => Check::ok(CHECK, "no states"),
        Ok(states) => Check::warn(
            CHECK,
            format!("{states} states (`ip xfrm state`): steering does not see what they decrypt"),
            "none is needed where pods' tunnels do not go through it; with Cilium `helm upgrade \
             cilium cilium/cilium -n kube-system --reuse-values --set encryption.enabled=false`",
        ),
    }
}

fn geneve(links: &[Link]) -> Check {
    const CHECK: &str = "Geneve";
    let names = of_kind(links, "geneve");
    if names.contains(&CILIUM_GENEVE) {
        return Check::fail(
            CHECK,
            format!("{CILIUM_GENEVE}: the nodes' tunnels are Geneve, Spillway's are VXLAN"),
            "`helm upgrade cilium cilium/cilium -n kube-system --reuse-values --set \
             tunnelProtocol=vxlan`",
        );
    }
    if names.is_empty() {
        return Check::ok(CHECK, "none");
    }
    Check::warn(
        CHECK,
        format!("{}: steering does not see what comes through it", names.join(", ")),
        "none is needed where pods' packets come through VXLAN; else let the nodes use VXLAN",
    )
}

/// Whether the VXLAN devices of this host use the tunnel's port.
fn tunnel_port(links: &[Link], port: u16) -> Check {
    const CHECK: &str = "tunnel port";
    let ports = || links.iter().filter_map(|link| Some((link.name.as_str(), link.vxlan_port?)));
    let cilium = ports().find(|(name, _)| *name == CILIUM_VXLAN);
    let same = ports().find(|(_, one)| *one == port);
    match (cilium, same, ports().next()) {
        (Some((name, other)), ..) if other != port => Check::fail(
            CHECK,
            format!("{name} receives on {other}, the router would on {port}"),
            format!("`tunnel_port: {other}` in the configuration"),
        ),
        (_, Some((name, _)), _) => Check::ok(CHECK, format!("{port}, as {name} has it")),
        (_, None, Some((name, other))) => Check::warn(
            CHECK,
            format!("{name} receives on {other}, the router would on {port}"),
            format!("`tunnel_port: {other}` in the configuration, if pods' packets come there"),
        ),
        (_, None, None) => Check::unknown(
            CHECK,
            format!("{port}; no VXLAN device of this host says what the nodes use"),
        ),
    }
}

#[cfg(test)]
#[path = "underlay_tests.rs"]
mod tests;
