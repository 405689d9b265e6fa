//! Which packets a capture takes. Pure.

use std::net::IpAddr;

use etherparse::{Ipv6ExtensionSlice, LaxNetSlice, LaxSlicedPacket};
use spillway_engine::DropReason;

/// The numbers of ICMP and ICMPv6: an operator asks for either by `icmp`.
const ICMP: [u8; 2] = [1, 58];

/// TCP, UDP and SCTP: their headers start with two ports.
const PROTOCOLS_WITH_PORTS: [u8; 3] = [6, 17, 132];

/// What a filter can ask of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// The IP protocol number of what the headers lead to.
    pub(crate) protocol: u8,
    /// Source and destination port of TCP or UDP, or SCTP.
    pub(crate) ports: Option<[u16; 2]>,
}

impl Seen {
    /// What is seen of an IP packet; none of what is no IP, or too short for its header.
    pub(crate) fn of(packet: &[u8]) -> Option<Self> {
        // What is cut short within its payload has its addresses all the same.
        let sliced = LaxSlicedPacket::from_ip(packet).ok()?;
        let (source, destination, is_later, payload) = match sliced.net.as_ref()? {
            LaxNetSlice::Ipv4(ip) => {
                let header = ip.header();
                let (from, to) = (header.source_addr().into(), header.destination_addr().into());
                (from, to, header.fragments_offset().value() > 0, ip.payload())
            }
            LaxNetSlice::Ipv6(ip) => {
                let header = ip.header();
                let (from, to) = (header.source_addr().into(), header.destination_addr().into());
                let is_later = ip.extensions().clone().into_iter().any(|extension| {
                    matches!(extension, Ipv6ExtensionSlice::Fragment(fragment)
                        if fragment.fragment_offset().value() > 0)
                });
                (from, to, is_later, ip.payload())
            }
            LaxNetSlice::Arp(_) => return None,
        };
        let protocol = payload.ip_number.0;
        let has_ports = PROTOCOLS_WITH_PORTS.contains(&protocol) && !is_later;
        let ports = has_ports.then(|| first_two(payload.payload)).flatten();
        Some(Self { source, destination, protocol, ports })
    }
}

/// The two ports with which a header starts.
fn first_two(header: &[u8]) -> Option<[u16; 2]> {
    let [a, b, c, d, ..] = *header else { return None };
    Some([u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])])
}

/// Which end of a packet is the pod's, as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PodEnd {
    /// It comes from the pod.
    Source,
    /// It is a reply: the pod is the destination, once it is translated.
    Destination,
    /// It has nothing to do with a pod.
    None,
}

/// What a packet must have; what is not asked for does not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) host: Option<IpAddr>,
    pub(crate) pod: Option<IpAddr>,
    pub(crate) port: Option<u16>,
    pub(crate) protocol: Option<u8>,
    pub(crate) drop_reason: Option<DropReason>,
}

impl Filter {
    /// Whether every packet is taken, whatever it has.
    pub(crate) fn takes_all(&self) -> bool {
        Self { drop_reason: None, ..*self } == Self::default()
    }

    /// Whether a packet is taken: as it came or as it leaves, it has what is asked for.
    pub(crate) fn takes(&self, came: Option<&Seen>, leaves: Option<&Seen>, pod: PodEnd) -> bool {
        let is_of = |address| match pod {
            PodEnd::Source => came.is_some_and(|seen| seen.source == address),
            PodEnd::Destination => leaves.is_some_and(|seen| seen.destination == address),
            PodEnd::None => false,
        };
        self.takes_all()
            || self.pod.is_none_or(is_of)
                && [came, leaves].into_iter().flatten().any(|seen| self.agrees(seen))
    }

    /// Whether a packet has what is asked for, but for the pod.
    fn agrees(&self, seen: &Seen) -> bool {
        let is_protocol = |asked| {
            asked == seen.protocol || [asked, seen.protocol].iter().all(|n| ICMP.contains(n))
        };
        self.host.is_none_or(|host| host == seen.source || host == seen.destination)
            && self.port.is_none_or(|port| seen.ports.is_some_and(|ports| ports.contains(&port)))
            && self.protocol.is_none_or(is_protocol)
    }

    /// Whether a drop for this reason is taken.
    pub(crate) fn takes_reason(&self, reason: DropReason) -> bool {
        self.drop_reason.is_none_or(|asked| asked == reason)
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    const POD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 1, 40));
    const EGRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 2, 3));
    const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 10));

    fn seen(source: IpAddr, source_port: u16, destination: IpAddr, port: u16) -> Seen {
        Seen { source, destination, protocol: 17, ports: Some([source_port, port]) }
    }

    /// A pod's packet as it comes and as it leaves.
    fn asks() -> (Seen, Seen, PodEnd) {
        (seen(POD, 4000, SERVER, 53), seen(EGRESS, 5000, SERVER, 53), PodEnd::Source)
    }

    /// The reply.
    fn answers() -> (Seen, Seen, PodEnd) {
        (seen(SERVER, 53, EGRESS, 5000), seen(SERVER, 53, POD, 4000), PodEnd::Destination)
    }

    #[test]
    fn a_packet_is_taken_for_what_it_has_as_it_came_or_as_it_leaves() {
        let other = "192.0.2.77".parse().ok();
        let none = Filter::default();
        for (filter, expected) in [
            (none, true),
            (Filter { host: Some(POD), ..none }, true),
            (Filter { host: Some(EGRESS), ..none }, true),
            (Filter { host: Some(SERVER), ..none }, true),
            (Filter { host: other, ..none }, false),
            (Filter { pod: Some(POD), ..none }, true),
            (Filter { pod: Some(EGRESS), ..none }, false),
            (Filter { pod: Some(SERVER), ..none }, false),
            (Filter { port: Some(4000), ..none }, true),
            (Filter { port: Some(5000), ..none }, true),
            (Filter { port: Some(53), ..none }, true),
            (Filter { port: Some(54), ..none }, false),
            (Filter { protocol: Some(17), ..none }, true),
            (Filter { protocol: Some(6), ..none }, false),
            (Filter { pod: Some(POD), port: Some(53), host: Some(SERVER), ..none }, true),
            (Filter { pod: Some(POD), port: Some(54), ..none }, false),
            (Filter { drop_reason: Some(DropReason::NoRoute), ..none }, true),
        ] {
            for (came, leaves, pod) in [asks(), answers()] {
                assert_eq!(filter.takes(Some(&came), Some(&leaves), pod), expected, "{filter:?}");
            }
        }
    }

    #[test]
    fn of_what_does_not_leave_only_what_came_counts() {
        let of_pod = Filter { pod: Some(POD), ..Filter::default() };
        let (asks, _, source) = asks();
        assert!(of_pod.takes(Some(&asks), None, source));
        let (answers, _, destination) = answers();
        assert!(!of_pod.takes(Some(&answers), None, destination), "whose it is nobody knows");
        assert!(!of_pod.takes(None, None, PodEnd::None));
        assert!(Filter::default().takes(None, None, PodEnd::None), "ARP");
    }

    #[test]
    fn only_the_reason_that_is_asked_for_is_taken() {
        let filter = Filter { drop_reason: Some(DropReason::NoRoute), ..Filter::default() };
        assert!(filter.takes_reason(DropReason::NoRoute));
        assert!(!filter.takes_reason(DropReason::NoFlow));
        assert!(Filter::default().takes_reason(DropReason::NoFlow));
    }

    #[test]
    fn icmp_is_that_of_either_family() {
        let ping = |protocol| Seen { protocol, ports: None, ..asks().0 };
        for asked in ICMP {
            let filter = Filter { protocol: Some(asked), ..Filter::default() };
            for came in ICMP {
                assert!(filter.takes(Some(&ping(came)), None, PodEnd::Source));
            }
            assert!(!filter.takes(Some(&ping(17)), None, PodEnd::Source));
        }
    }

    #[test]
    fn addresses_protocol_and_ports_are_read_from_the_packet() {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4([10, 0, 1, 40], [203, 0, 113, 10], 64).udp(4000, 53);
        builder.write(&mut packet, b"question").unwrap();
        assert_eq!(Seen::of(&packet), Some(asks().0));
        // Cut short in its payload, and with the padding of a short frame.
        assert_eq!(Seen::of(&packet[..30]), Some(asks().0));
        packet.extend([0; 9]);
        assert_eq!(Seen::of(&packet), Some(asks().0));
        assert_eq!(Seen::of(&packet[..19]), None);
        assert_eq!(Seen::of(&[]), None);

        let mut segment = Vec::new();
        let builder = PacketBuilder::ipv6([1; 16], [2; 16], 64).tcp(7, 8, 0, 0);
        builder.write(&mut segment, &[]).unwrap();
        let seen = Seen::of(&segment).unwrap();
        assert_eq!((seen.protocol, seen.ports), (6, Some([7, 8])));
        assert_eq!(seen.source, IpAddr::from([1; 16]));
    }

    #[test]
    fn of_fragments_only_the_first_has_ports_and_sctp_has_some() {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4([10, 0, 1, 40], [203, 0, 113, 10], 64).udp(4000, 53);
        builder.write(&mut packet, b"question").unwrap();
        // More fragments follow; then one of those.
        packet[6] = 0x20;
        assert_eq!(Seen::of(&packet).unwrap().ports, Some([4000, 53]));
        (packet[6], packet[7]) = (0, 1);
        assert_eq!(Seen::of(&packet).unwrap().ports, None);
        assert_eq!(Seen::of(&packet).unwrap().protocol, 17);
        (packet[7], packet[9]) = (0, 132);
        assert_eq!(Seen::of(&packet).unwrap().ports, Some([4000, 53]));
    }
}
