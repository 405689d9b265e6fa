//! Blocks against a list of what every pod has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::family::V4;

type Reply = Tuple<Ipv4Addr>;

const SECOND: Nanos = 1_000_000_000;
const REST_NS: Nanos = 60 * SECOND;
const EGRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

fn pod(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, number)
}

fn reply(remote: u8, port: u16) -> Reply {
    let source = Ipv4Addr::new(203, 0, 113, remote);
    Tuple { source, destination: EGRESS, source_port: 443, destination_port: port, protocol: 6 }
}

/// One worker's blocks with the flows that live in them, and what was told of both.
struct Rig {
    blocks: Blocks<V4>,
    random: Random,
    classes: Vec<u8>,
    egress: EgressAddress<V4>,
    now: Nanos,
    flows: BTreeMap<Reply, Ipv4Addr>,
    /// Whom the events say that a block belongs to.
    told: BTreeMap<u16, Ipv4Addr>,
    events: usize,
}

impl Rig {
    fn new(size: u16, per_pod: u8, classes: Vec<u8>, ports: (u16, u16)) -> Self {
        let hasher = Hasher::new([3, 5, 7, 11]);
        let (port_first, port_last) = ports;
        Self {
            blocks: Blocks::new(Run::of(size).unwrap(), per_pod, 1 << 16, hasher, true),
            random: Random::new(7),
            classes,
            egress: EgressAddress {
                address: EGRESS,
                port_first,
                port_last,
                own: true,
                announce: None,
            },
            now: 1_000 * SECOND,
            flows: BTreeMap::new(),
            told: BTreeMap::new(),
            events: 0,
        }
    }

    /// With every class, on all ports that an address can have.
    fn whole(size: u16, per_pod: u8) -> Self {
        Self::new(size, per_pod, (0..=u8::MAX).collect(), (1024, u16::MAX))
    }

    /// A pod opens a flow.
    fn open(&mut self, number: u8, remote: u8) -> Result<u16, DropReason> {
        let Self { blocks, random, classes, egress, now, flows, .. } = self;
        let wish = Wish { reply: reply(remote, 40_000), pod: pod(number), now: *now };
        let is_free = |reply: &Reply| !flows.contains_key(reply);
        let forecast = blocks.forecast(classes, egress, &wish, &is_free);
        let mut use_of = |reply: &Reply| if is_free(reply) { Use::Free } else { Use::Leased };
        let leased = blocks.lease(random, classes, egress, &wish, &mut use_of);
        assert_eq!(forecast, leased.is_ok());
        if let Ok(port) = leased {
            blocks.opened(EGRESS, port);
            assert_eq!(flows.insert(reply(remote, port), pod(number)), None);
        }
        self.hear();
        leased
    }

    fn end(&mut self, reply: &Reply) {
        let pod = self.flows.remove(reply).unwrap();
        self.blocks.ended(reply, pod, self.now);
        self.hear();
    }

    /// Time passes, with the calls that a worker makes.
    fn pass(&mut self, time: Nanos) {
        let until = self.now + time;
        while self.now < until {
            self.now += SECOND / 10;
            self.blocks.expire(self.now);
        }
        self.hear();
    }

    /// Every event is told to who had no word of it; then every flow is in a block of its pod.
    fn hear(&mut self) {
        let Self { blocks, told, flows, events, .. } = self;
        let lost = blocks.take(|BlockEvent { is_begin, block, .. }| {
            *events += 1;
            let IpAddr::V4(pod) = block.pod else { panic!("{block:?}") };
            match is_begin {
                true => assert_eq!(told.insert(block.first, pod), None, "{block:?}"),
                false => assert_eq!(told.remove(&block.first), Some(pod), "{block:?}"),
            }
        });
        assert_eq!(lost, 0);
        let run = blocks.run;
        for (reply, pod) in flows.iter() {
            assert_eq!(told.get(&run.first(reply.destination_port)), Some(pod), "{reply:?}");
        }
        assert_eq!(blocks.live() as usize, told.len());
    }

    fn blocks_of(&self, number: u8) -> usize {
        self.told.values().filter(|of| **of == pod(number)).count()
    }
}

#[test]
fn a_pod_stays_in_its_block_while_there_is_room() {
    let mut rig = Rig::whole(64, 4);
    let ports: BTreeSet<u16> = (0..64).map(|_| rig.open(40, 1).unwrap()).collect();
    assert_eq!((ports.len(), rig.blocks_of(40), rig.events), (64, 1, 1));
    // Towards another remote the same ports are free.
    assert!((0..64).all(|_| ports.contains(&rig.open(40, 2).unwrap())));
    assert_eq!(rig.events, 1);
    // Its 65th towards one asks for a second block; another pod has its own.
    let more = rig.open(40, 1).unwrap();
    assert!(!ports.contains(&more));
    let others = rig.open(41, 1).unwrap();
    assert_ne!(rig.blocks.run.first(others), rig.blocks.run.first(more));
    assert_eq!((rig.blocks_of(40), rig.blocks_of(41), rig.events), (2, 1, 3));
}

#[test]
fn ports_in_a_block_come_in_no_order() {
    let mut rig = Rig::whole(256, 1);
    let ports: Vec<u16> = (0..256).map(|_| rig.open(40, 1).unwrap()).collect();
    let ascending = ports.windows(2).filter(|pair| pair[1] == pair[0] + 1).count();
    assert!(ascending < 16, "{ascending} of 255 are followed by their neighbour");
}

#[test]
fn a_pod_has_no_more_blocks_than_it_may() {
    let mut rig = Rig::whole(8, 3);
    let ports: Vec<u16> = (0..24).map(|_| rig.open(40, 1).unwrap()).collect();
    assert_eq!(rig.open(40, 1), Err(DropReason::PortsExhausted));
    assert_eq!(rig.open(40, 1), Err(DropReason::PortsExhausted));
    assert!(rig.open(40, 2).is_ok() && rig.open(41, 1).is_ok());
    // A port that is free again is found.
    rig.end(&reply(1, ports[13]));
    assert_eq!(rig.open(40, 1), Ok(ports[13]));
    assert_eq!(rig.open(40, 1), Err(DropReason::PortsExhausted));
}

#[test]
fn a_block_rests_a_minute_and_is_its_pods_meanwhile() {
    let mut rig = Rig::whole(64, 4);
    let port = rig.open(40, 1).unwrap();
    rig.end(&reply(1, port));
    rig.pass(REST_NS - SECOND);
    assert_eq!(rig.blocks_of(40), 1);
    let again = rig.open(40, 1).unwrap();
    assert_eq!(rig.blocks.run.first(again), rig.blocks.run.first(port));
    rig.pass(2 * REST_NS);
    assert_eq!((rig.blocks_of(40), rig.events), (1, 1), "a flow lives in it");
    rig.end(&reply(1, again));
    rig.pass(REST_NS + 5 * SECOND);
    assert_eq!((rig.blocks_of(40), rig.events), (0, 2));
    assert!(rig.blocks.by_pod.groups() > 0 && rig.blocks.find_holder(pod(40), EGRESS).is_none());
}

#[test]
fn of_blocks_that_rest_the_one_that_rests_longest_goes_first() {
    let mut rig = Rig::new(64, 4, (0..=u8::MAX).collect(), (1024, 1024 + 3 * 64 - 1));
    let ports = [40, 41, 42].map(|pod| rig.open(pod, 1).unwrap());
    assert_eq!(rig.open(43, 1), Err(DropReason::PortsExhausted));
    for ended in [1, 0, 2] {
        rig.pass(SECOND);
        rig.end(&reply(1, ports[ended]));
    }
    let run = rig.blocks.run;
    let first = |port: Result<u16, DropReason>| run.first(port.unwrap());
    assert_eq!(first(rig.open(43, 1)), run.first(ports[1]));
    assert_eq!(first(rig.open(44, 1)), run.first(ports[0]));
    assert_eq!(first(rig.open(45, 1)), run.first(ports[2]));
    assert_eq!(rig.open(46, 1), Err(DropReason::PortsExhausted));
}

#[test]
fn only_whole_blocks_of_the_range_and_of_the_worker_are_given() {
    let classes: Vec<u8> = (0..=u8::MAX).filter(|class| class % 3 == 1).collect();
    let mut rig = Rig::new(32, 16, classes.clone(), (16_390, 29_999));
    let mut firsts = BTreeSet::new();
    for number in 0..=u8::MAX {
        if let Ok(port) = rig.open(number, 1) {
            firsts.insert(rig.blocks.run.first(port));
        }
    }
    let run = rig.blocks.run;
    let all = (0..=u16::MAX).step_by(32).filter(|first| {
        (16_390..=29_999).contains(first)
            && run.last(*first) <= 29_999
            && classes.contains(&run.class(*first))
    });
    assert_eq!(firsts, all.collect());
}

#[test]
fn room_that_another_address_gives_back_is_found() {
    let hasher = Hasher::new([3, 5, 7, 11]);
    // Room for one block in all.
    let mut blocks = Blocks::<V4>::new(Run::of(64).unwrap(), 1, 1, hasher, false);
    let (mut random, classes): (_, Vec<u8>) = (Random::new(1), (0..=u8::MAX).collect());
    let other = Ipv4Addr::new(198, 51, 100, 8);
    let mut open = |blocks: &mut Blocks<V4>, address, now| {
        let egress = EgressAddress {
            address,
            port_first: 1024,
            port_last: 9_999,
            own: true,
            announce: None,
        };
        let reply = Tuple { destination: address, ..reply(1, 40_000) };
        let wish = Wish { reply, pod: pod(40), now };
        blocks.lease(&mut random, &classes, &egress, &wish, &mut |_| Use::Free)
    };
    let port = open(&mut blocks, EGRESS, 0).unwrap();
    blocks.opened(EGRESS, port);
    assert_eq!(open(&mut blocks, other, 0), Err(DropReason::PortsExhausted));
    blocks.ended(&reply(1, port), pod(40), SECOND);
    let rested = SECOND + REST_NS + SECOND;
    blocks.expire(rested);
    assert_eq!(blocks.live(), 0);
    assert!(open(&mut blocks, other, rested).is_ok());
}

#[test]
fn flows_of_an_earlier_engine_go_on_in_blocks_of_their_pods() {
    let mut rig = Rig::whole(64, 1);
    let mut restored = |port, number| {
        rig.blocks.restored((EGRESS, port), pod(number), 900 * SECOND + Nanos::from(port))
    };
    assert_eq!(restored(4_100, 40), Ok(()));
    assert_eq!(restored(4_098, 40), Ok(()));
    assert_eq!(restored(4_101, 41), Err(NotRestored::PortBlock), "another pod's block");
    assert_eq!(restored(9_000, 40), Err(NotRestored::PortBlock), "one more than it may have");
    assert_eq!(restored(9_000, 41), Ok(()));
    assert_eq!(restored(0, 42), Ok(()), "it has no port");
    let mut page = Vec::new();
    assert_eq!(rig.blocks.page(0, 100, &mut page), None);
    page.sort_by_key(|block| block.first);
    let [first, second] = page[..] else { panic!("{page:?}") };
    let expected = PortBlock {
        pod: pod(40).into(),
        egress: EGRESS.into(),
        first: 4_096,
        last: 4_159,
        since_ns: 900 * SECOND + 4_098,
        flows: 2,
    };
    assert_eq!(first, expected);
    assert_eq!((second.first, second.flows), (8_960, 1));
    // What goes on without a word, as flows do, ends with one.
    rig.blocks.ended(&reply(1, 9_000), pod(41), rig.now);
    for _ in 0..100 {
        rig.now += SECOND;
        rig.blocks.expire(rig.now);
    }
    let mut ended = Vec::new();
    rig.blocks.take(|event| ended.push((event.is_begin, event.block.first)));
    assert_eq!(ended, [(false, 8_960)]);
}

#[test]
fn an_engine_without_events_keeps_none() {
    let hasher = Hasher::new([3, 5, 7, 11]);
    let mut blocks = Blocks::<V4>::new(Run::of(64).unwrap(), 1, 64, hasher, false);
    let egress = EgressAddress {
        address: EGRESS,
        port_first: 1024,
        port_last: 9_999,
        own: true,
        announce: None,
    };
    let wish = Wish { reply: reply(1, 40_000), pod: pod(40), now: 0 };
    let classes: Vec<u8> = (0..=u8::MAX).collect();
    blocks.lease(&mut Random::new(1), &classes, &egress, &wish, &mut |_| Use::Free).unwrap();
    assert_eq!(blocks.take(|event| panic!("{event:?}")), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Open { pod: u8, remote: u8 },
    End { which: u16 },
    Pass { seconds: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..12_u8, 0..3_u8).prop_map(|(pod, remote)| Step::Open { pod, remote }),
        4 => any::<u16>().prop_map(|which| Step::End { which }),
        1 => (1..90_u8).prop_map(|seconds| Step::Pass { seconds }),
    ]
}

proptest! {
    /// Few blocks, many pods: the rig checks after each step that every flow is in a block that is told to be
    /// its pod's. No flow is refused while its pod may have another block and one has no flow, or while a
    /// port is free in its own.
    #[test]
    fn every_flow_is_in_a_block_of_its_pod(
        size in prop_oneof![Just(8_u16), Just(16)],
        per_pod in 1..4_u8,
        count in 1..9_u16,
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut rig = Rig::new(size, per_pod, (0..=u8::MAX).collect(), (1024, 1024 + count * size - 1));
        for step in steps {
            match step {
                Step::Open { pod: number, remote } => {
                    let run = rig.blocks.run;
                    let used: BTreeSet<u16> =
                        rig.flows.keys().map(|reply| run.first(reply.destination_port)).collect();
                    let own: Vec<u16> = rig.told.iter().filter(|(_, of)| **of == pod(number)).map(|(first, _)| *first).collect();
                    let is_free = |port| !rig.flows.contains_key(&reply(remote, port));
                    let has_free = own.iter().any(|first| run.ports(*first).any(is_free));
                    let may_have_more = own.len() < usize::from(per_pod) && used.len() < usize::from(count);
                    let opened = rig.open(number, remote);
                    prop_assert_eq!(opened.is_ok(), has_free || may_have_more);
                }
                Step::End { which } if !rig.flows.is_empty() => {
                    let which = usize::from(which) % rig.flows.len();
                    let reply = *rig.flows.keys().nth(which).unwrap();
                    rig.end(&reply);
                }
                Step::End { .. } => {}
                Step::Pass { seconds } => rig.pass(Nanos::from(seconds) * SECOND),
            }
        }
        let flows: Vec<Reply> = rig.flows.keys().copied().collect();
        flows.iter().for_each(|reply| rig.end(reply));
        rig.pass(REST_NS + 10 * SECOND);
        prop_assert!(rig.told.is_empty(), "{:?}", rig.told);
        prop_assert_eq!(rig.blocks.live(), 0);
    }
}
