//! What is left is taken up, once; what is anything else is refused, whatever it is.

use std::io::Cursor;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use etherparse::PacketBuilder;
use proptest::prelude::*;
use spillway_engine::steer::{KIND_TUNNEL, Owners, STEER_HEADER_LEN};
use spillway_engine::tables::{Tables, TablesInput};
use spillway_engine::{DropReason, EngineConfig, Timeouts, Verdict};
use tempfile::TempDir;

use super::*;

const BOOT: BootId = *b"01234567-89ab-cdef-0123-456789abcdef";
const NOW: Nanos = 1_000 << 24;
const FLOWS_MAX: u32 = 100;

/// Class → worker, as `run` shares them out.
fn owners(workers: u8) -> Owners {
    std::array::from_fn(|class| u8::try_from(class).unwrap() % workers).into()
}

fn engines(workers: u8) -> Vec<Engine> {
    let engine = |worker| {
        Engine::new(&EngineConfig {
            worker,
            owners: owners(workers),
            blocks_per_pod: 0,
            flows_max: FLOWS_MAX,
            flows_max_ipv6: FLOWS_MAX,
            hash_key: [1, 2, 3, 4],
            seed: 5,
            timeouts: Timeouts::default(),
            mss_clamp: true,
            events: false,
            pod_flows: Arc::default(),
        })
    };
    (0..workers).map(engine).collect()
}

fn flow(port: u16) -> SavedFlow {
    let direction = |at: Nanos| SavedDirection {
        progress: 1,
        last_seen_ns: at << 24,
        traffic: Traffic { packets: at, bytes: 60 * at },
    };
    SavedFlow {
        original: Tuple {
            source: [10, 0, 1, 40].into(),
            destination: [203, 0, 113, 10].into(),
            source_port: port,
            destination_port: 443,
            protocol: 6,
        },
        egress: [192, 168, 44, 129].into(),
        egress_port: port,
        created_ns: 7 << 24,
        expected: 0x0102_0304,
        forward: direction(8),
        reply: direction(9),
        peer: Ipv4Addr::new(192, 168, 44, 1),
        inner_mac: [2, 0, 0, 0, 0, 9],
        vni: [0, 0x9c, 0x40],
    }
}

/// The same in IPv6.
fn flow_ipv6(port: u16) -> SavedFlow {
    let address = |text: &str| text.parse().unwrap();
    let flow = flow(port);
    SavedFlow {
        original: Tuple {
            source: address("fd00:10:1::40"),
            destination: address("2001:db8:203::10"),
            ..flow.original
        },
        egress: address("2001:db8:44::129"),
        ..flow
    }
}

/// A flow that NAT64 has translated, of the pod with the IPv6 address of `flow_ipv6`.
fn flow_nat64(port: u16) -> SavedFlow {
    let flow = flow(port);
    SavedFlow { original: Tuple { source: NUMBER.into(), ..flow.original }, ..flow }
}

const NUMBER: Ipv4Addr = Ipv4Addr::new(243, 163, 224, 22);
const KEY: Ipv4Addr = Ipv4Addr::new(0, 133, 113, 33);

/// The numbers of a pod and a peer.
fn numbers() -> Assigned {
    let address = |text: &str| text.parse().unwrap();
    let (pod, peer) = ((NUMBER, address("fd00:10:1::40")), (KEY, address("2001:db8::1")));
    Assigned::restore([pod].into_iter(), [peer].into_iter()).unwrap()
}

fn file_of(numbers: &Assigned, flows: impl Iterator<Item = SavedFlow>) -> Vec<u8> {
    let mut file = Vec::new();
    write(&mut file, &BOOT, numbers, flows).unwrap();
    file
}

/// What is wrong with a file, and how many flows were believed.
fn refusal(file: &[u8]) -> (String, usize) {
    let mut believed = 0;
    let result = read(Cursor::new(file), &BOOT, |_| believed += 1);
    (result.map_or_else(|error| format!("{error:#}"), |_| "nothing".to_owned()), believed)
}

/// The same bytes with the checksum that belongs to them.
fn summed(mut file: Vec<u8>) -> Vec<u8> {
    let end = file.len() - 4;
    let checksum = crc32c::crc32c(&file[..end]);
    file[end..].copy_from_slice(&checksum.to_le_bytes());
    file
}

#[test]
fn what_is_left_is_taken_up_once() {
    let directory = TempDir::new().unwrap();
    let flows = (5000..5030).map(flow).chain((5030..5050).map(flow_nat64));
    let flows: Vec<SavedFlow> = flows.chain((5050..5080).map(flow_ipv6)).collect();
    // What was not finished once is written over.
    std::fs::write(directory.path().join(UNFINISHED), [0; 100_000]).unwrap();
    let count = leave(directory.path(), &BOOT, &numbers(), flows.iter().copied()).unwrap();
    assert_eq!(count, 80);
    let names = || std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name());
    assert_eq!(names().collect::<Vec<_>>(), [FILE]);
    let permissions = std::fs::metadata(directory.path().join(FILE)).unwrap().permissions();
    assert_eq!(permissions.mode() & 0o777, 0o600);

    for workers in [1, 2, 3] {
        let mut engines = engines(workers);
        let mut take_up =
            || take_up(directory.path(), &BOOT, NOW, &owners(workers), &mut engines).unwrap();
        let all = Restored { flows: 80, ..Restored::default() };
        let all = TakenUp { restored: all, numbers: numbers() };
        assert_eq!((take_up(), take_up()), (Some(all), None));
        assert_eq!(names().count(), 0);
        for (engine, worker) in engines.iter().zip(0..) {
            let of = |flow: &SavedFlow| owners(workers).owner(flow.egress_port);
            assert!(engine.saved().all(|flow| of(&flow) == worker));
        }
        let mut again: Vec<SavedFlow> = engines.iter().flat_map(Engine::saved).collect();
        again.sort_by_key(|flow| flow.egress_port);
        assert_eq!(again, flows);
        leave(directory.path(), &BOOT, &numbers(), again.into_iter()).unwrap();
    }
}

/// Whoever changes the format must change its version.
#[test]
fn the_format_is_that_of_its_version() {
    let text = "7370696c6c776179 03000000 \
        30313233343536372d383961622d636465662d303132332d343536373839616263646566 \
        01000000 01000000 \
        f3a3e016 fd000010000100000000000000000040 \
        00857121 20010db8000000000000000000000001 \
        00000000000000000000ffff0a000128 00000000000000000000ffffcb00710a 8813 bb01 06 \
        00000000000000000000ffffc0a82c81 8813 0000000700000000 04030201 \
        01 0000000800000000 0800000000000000 e001000000000000 \
        01 0000000900000000 0900000000000000 1c02000000000000 \
        c0a82c01 020000000009 009c40";
    let digits: Vec<char> = text.chars().filter(|digit| !digit.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
    let expected: Vec<u8> = digits.chunks(2).map(byte).collect();
    let file = file_of(&numbers(), [flow(5000)].into_iter());
    assert_eq!(file[..file.len() - 4], expected);
    let length = HEADER_LEN + COUNTS_LEN + 2 * NUMBER_LEN + RECORD_LEN + CHECKSUM_LEN;
    assert_eq!((VERSION, file.len() as u64), (3, length));
    let mut read_again = Vec::new();
    let again = read(Cursor::new(file), &BOOT, |flow| read_again.push(*flow)).unwrap();
    assert_eq!((again, read_again), (numbers(), vec![flow(5000)]));
}

#[test]
fn another_file_is_refused_and_said_to_be_what_it_is() {
    let good = file_of(&numbers(), (5000..5003).map(flow));
    let with = |at: usize, byte: u8| {
        let mut file = good.clone();
        file[at] = byte;
        file
    };
    for (file, why) in [
        (with(8, 1), "its format is 1, and this spillway knows 3 only"),
        (with(12, b'x'), "it is from before the machine was booted"),
        (with(0, b'S'), "these are no flows of Spillway"),
        (good[..good.len() - 1].to_vec(), "its length is wrong: it is damaged"),
        ([&good[..], &[0]].concat(), "its length is wrong: it is damaged"),
        (
            [&good[..56 + 40 + 130], &good[good.len() - 4..]].concat(),
            "its checksum is wrong: it is damaged",
        ),
        (summed(with(56, 10)), "its numbers are none of Spillway's"),
        (good[..51].to_vec(), "its length is wrong: it is damaged: failed to fill whole buffer"),
        (good[..57].to_vec(), "its length is wrong: it is damaged"),
        (good[..47].to_vec(), "it is too short: it is damaged: failed to fill whole buffer"),
        (Vec::new(), "it is too short: it is damaged: failed to fill whole buffer"),
    ] {
        assert_eq!(refusal(&file), (why.to_owned(), 0));
    }
    for bit in 0..good.len() * 8 {
        let file = with(bit / 8, good[bit / 8] ^ 1 << (bit % 8));
        let (why, believed) = refusal(&file);
        assert!(why != "nothing" && believed == 0, "bit {bit}: {why}");
    }
    assert_eq!(refusal(&good), ("nothing".to_owned(), 3));
}

#[test]
fn a_file_that_is_of_no_use_is_gone_and_the_message_names_it() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join(FILE);
    std::fs::write(&path, b"spillway").unwrap();
    let mut engines = engines(1);
    let mut take_up = || take_up(directory.path(), &BOOT, NOW, &owners(1), &mut engines);
    let message = format!("{:#}", take_up().unwrap_err());
    assert!(message.starts_with(&format!("cannot use {}: it is too short", path.display())));
    assert_eq!(take_up().unwrap(), None);

    let missing = directory.path().join("missing");
    let message = format!("{:#}", leave(&missing, &BOOT, &numbers(), [].into_iter()).unwrap_err());
    assert!(message.starts_with(&format!("cannot write {}: ", missing.join(FILE).display())));
}

#[test]
fn what_finds_no_place_is_counted_by_its_reason() {
    let directory = TempDir::new().unwrap();
    let taken = SavedFlow { original: flow(5001).original, ..flow(5000) };
    let unknown = SavedFlow { created_ns: NOW + 1, ..flow(7000) };
    let flows = [flow(5000), taken, unknown];
    leave(directory.path(), &BOOT, &numbers(), flows.into_iter()).unwrap();
    let restored = take_up(directory.path(), &BOOT, NOW, &owners(2), &mut engines(2))
        .unwrap()
        .unwrap()
        .restored;
    let refused = [NotRestored::Malformed, NotRestored::Taken];
    assert_eq!(restored.refused, refused.map(|why| (why, 1)).into());
    assert_eq!(
        restored.to_string(),
        "1 flows go on; 1 do not: no flow of this engine; 1 do not: another flow has its tuple"
    );

    // One worker owns all classes; it has room for so many.
    leave(directory.path(), &BOOT, &numbers(), (5000..5150).map(flow).chain([taken])).unwrap();
    let restored = take_up(directory.path(), &BOOT, NOW, &owners(1), &mut engines(1))
        .unwrap()
        .unwrap()
        .restored;
    assert_eq!(restored.flows, u64::from(FLOWS_MAX));
    assert_eq!(restored.refused, [(NotRestored::Taken, 1), (NotRestored::TableFull, 50)].into());
}

/// The flow is where its replies come to; the worker of the pod's packets hands them over.
#[test]
fn a_flow_of_two_workers_goes_on() {
    let directory = TempDir::new().unwrap();
    let (owners, mut engines) = (owners(2), engines(2));
    let worker = |port| owners.owner(port);
    let other = (6000..).find(|port| worker(*port) != worker(5000)).unwrap();
    let split = SavedFlow { egress_port: other, ..flow(5000) };
    leave(directory.path(), &BOOT, &numbers(), [split].into_iter()).unwrap();
    let taken = take_up(directory.path(), &BOOT, NOW, &owners, &mut engines).unwrap().unwrap();
    assert_eq!(taken.restored.to_string(), "1 flows go on");
    let home = worker(other);
    assert_eq!(engines[usize::from(home)].saved().collect::<Vec<_>>(), [split]);

    let tables = Tables::new(TablesInput { epoch: 1, ..TablesInput::default() });
    let Tuple { source, destination, .. } = split.original;
    let mut frame = vec![0; STEER_HEADER_LEN];
    frame[0] = KIND_TUNNEL;
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else { panic!() };
    PacketBuilder::ipv4(source.octets(), destination.octets(), 64)
        .tcp(5000, 443, 1, 1000)
        .ack(1)
        .write(&mut frame, b"")
        .unwrap();
    let mut verdict = [Verdict::Drop(DropReason::Truncated)];
    let engine = &mut engines[usize::from(worker(5000))];
    engine.process(NOW, &tables, &mut [&mut frame], &mut verdict);
    assert!(matches!(verdict[0], Verdict::HandOff { worker, .. } if worker == home), "{verdict:?}");
}

proptest! {
    /// Flows of nobody, as if they had been left.
    #[test]
    fn no_bytes_stop_the_engine(
        changes in proptest::collection::vec((56..56 + 130 * 20_usize, any::<u8>()), 0..400),
        workers in 1..5_u8,
    ) {
        let mut file = file_of(&Assigned::default(), (5000..5020).map(flow));
        for (at, byte) in changes {
            file[at] = byte;
        }
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join(FILE), summed(file)).unwrap();
        let (owners, mut engines) = (owners(workers), engines(workers));
        let restored =
            take_up(directory.path(), &BOOT, NOW, &owners, &mut engines).unwrap().unwrap().restored;
        prop_assert_eq!(restored.flows + restored.refused.values().sum::<u64>(), 20);
        let live: u64 = engines.iter().map(|engine| engine.counters().flows_live).sum();
        prop_assert_eq!(live, restored.flows);
        let tables = Tables::new(TablesInput { epoch: 1, ..TablesInput::default() });
        for engine in &mut engines {
            for step in 0..50 {
                engine.expire(NOW + 8_000_000_000_000 + step * 100_000_000, &tables);
            }
            prop_assert_eq!(engine.counters().flows_live, 0);
        }
    }
}
