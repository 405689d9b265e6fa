//! `spillway flows`.

use std::net::SocketAddr;

use spillway_api::{Client, ClientError, Flow, Tuple};

use super::duration;
use super::every_page;
use super::table::Align::{Left, Right};
use super::table::Table;

/// Every flow, page by page.
pub(super) fn all(client: &mut Client) -> Result<Vec<Flow>, ClientError> {
    every_page(|cursor| client.flows(cursor).map(|page| (page.rows, page.next)))
}

/// The flows for people.
pub(super) fn table(flows: &[Flow]) -> String {
    let mut table = Table::new([
        ("Worker", Right),
        ("Protocol", Left),
        ("Original", Left),
        ("Reply", Left),
        ("State", Left),
        ("Age", Right),
        ("Idle", Right),
        ("Packets", Right),
        ("Bytes", Right),
        ("Policy", Left),
        ("Peer", Left),
        ("Pod", Left),
    ]);
    for flow in flows {
        table.row([
            flow.worker.to_string(),
            flow.protocol.clone(),
            tuple(&flow.original),
            tuple(&flow.reply),
            flow.state.clone(),
            duration(flow.age_s),
            duration(flow.idle_s),
            format!("{}/{}", flow.original_packets, flow.reply_packets),
            format!("{}/{}", flow.original_bytes, flow.reply_bytes),
            flow.policy.clone(),
            flow.peer.to_string(),
            flow.pod.clone().unwrap_or_default(),
        ]);
    }
    table.text()
}

/// As socket addresses are written: those of IPv6 in brackets (RFC 5952, section 6).
pub(super) fn tuple(tuple: &Tuple) -> String {
    let Tuple { source, source_port, destination, destination_port } = tuple;
    let source = SocketAddr::new(*source, *source_port);
    let destination = SocketAddr::new(*destination, *destination_port);
    format!("{source} -> {destination}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(pod: &str, remote: &str, egress: &str) -> Flow {
        let [pod, remote, egress] = [pod, remote, egress].map(|text| text.parse().unwrap());
        Flow {
            worker: 1,
            protocol: "tcp".to_owned(),
            original: Tuple {
                source: pod,
                source_port: 41_000,
                destination: remote,
                destination_port: 8_000,
            },
            reply: Tuple {
                source: remote,
                source_port: 8_000,
                destination: egress,
                destination_port: 41_001,
            },
            state: "established".to_owned(),
            age_s: 65,
            idle_s: 2,
            original_packets: 5,
            original_bytes: 420,
            reply_packets: 4,
            reply_bytes: 990,
            policy: "app1".to_owned(),
            peer: [192, 168, 211, 128].into(),
            pod: Some("shop/cart-0".to_owned()),
        }
    }

    #[test]
    fn a_flow_has_both_tuples_and_both_directions_counters() {
        assert_eq!(
            table(&[flow("10.0.1.40", "203.0.113.10", "192.168.44.129")]),
            "Worker   Protocol   Original                               Reply                   \
             \u{20}                   State          Age   Idle   Packets     Bytes   Policy   \
             Peer              Pod\n\
             \u{20}    1   tcp        10.0.1.40:41000 -> 203.0.113.10:8000   203.0.113.10:8000 -> \
             192.168.44.129:41001   established   1m5s     2s       5/4   420/990   app1     \
             192.168.211.128   shop/cart-0\n"
        );
    }

    #[test]
    fn ipv6_addresses_are_told_from_their_ports() {
        let longest = "fd00:1000:2000:3000:4000:5000:6000:7000";
        let both = [
            flow("10.0.1.40", "203.0.113.10", "192.168.44.129"),
            flow(longest, "2001:db8:203::10", "2001:db8:44::129"),
        ];
        let text = table(&both);
        let expected = format!("[{longest}]:41000 -> [2001:db8:203::10]:8000   [2001:db8:203::10]");
        assert!(text.contains(&expected), "{text}");
        let state = |line: &str| line.find("established").or(line.find("State")).unwrap();
        let places: Vec<usize> = text.lines().map(state).collect();
        assert_eq!(places, [places[0]; 3], "{text}");
    }

    #[test]
    fn without_flows_there_are_only_headings() {
        assert_eq!(table(&[]).lines().count(), 1);
    }
}
