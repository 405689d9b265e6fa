//! `spillway port-blocks`.

use spillway_api::{Client, ClientError, PortBlock};

use super::duration;
use super::every_page;
use super::table::Align::{Left, Right};
use super::table::Table;

/// Every block, page by page.
pub(super) fn all(client: &mut Client) -> Result<Vec<PortBlock>, ClientError> {
    every_page(|cursor| client.port_blocks(cursor).map(|page| (page.rows, page.next)))
}

/// The blocks for people.
pub(super) fn table(blocks: &[PortBlock]) -> String {
    let mut table = Table::new([
        ("Worker", Right),
        ("Egress Address", Left),
        ("Ports", Left),
        ("Flows", Right),
        ("Age", Right),
        ("Address", Left),
        ("Pod", Left),
    ]);
    for block in blocks {
        table.row([
            block.worker.to_string(),
            block.egress_address.to_string(),
            format!("{}-{}", block.first_port, block.last_port),
            block.flows.to_string(),
            duration(block.age_s),
            block.pod_address.to_string(),
            block.pod.clone().unwrap_or_default(),
        ]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_says_whose_ports_these_are() {
        let block = PortBlock {
            worker: 1,
            pod: Some("shop/cart-0".to_owned()),
            pod_address: [10, 0, 1, 40].into(),
            egress_address: [192, 168, 44, 129].into(),
            first_port: 4_096,
            last_port: 4_159,
            flows: 12,
            age_s: 65,
        };
        assert_eq!(
            table(&[block]),
            "Worker   Egress Address   Ports       Flows    Age   Address     Pod\n\
             \u{20}    1   192.168.44.129   4096-4159      12   1m5s   10.0.1.40   shop/cart-0\n"
        );
    }
}
