//! Described packets, read back by etherparse's other half.

use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice};

use super::*;

const TEXT: &str = "
generation: 1
tunnels:
  - {address: 192.0.2.1, peers: [{address: 192.0.2.2}]}
  - {address: 192.0.2.11, peers: [{address: 192.0.2.12}]}
nat64_prefix: 64:ff9b::/96
egress_addresses: [{address: 198.51.100.7, kind: own}]
policies:
  - name: app
    egress_address: 198.51.100.7
    destinations: [203.0.113.0/24]
    pods: [10.0.1.40, 'fd00::40']
";
const POD: &str = "10.0.1.40";
const EGRESS: &str = "198.51.100.7";
const REMOTE: &str = "203.0.113.10";

fn document() -> Document {
    Document::parse(TEXT).unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn asked(from: &str, to: &str) -> TraceRequest {
    TraceRequest {
        from: address(from),
        to: address(to),
        protocol: TraceProtocol::Tcp,
        from_port: None,
        to_port: None,
        size: None,
        peer: None,
        may_fragment: false,
    }
}

fn packet(asked: TraceRequest) -> Packet {
    Packet::new(&document(), &asked).unwrap().expect("there are tunnels")
}

fn refusal(asked: TraceRequest) -> String {
    Packet::new(&document(), &asked).unwrap_err().to_string()
}

/// Addresses, ports or identifier, and the IP packet's length, as they stand in a frame.
fn read(frame: &[u8]) -> (IpAddr, IpAddr, String, usize) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let (source, destination): (IpAddr, IpAddr) = match sliced.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            (header.source_addr().into(), header.destination_addr().into())
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            (header.source_addr().into(), header.destination_addr().into())
        }
        NetSlice::Arp(_) => panic!("no IP packet"),
    };
    let transport = match sliced.transport.as_ref().unwrap() {
        TransportSlice::Tcp(tcp) => {
            let kind = if tcp.syn() { "SYN" } else { "ACK" };
            assert_eq!((tcp.syn(), tcp.ack()), (kind == "SYN", kind == "ACK"));
            format!("{kind} {} {}", tcp.source_port(), tcp.destination_port())
        }
        TransportSlice::Udp(udp) => format!("UDP {} {}", udp.source_port(), udp.destination_port()),
        TransportSlice::Icmpv4(icmp) => match icmp.icmp_type() {
            Icmpv4Type::EchoRequest(echo) => format!("request {}", echo.id),
            Icmpv4Type::EchoReply(echo) => format!("reply {}", echo.id),
            other => panic!("{other:?}"),
        },
        TransportSlice::Icmpv6(icmp) => match icmp.icmp_type() {
            Icmpv6Type::EchoRequest(echo) => format!("request {}", echo.id),
            Icmpv6Type::EchoReply(echo) => format!("reply {}", echo.id),
            other => panic!("{other:?}"),
        },
        TransportSlice::Igmp(_) => panic!("nobody traces that"),
    };
    (source, destination, transport, frame.len() - 14)
}

/// The frame inside of a tunnel's, and who sends it to whom.
fn inside(frame: &[u8]) -> (IpAddr, IpAddr, Vec<u8>) {
    let (from, to, ports, _) = read(frame);
    assert_eq!(ports, "UDP 49152 4789");
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("no UDP") };
    (from, to, udp.payload()[8..].to_vec())
}

#[test]
fn a_pods_packet_comes_through_the_tunnel_as_it_is_described() {
    use TraceProtocol::{Icmp, Tcp, Udp};
    for (protocol, from, to, size, shown, expected) in [
        (Tcp, POD, REMOTE, 40, REMOTE, "SYN 40000 443"),
        (Udp, POD, REMOTE, 1500, REMOTE, "UDP 40000 443"),
        (Icmp, POD, REMOTE, 28, REMOTE, "request 40000"),
        (Tcp, "fd00::40", "2001:db8::1", 60, "2001:db8::1", "SYN 40000 443"),
        (Icmp, "fd00::40", REMOTE, 9_000, "64:ff9b::203.0.113.10", "request 40000"),
    ] {
        let asked = TraceRequest { protocol, size: Some(size), ..asked(from, to) };
        let (peer, tunnel, inner) = inside(&packet(asked).frame(4789).unwrap());
        assert_eq!((peer, tunnel), (address("192.0.2.2"), address("192.0.2.1")));
        let expected = (address(from), address(shown), expected.to_owned(), usize::from(size));
        assert_eq!(read(&inner), expected);
    }
}

#[test]
fn a_later_packet_of_a_flow_comes_from_the_flows_peer() {
    let asked = TraceRequest { to_port: Some(80), ..asked(POD, REMOTE) };
    let later = packet(asked).of_flow(&document(), address("192.0.2.12"));
    let (peer, tunnel, inner) = inside(&later.frame(4789).unwrap());
    assert_eq!((peer, tunnel), (address("192.0.2.12"), address("192.0.2.11")));
    assert_eq!(read(&inner).2, "ACK 40000 80");
    assert_eq!(later.owner_port(), 40_000);
}

#[test]
fn a_peer_that_is_said_is_taken_whether_it_is_listed_or_not() {
    for (peer, tunnel) in [("192.0.2.12", "192.0.2.11"), ("192.0.2.99", "192.0.2.1")] {
        let asked = TraceRequest { peer: Some(address(peer)), ..asked(POD, REMOTE) };
        let arrival = Arrival::Tunnel { peer: address(peer), tunnel: address(tunnel) };
        assert_eq!(packet(asked).arrival, arrival);
    }
}

#[test]
fn what_goes_to_an_egress_address_comes_plain_from_outside() {
    use TraceProtocol::{Icmp, Tcp, Udp};
    for (protocol, to_port, expected, owner_port) in [
        (Tcp, Some(5000), "ACK 443 5000", 5000),
        (Udp, Some(5000), "UDP 443 5000", 5000),
        (Icmp, Some(5000), "reply 5000", 5000),
        (Icmp, None, "request 443", 443),
    ] {
        let packet = packet(TraceRequest { protocol, to_port, ..asked(REMOTE, EGRESS) });
        let (from, to, transport, size) = read(&packet.frame(4789).unwrap());
        let expected = (address(REMOTE), address(EGRESS), expected.to_owned(), 100);
        assert_eq!((from, to, transport, size), expected);
        assert_eq!(packet.owner_port(), owner_port);
    }
    // A pod goes through the tunnel, wherever to.
    assert_ne!(packet(asked(POD, EGRESS)).arrival, Arrival::Outside);
}

#[test]
fn routers_may_fragment_what_is_said_so() {
    for may_fragment in [false, true] {
        let packet =
            packet(TraceRequest { may_fragment, to_port: Some(1), ..asked(REMOTE, EGRESS) });
        let frame = packet.frame(4789).unwrap();
        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("no IPv4") };
        assert_eq!(ip.header().dont_fragment(), !may_fragment);
    }
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let families = "there is no packet from 10.0.1.40 to 2001:db8::1: their families differ";
    assert_eq!(refusal(asked(POD, "2001:db8::1")), families);
    let size = |size| refusal(TraceRequest { size: Some(size), ..asked(POD, REMOTE) });
    assert_eq!(size(39), "the packet cannot have 39 bytes: expected 40 to 65000");
    assert_eq!(size(65_001), "the packet cannot have 65001 bytes: expected 40 to 65000");
    let port = "say the port of 198.51.100.7 that the packet goes to: --to 198.51.100.7:PORT";
    assert_eq!(refusal(asked(REMOTE, EGRESS)), port);
    let peer = TraceRequest { peer: Some(address("2001:db8::9")), ..asked(POD, REMOTE) };
    assert!(refusal(peer).contains("cannot send to the tunnel address 192.0.2.1"));
    let without = "generation: 1\ntunnels: []\negress_addresses: []\npolicies: []\n";
    let document = Document::parse(without).unwrap();
    assert_eq!(Packet::new(&document, &asked(POD, REMOTE)).unwrap(), None);
}
