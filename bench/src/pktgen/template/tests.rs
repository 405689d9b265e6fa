//! Frames as etherparse reads them.

use clap::Parser;
use etherparse::{NetSlice, SlicedPacket, TransportSlice, checksum::u32_16bit_word};

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    traffic: TrafficOptions,
}

const TUNNEL: &str = "--tunnel-source 192.168.1.2 --tunnel-target 192.168.2.2";
const FLOWS: &str = "--pods 10.0.1.40+4 --remotes 203.0.113.10+3 --flows 100000";
const MACS: (Mac, Mac) = (Mac([2, 0, 0, 0, 0, 7]), Mac([2, 0, 0, 0, 0, 8]));

/// The template of a command line.
pub(crate) fn template(line: &str) -> Result<Template> {
    let words = ["generator"].into_iter().chain(line.split_whitespace());
    Template::new(&Line::try_parse_from(words)?.traffic, MACS.0, MACS.1)
}

fn label(flow: u32, sequence: u32) -> Label {
    Label { stream: 2, flow, sequence, time_ns: 0x0123_4567_89ab_cdef }
}

/// What etherparse says of an inner or plain frame: addresses, ports and the payload, after it has
/// checked both checksums.
fn read(frame: &[u8]) -> (Ipv4Addr, u16, Ipv4Addr, u16, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(NetSlice::Ipv4(ip)) = packet.net else { panic!("no IPv4: {packet:?}") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    assert_eq!(usize::from(header.total_len), frame.len() - ETHERNET);
    let (ports, payload) = match packet.transport {
        Some(TransportSlice::Udp(udp)) => {
            let header = udp.to_header();
            let check = header.calc_checksum_ipv4(&ip.header().to_header(), udp.payload()).unwrap();
            assert_eq!(header.checksum, check);
            ((header.source_port, header.destination_port), udp.payload())
        }
        Some(TransportSlice::Tcp(tcp)) => {
            let header = tcp.to_header();
            let check = header.calc_checksum_ipv4(&ip.header().to_header(), tcp.payload()).unwrap();
            assert_eq!(header.checksum, check);
            assert!(header.syn && !header.ack);
            ((header.source_port, header.destination_port), tcp.payload())
        }
        transport => panic!("{transport:?}"),
    };
    let (source, target) = (header.source.into(), header.destination.into());
    (source, ports.0, target, ports.1, payload.to_vec())
}

fn written(template: &Template, label: Label) -> Vec<u8> {
    // What was there before must not be seen.
    let mut frame = vec![0xaa; 2048];
    let length = template.write(label, &mut frame);
    frame.truncate(length);
    frame
}

fn padded(label: Label, length: usize) -> Vec<u8> {
    let mut bytes = label.to_bytes().to_vec();
    bytes.resize(length, 0);
    bytes
}

#[test]
fn a_tunnelled_packet_is_right_in_every_field_and_both_checksums() {
    for (protocol, header) in [("udp", UDP), ("tcp-syn", TCP)] {
        let line = format!("{TUNNEL} {FLOWS} --vni 40001 --protocol {protocol} --size 1518");
        let template = template(&line).unwrap();
        for flow in [0, 1, 64_511, 64_512, 99_999] {
            let frame = written(&template, label(flow, 9));
            assert_eq!(frame.len(), 1514 + ENCAPSULATION);
            assert_eq!(frame[..12], [2, 0, 0, 0, 0, 8, 2, 0, 0, 0, 0, 7]);
            let outer = SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(NetSlice::Ipv4(ip)) = &outer.net else { panic!("{outer:?}") };
            let ip = ip.header().to_header();
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert_eq!((ip.source, ip.destination), ([192, 168, 1, 2], [192, 168, 2, 2]));
            let Some(TransportSlice::Udp(udp)) = &outer.transport else { panic!("{outer:?}") };
            assert_eq!((udp.destination_port(), udp.checksum()), (8472, 0));
            assert!(udp.source_port() >= 49152);
            assert_eq!(udp.payload()[..8], [8, 0, 0, 0, 0, 0x9c, 0x41, 0]);
            let ends = template.flows.ends(flow);
            let payload = padded(label(flow, 9), 1514 - ETHERNET - IP - header);
            let expected = (ends.pod, ends.port, ends.remote, ends.remote_port, payload);
            assert_eq!(read(&udp.payload()[8..]), expected);
        }
    }
}

#[test]
fn a_reply_comes_from_the_remote_to_the_egress_address_on_the_pods_port() {
    let line = format!("--traffic replies --egress 192.0.2.1 {FLOWS}");
    let template = template(&line).unwrap();
    let frame = written(&template, label(70_000, 1));
    assert_eq!(frame.len(), 60);
    let ends = template.flows.ends(70_000);
    let egress = Ipv4Addr::new(192, 0, 2, 1);
    let expected = (ends.remote, ends.remote_port, egress, ends.port, padded(label(70_000, 1), 18));
    assert_eq!(read(&frame), expected);
}

#[test]
fn flows_have_different_outer_ports_unless_one_is_asked_for() {
    let ports = |line: &str| {
        let template = template(line).unwrap();
        let port = |flow| {
            let frame = written(&template, label(flow, 0));
            u16::from_be_bytes([frame[34], frame[35]])
        };
        (0..1000).map(port).collect::<std::collections::HashSet<_>>()
    };
    assert!(ports(TUNNEL).len() > 900);
    assert_eq!(ports(&format!("{TUNNEL} --outer-source-port 5")).into_iter().next(), Some(5));
}

#[test]
fn imix_is_seven_to_four_to_one() {
    let template = template(&format!("{TUNNEL} --size imix")).unwrap();
    let lengths: Vec<_> = (0..24).map(|n| template.length(n) - ENCAPSULATION + 4).collect();
    for (size, count) in [(64, 14), (576, 8), (1500, 2)] {
        assert_eq!(lengths.iter().filter(|&&length| length == size).count(), count);
    }
    assert_eq!(template.longest(), 1496 + ENCAPSULATION);
}

#[test]
fn a_checksum_that_would_be_zero_is_written_as_its_other_form() {
    let template = template(TUNNEL).unwrap();
    let check = |time_ns| {
        let frame = written(&template, Label { time_ns, ..label(0, 0) });
        read(&frame[ENCAPSULATION..]);
        u32_16bit_word::add_2bytes(0, [frame[90], frame[91]])
    };
    // One of all values of a word makes the sum that needs it.
    assert!((0..=0xffff).any(|time_ns| check(time_ns) == 0xffff));
    assert!((0..=0xffff).all(|time_ns| check(time_ns) != 0));
}

#[test]
fn what_does_not_fit_together_is_refused() {
    for (line, reason) in [
        ("", "tunnel-source"),
        ("--traffic replies", "egress"),
        (&format!("{TUNNEL} --protocol tcp-syn --size 75"), "76 bytes at least"),
        (&format!("{TUNNEL} --protocol tcp-syn --size imix"), "which --size imix is not"),
        (&format!("{TUNNEL} --flows 64513"), "make 64512"),
    ] {
        let error = template(line).unwrap_err().to_string();
        assert!(error.contains(reason), "{line}: {error}");
    }
}
