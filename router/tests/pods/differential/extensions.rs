//! Extension headers of IPv6.

use std::net::SocketAddr;

use etherparse::{
    IpHeaders, Ipv6Extensions, Ipv6Header, Ipv6RawExtHeader, PacketBuilder, ip_number,
};
use rustix::net::{SendFlags, ipproto, sendto};

use super::Seen;
use super::silent::raw_socket;
use super::udp::{receive, receive_from};
use crate::sockets::{udp, udp_to};
use crate::world::World;

/// An option that fills the rest of a header's first eight bytes (PadN, RFC 8200, section 4.2).
const PADDING: [u8; 6] = [1, 4, 0, 0, 0, 0];

/// Hop-by-hop and destination options before UDP, and an answer without them.
pub(super) fn options(world: &World) -> Seen {
    let mut seen = Seen::default();
    let (family, to) = (world.family, world.at(2009));
    let server = udp(&world.server, to);
    let pod = udp_to(&world.pods[0], 41_009, to);
    let (SocketAddr::V6(from), SocketAddr::V6(to)) = (SocketAddr::new(family.pods[0], 41_009), to)
    else {
        panic!("{to} is not of IPv6")
    };
    let header = Ipv6Header {
        source: from.ip().octets(),
        destination: to.ip().octets(),
        hop_limit: 64,
        ..Ipv6Header::default()
    };
    let options = || Ipv6RawExtHeader::new_raw(ip_number::UDP, &PADDING).ok();
    let extensions = Ipv6Extensions {
        hop_by_hop_options: options(),
        destination_options: options(),
        ..Ipv6Extensions::default()
    };
    let mut packet = Vec::new();
    PacketBuilder::ip(IpHeaders::Ipv6(header, extensions))
        .udp(from.port(), to.port())
        .write(&mut packet, b"behind options")
        .unwrap();
    let raw = raw_socket(&world.pods[0], family, ipproto::RAW);
    for _ in 0..2 {
        let destination = SocketAddr::new(family.server, 0);
        sendto(&raw, &packet, SendFlags::empty(), &destination).unwrap();
        let (question, from) = receive_from(&server);
        seen.note("server", format!("{question} from {from}"));
        server.send_to(b"without any", from).unwrap();
        seen.note("pod", receive(&pod));
    }
    seen
}
