//! Ten million packets through the router: none is lost, none is wrong, no frame is leaked.
//!
//! BPF programs ask, answer and count (millions.bpf.c), so that the router has the processors.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use libbpf_rs::{MapCore as _, MapFlags, MapHandle, Object};
use spillway_api::IpFamily;
use spillway_testing::wait_until;
use spillway_xdp::device::probe;

use crate::packets::{ip_header, on_the_wire, pod, server};
use crate::{POD_MAC, Rig, SERVER_PORT, assert_all_forwarded, live};

/// Packets that a pod sends; each is answered.
const QUESTIONS: u64 = 5_000_000;

/// Their flows, as in millions.bpf.c.
const FLOWS: u64 = 8192;

/// Packets under way at a time: less than a veth's queue (256), so that none is lost there.
const WINDOW: u32 = 192;

/// What `struct traffic` in millions.bpf.c counts.
#[derive(Debug)]
struct Traffic {
    reflected: u64,
    right: u64,
    right_sequences: u64,
    wrong: u64,
}

impl Traffic {
    fn read(map: &MapHandle) -> Self {
        let value = map.lookup(&[0; 4], MapFlags::ANY).unwrap().unwrap();
        let words = value.chunks(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap()));
        let mut counts = words.skip(2);
        let mut next = || counts.next().unwrap();
        Self { reflected: next(), right: next(), right_sequences: next(), wrong: next() }
    }

    /// Nothing is sent yet.
    fn write(map: &MapHandle, question: &[u8]) {
        let numbers = [QUESTIONS, 0, 0, 0, 0, 0];
        let mut value: Vec<u8> = numbers.into_iter().flat_map(u64::to_ne_bytes).collect();
        value.extend(question);
        value.resize(map.value_size() as usize, 0);
        map.update(&[0; 4], &value, MapFlags::ANY).unwrap();
    }
}

/// The loaded programs of one namespace, and one of them attached to its eth0.
struct Side {
    object: Object,
    traffic: MapHandle,
    link: OwnedFd,
}

impl Side {
    /// In the calling thread's namespace.
    fn new(attached: &str) -> Self {
        let object = live::load("millions.bpf.c");
        let map = object.maps().find(|map| map.name() == "traffic").unwrap();
        let traffic = MapHandle::try_from(&map).unwrap();
        let link =
            live::program(&object, attached).attach_xdp(probe("eth0").unwrap().ifindex as i32);
        let link = link.unwrap().as_fd().try_clone_to_owned().unwrap();
        Self { object, traffic, link }
    }

    /// Sends the first questions: one, and when all neighbours are known, the others.
    fn start(&self, question: &[u8]) {
        let start = live::program(&self.object, "start");
        for count in [1, WINDOW - 1] {
            live::send(&start, question, count);
            wait_until("the first answer", Duration::from_secs(10), || {
                Traffic::read(&self.traffic).right > 0
            });
        }
    }
}

/// Waits for the last answer, as long as answers come.
fn last_answer(rig: &Rig, map: &MapHandle) -> Traffic {
    let mut last = (Traffic::read(map), Instant::now());
    loop {
        let now = Traffic::read(map);
        if now.right + now.wrong == QUESTIONS {
            return now;
        }
        if now.right > last.0.right {
            last = (now, Instant::now());
        } else if last.1.elapsed() > Duration::from_secs(10) {
            let (status, drops) = (rig.client().status().unwrap(), rig.client().drops().unwrap());
            let dropped: Vec<_> = drops.engine.iter().filter(|drop| drop.packets > 0).collect();
            panic!("packets are lost: {now:?}, {dropped:?}, {:?}", status.devices);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The first question: what a node's kernel sends for a pod. Pod's port, label, and their
/// complements add up to nothing, so that one UDP checksum is right for all questions.
fn question(rig: &Rig) -> Vec<u8> {
    let label = [0, 0, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
    let mut inner = vec![8, 0, 0, 0, 0, 0x9c, 0x40, 0];
    PacketBuilder::ethernet2(POD_MAC, [2, 0, 0, 0, 0, 1])
        .ip(ip_header(pod(0), server(IpFamily::V4), 63))
        .udp(0, SERVER_PORT)
        .write(&mut inner, &label)
        .unwrap();
    on_the_wire(rig, &inner)
}

#[test]
fn ten_million_packets_pass_and_every_frame_is_accounted_for() {
    let rig = Rig::new("million", true);
    let server = rig.outside.enter(|| {
        let side = Side::new("reflect");
        (side.traffic, side.link)
    });
    let question = question(&rig);
    let (asked, _link) = rig.node.enter(|| {
        let side = Side::new("ask");
        Traffic::write(&side.traffic, &question);
        side.start(&question);
        (side.traffic, side.link)
    });
    let traffic = last_answer(&rig, &asked);
    assert_eq!((traffic.right, traffic.wrong), (QUESTIONS, 0));
    // No packet came twice in the place of another.
    assert_eq!(traffic.right_sequences, QUESTIONS * (QUESTIONS - 1) / 2);
    assert_eq!(Traffic::read(&server.0).reflected, QUESTIONS);
    assert_all_forwarded(&rig, QUESTIONS, FLOWS);
}
