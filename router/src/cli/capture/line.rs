//! A captured packet in a line, for people who watch.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use etherparse::{ArpPacketSlice, LaxNetSlice, LaxSlicedPacket, TransportSlice};
use spillway_api::{CapturedPacket, Origin};

use crate::answer::protocol_name;
use crate::capture::Seen;

const ETHERNET: usize = 14;

/// The ports on which VXLAN is looked for: Cilium's and Linux's, and IANA's.
const VXLAN_PORTS: [u16; 2] = [8472, 4789];
/// The flag that says that there is a VXLAN network identifier (RFC 7348, section 5).
const VXLAN_FLAGS: u8 = 0x08;

/// The line of a packet: time (UTC), point, worker, addresses, what it is, how long the frame is, and what
/// else is known of it.
pub(super) fn line(packet: &CapturedPacket) -> String {
    let about = about(packet);
    let about = if about.is_empty() { about } else { format!(", {about}") };
    format!(
        "{} {:<10} worker {}  {}, {} bytes{about}\n",
        time(packet.time_ns),
        packet.point.name(),
        packet.worker,
        frame(&packet.data.0),
        packet.length,
    )
}

/// What is known of a packet besides its bytes.
pub(super) fn about(packet: &CapturedPacket) -> String {
    let origin = match packet.origin {
        Some(Origin::Tunnel { vni, peer }) => format!("VNI {vni} from {peer}"),
        Some(Origin::Outside) => "from outside".to_owned(),
        Some(Origin::Link) => "from its link".to_owned(),
        None => String::new(),
    };
    let reason = packet.drop_reason.as_ref().map(|reason| format!("dropped: {reason}"));
    let device = packet.device.as_ref().map(|device| format!("out of {device}"));
    let words = [reason, Some(origin), device];
    words.into_iter().flatten().filter(|words| !words.is_empty()).collect::<Vec<_>>().join(", ")
}

/// The time of a day, in UTC, to the microsecond.
fn time(time_ns: u64) -> String {
    let (seconds, microseconds) = (time_ns / 1_000_000_000 % 86_400, time_ns / 1_000 % 1_000_000);
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{microseconds:06}", seconds % 60)
}

/// An Ethernet frame; of a tunnel's, also the packet in it.
fn frame(bytes: &[u8]) -> String {
    let Ok(sliced) = LaxSlicedPacket::from_ethernet(bytes) else { return "short frame".to_owned() };
    if let Some(LaxNetSlice::Arp(arp)) = &sliced.net {
        return address_question(arp);
    }
    let Some(seen) = bytes.get(ETHERNET..).and_then(Seen::of) else {
        return "no IP".to_owned();
    };
    let mut text = packet(&seen);
    match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let flags = [
                (tcp.syn(), 'S'),
                (tcp.fin(), 'F'),
                (tcp.rst(), 'R'),
                (tcp.psh(), 'P'),
                (tcp.ack(), '.'),
            ];
            let set: String =
                flags.iter().filter_map(|(is_set, letter)| is_set.then_some(*letter)).collect();
            let _ = write!(text, " [{set}]");
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            let _ = write!(text, " type {} code {}", icmp.type_u8(), icmp.code_u8());
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            let _ = write!(text, " type {} code {}", icmp.type_u8(), icmp.code_u8());
        }
        Some(TransportSlice::Udp(udp)) if VXLAN_PORTS.contains(&udp.destination_port()) => {
            if let [VXLAN_FLAGS, _, _, _, a, b, c, _, inner @ ..] = udp.payload() {
                let vni = u32::from_be_bytes([0, *a, *b, *c]);
                let inner = inner.get(ETHERNET..).and_then(Seen::of);
                let inner = inner.map_or("no IP".to_owned(), |seen| packet(&seen));
                let _ = write!(text, " VXLAN {vni} ({inner})");
            }
        }
        _ => {}
    }
    text
}

/// Addresses, ports and protocol.
fn packet(seen: &Seen) -> String {
    let [source, destination] = match seen.ports {
        Some([from, to]) => [(seen.source, from), (seen.destination, to)]
            .map(|(address, port)| SocketAddr::new(address, port).to_string()),
        None => [seen.source, seen.destination].map(|address| address.to_string()),
    };
    format!("{source} > {destination} {}", protocol_name(seen.protocol))
}

/// An ARP packet.
fn address_question(arp: &ArpPacketSlice<'_>) -> String {
    let address = |bytes: &[u8]| {
        <[u8; 4]>::try_from(bytes).map_or("?".to_owned(), |bytes| IpAddr::from(bytes).to_string())
    };
    let [asks, asked] = [arp.sender_protocol_addr(), arp.target_protocol_addr()].map(address);
    format!("{asks} asks for {asked} arp")
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use spillway_api::{Bytes, CapturePoint};

    use super::*;

    fn captured(data: Vec<u8>) -> CapturedPacket {
        CapturedPacket {
            time_ns: 1_763_800_331_000_042_000,
            point: CapturePoint::Received,
            worker: 1,
            number: 1,
            length: 1400,
            data: Bytes(data),
            origin: None,
            drop_reason: None,
            device: None,
        }
    }

    /// A SYN from a pod.
    fn opening() -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 1, 40], [203, 0, 113, 10], 64)
            .tcp(40_000, 443, 1, 1)
            .syn()
            .write(&mut frame, &[])
            .unwrap();
        frame
    }

    #[test]
    fn a_line_says_when_where_who_and_why() {
        let received = CapturedPacket {
            origin: Some(Origin::Tunnel { vni: 2, peer: "192.168.1.2".parse().unwrap() }),
            ..captured(opening())
        };
        assert_eq!(
            line(&received),
            "08:32:11.000042 received   worker 1  10.0.1.40:40000 > 203.0.113.10:443 tcp [S], 1400 \
             bytes, VNI 2 from 192.168.1.2\n"
        );
        let dropped = CapturedPacket {
            point: CapturePoint::Dropped,
            drop_reason: Some("no-route".to_owned()),
            ..received
        };
        assert!(line(&dropped).ends_with(", dropped: no-route, VNI 2 from 192.168.1.2\n"));
        let sent = CapturedPacket { device: Some("eth0".to_owned()), ..captured(opening()) };
        assert!(line(&sent).ends_with("tcp [S], 1400 bytes, out of eth0\n"));
    }

    #[test]
    fn a_tunnels_packet_is_shown_with_the_one_in_it() {
        let mut payload = vec![8, 0, 0, 0, 0, 0, 2, 0];
        payload.extend(opening());
        let mut frame_bytes = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([192, 168, 2, 2], [192, 168, 1, 2], 64)
            .udp(50_000, 8472)
            .write(&mut frame_bytes, &payload)
            .unwrap();
        assert_eq!(
            frame(&frame_bytes),
            "192.168.2.2:50000 > 192.168.1.2:8472 udp VXLAN 2 (10.0.1.40:40000 > 203.0.113.10:443 tcp)"
        );
    }

    #[test]
    fn what_is_cut_short_or_no_packet_has_its_line_too() {
        let whole = opening();
        for length in 0..whole.len() {
            assert!(!frame(&whole[..length]).is_empty());
        }
        let mut ping = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv6([1; 16], [2; 16], 64)
            .icmpv6_echo_request(1, 2)
            .write(&mut ping, &[])
            .unwrap();
        assert!(frame(&ping).ends_with(" icmpv6 type 128 code 0"), "{}", frame(&ping));
        let mut arp = vec![0xff; 12];
        arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 2, 2, 2, 2, 2, 192, 0, 2, 1]);
        arp.extend([0, 0, 0, 0, 0, 0, 192, 0, 2, 2]);
        assert_eq!(frame(&arp), "192.0.2.1 asks for 192.0.2.2 arp");
    }
}
