//! What holds for any packet: nothing panics, and there and back it is the same.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::packet::{SCTP, TCP, UDP};
use crate::tables::Nat64Input;

const POD: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 2, 3, 0, 0, 0, 7);
const NUMBER: Ipv4Addr = Ipv4Addr::new(240, 0, 3, 1);
const REMOTE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

fn addresses() -> Addresses {
    Addresses::new(&Nat64Input { prefix: Prefix::WELL_KNOWN, pods: vec![(NUMBER, POD)] })
}

/// A pod's packet of these protocol and payload.
fn packet(protocol: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x6c, 0x80, 0, 0];
    packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend([protocol, hop_limit]);
    packet.extend(POD.octets());
    packet.extend(Prefix::WELL_KNOWN.embed(REMOTE).octets());
    packet.extend(payload);
    packet
}

/// Exchanges source and destination, which stand at `place`: no checksum minds.
fn turn_round(packet: &mut [u8], place: usize, length: usize) {
    packet[place..place + 2 * length].rotate_left(length);
}

/// Sets what is 0xffff among the bytes at `place` to 0: both mean the same there.
fn with_one_zero(mut packet: Vec<u8>, place: usize) -> Vec<u8> {
    if packet[place..place + 2] == [0xff, 0xff] {
        packet[place..place + 2].fill(0);
    }
    packet
}

proptest! {
    #[test]
    fn there_and_back_a_packet_is_the_same(
        (protocol, checksum_at) in prop_oneof![
            Just((TCP, 56)),
            Just((UDP, 46)),
            Just((SCTP, 48)),
            Just((ICMPV6, 42)),
            Just((47, 42)),
        ],
        hop_limit: u8,
        mut payload in prop::collection::vec(any::<u8>(), 20..200),
        sum in 1..=0xffff_u16,
    ) {
        match protocol {
            // A whole echo.
            ICMPV6 => payload[..2].copy_from_slice(&[128, 0]),
            UDP => payload[6..8].copy_from_slice(&sum.to_be_bytes()),
            _ => {}
        }
        let before = packet(protocol, hop_limit, &payload);
        let addresses = addresses();
        let mut ipv4 = [0; 300];
        let written = write_ipv4(&addresses, &before, &mut ipv4).unwrap();
        prop_assert!(!written.was_atomic);
        let ipv4 = &mut ipv4[..usize::from(written.length)];
        turn_round(ipv4, 12, 4);
        prop_assert_eq!(ipv4.len(), before.len() - usize::from(SHORTER));
        let to_ipv6 = ToIpv6::new(&addresses, ipv4, 1500).unwrap();
        prop_assert_eq!(to_ipv6.count(), 1);
        let mut after = vec![0; 300];
        let length = to_ipv6.write(0, &mut after).unwrap();
        after.truncate(length.into());
        turn_round(&mut after, 8, 16);
        prop_assert_eq!(with_one_zero(after, checksum_at), with_one_zero(before, checksum_at));
        prop_assert_eq!(to_ipv6.write(1, &mut [0; 300]), None);
    }

    #[test]
    fn there_and_back_a_fragment_is_the_same(
        start in 1..1000_u16,
        has_more: bool,
        identification: u16,
        units in 1..20_usize,
    ) {
        let place = (start << 3 | u16::from(has_more)).to_be_bytes();
        let [i0, i1] = identification.to_be_bytes();
        let mut payload = vec![UDP, 0, place[0], place[1], 0, 0, i0, i1];
        payload.resize(8 + units * 8, 0xab);
        let before = packet(44, 64, &payload);
        let addresses = addresses();
        let mut ipv4 = [0; 300];
        let length = usize::from(write_ipv4(&addresses, &before, &mut ipv4).unwrap().length);
        turn_round(&mut ipv4, 12, 4);
        let mut after = vec![0; 300];
        let to_ipv6 = ToIpv6::new(&addresses, &ipv4[..length], 1500).unwrap();
        let length = to_ipv6.write(0, &mut after).unwrap();
        turn_round(&mut after, 8, 16);
        prop_assert_eq!(&after[..usize::from(length)], &before);
    }

    #[test]
    fn no_bytes_make_it_panic(
        protocol: u8,
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        kind in 1..5_u8,
        room in 0..300_usize,
    ) {
        let addresses = addresses();
        let mut out = vec![0; room];
        let _ = write_ipv4(&addresses, &bytes, &mut out);
        let _ = write_ipv4(&addresses, &packet(protocol, 64, &bytes), &mut out);
        // An error that quotes anything.
        let mut message = vec![0, 0, 0, 0, 0, 0, 0, 0];
        message.extend(packet(protocol, 1, &bytes));
        message[0] = kind;
        let _ = write_ipv4(&addresses, &packet(ICMPV6, 64, &message), &mut out);
        for bytes in [&bytes[..], &ipv4(protocol, &bytes), &ipv4(ICMP, &error_ipv4(&bytes))] {
            if let Some(to_ipv6) = ToIpv6::new(&addresses, bytes, 1280) {
                // No more of them than bytes.
                prop_assert!(to_ipv6.count() <= bytes.len());
                let _ = to_ipv6.write(0, &mut out);
            }
        }
    }
}

/// A packet from outside to the number.
fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap();
    let header = <crate::V4 as crate::packet::Wire>::header(REMOTE, NUMBER, protocol, 0, length);
    [&header[..], payload].concat()
}

/// An error that quotes anything of IPv4.
fn error_ipv4(bytes: &[u8]) -> Vec<u8> {
    [&[3, 4, 0, 0, 0, 0, 0, 0, 0x45][..], bytes].concat()
}
