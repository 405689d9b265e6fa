//! A gateway in memory: one engine with tables like those of a small cluster. Packets are built,
//! and checked byte for byte, by etherparse alone.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use spillway_engine::fib::{Fib, NextHop, Route, RouteTarget, Rule, RuleAction};
use spillway_engine::nat64::Prefix;
use spillway_engine::policy::{NatOptions, Policies, Policy};
use spillway_engine::steer::{
    FAMILY_6, KIND_ARP, KIND_MASK, KIND_NEIGHBOUR, KIND_PING, KIND_REPLY, KIND_TUNNEL,
    REPLY_IP_OFFSET, REPLY_IP_OFFSET_6, STEER_HEADER_LEN, TUNNEL_IP_OFFSET, UNDERLAY_6,
};
use spillway_engine::tables::{
    Device, EgressAddress, FamilyInput, Nat64Input, Neighbour, Peer, Tables, TablesInput,
};
use spillway_engine::{
    ANSWER_ROOM, Answer, Counters, DropReason, Engine, EngineConfig, Family, FlowRecord, Fragments,
    Timeouts, V6, Verdict,
};

pub const POD: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 40);
pub const OTHER_POD: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 41);
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 50);
pub const EGRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub const OTHER_EGRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 8);
/// Of Spillway's own: announced on the uplink.
pub const ANNOUNCED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub const POD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 1, 0, 0, 0, 0, 0x40);
pub const OTHER_POD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 1, 0, 0, 0, 0, 0x41);
pub const REMOTE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x203, 0, 0, 0, 0, 0x50);
pub const EGRESS6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 7);
pub const OTHER_EGRESS6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 8);
/// Of Spillway's own: announced on the uplink.
pub const ANNOUNCED6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 9);
pub const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
pub const TUNNEL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 12);
pub const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
pub const DIRECT_PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);
pub const TUNNEL6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x12);
pub const PEER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x11);
pub const DIRECT_PEER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x99);
/// What stands for [`PEER6`] in steer headers …
pub const KEY: Ipv4Addr = Ipv4Addr::new(0, 1, 2, 3);
/// … and for [`DIRECT_PEER6`].
pub const DIRECT_KEY: Ipv4Addr = Ipv4Addr::new(0, 9, 8, 7);
pub const TUNNEL_PORT: u16 = 8472;

pub const UPLINK: u16 = 0;
pub const UNDERLAY: u16 = 1;
pub const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const UNDERLAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Its first byte could be that of a steer header of IPv6 …
pub const ROUTER_MAC: [u8; 6] = [0xee, 0, 0, 0, 1, 1];
/// … and this one's that of a reply's.
pub const PEER_MAC: [u8; 6] = [0x22, 0, 0, 0, 1, 2];
pub const DIRECT_PEER_MAC: [u8; 6] = [2, 0, 0, 0, 1, 3];
pub const POD_MAC: [u8; 6] = [2, 0, 0, 0, 2, 1];
pub const VNI: [u8; 3] = [0, 0x9c, 0x40];

pub const SECOND: u64 = 1_000_000_000;

pub fn net(text: &str) -> ipnet::Ipv4Net {
    text.parse().unwrap()
}

pub fn net6(text: &str) -> ipnet::Ipv6Net {
    text.parse().unwrap()
}

/// [`policy`] of IPv6.
pub fn policy6(egress: Ipv6Addr, pods: &[Ipv6Addr], destinations: &[&str]) -> Policy<V6> {
    Policy {
        name: "app".to_owned(),
        egress_addresses: vec![egress],
        destinations: destinations.iter().map(|text| net6(text)).collect(),
        excluded: vec![net6("2001:db8:203::20/128")],
        pods: pods.to_vec(),
        pod_groups: Vec::new(),
        options: NatOptions::default(),
    }
}

pub fn policy(egress_address: Ipv4Addr, pods: &[Ipv4Addr], destinations: &[&str]) -> Policy {
    Policy {
        name: "app".to_owned(),
        egress_addresses: vec![egress_address],
        destinations: destinations.iter().map(|text| net(text)).collect(),
        excluded: vec![net("203.0.113.20/32")],
        pods: pods.to_vec(),
        pod_groups: Vec::new(),
        options: NatOptions::default(),
    }
}

fn hop<F: Family>(device: Option<u16>, gateway: Option<F::Address>) -> RouteTarget<F> {
    RouteTarget::Forward(vec![NextHop { device, gateway, weight: 1 }])
}

fn route(destination: &str, target: RouteTarget) -> Route {
    Route { table: 254, destination: net(destination), metric: 0, target }
}

fn egress_address<F: Family>(address: F::Address) -> EgressAddress<F> {
    EgressAddress { address, port_first: 1024, port_last: 65_535, own: true, announce: None }
}

/// [`tables`] of IPv6.
fn tables6() -> FamilyInput<V6> {
    let route = |destination, target| Route::<V6> {
        table: 254,
        destination: net6(destination),
        metric: 0,
        target,
    };
    let rule = Rule { from: net6("::/0"), to: net6("::/0"), action: RuleAction::Table(254) };
    let routes = vec![
        route("::/0", hop(Some(UPLINK), Some(ROUTER6))),
        route("2001:db8:2::/64", hop(Some(UNDERLAY), None)),
        route("2001:db8:203::200/128", RouteTarget::Local),
        route("2001:db8:203::201/128", RouteTarget::Unreachable),
        route("2001:db8:203::202/128", hop(None, None)),
    ];
    let policy = policy6(EGRESS6, &[POD6, OTHER_POD6], &["2001:db8:203::/48"]);
    FamilyInput {
        policies: Policies::new(vec![policy], &[]),
        egress_addresses: vec![
            egress_address(EGRESS6),
            egress_address(OTHER_EGRESS6),
            EgressAddress { announce: Some(UPLINK), ..egress_address(ANNOUNCED6) },
        ],
        fib: Fib::new(&[rule], routes),
        neighbours: vec![
            Neighbour { device: UPLINK, address: ROUTER6, mac: ROUTER_MAC },
            Neighbour { device: UNDERLAY, address: PEER6, mac: PEER_MAC },
        ],
    }
}

/// The same with tunnels over IPv6.
pub fn tables_over_ipv6() -> TablesInput {
    let peer = |key, address: Ipv6Addr, direct| Peer {
        key,
        address: address.into(),
        tunnel_address: TUNNEL6.into(),
        direct,
    };
    let direct = Some((UNDERLAY, DIRECT_PEER_MAC));
    let peers = vec![peer(KEY, PEER6, None), peer(DIRECT_KEY, DIRECT_PEER6, direct)];
    TablesInput { peers, ..tables() }
}

/// Two devices, one policy, two peers; everything is reachable.
pub fn tables() -> TablesInput {
    let rule =
        Rule { from: net("0.0.0.0/0"), to: net("0.0.0.0/0"), action: RuleAction::Table(254) };
    let routes = vec![
        route("0.0.0.0/0", hop(Some(UPLINK), Some(ROUTER))),
        route("192.0.2.0/24", hop(Some(UNDERLAY), None)),
        route("203.0.113.200/32", RouteTarget::Local),
        route("203.0.113.201/32", RouteTarget::Unreachable),
        route("203.0.113.202/32", hop(None, None)),
    ];
    let egress = egress_address;
    let peer = |key: Ipv4Addr, direct| Peer {
        key,
        address: key.into(),
        tunnel_address: TUNNEL.into(),
        direct,
    };
    TablesInput {
        epoch: 1,
        devices: vec![
            Device { mac: UPLINK_MAC, mtu: 1500 },
            Device { mac: UNDERLAY_MAC, mtu: 1500 },
        ],
        peers: vec![peer(PEER, None), peer(DIRECT_PEER, Some((UNDERLAY, DIRECT_PEER_MAC)))],
        reply_vni: None,
        tunnel_port: TUNNEL_PORT,
        v4: FamilyInput {
            policies: Policies::new(
                vec![policy(EGRESS, &[POD, OTHER_POD], &["203.0.113.0/24"])],
                &[],
            ),
            egress_addresses: vec![
                egress(EGRESS),
                egress(OTHER_EGRESS),
                EgressAddress { announce: Some(UPLINK), ..egress(ANNOUNCED) },
            ],
            fib: Fib::new(&[rule], routes),
            neighbours: vec![
                Neighbour { device: UPLINK, address: ROUTER, mac: ROUTER_MAC },
                Neighbour { device: UNDERLAY, address: PEER, mac: PEER_MAC },
            ],
        },
        v6: tables6(),
        ..TablesInput::default()
    }
}

/// The number of a pod of IPv6.
pub const NUMBER: Ipv4Addr = Ipv4Addr::new(240, 1, 2, 3);
pub const OTHER_NUMBER: Ipv4Addr = Ipv4Addr::new(255, 4, 5, 6);

/// [`tables`] where the pods of IPv6 reach what those of IPv4 do.
pub fn nat64_tables() -> TablesInput {
    let pods = [POD, OTHER_POD, NUMBER, OTHER_NUMBER];
    let mut input = tables();
    input.v4.policies = Policies::new(vec![policy(EGRESS, &pods, &["203.0.113.0/24"])], &[]);
    input.nat64 = Some(Nat64Input {
        prefix: Prefix::WELL_KNOWN,
        pods: vec![(NUMBER, POD6), (OTHER_NUMBER, OTHER_POD6)],
    });
    input
}

/// What an address of IPv4 is to a pod of IPv6.
pub fn embedded(address: Ipv4Addr) -> Ipv6Addr {
    Prefix::WELL_KNOWN.embed(address)
}

pub fn config() -> EngineConfig {
    EngineConfig {
        worker: 0,
        owners: [0; 256].into(),
        blocks_per_pod: 0,
        flows_max: 4096,
        flows_max_ipv6: 4096,
        hash_key: [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 7],
        seed: 1,
        timeouts: Timeouts::default(),
        pod_flows: Arc::default(),
        mss_clamp: true,
        events: true,
    }
}

pub struct Gateway {
    pub engine: Engine,
    pub input: TablesInput,
    pub tables: Tables,
    pub now: u64,
}

impl Gateway {
    pub fn new() -> Self {
        Self::with(config(), tables())
    }

    pub fn with(config: EngineConfig, input: TablesInput) -> Self {
        let tables = Tables::new(input.clone());
        Self { engine: Engine::new(&config), input, tables, now: 1_000 * SECOND }
    }

    /// Swaps the tables, as after a change of state or of the kernel's routes.
    pub fn change(&mut self, change: impl FnOnce(&mut TablesInput)) {
        self.input.epoch += 1;
        change(&mut self.input);
        self.tables = Tables::new(self.input.clone());
    }

    /// Hands one frame in; gives the verdict and what the frame is then.
    pub fn process(&mut self, mut frame: Vec<u8>) -> (Verdict, Vec<u8>) {
        let mut verdict = [Verdict::Drop(DropReason::UnknownKind)];
        let before = self.engine.counters();
        self.engine.process(self.now, &self.tables, &mut [&mut frame], &mut verdict);
        check_counters(&before, &self.engine.counters(), verdict[0]);
        (verdict[0], frame)
    }

    /// Hands a frame in that is to be sent; gives what is sent, and where.
    #[track_caller]
    pub fn sent(&mut self, frame: Vec<u8>) -> (u16, Vec<u8>) {
        match self.process(frame) {
            (Verdict::Transmit { device, length }, mut frame) => {
                frame.truncate(usize::from(length));
                (device, frame)
            }
            (verdict, _) => panic!("not sent, but {verdict:?}"),
        }
    }

    /// Hands a frame in that is to be sent in fragments; gives them, and where they go.
    #[track_caller]
    pub fn fragmented(&mut self, frame: Vec<u8>) -> (u16, Vec<Vec<u8>>) {
        let (verdict, frame) = self.process(frame);
        let Verdict::Fragment { device, fragments } = verdict else {
            panic!("not fragmented, but {verdict:?}");
        };
        (device, pieces(fragments, &self.tables, &frame))
    }

    /// Hands a frame in that is to be dropped; gives the reason.
    #[track_caller]
    pub fn dropped(&mut self, frame: Vec<u8>) -> DropReason {
        match self.process(frame) {
            (Verdict::Drop(reason), _) => reason,
            (verdict, _) => panic!("not dropped, but {verdict:?}"),
        }
    }

    /// Hands a frame in that is to be dropped; gives the reason, and the frame with which its sender
    /// is answered, and where that goes.
    #[track_caller]
    pub fn answered(&mut self, mut frame: Vec<u8>) -> (DropReason, Option<(u16, Vec<u8>)>) {
        let reason = self.dropped(frame.clone());
        let mut out = vec![0xee; ANSWER_ROOM];
        let (now, tables) = (self.now, &self.tables);
        let owed = self.engine.owed_error(now, tables, reason, &mut frame);
        let answer = owed.map(|owed| {
            let Answer { device, length } = owed.write(&frame, &mut out).unwrap();
            out.truncate(usize::from(length));
            (device, out)
        });
        (reason, answer)
    }

    pub fn flows(&self) -> Vec<FlowRecord> {
        let mut flows = Vec::new();
        let mut cursor = Some(0);
        while let Some(from) = cursor {
            cursor = self.engine.flows(from, 1000, &mut flows);
        }
        flows
    }

    /// Lets time pass, with the calls of an idle worker.
    pub fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds * 10 {
            self.now += SECOND / 10;
            self.engine.expire(self.now, &self.tables);
        }
    }
}

/// The frames of all fragments.
pub fn pieces(fragments: Fragments, tables: &Tables, frame: &[u8]) -> Vec<Vec<u8>> {
    // One of IPv6 can be longer, by its header, a quoted one and a fragment header.
    let mut out = vec![0xee; frame.len() + 48];
    let mut piece = |number| {
        let length = fragments.write(tables, frame, number, &mut out)?;
        Some(out[..usize::from(length)].to_vec())
    };
    (0..).map_while(&mut piece).collect()
}

/// One frame counts once, as what became of it, and the sum closes.
fn check_counters(before: &Counters, after: &Counters, verdict: Verdict) {
    let mut expected = Counters {
        forward: after.forward,
        reply: after.reply,
        answered: after.answered,
        fragmented: after.fragmented,
        flows_created: after.flows_created,
        flows_deselected: after.flows_deselected,
        flows_live: after.flows_live,
        leases_crowded: after.leases_crowded,
        port_blocks: after.port_blocks,
        ..before.clone()
    };
    expected.received += 1;
    match verdict {
        Verdict::Transmit { .. } | Verdict::Fragment { .. } => expected.transmitted += 1,
        Verdict::Hold { .. } | Verdict::Await { .. } => expected.held += 1,
        Verdict::HandOff { .. } => expected.handed_off += 1,
        Verdict::Drop(reason) => expected.dropped[reason as usize] += 1,
    }
    assert_eq!(*after, expected);
    // A packet leases once; who finds no port has found few.
    let crowded = after.leases_crowded - before.leases_crowded;
    let none_left = u64::from(verdict == Verdict::Drop(DropReason::PortsExhausted));
    assert!((none_left..=1).contains(&crowded), "{crowded} of {verdict:?}");
    // A packet that becomes IPv6 may be cut.
    let cut = after.fragmented - before.fragmented;
    assert!(cut <= u64::from(matches!(verdict, Verdict::Fragment { .. })));
    let transmitted = after.forward.packets + after.reply.packets + after.answered;
    assert_eq!(after.transmitted, transmitted);
    let ended = after.flows_expired + after.flows_deselected;
    let begun = after.flows_created + after.flows_restored;
    assert_eq!(after.flows_live, begun - ended);
    assert_sum_closes(after);
}

/// No frame is lost without a name.
pub fn assert_sum_closes(counters: &Counters) {
    let Counters { received, taken_over, transmitted, held, handed_off, dropped, .. } = counters;
    let dropped: u64 = dropped.iter().sum();
    assert_eq!(received + taken_over, transmitted + held + handed_off + dropped);
}

/// A frame from a pod as steering hands it over.
pub fn tunnel_frame(packet: &[u8]) -> Vec<u8> {
    tunnel_frame_from(PEER, POD_MAC, VNI, packet)
}

pub fn tunnel_frame_from(peer: Ipv4Addr, mac: [u8; 6], vni: [u8; 3], packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![KIND_TUNNEL | family(packet)];
    frame.extend(vni);
    frame.extend(peer.octets());
    frame.extend(mac);
    assert_eq!(frame.len(), STEER_HEADER_LEN);
    assert_eq!(frame.len(), TUNNEL_IP_OFFSET);
    frame.extend(packet);
    frame
}

/// What the steer header says of a packet's family.
fn family(packet: &[u8]) -> u8 {
    if packet.first().is_some_and(|first| first >> 4 == 6) { FAMILY_6 } else { 0 }
}

/// A frame from outside as steering hands it over.
pub fn reply_frame(packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![KIND_REPLY | family(packet)];
    frame.resize(REPLY_IP_OFFSET - 14, 0xee);
    frame.extend(UPLINK_MAC);
    frame.extend(ROUTER_MAC);
    frame.extend(if family(packet) == 0 { [0x08, 0x00] } else { [0x86, 0xdd] });
    assert_eq!(frame.len(), REPLY_IP_OFFSET);
    frame.extend(packet);
    frame
}

/// A frame as steering hands it over when tunnels go over IPv6.
pub fn over_ipv6(mut frame: Vec<u8>) -> Vec<u8> {
    let kind = frame.first().copied().unwrap_or_default() & KIND_MASK;
    if kind == KIND_TUNNEL || kind == KIND_REPLY {
        frame[0] ^= UNDERLAY_6;
    }
    if kind == KIND_REPLY && frame.len() >= STEER_HEADER_LEN {
        let room = [0xee; REPLY_IP_OFFSET_6 - REPLY_IP_OFFSET];
        frame.splice(STEER_HEADER_LEN..STEER_HEADER_LEN, room);
    }
    frame
}

/// An ARP request for one of our addresses, as steering hands it over.
pub fn arp_frame(mac: [u8; 6], arp: &[u8]) -> Vec<u8> {
    question_frame(KIND_ARP, mac, arp)
}

/// A ping of one of our addresses, as steering hands it over.
pub fn ping_frame(packet: &[u8]) -> Vec<u8> {
    question_frame(KIND_PING | family(packet), ROUTER_MAC, packet)
}

/// A neighbour solicitation for one of our addresses, as steering hands it over.
pub fn neighbour_frame(mac: [u8; 6], packet: &[u8]) -> Vec<u8> {
    question_frame(KIND_NEIGHBOUR | FAMILY_6, mac, packet)
}

fn question_frame(kind: u8, mac: [u8; 6], content: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.resize(STEER_HEADER_LEN - mac.len(), 0);
    frame.extend(mac);
    frame.extend(content);
    frame
}
