//! The world of a history: pods, remotes, workers, and what is on its way.

mod events;
mod restart;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use spillway_engine::policy::{NatOptions, Policies, Policy};
use spillway_engine::steer::{KIND_MASK, KIND_TUNNEL, REPLY_IP_OFFSET, TUNNEL_IP_OFFSET};
use spillway_engine::steer::{Owners, Run};
use spillway_engine::tables::EgressAddress;
use spillway_engine::{
    BLOCKS_PER_POD_MAX, DropReason, EndReason, EngineConfig, Family, Tuple, V4, V6,
};

use crate::common::build::{Body, End, changed, cut, ethernet, packet, vxlan};
use crate::common::cluster::{Cluster, Outcome};
use crate::common::gateway::*;
use crate::common::random::Random;
use crate::model::{Flow, Life};
use events::Told;

/// Three of each family.
const PODS: [IpAddr; 6] = [
    IpAddr::V4(POD),
    IpAddr::V4(OTHER_POD),
    IpAddr::V4(Ipv4Addr::new(10, 0, 2, 182)),
    IpAddr::V6(POD6),
    IpAddr::V6(OTHER_POD6),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 2, 0, 0, 0, 0, 0x182)),
];
/// The same. Of each three, the last is in the second network.
const REMOTES: [End<IpAddr>; 6] = [
    (IpAddr::V4(REMOTE), 443),
    (IpAddr::V4(Ipv4Addr::new(203, 0, 113, 51)), 443),
    (IpAddr::V4(Ipv4Addr::new(198, 18, 0, 9)), 53),
    (IpAddr::V6(REMOTE6), 443),
    (IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x203, 0, 0, 0, 0, 0x51)), 443),
    (IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x18, 0, 0, 0, 0, 9)), 53),
];
const PEERS: [(Ipv4Addr, [u8; 6]); 2] = [(PEER, PEER_MAC), (DIRECT_PEER, DIRECT_PEER_MAC)];
/// The egress addresses of a policy, of both families.
type Egress = (&'static [Ipv4Addr], &'static [Ipv6Addr]);
const ONE: Egress = (&[EGRESS], &[EGRESS6]);
const OTHER: Egress = (&[OTHER_EGRESS], &[OTHER_EGRESS6]);
const BOTH: Egress = (&[EGRESS, OTHER_EGRESS], &[EGRESS6, OTHER_EGRESS6]);

/// The two networks, of each family.
const NETS: [&str; 2] = ["203.0.113.0/24", "198.18.0.0/15"];
const NETS6: [&str; 2] = ["2001:db8:203::/48", "2001:db8:18::/48"];

/// The addresses of a policy that are of the family of `of`.
fn addresses(egress: Egress, of: IpAddr) -> Vec<IpAddr> {
    match of {
        IpAddr::V4(_) => egress.0.iter().copied().map(IpAddr::V4).collect(),
        IpAddr::V6(_) => egress.1.iter().copied().map(IpAddr::V6).collect(),
    }
}

/// With port blocks of this size, unless that is 1.
fn config_for(flows_max: u32, block: u16) -> EngineConfig {
    let owners = Owners { run: Run::of(block).unwrap(), ..config().owners };
    let blocks_per_pod = if block > 1 { BLOCKS_PER_POD_MAX } else { 0 };
    EngineConfig { flows_max, flows_max_ipv6: flows_max, owners, blocks_per_pod, ..config() }
}

fn egress_address<F: Family>(
    address: F::Address,
    (port_first, port_last): (u16, u16),
) -> EgressAddress<F> {
    EgressAddress { address, port_first, port_last, own: true, announce: None }
}

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
    /// Flows that were in blocks of their pods whenever somebody looked, and those that found no block.
    pub(crate) flows_in_blocks: u64,
    pub(crate) refused_by_blocks: u64,
    pub(crate) drops: BTreeMap<DropReason, u64>,
    /// Flows that ended, as the events have told.
    pub(crate) ends: BTreeMap<EndReason, u64>,
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
        self.flows_in_blocks += other.flows_in_blocks;
        self.refused_by_blocks += other.refused_by_blocks;
        for (reason, count) in &other.drops {
            *self.drops.entry(*reason).or_default() += count;
        }
        for (why, count) in &other.ends {
            *self.ends.entry(*why).or_default() += count;
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
        assert!(self.flows_in_blocks > 10_000 && self.refused_by_blocks > 100, "{self:?}");
        for why in
            [EndReason::Expired, EndReason::Closed, EndReason::Deselected, EndReason::Replaced]
        {
            assert!(self.ends.get(&why).is_some_and(|count| *count > 1000), "{why:?}: {self:?}");
        }
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
    /// Ports of a block; 1 where they are leased one by one.
    block: u16,
    /// When the last whole sweep began.
    swept: u64,
    /// Each pod's egress addresses, if a policy selects it.
    selected: [Option<Egress>; 6],
    /// The address that a pod has of such a list: by its first flow, then for good.
    paired: BTreeMap<(IpAddr, Egress), IpAddr>,
    covers_second: bool,
    /// Whether the second egress address of each family is there.
    has_other: bool,
    /// The ports of egress addresses.
    ports: (u16, u16),
    /// Whether policies pick connections up in the middle.
    picks_up: bool,
    /// By reply tuple.
    flows: BTreeMap<Tuple, Flow>,
    /// Who had a reply tuple last, and until when it rests, perhaps.
    had: BTreeMap<Tuple, (IpAddr, u64)>,
    /// Packets of remotes on their way: late ones, doubled ones, in any order.
    under_way: Vec<(Body, Tuple)>,
    told: Told,
    totals: Totals,
}

impl World {
    pub(crate) fn new(mut random: Random) -> Self {
        let workers = random.pick(&[1, 2, 3, 4_u8]);
        let flows_max = random.pick(&[8, 64, 1024]);
        let ports =
            random.pick(&[(1024, 65_535), (16_384, 29_999), (40_000, 40_015), (40_000, 40_003)]);
        let block = random.pick(&[1, 1, 1, 8, 16]);
        let mut world = Self {
            cluster: Cluster::new(workers, config_for(flows_max, block), tables()),
            random,
            flows_max,
            block,
            swept: 0,
            selected: [Some(ONE); 6],
            paired: BTreeMap::new(),
            covers_second: true,
            has_other: true,
            ports,
            picks_up: false,
            flows: BTreeMap::new(),
            had: BTreeMap::new(),
            under_way: Vec::new(),
            told: Told::default(),
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
        match self.random.one_in(50) {
            true => self.check_events(),
            false => self.follow_events(),
        }
    }

    /// Everything ends when nobody speaks any more, and the sums close.
    pub(crate) fn finish(mut self) -> Totals {
        self.check_sums();
        self.cluster.now += 8_000 * SECOND;
        self.sweep();
        assert!(self.cluster.engines.iter().all(|engine| engine.counters().flows_live == 0));
        self.check_events();
        self.totals.ends = self.told.ends;
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
        self.has_other = !self.has_other;
        self.publish();
    }

    fn publish(&mut self) {
        let nets = if self.covers_second { 2 } else { 1 };
        let options = NatOptions { midstream_pickup: self.picks_up, ..NatOptions::default() };
        let egress = if self.has_other { BOTH } else { ONE };
        let accounts = Arc::new(self.next_accounts());
        let input = &mut self.cluster.input;
        input.accounts = accounts;
        let policies = PODS.iter().zip(self.selected).filter_map(|(pod, egress)| {
            let (pod, egress_addresses) = (V4::address(*pod)?, egress?.0.to_vec());
            let options = options.clone();
            Some(Policy { egress_addresses, options, ..policy(EGRESS, &[pod], &NETS[..nets]) })
        });
        input.v4.policies = Policies::new(policies.collect(), &[]);
        let policies = PODS.iter().zip(self.selected).filter_map(|(pod, egress)| {
            let (pod, egress_addresses) = (V6::address(*pod)?, egress?.1.to_vec());
            let options = options.clone();
            Some(Policy { egress_addresses, options, ..policy6(EGRESS6, &[pod], &NETS6[..nets]) })
        });
        input.v6.policies = Policies::new(policies.collect(), &[]);
        let ports = self.ports;
        input.v4.egress_addresses = egress.0.iter().map(|at| egress_address(*at, ports)).collect();
        input.v6.egress_addresses = egress.1.iter().map(|at| egress_address(*at, ports)).collect();
        self.cluster.publish();
    }

    /// The egress addresses for a pod's new flows, if its traffic there is selected.
    fn policy(&self, pod: IpAddr, remote: IpAddr) -> Option<Egress> {
        let place = PODS.iter().position(|each| *each == pod).unwrap();
        let is_second = [REMOTES[2].0, REMOTES[5].0].contains(&remote);
        self.selected[place].filter(|_| !is_second || self.covers_second)
    }

    fn is_listed(&self, egress: IpAddr) -> bool {
        addresses(if self.has_other { BOTH } else { ONE }, egress).contains(&egress)
    }

    /// How many flows of a family live with a worker.
    fn live(&self, worker: usize, of: IpAddr) -> u64 {
        let saved = self.cluster.engines[worker].saved();
        saved.filter(|flow| flow.egress.is_ipv4() == of.is_ipv4()).count() as u64
    }

    fn worker(&self, port: u16) -> usize {
        self.cluster.worker(port)
    }

    /// The flow must end with its next packet.
    fn is_deselected(&self, flow: &Flow) -> bool {
        self.policy(flow.original.source, flow.original.destination).is_none()
            || !self.is_listed(flow.egress)
    }

    #[track_caller]
    fn process(&mut self, worker: usize, frame: Vec<u8>) -> Outcome {
        // Whatever comes whole may come in fragments.
        let packet = &frame[ip_offset(&frame)..];
        let protocol = if packet[0] >> 4 == 4 { packet[9] } else { packet[6] };
        let outcome = match protocol != 6 && self.random.one_in(8) {
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
            17 if original.source.is_ipv4() => &[Body::Udp, Body::UdpWithoutChecksum],
            17 => &[Body::Udp],
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
        let of_family = 3 * self.random.below(2);
        let icmp = if of_family == 0 { 1 } else { 58 };
        let protocol = self.random.pick(&[6, 6, 17, icmp]);
        let (destination, destination_port) = self.random.pick(&REMOTES[of_family..][..3]);
        Tuple {
            source: self.random.pick(&PODS[of_family..][..3]),
            destination,
            source_port: 39_990 + u16::try_from(self.random.below(60)).unwrap(),
            destination_port: if protocol == icmp { 0 } else { destination_port },
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
            if self.is_listed(address) {
                return self.opened(original, body, peer, address, outcome);
            }
            return assert_eq!(outcome, Err(DropReason::NoEgressAddress));
        } else {
            DropReason::NoPolicy
        };
        assert_eq!(outcome, Err(reason), "{original:?}");
    }

    /// The address that a pod has of a list: what its first packet says, then always the same.
    fn paired(&mut self, pod: IpAddr, egress: Egress, outcome: &Outcome) -> Option<IpAddr> {
        let addresses = addresses(egress, pod);
        if let [only] = addresses[..] {
            return Some(only);
        }
        let sent = outcome.as_ref().ok().map(|(_, frame)| match pod {
            IpAddr::V4(_) => IpAddr::from(<[u8; 4]>::try_from(&frame[26..30]).unwrap()),
            IpAddr::V6(_) => IpAddr::from(<[u8; 16]>::try_from(&frame[22..38]).unwrap()),
        });
        let known = self.paired.get(&(pod, egress)).copied().or(sent);
        assert!(known.is_none_or(|address| addresses.contains(&address)), "{known:?}");
        self.paired.extend(known.map(|address| ((pod, egress), address)));
        known
    }

    /// A flow may be opened: there is room and a port, or there is none.
    fn opened(
        &mut self,
        original: Tuple,
        body: Body,
        peer: Ipv4Addr,
        egress: IpAddr,
        outcome: Outcome,
    ) {
        let worker = self.worker(original.source_port);
        let range = self.ports.0..=self.ports.1;
        let with = |port| Flow::new(original, egress, port, peer);
        let is_taken = |port: u16, lives: &[Life]| {
            let flow = self.flows.get(&with(port).reply());
            flow.is_some_and(|flow| lives.contains(&flow.life(self.cluster.now, self.swept)))
        };
        let (device, frame) = match outcome {
            Err(DropReason::FlowTableFull) => {
                return assert_eq!(self.live(worker, egress), u64::from(self.flows_max));
            }
            Err(reason) => {
                assert_eq!(reason, DropReason::PortsExhausted);
                if self.block > 1 {
                    // What is free may be another pod's block.
                    self.totals.refused_by_blocks += 1;
                    return;
                }
                let full = u64::from(self.flows_max);
                let workers = 0..self.cluster.engines.len();
                let has_room: Vec<_> = workers.map(|at| self.live(at, egress) < full).collect();
                let mut range = range.filter(|port| has_room[self.worker(*port)]);
                let free = range.find(|port| !is_taken(*port, &[Life::Live, Life::Perhaps]));
                return assert_eq!(free, None, "{original:?}");
            }
            Ok(sent) => sent,
        };
        let transport = if egress.is_ipv4() { &frame[34..] } else { &frame[54..] };
        let at = if matches!(original.protocol, 1 | 58) { 4 } else { 0 };
        let port = u16::from_be_bytes([transport[at], transport[at + 1]]);
        assert!(range.contains(&port), "{port}");
        // Another worker's only when this one had none.
        if self.worker(port) != worker && self.block == 1 {
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
        assert!(
            port == own || !may_keep || rests || self.block > 1,
            "{original:?} could have kept its port"
        );
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
    if frame[0] & KIND_MASK == KIND_TUNNEL { TUNNEL_IP_OFFSET } else { REPLY_IP_OFFSET }
}

/// The frame that these fragments would have been, whole, with the flags and the identification of
/// all packets here.
fn put_together(frames: &[(u16, Vec<u8>)]) -> (u16, Vec<u8>) {
    let (device, first) = &frames[0];
    let ip = if *device == UPLINK { 14 } else { 64 };
    if first[ip] >> 4 == 6 {
        return put_together_ipv6(frames, ip);
    }
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
    (*device, framed_as(first, *device, &packet))
}

/// The same of IPv6.
fn put_together_ipv6(frames: &[(u16, Vec<u8>)], ip: usize) -> (u16, Vec<u8>) {
    let (device, first) = &frames[0];
    let place = |frame: &[u8]| u16::from_be_bytes([frame[ip + 42], frame[ip + 43]]) & !7;
    let mut sorted: Vec<_> = frames.iter().map(|(_, frame)| (place(frame), frame)).collect();
    sorted.sort();
    let mut payload = Vec::new();
    for (place, frame) in sorted {
        assert_eq!(usize::from(place), payload.len());
        assert_eq!(frame[ip + 44..ip + 48], first[ip + 44..ip + 48], "one identification");
        payload.extend(&frame[ip + 48..]);
    }
    let mut packet = [&first[ip..ip + 40], &payload].concat();
    packet[4..6].copy_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet[6] = first[ip + 40];
    (*device, framed_as(first, *device, &packet))
}

/// A packet in such a frame as another one's.
fn framed_as(first: &[u8], device: u16, packet: &[u8]) -> Vec<u8> {
    if device == UPLINK {
        return [&first[..14], packet].concat();
    }
    let inner = [&first[50..64], packet].concat();
    let [p0, p1, d0, d1, d2, d3] = [34, 35, 30, 31, 32, 33].map(|at| first[at]);
    let mac = first[..6].try_into().unwrap();
    let source_port = u16::from_be_bytes([p0, p1]);
    let peer = Ipv4Addr::new(d0, d1, d2, d3);
    vxlan((UNDERLAY_MAC, mac), peer, source_port, [0, 0, 2], &inner)
}

/// What the outside must get of a pod's packet, and on which device.
fn outside(body: Body, flow: &Flow, remote: End<IpAddr>) -> (u16, Vec<u8>) {
    let packet = packet(body, (flow.egress, flow.egress_port), remote, 63);
    (UPLINK, ethernet(UPLINK_MAC, ROUTER_MAC, &packet))
}

/// What the peer must get of a remote's packet.
#[track_caller]
fn assert_inside(frame: &[u8], body: Body, flow: &Flow, remote: End<IpAddr>) {
    let pod = (flow.original.source, flow.original.source_port);
    let inner = ethernet(UNDERLAY_MAC, POD_MAC, &packet(body, remote, pod, 49));
    let mac = PEERS.iter().find(|(peer, _)| *peer == flow.peer).unwrap().1;
    let source_port = u16::from_be_bytes([frame[34], frame[35]]);
    let expected = vxlan((UNDERLAY_MAC, mac), flow.peer, source_port, [0, 0, 2], &inner);
    assert_eq!(frame, expected, "{body:?} {flow:?}");
}
