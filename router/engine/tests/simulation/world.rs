//! The world of a history: pods, remotes, workers, and what is on its way.

mod restart;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use spillway_engine::policy::{NatOptions, Policies, Policy};
use spillway_engine::steer::{KIND_TUNNEL, REPLY_IP_OFFSET, TUNNEL_IP_OFFSET};
use spillway_engine::tables::EgressAddress;
use spillway_engine::{DropReason, EngineConfig, Tuple};

use crate::common::build::{Body, End, changed, cut, ethernet, packet, vxlan};
use crate::common::cluster::{Cluster, Outcome};
use crate::common::gateway::*;
use crate::common::random::Random;
use crate::model::{Flow, Life};

const PODS: [Ipv4Addr; 3] = [POD, OTHER_POD, Ipv4Addr::new(10, 0, 2, 182)];
const REMOTES: [End; 3] =
    [(REMOTE, 443), (Ipv4Addr::new(203, 0, 113, 51), 443), (Ipv4Addr::new(198, 18, 0, 9), 53)];
const PEERS: [(Ipv4Addr, [u8; 6]); 2] = [(PEER, PEER_MAC), (DIRECT_PEER, DIRECT_PEER_MAC)];
/// The egress addresses of a policy.
type Egress = &'static [Ipv4Addr];
const ONE: Egress = &[EGRESS];
const OTHER: Egress = &[OTHER_EGRESS];
const BOTH: Egress = &[EGRESS, OTHER_EGRESS];

const FIRST: &str = "203.0.113.0/24";
const SECOND_NET: &str = "198.18.0.0/15";

/// How long a port rests, and a little longer.
const REST: u64 = 61 * SECOND;

/// What happened, so that a run can say that everything did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) forwarded: u64,
    pub(crate) replied: u64,
    pub(crate) flows: u64,
    pub(crate) own_ports: u64,
    pub(crate) adopted: u64,
    pub(crate) fragments: u64,
    pub(crate) restored: u64,
    /// Flows that began in the middle of a connection.
    pub(crate) picked_up: u64,
    pub(crate) drops: BTreeMap<DropReason, u64>,
}

impl Totals {
    pub(crate) fn add(&mut self, other: &Self) {
        self.forwarded += other.forwarded;
        self.replied += other.replied;
        self.flows += other.flows;
        self.own_ports += other.own_ports;
        self.adopted += other.adopted;
        self.fragments += other.fragments;
        self.restored += other.restored;
        self.picked_up += other.picked_up;
        for (reason, count) in &other.drops {
            *self.drops.entry(*reason).or_default() += count;
        }
    }

    pub(crate) fn assert_everything_happened(&self) {
        use DropReason::*;
        assert!(self.forwarded > 10_000 && self.replied > 10_000, "{self:?}");
        assert!(self.fragments > 10_000, "{self:?}");
        assert!(self.adopted > 300, "{self:?}");
        assert!(self.restored > 1000, "{self:?}");
        assert!(self.own_ports > 1000 && self.flows - self.own_ports > 1000, "{self:?}");
        assert!(self.picked_up > 1000, "{self:?}");
        for reason in [
            TcpNotSyn,
            NoPolicy,
            NoEgressAddress,
            Deselected,
            NoFlow,
            PortsExhausted,
            FlowTableFull,
        ] {
            assert!(
                self.drops.get(&reason).is_some_and(|count| *count > 50),
                "{reason:?}: {self:?}"
            );
        }
    }
}

pub(crate) struct World {
    random: Random,
    cluster: Cluster,
    flows_max: u32,
    /// When the last whole sweep began.
    swept: u64,
    /// Each pod's egress addresses, if a policy selects it.
    selected: [Option<Egress>; 3],
    /// The address that a pod has of such a list: by its first flow, then for good.
    paired: BTreeMap<(Ipv4Addr, Egress), Ipv4Addr>,
    covers_second: bool,
    /// Whether policies pick connections up in the middle.
    picks_up: bool,
    /// By reply tuple.
    flows: BTreeMap<Tuple, Flow>,
    /// Who had a reply tuple last, and until when it rests, perhaps.
    had: BTreeMap<Tuple, (Ipv4Addr, u64)>,
    /// Packets of remotes on their way: late ones, doubled ones, in any order.
    under_way: Vec<(Body, Tuple)>,
    totals: Totals,
}

impl World {
    pub(crate) fn new(mut random: Random) -> Self {
        let workers = random.pick(&[1, 2, 3, 4_u8]);
        let flows_max = random.pick(&[8, 64, 1024]);
        let (port_first, port_last) =
            random.pick(&[(1024, 65_535), (16_384, 29_999), (40_000, 40_031), (40_000, 40_007)]);
        let mut input = tables();
        let egress =
            |address| EgressAddress { address, port_first, port_last, own: true, announce: None };
        input.v4.egress_addresses = vec![egress(EGRESS), egress(OTHER_EGRESS)];
        let mut world = Self {
            cluster: Cluster::new(workers, EngineConfig { flows_max, ..config() }, input),
            random,
            flows_max,
            swept: 0,
            selected: [Some(ONE); 3],
            paired: BTreeMap::new(),
            covers_second: true,
            picks_up: false,
            flows: BTreeMap::new(),
            had: BTreeMap::new(),
            under_way: Vec::new(),
            totals: Totals::default(),
        };
        world.publish();
        world
    }

    /// One event.
    pub(crate) fn step(&mut self) {
        match self.random.below(100) {
            0..55 => self.pod_sends(),
            55..90 => self.remote_arrives(),
            90 if self.random.one_in(4) => self.restart(),
            90..94 => self.cluster.now += self.random.pick(&[SECOND / 1000, SECOND, 9 * SECOND]),
            94..97 => self.sweep(),
            97 => {
                self.cluster.now += self.random.pick(&[65 * SECOND, 310 * SECOND, 8_000 * SECOND]);
            }
            98 => self.choose_policies(),
            _ => self.toggle_egress(),
        }
    }

    /// Everything ends when nobody speaks any more, and the sums close.
    pub(crate) fn finish(mut self) -> Totals {
        self.check_sums();
        self.cluster.now += 8_000 * SECOND;
        self.sweep();
        assert!(self.cluster.engines.iter().all(|engine| engine.counters().flows_live == 0));
        self.totals
    }

    fn check_sums(&self) {
        self.cluster.assert_sums_close();
        for engine in &self.cluster.engines {
            let counters = engine.counters();
            let ended = counters.flows_expired + counters.flows_deselected;
            let begun = counters.flows_created + counters.flows_restored;
            assert_eq!(counters.flows_live, begun - ended);
        }
    }

    /// A whole pass, with the calls of an idle worker.
    fn sweep(&mut self) {
        self.swept = self.cluster.now;
        assert_eq!(self.cluster.pass(5), 0, "nothing waits");
    }

    fn choose_policies(&mut self) {
        for place in 0..PODS.len() {
            self.selected[place] = self.random.pick(&[
                Some(ONE),
                Some(ONE),
                Some(OTHER),
                Some(BOTH),
                Some(BOTH),
                None,
            ]);
        }
        self.covers_second = !self.random.one_in(3);
        self.picks_up = self.random.one_in(3);
        self.publish();
    }

    fn toggle_egress(&mut self) {
        match self.cluster.input.v4.egress_addresses.len() {
            2 => drop(self.cluster.input.v4.egress_addresses.pop()),
            _ => {
                let first = self.cluster.input.v4.egress_addresses[0].clone();
                let other = EgressAddress { address: OTHER_EGRESS, ..first };
                self.cluster.input.v4.egress_addresses.push(other);
            }
        }
        self.publish();
    }

    fn publish(&mut self) {
        let destinations: &[&str] =
            if self.covers_second { &[FIRST, SECOND_NET] } else { &[FIRST] };
        let policies = PODS.iter().zip(self.selected).filter_map(|(pod, egress)| {
            let egress_addresses = egress?.to_vec();
            let options = NatOptions { midstream_pickup: self.picks_up, ..NatOptions::default() };
            Some(Policy { egress_addresses, options, ..policy(EGRESS, &[*pod], destinations) })
        });
        self.cluster.input.v4.policies = Policies::new(policies.collect(), &[]);
        self.cluster.publish();
    }

    /// The egress addresses for a pod's new flows, if its traffic there is selected.
    fn policy(&self, pod: Ipv4Addr, remote: Ipv4Addr) -> Option<Egress> {
        let place = PODS.iter().position(|each| *each == pod).unwrap();
        let is_covered = remote.octets()[0] == 203 || self.covers_second;
        self.selected[place].filter(|_| is_covered)
    }

    fn egress(&self, address: Ipv4Addr) -> Option<&EgressAddress> {
        self.cluster.input.v4.egress_addresses.iter().find(|egress| egress.address == address)
    }

    fn worker(&self, port: u16) -> usize {
        self.cluster.worker(port)
    }

    /// The flow must end with its next packet.
    fn is_deselected(&self, flow: &Flow) -> bool {
        self.policy(flow.original.source, flow.original.destination).is_none()
            || self.egress(flow.egress).is_none()
    }

    #[track_caller]
    fn process(&mut self, worker: usize, frame: Vec<u8>) -> Outcome {
        // Whatever comes whole may come in fragments.
        let outcome = match frame[ip_offset(&frame) + 9] != 6 && self.random.one_in(8) {
            true => self.in_fragments(&frame),
            false => self.cluster.process(worker, frame),
        };
        if let Err(reason) = outcome {
            *self.totals.drops.entry(reason).or_default() += 1;
        }
        outcome
    }

    /// The same frame in fragments, in any order; what leaves is put together again.
    #[track_caller]
    fn in_fragments(&mut self, frame: &[u8]) -> Outcome {
        let (head, packet) = frame.split_at(ip_offset(frame));
        let step = self.random.pick(&[8, 16, 24]);
        let parts = cut(packet, step).into_iter().map(|part| (self.random.below(1 << 30), part));
        let mut parts: Vec<_> = parts.collect();
        parts.sort();
        let worker = self.cluster.worker(0);
        let frames = parts.iter().map(|(_, part)| [head, part.as_slice()].concat());
        let outcomes: Vec<Outcome> =
            frames.flat_map(|frame| self.cluster.receive(worker, frame)).collect();
        assert_eq!(outcomes.len(), parts.len());
        self.totals.fragments += parts.len() as u64;
        // The first to leave, or to be dropped, is the first fragment.
        if outcomes[0].is_err() {
            assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
            return outcomes[0].clone();
        }
        let frames: Vec<_> = outcomes.into_iter().map(Result::unwrap).collect();
        Ok(put_together(&frames))
    }

    fn forget(&mut self, reply: &Tuple) {
        if let Some(flow) = self.flows.remove(reply) {
            self.had.insert(*reply, (flow.original.source, self.cluster.now + REST));
        }
    }

    fn pod_sends(&mut self) {
        let original = self.some_original();
        let bodies: &[Body] = match original.protocol {
            6 => &[Body::Syn, Body::Ack, Body::AckOf(5_000_000), Body::Ack, Body::Fin, Body::Rst],
            17 => &[Body::Udp, Body::UdpWithoutChecksum],
            _ => &[Body::EchoRequest],
        };
        let body = self.random.pick(bodies);
        let (pod, port) = (original.source, original.source_port);
        let remote = (original.destination, original.destination_port);
        let (peer, _) = self.random.pick(&PEERS);
        let frame = tunnel_frame_from(peer, POD_MAC, VNI, &packet(body, (pod, port), remote, 64));
        let known = self.flows.values().find(|flow| flow.original == original).cloned();
        let life =
            known.as_ref().map_or(Life::Gone, |flow| flow.life(self.cluster.now, self.swept));
        let created = self.cluster.sum(|counters| counters.flows_created);
        let outcome = self.process(self.worker(port), frame);
        let is_new = self.cluster.sum(|counters| counters.flows_created) > created;
        if let Some(flow) = known.filter(|_| life != Life::Gone) {
            let expected = match self.is_deselected(&flow) {
                true => Err(DropReason::Deselected),
                false => Ok(outside(body, &flow, remote)),
            };
            if outcome == expected && !is_new {
                return self.pod_has_sent(flow, body, peer, outcome.is_ok());
            }
            assert_eq!(life, Life::Perhaps, "{original:?}, {body:?}: {outcome:?}");
            self.forget(&flow.reply());
        } else if let Some(flow) = self.flows.values().find(|flow| flow.original == original) {
            self.forget(&flow.reply());
        }
        self.opens(original, body, peer, outcome);
    }

    /// Of a flow that is there, or of any.
    fn some_original(&mut self) -> Tuple {
        if !self.flows.is_empty() && !self.random.one_in(3) {
            let place = self.random.below(self.flows.len());
            return self.flows.values().nth(place).unwrap().original;
        }
        let protocol = self.random.pick(&[6, 6, 17, 1]);
        let (destination, destination_port) = self.random.pick(&REMOTES);
        Tuple {
            source: self.random.pick(&PODS),
            destination,
            source_port: 39_990 + u16::try_from(self.random.below(60)).unwrap(),
            destination_port: if protocol == 1 { 0 } else { destination_port },
            protocol,
        }
    }

    fn pod_has_sent(&mut self, flow: Flow, body: Body, peer: Ipv4Addr, is_forwarded: bool) {
        let reply = flow.reply();
        if !is_forwarded {
            return self.forget(&reply);
        }
        self.totals.forwarded += 1;
        let flow = self.flows.entry(reply).or_insert(flow);
        flow.peer = peer;
        flow.sent(body, self.cluster.now);
        self.answer(body, reply);
    }

    /// The remote answers, perhaps; the answer may get lost, or come twice.
    fn answer(&mut self, body: Body, reply: Tuple) {
        let answers: &[Body] = match body {
            Body::Syn => &[Body::SynAck, Body::Rst],
            Body::Ack | Body::AckOf(_) => {
                &[Body::Ack, Body::Ack, Body::Fin, Body::Rst, Body::RstAt(5_000_001)]
            }
            Body::Fin => &[Body::Ack, Body::Fin],
            Body::EchoRequest => &[Body::EchoReply],
            Body::Udp | Body::UdpWithoutChecksum => &[Body::Udp],
            _ => &[],
        };
        if !answers.is_empty() && !self.random.one_in(10) {
            let answer = self.random.pick(answers);
            self.under_way.push((answer, reply));
        }
    }

    /// A packet of no flow that is known to live.
    fn opens(&mut self, original: Tuple, body: Body, peer: Ipv4Addr, outcome: Outcome) {
        let policy = self.policy(original.source, original.destination);
        let is_picked_up = policy.is_some() && self.picks_up && body != Body::Rst;
        let reason = if original.protocol == 6 && body != Body::Syn && !is_picked_up {
            DropReason::TcpNotSyn
        } else if let Some(egress) = policy {
            let is_in_the_middle = original.protocol == 6 && body != Body::Syn;
            self.totals.picked_up += u64::from(is_in_the_middle && outcome.is_ok());
            // Refused before anyone saw which address is the pod's: nothing more is known.
            let Some(address) = self.paired(original.source, egress, &outcome) else { return };
            match (self.egress(address).cloned(), outcome) {
                (Some(egress), outcome) => {
                    return self.opened(original, body, peer, &egress, outcome);
                }
                (None, outcome) => return assert_eq!(outcome, Err(DropReason::NoEgressAddress)),
            }
        } else {
            DropReason::NoPolicy
        };
        assert_eq!(outcome, Err(reason), "{original:?}");
    }

    /// The address that a pod has of a list: what its first packet says, then always the same.
    fn paired(&mut self, pod: Ipv4Addr, egress: Egress, outcome: &Outcome) -> Option<Ipv4Addr> {
        if let [only] = egress {
            return Some(*only);
        }
        let sent = outcome.as_ref().ok().map(|(_, frame)| {
            let address = <[u8; 4]>::try_from(&frame[26..30]).unwrap();
            Ipv4Addr::from(address)
        });
        let known = self.paired.get(&(pod, egress)).copied().or(sent);
        assert!(known.is_none_or(|address| egress.contains(&address)), "{known:?}");
        self.paired.extend(known.map(|address| ((pod, egress), address)));
        known
    }

    /// A flow may be opened: there is room and a port, or there is none.
    fn opened(
        &mut self,
        original: Tuple,
        body: Body,
        peer: Ipv4Addr,
        egress: &EgressAddress,
        outcome: Outcome,
    ) {
        let worker = self.worker(original.source_port);
        let range = egress.port_first..=egress.port_last;
        let with = |port| Flow::new(original, egress.address, port, peer);
        let is_taken = |port: u16, lives: &[Life]| {
            let flow = self.flows.get(&with(port).reply());
            flow.is_some_and(|flow| lives.contains(&flow.life(self.cluster.now, self.swept)))
        };
        let (device, frame) = match outcome {
            Err(DropReason::FlowTableFull) => {
                let live = self.cluster.engines[worker].counters().flows_live;
                return assert_eq!(live, u64::from(self.flows_max));
            }
            Err(reason) => {
                assert_eq!(reason, DropReason::PortsExhausted);
                let full = u64::from(self.flows_max);
                let has_room =
                    |worker: usize| self.cluster.engines[worker].counters().flows_live < full;
                let mut range = range.filter(|port| has_room(self.worker(*port)));
                let free = range.find(|port| !is_taken(*port, &[Life::Live, Life::Perhaps]));
                return assert_eq!(free, None, "{original:?}");
            }
            Ok(sent) => sent,
        };
        let port = if original.protocol == 1 {
            u16::from_be_bytes([frame[38], frame[39]])
        } else {
            u16::from_be_bytes([frame[34], frame[35]])
        };
        assert!(range.contains(&port), "{port}");
        // Another worker's only when this one had none.
        if self.worker(port) != worker {
            let mut own = range.clone().filter(|port| self.worker(*port) == worker);
            let free = own.find(|port| !is_taken(*port, &[Life::Live, Life::Perhaps]));
            assert_eq!(free, None, "{original:?}");
            self.totals.adopted += 1;
        }
        assert!(!is_taken(port, &[Life::Live]), "{port} is another flow's: {original:?}");
        let own = original.source_port;
        let last = self.flows.get(&with(own).reply()).map(|flow| flow.original.source);
        let had = self.had.get(&with(own).reply()).filter(|(_, until)| self.cluster.now < *until);
        let rests = last.or(had.map(|(pod, _)| *pod)).is_some_and(|pod| pod != original.source);
        let may_keep = range.contains(&own) && !is_taken(own, &[Life::Live, Life::Perhaps]);
        assert!(port == own || !may_keep || rests, "{original:?} could have kept its port");
        let flow = with(port);
        let remote = (original.destination, original.destination_port);
        assert_eq!((device, frame), outside(body, &flow, remote));
        self.totals.flows += 1;
        self.totals.own_ports += u64::from(port == own);
        self.forget(&flow.reply());
        self.pod_has_sent(flow, body, peer, true);
    }

    fn remote_arrives(&mut self) {
        if self.under_way.is_empty() {
            return;
        }
        let place = self.random.below(self.under_way.len());
        let (body, reply) = match self.random.one_in(5) {
            true => self.under_way[place],
            false => self.under_way.swap_remove(place),
        };
        let (remote, public) =
            ((reply.source, reply.source_port), (reply.destination, reply.destination_port));
        let outcome =
            self.process(self.worker(public.1), reply_frame(&packet(body, remote, public, 50)));
        let Some(flow) = self.flows.get(&reply) else {
            return assert_eq!(outcome, Err(DropReason::NoFlow), "{reply:?}");
        };
        let life = flow.life(self.cluster.now, self.swept);
        let deselected = self.is_deselected(flow);
        match outcome {
            Ok((device, frame)) => {
                assert!(life != Life::Gone && !deselected, "{reply:?}");
                assert_eq!(device, UNDERLAY);
                assert_inside(&frame, body, flow, remote);
                let now = self.cluster.now;
                self.flows.get_mut(&reply).unwrap().received(body, now);
                self.totals.replied += 1;
            }
            Err(DropReason::Deselected) => {
                assert!(life != Life::Gone && deselected, "{reply:?}");
                self.forget(&reply);
            }
            Err(reason) => {
                assert_eq!((reason, life == Life::Live), (DropReason::NoFlow, false), "{reply:?}");
                self.forget(&reply);
            }
        }
    }
}

/// Where the packet starts in a frame that steering hands over.
fn ip_offset(frame: &[u8]) -> usize {
    if frame[0] == KIND_TUNNEL { TUNNEL_IP_OFFSET } else { REPLY_IP_OFFSET }
}

/// The frame that these fragments would have been, whole, with the flags and the identification of
/// all packets here.
fn put_together(frames: &[(u16, Vec<u8>)]) -> (u16, Vec<u8>) {
    let (device, first) = &frames[0];
    let ip = if *device == UPLINK { 14 } else { 64 };
    let place = |frame: &[u8]| u16::from_be_bytes([frame[ip + 6] & 0x1f, frame[ip + 7]]);
    let mut sorted: Vec<_> = frames.iter().map(|(_, frame)| (place(frame), frame)).collect();
    sorted.sort();
    let mut payload = Vec::new();
    for (place, frame) in sorted {
        assert_eq!(usize::from(place) * 8, payload.len());
        assert_eq!(frame[ip + 4..ip + 6], first[ip + 4..ip + 6], "one identification");
        payload.extend(&frame[ip + 20..]);
    }
    let packet = changed([&first[ip..ip + 20], &payload].concat(), |bytes| {
        let length = u16::try_from(bytes.len()).unwrap();
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        bytes[4..8].copy_from_slice(&[0x12, 0x34, 0x40, 0]);
    });
    if *device == UPLINK {
        return (*device, [&first[..14], &packet].concat());
    }
    let inner = [&first[50..64], &packet].concat();
    let [p0, p1, d0, d1, d2, d3] = [34, 35, 30, 31, 32, 33].map(|at| first[at]);
    let mac = first[..6].try_into().unwrap();
    let source_port = u16::from_be_bytes([p0, p1]);
    let peer = Ipv4Addr::new(d0, d1, d2, d3);
    (*device, vxlan((UNDERLAY_MAC, mac), peer, source_port, [0, 0, 2], &inner))
}

/// What the outside must get of a pod's packet, and on which device.
fn outside(body: Body, flow: &Flow, remote: End) -> (u16, Vec<u8>) {
    let packet = packet(body, (flow.egress, flow.egress_port), remote, 63);
    (UPLINK, ethernet(UPLINK_MAC, ROUTER_MAC, &packet))
}

/// What the peer must get of a remote's packet.
#[track_caller]
fn assert_inside(frame: &[u8], body: Body, flow: &Flow, remote: End) {
    let pod = (flow.original.source, flow.original.source_port);
    let inner = ethernet(UNDERLAY_MAC, POD_MAC, &packet(body, remote, pod, 49));
    let mac = PEERS.iter().find(|(peer, _)| *peer == flow.peer).unwrap().1;
    let source_port = u16::from_be_bytes([frame[34], frame[35]]);
    let expected = vxlan((UNDERLAY_MAC, mac), flow.peer, source_port, [0, 0, 2], &inner);
    assert_eq!(frame, expected, "{body:?} {flow:?}");
}
