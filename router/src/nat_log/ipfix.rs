//! Messages of IPFIX (RFC 7011) about NAT sessions (RFC 8158). Pure: what is sent when, and to whom,
//! is `export.rs`'s.

use std::net::IpAddr;

use jiff::Timestamp;

use super::record::{Block, Record, Session};
use crate::answer::protocol_number;

/// Bytes of a message at most: with the headers of IPv6 and UDP it goes through every network of IPv6
/// in one piece (RFC 8200, section 5).
const MESSAGE_BYTES_MAX: usize = 1_280 - 40 - 8;

/// IPFIX's version.
const VERSION: u16 = 10;

const HEADER_BYTES: usize = 16;
const SET_HEADER_BYTES: usize = 4;

/// Sets of templates and of options templates (RFC 7011, section 3.3.2).
const TEMPLATE_SET: u16 = 2;
const OPTIONS_TEMPLATE_SET: u16 = 3;

/// The template of what was not sent.
const NOT_SENT: u16 = 259;

/// An information element: its number and its length in bytes.
type Element = (u16, u16);

const PROTOCOL: Element = (4, 1);
const SOURCE_PORT: Element = (7, 2);
const SOURCE_IPV4: Element = (8, 4);
const DESTINATION_PORT: Element = (11, 2);
const DESTINATION_IPV4: Element = (12, 4);
const SOURCE_IPV6: Element = (27, 16);
const DESTINATION_IPV6: Element = (28, 16);
const EXPORTING_PROCESS: Element = (144, 4);
const NOT_SENT_FLOWS: Element = (166, 8);
const POST_NAT_SOURCE_IPV4: Element = (225, 4);
const POST_NAT_DESTINATION_IPV4: Element = (226, 4);
const POST_NAPT_SOURCE_PORT: Element = (227, 2);
const POST_NAPT_DESTINATION_PORT: Element = (228, 2);
const NAT_EVENT: Element = (230, 1);
const POST_NAT_SOURCE_IPV6: Element = (281, 16);
const POST_NAT_DESTINATION_IPV6: Element = (282, 16);
const OBSERVATION_TIME: Element = (323, 8);
const PORT_RANGE_START: Element = (361, 2);
const PORT_RANGE_END: Element = (362, 2);
const PORT_RANGE_STEP: Element = (363, 2);
const PORT_RANGE_PORTS: Element = (364, 2);

/// The values of natEvent: a port block was allocated, and given back.
const BLOCK_EVENTS: (u8, u8) = (16, 17);

/// What every session has, in front of its addresses.
const OF_ALL: [Element; 7] = [
    OBSERVATION_TIME,
    NAT_EVENT,
    PROTOCOL,
    SOURCE_PORT,
    POST_NAPT_SOURCE_PORT,
    DESTINATION_PORT,
    POST_NAPT_DESTINATION_PORT,
];

/// Which translation a session is. RFC 8158 has events for the first two; for the third there are those
/// that its section 5.1 lists as historic, which leave the kind of translation open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Translation {
    Nat44,
    Nat64,
    Nat66,
}

impl Translation {
    const ALL: [Self; 3] = [Self::Nat44, Self::Nat64, Self::Nat66];

    fn of(pod: IpAddr, egress: IpAddr) -> Self {
        match (pod, egress) {
            (IpAddr::V4(_), _) => Self::Nat44,
            (IpAddr::V6(_), IpAddr::V4(_)) => Self::Nat64,
            (IpAddr::V6(_), IpAddr::V6(_)) => Self::Nat66,
        }
    }

    fn template(self) -> u16 {
        match self {
            Self::Nat44 => 256,
            Self::Nat64 => 257,
            Self::Nat66 => 258,
        }
    }

    /// The values of natEvent: a session was created, and deleted.
    fn events(self) -> (u8, u8) {
        match self {
            Self::Nat44 => (4, 5),
            Self::Nat64 => (6, 7),
            Self::Nat66 => (1, 2),
        }
    }

    /// The addresses: source, source outside, destination, destination outside.
    fn addresses(self) -> [Element; 4] {
        match self {
            Self::Nat44 => {
                [SOURCE_IPV4, POST_NAT_SOURCE_IPV4, DESTINATION_IPV4, POST_NAT_DESTINATION_IPV4]
            }
            Self::Nat64 => {
                [SOURCE_IPV6, POST_NAT_SOURCE_IPV4, DESTINATION_IPV6, POST_NAT_DESTINATION_IPV4]
            }
            Self::Nat66 => {
                [SOURCE_IPV6, POST_NAT_SOURCE_IPV6, DESTINATION_IPV6, POST_NAT_DESTINATION_IPV6]
            }
        }
    }

    /// The template of its port blocks.
    fn block_template(self) -> u16 {
        match self {
            Self::Nat44 => 260,
            Self::Nat64 => 261,
            Self::Nat66 => 262,
        }
    }

    /// What sessions have.
    fn elements(self) -> Vec<Element> {
        OF_ALL.into_iter().chain(self.addresses()).collect()
    }

    /// What port blocks have (RFC 8158, section 5.6.9).
    fn block_elements(self) -> Vec<Element> {
        let [source, source_outside, ..] = self.addresses();
        let range = [PORT_RANGE_START, PORT_RANGE_END, PORT_RANGE_STEP, PORT_RANGE_PORTS];
        [OBSERVATION_TIME, NAT_EVENT, source, source_outside].into_iter().chain(range).collect()
    }
}

/// The template of a record, and what it has; none of one that no collector is told.
fn template(record: &Record) -> Option<(u16, Vec<Element>)> {
    if let Some(block) = record.block() {
        let translation = Translation::of(block.pod_address, block.egress_address);
        return Some((translation.block_template(), translation.block_elements()));
    }
    let session = record.session()?;
    let translation = Translation::of(session.pod_address, session.egress_address);
    Some((translation.template(), translation.elements()))
}

fn bytes(elements: &[Element]) -> usize {
    elements.iter().map(|(_, length)| usize::from(*length)).sum()
}

/// The sessions and the number of sessions that were lost, as a collector shall learn them.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    /// Data records that were put into messages of this transport session.
    sequence: u32,
}

impl Encoder {
    /// A message with the templates, which a collector must have before it understands anything.
    pub(super) fn templates(&self, now: Timestamp) -> Vec<u8> {
        let mut message = self.begin(now);
        let set = begin_set(&mut message, TEMPLATE_SET);
        let sessions = Translation::ALL.map(|of| (of.template(), of.elements()));
        let blocks = Translation::ALL.map(|of| (of.block_template(), of.block_elements()));
        for (number, elements) in sessions.into_iter().chain(blocks) {
            put_u16(&mut message, number);
            put_u16(&mut message, elements.iter().map(|_| 1).sum());
            elements.into_iter().for_each(|element| put_element(&mut message, element));
        }
        end_set(&mut message, set);
        // Of three fields the first is what they are about (RFC 7011, section 4.3).
        let set = begin_set(&mut message, OPTIONS_TEMPLATE_SET);
        [NOT_SENT, 3, 1].into_iter().for_each(|number| put_u16(&mut message, number));
        let elements = [EXPORTING_PROCESS, NOT_SENT_FLOWS, OBSERVATION_TIME];
        elements.into_iter().for_each(|element| put_element(&mut message, element));
        end_set(&mut message, set);
        finish(message)
    }

    /// A message that says how many sessions' events were not sent since the exporter started.
    pub(super) fn not_sent(&mut self, now: Timestamp, process: u32, events: u64) -> Vec<u8> {
        let mut message = self.begin(now);
        let set = begin_set(&mut message, NOT_SENT);
        message.extend(process.to_be_bytes());
        message.extend(events.to_be_bytes());
        message.extend(milliseconds(now).to_be_bytes());
        end_set(&mut message, set);
        self.sequence = self.sequence.wrapping_add(1);
        finish(message)
    }

    /// A message with as many of the records as there is room for, and how many these are. What is no
    /// session or block is left out.
    pub(super) fn records(&mut self, now: Timestamp, records: &[Record]) -> (Vec<u8>, usize) {
        let mut message = self.begin(now);
        let mut open: Option<(u16, usize)> = None;
        let mut taken = 0;
        for record in records {
            let Some((template, elements)) = template(record) else {
                taken += 1;
                continue;
            };
            let is_new = open.is_none_or(|(of, _)| of != template);
            let header = if is_new { SET_HEADER_BYTES } else { 0 };
            if message.len() + header + bytes(&elements) > MESSAGE_BYTES_MAX {
                break;
            }
            if is_new {
                open.into_iter().for_each(|(_, set)| end_set(&mut message, set));
                open = Some((template, begin_set(&mut message, template)));
            }
            record.session().iter().for_each(|session| put_session(&mut message, record, session));
            record.block().iter().for_each(|block| put_block(&mut message, record, block));
            self.sequence = self.sequence.wrapping_add(1);
            taken += 1;
        }
        open.into_iter().for_each(|(_, set)| end_set(&mut message, set));
        (finish(message), taken)
    }

    /// A message's header; its length follows when it is known.
    fn begin(&self, now: Timestamp) -> Vec<u8> {
        let mut message = Vec::with_capacity(MESSAGE_BYTES_MAX);
        put_u16(&mut message, VERSION);
        put_u16(&mut message, 0);
        let seconds = u32::try_from(now.as_second()).unwrap_or(u32::MAX);
        message.extend(seconds.to_be_bytes());
        message.extend(self.sequence.to_be_bytes());
        // The observation domain: none in particular (RFC 7011, section 3.1).
        message.extend([0; 4]);
        message
    }
}

/// Whether a message has more than its header.
pub(super) fn has_records(message: &[u8]) -> bool {
    message.len() > HEADER_BYTES
}

fn put_block(message: &mut Vec<u8>, record: &Record, block: &Block) {
    let (allocated, given_back) = BLOCK_EVENTS;
    let (event, time) = match record {
        Record::BlockEnd(_) => (given_back, block.time),
        _ => (allocated, block.began.unwrap_or(block.time)),
    };
    message.extend(milliseconds(time).to_be_bytes());
    message.push(event);
    let [(_, pod), (_, outside), ..] =
        Translation::of(block.pod_address, block.egress_address).addresses();
    put_address(message, block.pod_address, pod);
    put_address(message, block.egress_address, outside);
    let Block { first_port, last_port, .. } = *block;
    let ports = last_port.saturating_sub(first_port).saturating_add(1);
    [first_port, last_port, 1, ports].into_iter().for_each(|number| put_u16(message, number));
}

/// An address in the room of an element of this length.
fn put_address(message: &mut Vec<u8>, address: IpAddr, length: u16) {
    match (address, length) {
        (IpAddr::V4(address), 4) => message.extend(address.octets()),
        (IpAddr::V6(address), 16) => message.extend(address.octets()),
        // A NAT64 session has outlived its prefix: nobody knows where the pod has sent to.
        _ => message.resize(message.len() + usize::from(length), 0),
    }
}

fn put_session(message: &mut Vec<u8>, record: &Record, session: &Session) {
    let translation = Translation::of(session.pod_address, session.egress_address);
    let (created, deleted) = translation.events();
    // One that was there already was created when it began.
    let (event, time) = match record {
        Record::End(_) => (deleted, session.time),
        _ => (created, session.began.unwrap_or(session.time)),
    };
    message.extend(milliseconds(time).to_be_bytes());
    message.push(event);
    message.push(protocol_number(&session.protocol).unwrap_or_default());
    put_u16(message, session.pod_port);
    put_u16(message, session.egress_port);
    put_u16(message, session.remote_port);
    put_u16(message, session.remote_port);
    let destination = session.pod_destination.unwrap_or(session.remote_address);
    let outside = [session.egress_address, destination, session.remote_address];
    let addresses = [session.pod_address].into_iter().chain(outside);
    for ((_, length), address) in translation.addresses().into_iter().zip(addresses) {
        put_address(message, address, length);
    }
}

fn milliseconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_millisecond()).unwrap_or_default()
}

fn put_u16(message: &mut Vec<u8>, number: u16) {
    message.extend(number.to_be_bytes());
}

fn put_element(message: &mut Vec<u8>, (number, length): Element) {
    put_u16(message, number);
    put_u16(message, length);
}

/// Returns where the set begins.
fn begin_set(message: &mut Vec<u8>, id: u16) -> usize {
    let start = message.len();
    put_u16(message, id);
    put_u16(message, 0);
    start
}

fn end_set(message: &mut [u8], start: usize) {
    let length = message.len() - start;
    put_length(message, start + 2, length);
}

fn finish(mut message: Vec<u8>) -> Vec<u8> {
    let length = message.len();
    put_length(&mut message, 2, length);
    message
}

/// No message is longer than [`MESSAGE_BYTES_MAX`].
fn put_length(message: &mut [u8], at: usize, length: usize) {
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    message[at..at + 2].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{at, block, session};
    use super::*;

    fn u16_at(bytes: &[u8], at: usize) -> u16 {
        u16::from_be_bytes([bytes[at], bytes[at + 1]])
    }

    fn sequence(message: &[u8]) -> u32 {
        u32::from_be_bytes(message[8..12].try_into().unwrap())
    }

    /// The sets of a message: number and content.
    fn sets(message: &[u8]) -> Vec<(u16, &[u8])> {
        assert_eq!((u16_at(message, 0), usize::from(u16_at(message, 2))), (10, message.len()));
        let (mut sets, mut rest) = (Vec::new(), &message[16..]);
        while !rest.is_empty() {
            let length = usize::from(u16_at(rest, 2));
            sets.push((u16_at(rest, 0), &rest[4..length]));
            rest = &rest[length..];
        }
        sets
    }

    #[test]
    fn each_translation_has_a_template_of_its_own() {
        let message = Encoder::default().templates(at("2026-11-22T14:00:00Z"));
        assert!(message.len() <= MESSAGE_BYTES_MAX);
        let sets = sets(&message);
        assert_eq!(sets.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [2, 3]);
        let of_one = 4 + 11 * 4;
        let of_block = 4 + 8 * 4;
        assert_eq!(sets[0].1.len(), 3 * of_one + 3 * of_block);
        for (index, (first, bytes)) in [(256, 34), (257, 58), (258, 82)].into_iter().enumerate() {
            let template = &sets[0].1[index * of_one..][..of_one];
            assert_eq!((u16_at(template, 0), u16_at(template, 2)), (first, 11));
            let lengths = template[4..].chunks(4).map(|element| u16_at(element, 2));
            assert_eq!(lengths.sum::<u16>(), bytes);
        }
        for (index, (first, bytes)) in [(260, 25), (261, 37), (262, 49)].into_iter().enumerate() {
            let template = &sets[0].1[3 * of_one + index * of_block..][..of_block];
            assert_eq!((u16_at(template, 0), u16_at(template, 2)), (first, 8));
            let lengths = template[4..].chunks(4).map(|element| u16_at(element, 2));
            assert_eq!(lengths.sum::<u16>(), bytes);
        }
    }

    #[test]
    fn a_block_has_what_its_template_says() {
        let block = block("2026-11-22T14:00:00.5Z");
        let six = Block { pod_address: "fd00::40".parse().unwrap(), ..block.clone() };
        let began = Some(at("2026-11-22T14:00:00.5Z"));
        let live = Block { time: at("2026-11-22T15:00:00Z"), began, ..block.clone() };
        let records = [Record::BlockBegin(block), Record::BlockLive(live), Record::BlockEnd(six)];
        let now = at("2026-11-22T14:00:01Z");
        let (message, taken) = Encoder::default().records(now, &records);
        assert_eq!(taken, 3);
        let time = 1_795_356_000_500_u64.to_be_bytes();
        let ports = [16, 0, 16, 63, 0, 1, 0, 64];
        let four = [&time[..], &[16, 10, 0, 1, 40, 192, 168, 44, 129], &ports].concat();
        let pod = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40];
        let six = [&time[..], &[17], &pod, &[192, 168, 44, 129], &ports].concat();
        assert_eq!(sets(&message), [(260, &four.repeat(2)[..]), (261, &six[..])]);
    }

    #[test]
    fn a_session_has_what_its_template_says() {
        let begin = Record::Begin(session("2026-11-22T14:00:00.5Z"));
        let (message, taken) = Encoder::default().records(at("2026-11-22T14:00:01Z"), &[begin]);
        assert_eq!(taken, 1);
        let milliseconds = 1_795_356_000_500_u64.to_be_bytes();
        let expected = [
            &milliseconds[..],
            &[4, 6],
            &[160, 40, 160, 41, 1, 187, 1, 187],
            &[10, 0, 1, 40, 192, 168, 44, 129, 203, 0, 113, 10, 203, 0, 113, 10],
        ];
        assert_eq!(sets(&message), [(256, &expected.concat()[..])]);
    }

    #[test]
    fn records_of_one_translation_share_a_set_and_are_counted() {
        let four = session("2026-11-22T14:00:00Z");
        let six = Session {
            pod_address: "fd00::40".parse().unwrap(),
            pod_destination: Some("64:ff9b::203.0.113.10".parse().unwrap()),
            ..four.clone()
        };
        let both_six = Session {
            egress_address: "2001:db8:44::129".parse().unwrap(),
            remote_address: "2001:db8:203::10".parse().unwrap(),
            pod_destination: None,
            ..six.clone()
        };
        let records = [
            Record::Begin(four.clone()),
            Record::End(four),
            Record::Mark(super::super::record::At { time: at("2026-11-22T14:00:00Z") }),
            Record::End(six),
            Record::Live(both_six),
        ];
        let mut encoder = Encoder::default();
        let (message, taken) = encoder.records(at("2026-11-22T14:00:01Z"), &records);
        assert_eq!((taken, sequence(&message)), (5, 0));
        let events: Vec<(u16, u8)> = sets(&message).iter().map(|(id, set)| (*id, set[8])).collect();
        assert_eq!(events, [(256, 4), (257, 7), (258, 1)]);
        assert_eq!(sets(&message)[0].1.len(), 2 * 34);
        // The next message's number counts data records, not templates and not what was left out.
        assert_eq!(sequence(&encoder.templates(at("2026-11-22T14:00:01Z"))), 4);
        let message = encoder.not_sent(at("2026-11-22T14:00:01Z"), 77, 3);
        assert_eq!((sequence(&message), sets(&message)[0].0), (4, 259));
        assert_eq!(sets(&message)[0].1[..12], [0, 0, 0, 77, 0, 0, 0, 0, 0, 0, 0, 3]);
        let (nothing, _) = encoder.records(at("2026-11-22T14:00:01Z"), &[]);
        assert_eq!((sequence(&nothing), has_records(&nothing)), (5, false));
    }

    #[test]
    fn a_session_that_has_outlived_its_prefix_is_as_long_as_its_template_says() {
        let session =
            Session { pod_address: "fd00::40".parse().unwrap(), ..session("2026-11-22T14:00:00Z") };
        let records = [Record::End(session)];
        let (message, _) = Encoder::default().records(at("2026-11-22T14:00:01Z"), &records);
        let (set, record) = sets(&message)[0];
        assert_eq!((set, record.len()), (257, bytes(&Translation::Nat64.elements())));
        let remote = [203, 0, 113, 10];
        assert_eq!((&record[38..54], &record[54..]), (&[0; 16][..], &remote[..]));
    }

    #[test]
    fn what_does_not_fit_is_left_for_the_next_message() {
        let records = vec![Record::Begin(session("2026-11-22T14:00:00Z")); 100];
        let mut encoder = Encoder::default();
        let (mut rest, mut messages) = (&records[..], 0);
        while !rest.is_empty() {
            let (message, taken) = encoder.records(at("2026-11-22T14:00:01Z"), rest);
            assert!(message.len() <= MESSAGE_BYTES_MAX && has_records(&message));
            assert_eq!(sequence(&message) as usize, records.len() - rest.len());
            (rest, messages) = (&rest[taken..], messages + 1);
        }
        assert_eq!(messages, 3);
    }
}
