//! Documents that change while packets flow: large ones, one after the other.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use spillway_api::IpFamily;

use crate::packets::egress;
use crate::{Rig, converse};

/// Pods and destinations of a policy that comes and goes.
const PODS: u32 = 10_000;
const DESTINATIONS: u32 = 1_000;

/// Ends the author of documents, however the conversation ends.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The policy of the first document's pods, and every other time another one.
fn document(first: &str, generation: u64) -> String {
    let mut document = first.replace("generation: 1\n", &format!("generation: {generation}\n"));
    if generation.is_multiple_of(2) {
        let list = |from: u32, count: u32, step: u32, end: &str| {
            let addresses = (0..count).map(|number| {
                std::net::Ipv4Addr::from_bits(from + number * step).to_string() + end
            });
            addresses.collect::<Vec<_>>().join(", ")
        };
        let destinations = list(0x0800_0000 + generation as u32, DESTINATIONS, 4096, "/32");
        let pods = list(0x0a64_0000, PODS, 1, "");
        writeln!(
            document,
            "  - name: other\n    egress_address: {}\n    destinations: [{destinations}]\n    \
             pods: [{pods}]",
            egress(IpFamily::V4)
        )
        .unwrap();
    }
    document
}

#[test]
fn documents_of_ten_thousand_pods_come_and_go_and_no_packet_is_lost() {
    let rig = Rig::new("documents", true);
    let first = std::fs::read_to_string(rig.directory.path().join("state.yaml")).unwrap();
    let done = AtomicBool::new(false);
    let put = std::thread::scope(|scope| {
        let author = scope.spawn(|| {
            let mut put = 0;
            while !done.load(Ordering::Relaxed) || put < 2 {
                rig.client().put_state(document(&first, 2 + put)).unwrap();
                put += 1;
            }
            put
        });
        let conversation = Done(&done);
        converse(&rig);
        drop(conversation);
        author.join().unwrap()
    });
    assert_eq!(rig.client().status().unwrap().generation, Some(1 + put));
}
