//! What there is to see of a frame, on its way in and on its way out. Pure.
//!
//! Steering has replaced the head of what it gave to a worker by the steer header
//! ([`spillway_engine::steer`]). A capture shows Ethernet frames: a reply is there as it came, behind the
//! room that steering opened; of a pod's packet, the inner Ethernet header is put together again from what
//! the steer header has kept, all but its destination.

use spillway_engine::steer::{
    FAMILY_6, KIND_ARP, KIND_MASK, KIND_REPLY, KIND_TUNNEL, REPLY_IP_OFFSET, REPLY_IP_OFFSET_6,
    STEER_HEADER_LEN, SteerHeader, TUNNEL_IP_OFFSET, TUNNEL_OVERHEAD, TUNNEL_OVERHEAD_6,
    UNDERLAY_6,
};

use super::filter::PodEnd;

const ETHERNET: usize = 14;
const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];

/// An Ethernet frame: a header, what there is behind it, and how long the whole is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shown<'a> {
    header: [u8; ETHERNET],
    rest: &'a [u8],
    pub(crate) length: usize,
}

impl<'a> Shown<'a> {
    /// A frame that is whole; none of what is shorter than a header.
    pub(crate) fn whole(frame: &'a [u8]) -> Option<Self> {
        Self::part(frame, frame.len())
    }

    /// The first bytes of a frame of that length; none of fewer than a header's.
    pub(crate) fn part(frame: &'a [u8], length: usize) -> Option<Self> {
        let (header, rest) = frame.split_first_chunk()?;
        Some(Self { header: *header, rest, length })
    }

    /// What there is of the packet in it.
    pub(crate) fn packet(&self) -> &'a [u8] {
        self.rest
    }

    /// Writes its first bytes, as many as there is room for; how many that is.
    pub(crate) fn write(&self, room: &mut [u8]) -> usize {
        let header = room.len().min(ETHERNET);
        let (to_header, to_rest) = room.split_at_mut(header);
        to_header.copy_from_slice(&self.header[..header]);
        let rest = to_rest.len().min(self.rest.len());
        to_rest[..rest].copy_from_slice(&self.rest[..rest]);
        header + rest
    }
}

/// A frame as steering gave it to a worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steered<'a> {
    pub(crate) header: SteerHeader,
    pub(crate) shown: Shown<'a>,
}

impl<'a> Steered<'a> {
    /// Takes it apart; none of what is too short for its kind.
    pub(crate) fn of(frame: &'a [u8]) -> Option<Self> {
        let (head, rest) = frame.split_first_chunk::<STEER_HEADER_LEN>()?;
        let header = SteerHeader::parse(head);
        let shown = if is_reply(header) {
            Shown::whole(frame.get(tunnel_overhead(header)..)?)?
        } else {
            let ethertype = match header.kind {
                kind if kind & KIND_MASK == KIND_ARP => ARP,
                kind if kind & FAMILY_6 != 0 => IPV6,
                _ => IPV4,
            };
            let [s0, s1, s2, s3, s4, s5] = header.inner_mac;
            let [e0, e1] = ethertype;
            let header = [0, 0, 0, 0, 0, 0, s0, s1, s2, s3, s4, s5, e0, e1];
            Shown { header, rest, length: frame.len() }
        };
        Some(Self { header, shown })
    }

    /// Which end of its packet is a pod.
    pub(crate) fn pod_end(&self) -> PodEnd {
        match self.header.kind & KIND_MASK {
            KIND_TUNNEL => PodEnd::Source,
            KIND_REPLY => PodEnd::Destination,
            _ => PodEnd::None,
        }
    }
}

/// A frame that is about to be sent: the whole, and where the packet in it starts.
pub(crate) fn packet_of_sent(frame: &[u8], through_tunnel: bool) -> Option<&[u8]> {
    frame.get(
        match (through_tunnel, is_ipv6(frame)) {
            (false, _) => TUNNEL_IP_OFFSET,
            (true, false) => REPLY_IP_OFFSET,
            (true, true) => REPLY_IP_OFFSET_6,
        }..,
    )
}

/// A frame that is about to be sent, without the tunnel's headers.
pub(crate) fn without_tunnel(frame: &[u8], through_tunnel: bool) -> Option<&[u8]> {
    frame.get(
        match (through_tunnel, is_ipv6(frame)) {
            (false, _) => 0,
            (true, false) => TUNNEL_OVERHEAD,
            (true, true) => TUNNEL_OVERHEAD_6,
        }..,
    )
}

fn is_ipv6(frame: &[u8]) -> bool {
    frame.get(ETHERNET - 2..ETHERNET) == Some(&IPV6)
}

fn is_reply(header: SteerHeader) -> bool {
    header.kind & KIND_MASK == KIND_REPLY
}

fn tunnel_overhead(header: SteerHeader) -> usize {
    if header.kind & UNDERLAY_6 != 0 { TUNNEL_OVERHEAD_6 } else { TUNNEL_OVERHEAD }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A steer header, with VNI 40000 and the sender's address `02:…:09`.
    fn steered(kind: u8, rest: &[u8]) -> Vec<u8> {
        [&[kind, 0, 0x9c, 0x40, 192, 168, 1, 2, 2, 0, 0, 0, 0, 9], rest].concat()
    }

    fn written(shown: &Shown<'_>, room: usize) -> Vec<u8> {
        let mut bytes = vec![0xff; room];
        let length = shown.write(&mut bytes);
        bytes.truncate(length);
        bytes
    }

    #[test]
    fn of_a_pods_packet_all_but_the_destination_is_put_together_again() {
        for (kind, ethertype, end) in [
            (KIND_TUNNEL, IPV4, PodEnd::Source),
            (KIND_TUNNEL | FAMILY_6, IPV6, PodEnd::Source),
            (KIND_TUNNEL | UNDERLAY_6 | 0xc0, IPV4, PodEnd::Source),
            (KIND_ARP, ARP, PodEnd::None),
        ] {
            let frame = steered(kind, &[1, 2, 3]);
            let steered = Steered::of(&frame).unwrap();
            assert_eq!(steered.pod_end(), end);
            let expected = [&[0; 6][..], &[2, 0, 0, 0, 0, 9], &ethertype, &[1, 2, 3]].concat();
            assert_eq!(written(&steered.shown, 99), expected);
            assert_eq!(steered.shown.length, expected.len());
            assert_eq!(written(&steered.shown, 15), expected[..15]);
            assert_eq!(written(&steered.shown, 5), expected[..5]);
        }
    }

    #[test]
    fn a_reply_is_as_it_came() {
        let frame = [&[5; 6][..], &[7; 6], &IPV4, &[1, 2, 3]].concat();
        for (kind, room) in [
            (KIND_REPLY, TUNNEL_OVERHEAD),
            (KIND_REPLY | UNDERLAY_6, TUNNEL_OVERHEAD_6),
            (KIND_REPLY | FAMILY_6, TUNNEL_OVERHEAD),
        ] {
            let behind = [&vec![0xee; room - STEER_HEADER_LEN][..], &frame].concat();
            let bytes = steered(kind, &behind);
            let steered = Steered::of(&bytes).unwrap();
            assert_eq!(written(&steered.shown, 99), frame);
            assert_eq!(steered.pod_end(), PodEnd::Destination);
            assert!(Steered::of(&bytes[..room + ETHERNET - 1]).is_none(), "cut short");
        }
        assert!(Steered::of(&[KIND_TUNNEL; STEER_HEADER_LEN - 1]).is_none());
    }

    #[test]
    fn a_tunnel_can_be_taken_off_what_is_sent() {
        for (ethertype, overhead) in [(IPV4, TUNNEL_OVERHEAD), (IPV6, TUNNEL_OVERHEAD_6)] {
            let mut frame = vec![0; overhead + ETHERNET];
            frame[12..14].copy_from_slice(&ethertype);
            frame.extend([0x45, 1]);
            assert_eq!(without_tunnel(&frame, false), Some(&frame[..]));
            assert_eq!(without_tunnel(&frame, true), Some(&frame[overhead..]));
            assert_eq!(packet_of_sent(&frame, true), Some(&[0x45, 1][..]));
            assert_eq!(packet_of_sent(&frame, false), Some(&frame[ETHERNET..]));
            assert_eq!(packet_of_sent(&frame[..overhead], true), None);
        }
    }
}
