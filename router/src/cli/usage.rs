//! `spillway usage`.

use std::net::SocketAddr;

use spillway_api::limits::USAGE_FLOWS_MAX;
use spillway_api::{EgressUsage, RemoteUsage, Usage};

use super::table::Align::{Left, Right};
use super::table::Table;

/// What flows use, for people.
pub(super) fn table(usage: &Usage) -> String {
    if !usage.counted {
        return format!(
            "Flows were not counted: there is no state document, or there are more than \
             {USAGE_FLOWS_MAX} of them, or that would have taken too long.\n"
        );
    }
    let mut text = String::new();
    egress_addresses(&usage.egress_addresses).append_to(&mut text);
    text.push('\n');
    let mut policies = Table::new([("Policy", Left), ("Flows", Right)]);
    for policy in &usage.policies {
        policies.row([policy.name.clone(), policy.flows.to_string()]);
    }
    policies.append_to(&mut text);
    if usage.flows_of_no_policy > 0 {
        text.push_str(&format!(
            "\nNote: {} flows have not spoken since the policies changed\n",
            usage.flows_of_no_policy
        ));
    }
    text
}

fn egress_addresses(used: &[EgressUsage]) -> Table<5> {
    let mut table = Table::new([
        ("Egress Address", Left),
        ("Flows", Right),
        ("Ports", Right),
        ("In Use", Right),
        ("Towards", Left),
    ]);
    for egress in used {
        let in_use = egress.fullest.as_ref().map_or(0, |remote| remote.ports);
        table.row([
            egress.address.to_string(),
            egress.flows.to_string(),
            egress.ports.to_string(),
            in_use.to_string(),
            egress.fullest.as_ref().map(remote).unwrap_or_default(),
        ]);
    }
    table
}

/// An echo has no port to show.
pub(super) fn remote(remote: &RemoteUsage) -> String {
    let RemoteUsage { protocol, address, port, .. } = remote;
    match port {
        0 => format!("{protocol} {address}"),
        _ => format!("{protocol} {}", SocketAddr::new(*address, *port)),
    }
}

#[cfg(test)]
mod tests {
    use spillway_api::PolicyUsage;

    use super::*;

    fn egress(address: &str, flows: u64, fullest: Option<(&str, &str, u16, u64)>) -> EgressUsage {
        let fullest = fullest.map(|(protocol, address, port, ports)| RemoteUsage {
            protocol: protocol.to_owned(),
            address: address.parse().unwrap(),
            port,
            ports,
        });
        EgressUsage { address: address.parse().unwrap(), flows, ports: 64_512, fullest }
    }

    #[test]
    fn the_fullest_remote_stands_beside_its_egress_address() {
        let usage = Usage {
            counted: true,
            egress_addresses: vec![
                egress("192.0.2.1", 9, Some(("tcp", "203.0.113.10", 443, 7))),
                egress("192.0.2.2", 2, Some(("icmp", "203.0.113.11", 0, 2))),
                egress("2001:db8::1", 0, None),
            ],
            policies: vec![PolicyUsage { name: "app1".to_owned(), flows: 11 }],
            flows_of_no_policy: 0,
        };
        assert_eq!(
            table(&usage),
            "Egress Address   Flows   Ports   In Use   Towards\n\
             192.0.2.1            9   64512        7   tcp 203.0.113.10:443\n\
             192.0.2.2            2   64512        2   icmp 203.0.113.11\n\
             2001:db8::1          0   64512        0\n\
             \n\
             Policy   Flows\n\
             app1        11\n"
        );
        let text = table(&Usage { flows_of_no_policy: 3, ..usage });
        assert!(
            text.ends_with("\nNote: 3 flows have not spoken since the policies changed\n"),
            "{text}"
        );
    }

    #[test]
    fn flows_that_were_not_counted_are_not_shown_as_none() {
        let text = table(&Usage::default());
        assert!(text.starts_with("Flows were not counted:") && !text.contains("Egress"), "{text}");
    }
}
