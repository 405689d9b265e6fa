//! `spillway usage`.

use std::net::SocketAddr;

use spillway_api::{EgressUsage, PolicyUsage, RemoteUsage, Traffic, Usage};

use super::table::Align::{Left, Right};
use super::table::Table;

/// What flows use, for people.
pub(super) fn table(usage: &Usage) -> String {
    if !usage.counted {
        let why = match usage.counting {
            true => "Flows are being counted: there are so many that it takes a while.\n",
            false => "Flows were not counted: there is no state document.\n",
        };
        return why.to_owned();
    }
    let mut text = String::new();
    egress_addresses(&usage.egress_addresses).append_to(&mut text);
    text.push('\n');
    let mut policies = Table::new([
        ("Policy", Left),
        ("Flows", Right),
        ("Packets Out", Right),
        ("Bytes Out", Right),
        ("Packets In", Right),
        ("Bytes In", Right),
    ]);
    for PolicyUsage { name, flows, traffic } in &usage.policies {
        let [packets_out, bytes_out, packets_in, bytes_in] = words(traffic);
        policies.row([
            name.clone(),
            flows.to_string(),
            packets_out,
            bytes_out,
            packets_in,
            bytes_in,
        ]);
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

/// Packets and bytes from pods, then those to them.
fn words(traffic: &Traffic) -> [String; 4] {
    let Traffic { original_packets, original_bytes, reply_packets, reply_bytes } = traffic;
    [original_packets, original_bytes, reply_packets, reply_bytes].map(ToString::to_string)
}

fn egress_addresses(used: &[EgressUsage]) -> Table<9> {
    let mut table = Table::new([
        ("Egress Address", Left),
        ("Flows", Right),
        ("Ports", Right),
        ("In Use", Right),
        ("Towards", Left),
        ("Packets Out", Right),
        ("Bytes Out", Right),
        ("Packets In", Right),
        ("Bytes In", Right),
    ]);
    for egress in used {
        let [packets_out, bytes_out, packets_in, bytes_in] = words(&egress.traffic);
        let in_use = egress.fullest.as_ref().map_or(0, |remote| remote.ports);
        table.row([
            egress.address.to_string(),
            egress.flows.to_string(),
            egress.ports.to_string(),
            in_use.to_string(),
            egress.fullest.as_ref().map(remote).unwrap_or_default(),
            packets_out,
            bytes_out,
            packets_in,
            bytes_in,
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
    use super::*;

    const TRAFFIC: Traffic = Traffic {
        original_packets: 12,
        original_bytes: 3_456,
        reply_packets: 7,
        reply_bytes: 89_012,
    };

    fn egress(address: &str, flows: u64, fullest: Option<(&str, &str, u16, u64)>) -> EgressUsage {
        let fullest = fullest.map(|(protocol, address, port, ports)| RemoteUsage {
            protocol: protocol.to_owned(),
            address: address.parse().unwrap(),
            port,
            ports,
        });
        let address = address.parse().unwrap();
        let traffic = if flows == 9 { TRAFFIC } else { Traffic::default() };
        EgressUsage { address, flows, ports: 64_512, fullest, traffic }
    }

    #[test]
    fn the_fullest_remote_stands_beside_its_egress_address() {
        let usage = Usage {
            counted: true,
            counting: false,
            counted_at_ms: 1,
            egress_addresses: vec![
                egress("192.0.2.1", 9, Some(("tcp", "203.0.113.10", 443, 7))),
                egress("192.0.2.2", 2, Some(("icmp", "203.0.113.11", 0, 2))),
                egress("2001:db8::1", 0, None),
            ],
            policies: vec![PolicyUsage { name: "app1".to_owned(), flows: 11, traffic: TRAFFIC }],
            flows_of_no_policy: 0,
        };
        assert_eq!(
            table(&usage),
            "Egress Address   Flows   Ports   In Use   Towards                Packets Out   Bytes Out   \
             Packets In   Bytes In\n\
             192.0.2.1            9   64512        7   tcp 203.0.113.10:443            12        3456   \
             \u{20}        7      89012\n\
             192.0.2.2            2   64512        2   icmp 203.0.113.11                0           0   \
             \u{20}        0          0\n\
             2001:db8::1          0   64512        0                                    0           0   \
             \u{20}        0          0\n\
             \n\
             Policy   Flows   Packets Out   Bytes Out   Packets In   Bytes In\n\
             app1        11            12        3456            7      89012\n"
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
        assert_eq!(text, "Flows were not counted: there is no state document.\n");
        let text = table(&Usage { counting: true, ..Usage::default() });
        assert!(text.starts_with("Flows are being counted:") && !text.contains("Egress"), "{text}");
    }
}
