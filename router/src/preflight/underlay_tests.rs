use super::super::Outcome::{Fail, Ok as Good, Unknown, Warn};
use super::super::fixture::{Case, case, hold, link};
use super::*;

#[test]
fn underlays_that_hide_vxlan_are_told() {
    hold(&[
        case("WireGuard", Good, &["none"], |_| {}),
        case("WireGuard", Fail, &["cilium_wg0", "encryption.enabled=false"], |facts| {
            facts.links = Ok(vec![link(7, "cilium_wg0", Some("wireguard"))]);
        }),
        case("WireGuard", Warn, &["wg0, wg1"], |facts| {
            let links = [(7, "wg0"), (8, "wg1")];
            facts.links = Ok(links.map(|(at, name)| link(at, name, Some("wireguard"))).into());
        }),
        case("Geneve", Good, &["none"], |_| {}),
        case("Geneve", Fail, &["cilium_geneve", "tunnelProtocol=vxlan"], |facts| {
            facts.links = Ok(vec![link(7, "cilium_geneve", Some("geneve"))]);
        }),
        case("Geneve", Warn, &["genev_sys_6081"], |facts| {
            facts.links = Ok(vec![link(7, "genev_sys_6081", Some("geneve"))]);
        }),
        case("IPsec", Good, &["no states"], |_| {}),
        case("IPsec", Warn, &["12 states"], |facts| facts.ipsec_states = Ok(12)),
        case("IPsec", Unknown, &["Operation"], |facts| {
            facts.ipsec_states = Err("Operation not permitted".to_owned());
        }),
        case("underlay", Unknown, &["no"], |facts| facts.links = Err("no".to_owned())),
    ]);
}

#[test]
fn the_tunnel_port_is_that_of_the_hosts_own_vxlan() {
    fn vxlan(facts: &mut Facts, name: &str, port: u16) {
        facts.links = Ok(vec![Link { vxlan_port: Some(port), ..link(7, name, Some("vxlan")) }]);
    }
    hold(&[
        case("tunnel port", Good, &["8472, as cilium_vxlan"], |_| {}),
        case("tunnel port", Good, &["8472, as flannel.1"], |f| vxlan(f, "flannel.1", 8472)),
        case("tunnel port", Fail, &["cilium_vxlan receives on 4789", "`tunnel_port: 4789`"], |f| {
            vxlan(f, "cilium_vxlan", 4789);
        }),
        case("tunnel port", Warn, &["vxlan.calico receives on 4789"], |facts| {
            vxlan(facts, "vxlan.calico", 4789);
        }),
        case("tunnel port", Unknown, &["no VXLAN device"], |facts| facts.links = Ok(vec![])),
        Case {
            config: "{devices: [{name: eth0}], tunnel_port: 4789}",
            ..case("tunnel port", Fail, &["`tunnel_port: 8472`"], |_| {})
        },
    ]);
}
