//! The short way against the long one: the same frames through two engines, one of which has no short
//! way. Everything that can be seen of them must be the same, of either family.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::super::*;
use super::{Context, Sum};
use crate::checksum::checksum;
use crate::family::{Family, V4, V6};
use crate::fib::{Fib, NextHop, Route, RouteTarget, Rule, RuleAction};
use crate::packet::{Usual, Wire};
use crate::policy::{NatOptions, Policies, Policy};
use crate::steer::{KIND_REPLY, KIND_TUNNEL, REPLY_IP_OFFSET, TUNNEL_IP_OFFSET};
use crate::tables::EPOCH_NONE;
use crate::tables::{
    Device, EgressAddress, FamilyInput, FamilyTables, Neighbour, Peer, TablesInput,
};

const PODS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 1, 40), Ipv4Addr::new(10, 0, 1, 41)];
const PODS6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x40), Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x41)];
const REMOTE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 0x50);
const EGRESS6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7);
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const REMOTE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 50);
const EGRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const PEERS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 11), Ipv4Addr::new(192, 0, 2, 12)];

/// A family to test.
trait Sample: Wire {
    fn tables(tables: &Tables) -> &FamilyTables<Self>;

    /// A packet of this shape that carries this.
    fn packet(shape: &Shape, transport: &[u8]) -> Vec<u8>;

    /// Makes the checksum of a packet's header right, if it has one.
    fn mend(packet: &mut [u8]);
}

impl Sample for V4 {
    fn tables(tables: &Tables) -> &FamilyTables<Self> {
        &tables.v4
    }

    fn packet(shape: &Shape, transport: &[u8]) -> Vec<u8> {
        let (source, destination) =
            if shape.is_reply { (REMOTE, EGRESS) } else { (PODS[shape.pod], REMOTE) };
        let length = u16::try_from(20 + transport.len()).unwrap();
        let mut packet = vec![0x45, shape.tos, 0, 0, 0, 7, 0, 0, shape.ttl, shape.protocol, 0, 0];
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        packet[6..8].copy_from_slice(&shape.fragment.to_be_bytes());
        packet.extend(source.octets());
        packet.extend(destination.octets());
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(transport);
        packet
    }

    fn mend(packet: &mut [u8]) {
        let header = &mut packet[..20];
        header[10..12].fill(0);
        let sum = checksum(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

impl Sample for V6 {
    fn tables(tables: &Tables) -> &FamilyTables<Self> {
        &tables.v6
    }

    /// What comes in fragments has a fragment header, what has a reserved flag has options.
    fn packet(shape: &Shape, transport: &[u8]) -> Vec<u8> {
        let (source, destination) =
            if shape.is_reply { (REMOTE6, EGRESS6) } else { (PODS6[shape.pod], REMOTE6) };
        let protocol = if shape.protocol == 1 { Self::ICMP } else { shape.protocol };
        let (next, extension): (u8, &[u8]) = match shape.fragment {
            0x2000 => (44, &[protocol, 0, 0, 1, 0, 0, 0, 7]),
            0x8000 => (60, &[protocol, 0, 1, 4, 0, 0, 0, 0]),
            _ => (protocol, &[]),
        };
        let length = u16::try_from(40 + extension.len() + transport.len()).unwrap();
        let mut header = Self::header(source, destination, next, shape.tos, length);
        header[7] = shape.ttl;
        [&header, extension, transport].concat()
    }

    fn mend(_: &mut [u8]) {}
}

/// A step of a test.
#[derive(Clone, Debug)]
enum Step {
    /// A burst of frames.
    Burst(Vec<Shape>),
    /// Other tables: another epoch, and the way out has this MTU.
    Tables { mtu: u16, is_programmed: bool },
    /// Time passes, and flows may end.
    Wait { seconds: u64 },
}

/// What a frame is like.
#[derive(Clone, Debug)]
struct Shape {
    is_reply: bool,
    protocol: u8,
    pod: usize,
    port: u16,
    peer: usize,
    tos: u8,
    outer_ecn: u8,
    ttl: u8,
    /// The word of flags and offset.
    fragment: u16,
    tcp_flags: u8,
    acknowledgment: u32,
    payload: usize,
    padding: usize,
    has_checksum: bool,
    /// Bytes that are changed in the end, from the start of the frame.
    mutations: Vec<(usize, u8)>,
    /// Whether the IPv4 header's checksum is right after that.
    is_mended: bool,
    cut: Option<usize>,
}

fn shape() -> impl Strategy<Value = Shape> {
    let flow = (any::<bool>(), prop_oneof![4 => Just(17), 4 => Just(6), 1 => Just(1)], 0..2_usize);
    let flow = (flow, 2000..2004_u16, prop_oneof![9 => Just(0), 1 => Just(1_usize)]);
    let header = (
        prop_oneof![5 => Just(0), 1 => 0..4_u8],
        prop_oneof![5 => Just(0), 1 => 0..4_u8],
        prop_oneof![9 => Just(64), 1 => 0..3_u8],
        prop_oneof![6 => Just(0x4000), 3 => Just(0), 1 => Just(0x2000), 1 => Just(0x8000)],
    );
    let tcp = (
        prop_oneof![6 => Just(0x10), 2 => Just(0x02), 1 => Just(0x18), 2 => 0..64_u8],
        prop_oneof![3 => 0..4_u32, 1 => any::<u32>()],
    );
    let size = (prop_oneof![8 => 0..64_usize, 1 => Just(1400)], 0..8_usize, any::<bool>());
    let mutations = prop_oneof![
        4 => Just(Vec::new()),
        1 => prop::collection::vec((0..110_usize, any::<u8>()), 1..3),
    ];
    let cut = prop_oneof![20 => Just(None), 1 => (0..120_usize).prop_map(Some)];
    (flow, header, tcp, size, mutations, any::<bool>(), cut).prop_map(
        |(flow, (tos, outer_ecn, ttl, fragment), tcp, size, mutations, is_mended, cut)| {
            let ((is_reply, protocol, pod), port, peer) = flow;
            let ((tcp_flags, acknowledgment), (payload, padding, has_checksum)) = (tcp, size);
            Shape {
                is_reply,
                protocol,
                pod,
                port,
                peer,
                tos,
                outer_ecn,
                ttl,
                fragment,
                tcp_flags,
                acknowledgment,
                payload,
                padding,
                has_checksum,
                mutations,
                is_mended,
                cut,
            }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let tables = (prop_oneof![Just(1500), Just(100), Just(60)], prop::bool::weighted(0.9));
    prop_oneof![
        20 => prop::collection::vec(shape(), 1..12).prop_map(Step::Burst),
        2 => tables.prop_map(|(mtu, is_programmed)| Step::Tables { mtu, is_programmed }),
        1 => (0..400_u64).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

impl Shape {
    fn frame<F: Sample>(&self) -> Vec<u8> {
        let ip_offset = if self.is_reply { REPLY_IP_OFFSET } else { TUNNEL_IP_OFFSET };
        let mut frame = vec![0; ip_offset];
        if self.is_reply {
            frame[0] = KIND_REPLY | F::STEER_FAMILY;
            frame[REPLY_IP_OFFSET - 2..].copy_from_slice(&F::ETHERTYPE);
        } else {
            frame[0] = KIND_TUNNEL | F::STEER_FAMILY | self.outer_ecn << 6;
            frame[4..8].copy_from_slice(&PEERS[self.peer].octets());
            frame[8] = 2;
        }
        frame.extend(F::packet(self, &self.transport::<F>()));
        frame.resize(frame.len() + self.padding, 0xee);
        for (at, byte) in &self.mutations {
            if let Some(place) = frame.get_mut(*at) {
                *place = *byte;
            }
        }
        if self.is_mended {
            F::mend(&mut frame[ip_offset..]);
        }
        frame.truncate(self.cut.unwrap_or(frame.len()));
        frame
    }

    /// Of TCP and UDP with some checksum, right or not: nobody looks at it.
    fn transport<F: Sample>(&self) -> Vec<u8> {
        let (source, destination) = if self.is_reply { (443, self.port) } else { (self.port, 443) };
        let mut bytes = Vec::new();
        bytes.extend(source.to_be_bytes());
        bytes.extend(destination.to_be_bytes());
        let sum = if self.has_checksum { 0xfffe_u16 } else { 0 };
        match self.protocol {
            6 => {
                bytes.extend([0, 0, 0, 9]);
                bytes.extend(self.acknowledgment.to_be_bytes());
                bytes.extend([0x50, self.tcp_flags, 1, 1]);
                bytes.extend(sum.to_be_bytes());
                bytes.extend([0, 0]);
            }
            17 => {
                let length = u16::try_from(8 + self.payload).unwrap();
                bytes.extend(length.to_be_bytes());
                bytes.extend(sum.to_be_bytes());
            }
            _ => {
                let kind = if self.is_reply { F::ECHO_REPLY } else { F::ECHO_REQUEST };
                let [high, low] = self.port.to_be_bytes();
                bytes = vec![kind, 0, 0, 0, high, low, 0, 1];
            }
        }
        bytes.resize(bytes.len() + self.payload, 0xab);
        if self.protocol == 1 {
            let sum = checksum(&bytes);
            bytes[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        bytes
    }
}

fn tables(epoch: u32, mtu: u16) -> Tables {
    let all = ipnet::Ipv4Net::default();
    let nodes = "192.0.2.0/24".parse().unwrap();
    let hop = |device, gateway| {
        RouteTarget::Forward(vec![NextHop { device: Some(device), gateway, weight: 1 }])
    };
    let policy = Policy {
        name: "app".to_owned(),
        egress_addresses: vec![EGRESS],
        destinations: vec![all],
        excluded: Vec::new(),
        pods: PODS.to_vec(),
        pod_groups: Vec::new(),
        options: NatOptions::default(),
    };
    let neighbour = |device, address| Neighbour { device, address, mac: [2, 0, 0, 0, 1, 1] };
    Tables::new(TablesInput {
        epoch,
        devices: vec![
            Device { mac: [2, 0, 0, 0, 0, 1], mtu },
            Device { mac: [2, 0, 0, 0, 0, 2], mtu: mtu + 50 },
        ],
        // The second is not listed: what comes from there teaches no way back.
        peers: vec![Peer {
            key: PEERS[0],
            address: PEERS[0].into(),
            tunnel_address: Ipv4Addr::new(192, 0, 2, 200).into(),
            direct: None,
        }],
        reply_vni: None,
        tunnel_port: 8472,
        v4: FamilyInput {
            policies: Policies::new(vec![policy], &[]),
            egress_addresses: vec![EgressAddress {
                address: EGRESS,
                port_first: 1024,
                port_last: 65_535,
                own: true,
                announce: None,
            }],
            fib: Fib::new(
                &[Rule { from: all, to: all, action: RuleAction::Table(254) }],
                vec![
                    Route { table: 254, destination: all, metric: 0, target: hop(0, Some(ROUTER)) },
                    Route { table: 254, destination: nodes, metric: 0, target: hop(1, None) },
                ],
            ),
            neighbours: vec![neighbour(0, ROUTER), neighbour(1, PEERS[0])],
        },
        v6: tables_ipv6(),
        ..TablesInput::default()
    })
}

fn tables_ipv6() -> FamilyInput<V6> {
    let all = V6::EVERYTHING;
    let hop = NextHop { device: Some(0), gateway: Some(ROUTER6), weight: 1 };
    let target = RouteTarget::Forward(vec![hop]);
    let policy = Policy {
        name: "app".to_owned(),
        egress_addresses: vec![EGRESS6],
        destinations: vec![all],
        excluded: Vec::new(),
        pods: PODS6.to_vec(),
        pod_groups: Vec::new(),
        options: NatOptions::default(),
    };
    FamilyInput {
        policies: Policies::new(vec![policy], &[]),
        egress_addresses: vec![EgressAddress {
            address: EGRESS6,
            port_first: 1024,
            port_last: 65_535,
            own: true,
            announce: None,
        }],
        fib: Fib::new(
            &[Rule { from: all, to: all, action: RuleAction::Table(254) }],
            vec![Route { table: 254, destination: all, metric: 0, target }],
        ),
        neighbours: vec![Neighbour { device: 0, address: ROUTER6, mac: [2, 0, 0, 0, 1, 1] }],
    }
}

fn engine<F: Sample>() -> Translator<F> {
    let config = EngineConfig {
        worker: 0,
        owners: [0; 256].into(),
        blocks_per_pod: 0,
        flows_max: 64,
        flows_max_ipv6: 64,
        hash_key: [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 7],
        seed: 1,
        timeouts: Timeouts::default(),
        pod_flows: Arc::default(),
        mss_clamp: true,
        events: true,
    };
    Translator::new(&config, config.flows_max)
}

/// What [`Translator::burst`] does, without the short way.
fn process_the_long_way<F: Sample>(
    engine: &mut Translator<F>,
    now: Nanos,
    tables: &Tables,
    frames: &mut [&mut [u8]],
    verdicts: &mut [Verdict],
) {
    engine.now = now;
    for (frame, verdict) in frames.iter_mut().zip(verdicts) {
        let is_ours = engine.unusual(Context::new(F::tables(tables), now), frame, verdict);
        engine.counters.received += u64::from(is_ours);
    }
    engine.counters.flows_live = u64::from(engine.flows.live());
}

/// Everything that is known of all flows, but for places.
fn flows<F: Sample>(engine: &Translator<F>) -> Vec<String> {
    let mut records = Vec::new();
    assert_eq!(engine.flows.page(0, 1000, engine.now, &mut records), None);
    let saved = (0..engine.flows.originals.groups())
        .flat_map(|group| engine.flows.originals.entries(group))
        .map(|place| engine.flows.originals[place])
        .map(|original| format!("{original:?} {:?}", engine.flows.replies[original.twin]));
    let mut all: Vec<_> = records.iter().map(|record| format!("{record:?}")).collect();
    all.extend(saved);
    all
}

const SECOND: Nanos = 1_000_000_000;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_short_way_does_what_the_long_way_does(steps in prop::collection::vec(step(), 1..40)) {
        check::<V4>(&steps)?;
    }

    #[test]
    fn the_short_way_of_ipv6_does_the_same(steps in prop::collection::vec(step(), 1..40)) {
        check::<V6>(&steps)?;
    }
}

fn check<F: Sample>(steps: &[Step]) -> Result<(), TestCaseError> {
    let (mut short, mut long) = (engine::<F>(), engine::<F>());
    let (mut now, mut epoch) = (SECOND, 1);
    let mut tables_now = tables(epoch, 1500);
    let mut glances = [Usual::NONE; BURST_MAX];
    for step in steps {
        match step {
            Step::Burst(shapes) => {
                let mut ours: Vec<_> = shapes.iter().map(Shape::frame::<F>).collect();
                let mut theirs = ours.clone();
                let drop = Verdict::Drop(DropReason::Truncated);
                let (mut verdicts, mut expected) = ([drop; 12], [drop; 12]);
                let mut frames: Vec<_> = ours.iter_mut().map(Vec::as_mut_slice).collect();
                let (tables, room) = (F::tables(&tables_now), &mut glances);
                short.burst::<true>(now, tables, room, &mut frames, &mut verdicts);
                let mut frames: Vec<_> = theirs.iter_mut().map(Vec::as_mut_slice).collect();
                process_the_long_way(&mut long, now, &tables_now, &mut frames, &mut expected);
                prop_assert_eq!(verdicts, expected);
                prop_assert_eq!(ours, theirs);
            }
            Step::Tables { mtu, is_programmed } => {
                epoch += 1;
                tables_now = tables(if *is_programmed { epoch } else { EPOCH_NONE }, *mtu);
            }
            Step::Wait { seconds } => {
                now += seconds * SECOND;
                for engine in [&mut short, &mut long] {
                    (0..4).for_each(|_| engine.expire(now, F::tables(&tables_now)));
                }
            }
        }
        prop_assert_eq!(&short.counters, &long.counters);
        prop_assert_eq!(flows(&short), flows(&long));
    }
    Ok(())
}

/// A test that compares two engines says nothing of a short way that nobody takes.
#[test]
fn packets_of_known_flows_go_the_short_way() {
    go_the_short_way::<V4>();
    go_the_short_way::<V6>();
}

fn go_the_short_way<F: Sample>() {
    let mut engine = engine::<F>();
    let tables = tables(1, 1500);
    let shape = |is_reply, protocol, tcp_flags| Shape {
        is_reply,
        protocol,
        pod: 0,
        port: 2000,
        peer: 0,
        tos: 0,
        outer_ecn: 0,
        ttl: 64,
        fragment: 0x4000,
        tcp_flags,
        acknowledgment: 1,
        payload: 10,
        padding: 0,
        has_checksum: true,
        mutations: Vec::new(),
        is_mended: false,
        cut: None,
    };
    let mut usual = Usual::<F>::NONE;
    for (protocol, is_reply, flags, is_usual) in [
        (17, false, 0, true),
        (17, true, 0, true),
        (6, false, 0x10, true),
        (6, true, 0x18, true),
        (6, false, 0x02, false),
        (6, true, 0x12, false),
        (6, false, 0x11, false),
        (6, true, 0x14, false),
        (1, false, 0, false),
    ] {
        let frame = shape(is_reply, protocol, flags).frame::<F>();
        usual.glance(&frame, &engine.hasher);
        assert_eq!(usual.direction.is_some(), is_usual, "{protocol} {flags:#x} {is_reply}");
    }
    // And with a flow, to the end of it.
    for is_reply in [false, false, true] {
        let mut frame = shape(is_reply, 17, 0).frame::<F>();
        let mut verdicts = [Verdict::Drop(DropReason::Truncated)];
        let mut glances = [Usual::NONE];
        engine.glance::<true>(&[&mut frame], &mut glances);
        engine.seek::<true>(&mut glances);
        let mut sum = Sum::default();
        let context = Context::new(F::tables(&tables), SECOND);
        let [usual] = &glances;
        let sent = match is_reply {
            false => engine.forward_usual(context, &mut frame, usual, &mut sum),
            true => engine.reply_usual(context, &mut frame, usual, &mut sum),
        };
        let is_known = engine.counters.flows_created > 0;
        assert_eq!(sent.is_some(), is_known, "reply: {is_reply}");
        if !is_known {
            let (tables, room) = (F::tables(&tables), &mut [Usual::NONE; BURST_MAX]);
            engine.burst::<true>(SECOND, tables, room, &mut [&mut frame], &mut verdicts);
        }
    }
}
