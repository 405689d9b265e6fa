//! `spillway policies`: the columns of `cilium-dbg bpf egress list`, and the policy's name.

use spillway_api::{Client, ClientError, PolicyRow};

use super::every_page;
use super::table::Align::Left;
use super::table::Table;

/// Every row, page by page.
pub(super) fn all(client: &mut Client) -> Result<Vec<PolicyRow>, ClientError> {
    every_page(|cursor| client.policies(cursor).map(|page| (page.rows, page.next)))
}

/// The rows for people.
pub(super) fn table(rows: &[PolicyRow]) -> String {
    let mut table = Table::new([
        ("Source IP", Left),
        ("Destination CIDR", Left),
        ("Egress IP", Left),
        ("Gateway IP", Left),
        ("Policy", Left),
    ]);
    for row in rows {
        table.row([
            row.source_ip.to_string(),
            row.destination_cidr.to_string(),
            egress(row),
            row.gateway_ip.clone(),
            row.policy.clone(),
        ]);
    }
    table.text()
}

/// Without an egress address of the family, its traffic is dropped.
fn egress(row: &PolicyRow) -> String {
    match row.egress_ip {
        none if none.is_unspecified() => "none: dropped".to_owned(),
        address => address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use spillway_api::{Document, IpFamily, policy_page};

    use crate::compile::pairing;
    use crate::numbers::Assigned;

    use super::*;

    fn paired(pod: IpAddr, outside: IpFamily, addresses: &[IpAddr]) -> Option<IpAddr> {
        pairing(&Assigned::default(), pod, outside, addresses)
    }

    #[test]
    fn rows_have_the_columns_of_cilium_dbg() {
        let document = Document::parse(include_str!("../../api/tests/example.yaml")).unwrap();
        assert_eq!(
            table(&policy_page(&document, 0, 3, &paired).rows),
            "Source IP   Destination CIDR   Egress IP        Gateway IP       Policy\n\
             10.0.1.40   203.0.113.0/24     192.168.44.129   192.168.44.128   app1\n\
             10.0.1.40   203.0.113.20/32    192.168.44.129   Excluded CIDR    app1\n\
             10.0.1.41   203.0.113.0/24     192.168.44.129   192.168.44.128   app1\n"
        );
    }

    #[test]
    fn what_has_no_egress_address_of_its_family_is_shown_as_dropped() {
        let text = include_str!("../../api/tests/dual-stack.yaml");
        let document = Document::parse(text).unwrap();
        let rows = policy_page(&document, 6, 9, &paired);
        assert_eq!(
            table(&rows.rows),
            "Source IP       Destination CIDR    Egress IP        Gateway IP       Policy\n\
             10.0.1.40       198.51.100.0/24     192.168.44.129   192.168.44.128   without-ipv6\n\
             fd00:10:1::40   2001:db8:198::/48   none: dropped    192.168.44.128   without-ipv6\n"
        );
    }
}
