//! What more flows use than are counted for one answer.

use std::time::Duration;

use spillway_api::{IpFamily, Usage};
use spillway_testing::{bind_udp, wait_until};

use crate::packets::{egress, frame, server};
use crate::{GATEWAY, NODE, Rig, SERVER_PORT, WINDOW, state};

const WITHIN: Duration = Duration::from_secs(30);

/// More than are counted at once.
const MANY: u16 = 40_000;

/// Flows, and the packets they have carried from pods: of all egress addresses, and of all policies.
fn sums(usage: &Usage) -> [(u64, u64); 2] {
    let egress = usage.egress_addresses.iter().map(|of| (of.flows, of.traffic.original_packets));
    let policies = usage.policies.iter().map(|of| (of.flows, of.traffic.original_packets));
    let add = |sum: (u64, u64), of: (u64, u64)| (sum.0 + of.0, sum.1 + of.1);
    [egress.fold((0, 0), add), policies.fold((0, 0), add)]
}

#[test]
fn many_flows_are_counted_a_little_at_a_time() {
    let rig = Rig::new("census", true);
    // However long this takes here, none ends.
    let patient = state(2, &[], IpFamily::ALL.map(egress)) + "    timeouts: {udp: 3600}\n";
    rig.client().put_state(patient).unwrap();
    let servers = IpFamily::ALL.map(server);
    // Nobody reads them; without them the router would also receive that nobody is there.
    let _servers = servers.map(|server| {
        let bind = |port| bind_udp((server, port));
        rig.outside.enter(|| [SERVER_PORT, SERVER_PORT + 1].map(bind))
    });
    let node = rig.node.enter(|| bind_udp((NODE, 8472)));
    let mut client = rig.client();
    for first in (0..MANY).step_by(WINDOW.into()) {
        for flow in first..first + WINDOW {
            node.send_to(&frame(flow, 0), (GATEWAY, 8472)).unwrap();
        }
        wait_until("they have begun", WITHIN, || {
            let workers = client.status().unwrap().workers;
            workers.iter().map(|worker| worker.flows).sum::<u64>() == u64::from(first + WINDOW)
        });
    }

    let first = client.usage().unwrap();
    assert_eq!(first, Usage { counting: true, ..Usage::default() });
    let usage = client.usage_counted_anew().unwrap();
    assert!(usage.counted && !usage.counting);
    assert_eq!(sums(&usage), [(MANY.into(), MANY.into()); 2]);
    // Who asks soon again gets the same. Then they are counted anew, and until they are so is the same there.
    assert_eq!(client.usage().unwrap(), usage);
    wait_until("they are counted anew", WITHIN, || client.usage().unwrap().counting);
    let meanwhile = client.usage().unwrap();
    assert_eq!(sums(&meanwhile), sums(&usage));
    let anew = client.usage_counted_anew().unwrap();
    assert!(anew.counted_at_ms >= usage.counted_at_ms + 5_000);
    assert_eq!(sums(&anew), sums(&usage));
}
