//! The rows of `spillway policies`: their order, their JSON, their pages.

use std::fmt::Write as _;

use std::net::IpAddr;

use spillway_api::{Document, IpFamily, PolicyRow, policy_page};

const EXAMPLE: &str = include_str!("example.yaml");

/// The last address of the family, where a policy has several.
fn last(_pod: IpAddr, family: IpFamily, addresses: &[IpAddr]) -> Option<IpAddr> {
    addresses.iter().rfind(|address| IpFamily::of(**address) == family).copied()
}

fn texts(rows: &[PolicyRow]) -> Vec<String> {
    let text = |row: &PolicyRow| {
        let PolicyRow { source_ip, destination_cidr, egress_ip, gateway_ip, policy } = row;
        format!("{source_ip} {destination_cidr} {egress_ip} {gateway_ip} {policy}")
    };
    rows.iter().map(text).collect()
}

fn all_rows(document: &Document, limit: u32) -> Vec<PolicyRow> {
    let mut rows = Vec::new();
    let mut cursor = Some(0);
    while let Some(start) = cursor {
        let page = policy_page(document, start, limit, &last);
        assert!(page.rows.len() <= limit as usize);
        rows.extend(page.rows);
        cursor = page.next;
    }
    rows
}

#[test]
fn rows_come_by_pod_and_then_prefix_with_exclusions_last() {
    let document = Document::parse(EXAMPLE).unwrap();
    let rows = texts(&all_rows(&document, 100));
    assert_eq!(
        rows,
        [
            "10.0.1.40 203.0.113.0/24 192.168.44.129 192.168.44.128 app1",
            "10.0.1.40 203.0.113.20/32 192.168.44.129 Excluded CIDR app1",
            "10.0.1.41 203.0.113.0/24 192.168.44.129 192.168.44.128 app1",
            "10.0.1.41 203.0.113.20/32 192.168.44.129 Excluded CIDR app1",
            "10.0.2.182 203.0.113.0/24 192.168.44.129 192.168.44.128 app1",
            "10.0.2.182 203.0.113.20/32 192.168.44.129 Excluded CIDR app1",
        ]
    );
}

#[test]
fn a_row_in_json_has_the_keys_of_cilium_dbg() {
    let document = Document::parse(EXAMPLE).unwrap();
    let row = &policy_page(&document, 1, 1, &last).rows[0];
    assert_eq!(
        serde_json::to_value(row).unwrap(),
        serde_json::json!({
            "sourceIP": "10.0.1.40",
            "destCIDR": "203.0.113.20/32",
            "egressIP": "192.168.44.129",
            "gatewayIP": "Excluded CIDR",
            "policy": "app1",
        })
    );
}

#[test]
fn a_row_shows_the_address_that_its_pod_has() {
    let text = EXAMPLE.replacen(
        "egress_address: 192.168.44.129",
        "egress_addresses: [192.168.44.129, 192.168.44.128]",
        1,
    );
    let row = &policy_page(&Document::parse(&text).unwrap(), 0, 1, &last).rows[0];
    assert_eq!(row.egress_ip.to_string(), "192.168.44.128");
}

#[test]
fn pages_of_every_size_give_the_same_rows() {
    let mut text = format!("{EXAMPLE}    pod_groups: []\n");
    for (name, pods, groups) in [
        ("none", "[]", "[]"),
        ("one", "[10.1.0.1]", "[]"),
        ("two", "[10.1.0.1, 10.1.0.2]", "[three, none]"),
    ] {
        let _ = write!(
            text,
            "  - name: {name}\n    egress_address: 192.168.44.128\n    destinations: [0.0.0.0/0, \
             10.0.0.0/8]\n    pods: {pods}\n    pod_groups: {groups}\n"
        );
    }
    text.push_str("pod_groups:\n  - {name: none, pods: []}\n");
    text.push_str("  - {name: three, pods: [10.2.0.1, 10.2.0.2, 10.2.0.3]}\n");
    let document = Document::parse(&text).unwrap();
    let whole = all_rows(&document, 1_000);
    assert_eq!(whole.len(), 6 + 2 + 4 + 6);
    assert_eq!(whole[17].source_ip.to_string(), "10.2.0.3");
    for limit in 1..=19 {
        assert_eq!(all_rows(&document, limit), whole, "limit {limit}");
    }
}

/// A pod's rows are those of its family; without an egress address of it, none is shown.
#[test]
fn each_address_of_a_pod_has_the_prefixes_of_its_family() {
    let document = Document::parse(include_str!("dual-stack.yaml")).unwrap();
    let whole = all_rows(&document, 100);
    assert_eq!(
        texts(&whole),
        [
            "10.0.1.40 0.0.0.0/0 192.168.44.129 192.168.44.128 app1",
            "10.0.1.40 203.0.113.20/32 192.168.44.129 Excluded CIDR app1",
            "fd00:10:1::40 ::/0 2001:db8:44::129 192.168.44.128 app1",
            "fd00:10:1::40 2001:db8:203::20/128 2001:db8:44::129 Excluded CIDR app1",
            "fd00:10:1::41 ::/0 2001:db8:44::129 192.168.44.128 app1",
            "fd00:10:1::41 2001:db8:203::20/128 2001:db8:44::129 Excluded CIDR app1",
            "10.0.1.40 198.51.100.0/24 192.168.44.129 192.168.44.128 without-ipv6",
            "fd00:10:1::40 2001:db8:198::/48 :: 192.168.44.128 without-ipv6",
        ]
    );
    for limit in 1..=9 {
        assert_eq!(all_rows(&document, limit), whole, "limit {limit}");
    }
}

#[test]
fn a_cursor_beyond_the_end_gives_nothing() {
    let document = Document::parse(EXAMPLE).unwrap();
    for cursor in [6, 7, u64::MAX] {
        let page = policy_page(&document, cursor, 0, &last);
        assert!(page.rows.is_empty() && page.next.is_none(), "cursor {cursor}");
    }
}

/// With NAT64 a pod's IPv6 address has the IPv4 prefixes too, and leaves with an IPv4 address.
#[test]
fn ipv6_addresses_have_ipv4_prefixes_in_the_nat64_prefix() {
    let text = include_str!("ipv6.yaml");
    let whole = all_rows(&Document::parse(text).unwrap(), 100);
    assert_eq!(
        texts(&whole),
        [
            "fd00:10:1::40 2001:db8:203::/64 :: fd00:44::128 app1",
            "fd00:10:1::40 64:ff9b::cb00:7100/120 192.168.44.129 fd00:44::128 app1",
            "fd00:10:1::40 64:ff9b::cb00:7114/128 192.168.44.129 Excluded CIDR app1",
            "10.0.1.40 203.0.113.0/24 192.168.44.129 fd00:44::128 app1",
            "10.0.1.40 203.0.113.20/32 192.168.44.129 Excluded CIDR app1",
        ]
    );
    let without = text.replacen("destinations: [203.0.113.0/24, ", "destinations: [", 1);
    let without = all_rows(&Document::parse(&without).unwrap(), 100);
    assert_eq!(without.len(), 3, "{without:?}");
    for limit in 1..=5 {
        assert_eq!(all_rows(&Document::parse(text).unwrap(), limit), whole, "limit {limit}");
    }
}
