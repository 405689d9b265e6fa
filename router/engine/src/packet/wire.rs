//! What packets of the two families differ in, as far as those must know who have them in hand. What
//! both have in common is written once, by [`Wire`]: [`V4`](crate::V4) is in `ipv4.rs`,
//! [`V6`](crate::V6) in `ipv6.rs`.

use std::fmt::Debug;

use super::Usual;
use crate::DropReason;
use crate::checksum::Delta;
use crate::engine::Resolution;
use crate::family::Family;
use crate::flow::Hasher;
use crate::nat::{Change, Identifications, Side};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;

/// A family's packets.
pub(crate) trait Wire: Family + Resolution {
    /// What every packet begins with, in bytes.
    type Header;
    /// Where the parts of a packet are that have no fixed place.
    type Layout: Copy + Debug + Default;

    /// The length of [`Wire::Header`] in bytes.
    const HEADER_LEN: u16;
    /// What the steer header says of the family.
    const STEER_FAMILY: u8;
    /// What an Ethernet header says of the family.
    const ETHERTYPE: [u8; 2];
    /// The packet is of another version.
    const OTHER_VERSION: DropReason;
    /// No way is narrower, in bytes.
    const MTU_MIN: u16;
    /// Who tells of an error that has no address of this family at hand (RFC 7600, section 4.8).
    const NOBODY: Option<Self::Address>;
    /// Whether UDP must have a checksum.
    const NEEDS_UDP_CHECKSUM: bool;

    /// The protocol number of ICMP, which is also that of a flow of echoes.
    const ICMP: u8;
    /// Its types.
    const ECHO_REQUEST: u8;
    const ECHO_REPLY: u8;
    const TIME_EXCEEDED: u8;
    /// Whether ICMP's checksum covers the addresses.
    const ICMP_COVERS_ADDRESSES: bool;
    /// The longest ICMP error of our own, in bytes, with its header.
    const ERROR_MAX: u16;

    /// Checks a packet's headers; gives them with the transport header and what follows, without
    /// padding behind it.
    fn parse(bytes: &[u8]) -> Result<(IpHeader<Self>, &[u8]), DropReason>;

    /// Takes from a packet what both directions need, if it is usual; gives its TOS byte.
    fn recognise(packet: &[u8], usual: &mut Usual<Self>, hasher: &Hasher) -> Option<u8>;

    /// A usual packet's header and what follows, in which UDP's header is.
    fn split_usual(packet: &mut [u8]) -> Option<(&mut Self::Header, &mut [u8])>;

    /// A packet's header, and what it has from the transport header on.
    fn split(packet: &mut [u8], layout: Self::Layout) -> Option<(&mut Self::Header, &mut [u8])>;

    /// How many bytes there are before the transport header.
    fn transport_at(layout: Self::Layout) -> usize;

    /// The protocol numbers that must not be translated by address alone.
    fn is_untranslatable(protocol: u8) -> bool;

    /// Whether a protocol number is that of a header between the IP header and the transport's.
    fn is_extension(protocol: u8) -> bool;

    /// What the protocol field says in the keys of packets that come in fragments.
    fn datagram_protocol(protocol: u8) -> u8;

    /// Whether an ICMP message of this type is an error that is translated.
    fn is_error(kind: u8) -> bool;

    /// The checksum over an ICMP message: 0 when the message's own is right.
    fn icmp_checksum(source: Self::Address, destination: Self::Address, message: &[u8]) -> u16;

    /// What an ICMP error says to the sender of a packet that is larger than this: the message's
    /// first 8 bytes. `None` when no sender would believe it.
    fn too_big(mtu: u16) -> Option<[u8; 8]>;

    /// The packet that an ICMP error quotes, and what is quoted from its transport header on. `None`
    /// when that cannot be told.
    fn quoted(quote: &[u8]) -> Option<(Quoted<Self>, &[u8])>;

    /// The TOS byte, or traffic class.
    fn tos(header: &Self::Header) -> u8;

    /// Replaces the TOS byte; says what that does to the header's checksum.
    fn set_tos(header: &mut Self::Header, tos: u8) -> Delta;

    /// What a new address does to checksums that cover it.
    fn changed(old: Self::Address, new: Self::Address) -> Delta;

    /// Replaces one end's address, and takes one from the time to live. The header's checksum follows.
    fn rewrite_header(header: &mut Self::Header, side: Side, change: &Change<Self>);

    /// Replaces one end's address in the header of a quoted packet; says what that does to checksums
    /// that cover the address, and to those that cover the header.
    fn rewrite_quoted(
        header: &mut Self::Header,
        side: Side,
        address: Self::Address,
    ) -> (Delta, Delta);

    /// Makes a header that of an answer, with a whole time to live.
    fn turn_round(header: &mut Self::Header);

    /// Gives a usual packet of a pod, as it leaves, an identification that is new if it needs one.
    fn renew_usual(header: &mut Self::Header, new: &mut Identifications, hasher: &Hasher);

    /// Replaces the identification of a packet that has one.
    fn replace_identification(packet: &mut [u8], layout: Self::Layout, new: u32);

    /// A header without anything between it and the transport header, of a packet of our own that
    /// nobody may fragment.
    fn header(
        source: Self::Address,
        destination: Self::Address,
        protocol: u8,
        tos: u8,
        length: u16,
    ) -> Self::Header;

    /// The bytes of a header.
    fn bytes(header: &Self::Header) -> &[u8];

    /// Two addresses in one word, for a hash.
    fn condensed(addresses: Self::Pair, hasher: &Hasher) -> u64;
}

/// The checked headers of a packet to forward.
pub(crate) struct IpHeader<F: Wire> {
    pub(crate) source: F::Address,
    pub(crate) destination: F::Address,
    pub(crate) protocol: u8,
    /// Of the whole packet, in bytes.
    pub(crate) length: u16,
    pub(crate) tos: u8,
    /// The time to live, or hop limit.
    pub(crate) ttl: u8,
    /// Whether no router may fragment it.
    pub(super) dont_fragment: bool,
    pub(crate) fragment: Option<Fragment>,
    pub(crate) layout: F::Layout,
}

/// What an ICMP error tells of the packet that it quotes.
pub(crate) struct Quoted<F: Wire> {
    pub(crate) source: F::Address,
    pub(crate) destination: F::Address,
    pub(crate) protocol: u8,
    pub(crate) layout: F::Layout,
    /// How long the packet was from its transport header on, in bytes.
    pub(crate) transport_length: usize,
}

/// Where a fragment belongs (RFC 791, section 2.3; RFC 8200, section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    /// What the fragments of one packet have in common.
    pub(crate) identification: u32,
    /// Where its payload starts and ends in the packet's, in units of 8 bytes.
    pub(crate) start: u16,
    pub(crate) end: u16,
    pub(crate) is_last: bool,
}

impl Fragment {
    /// Checks where a fragment says that it belongs: all but the last are whole numbers of 8 bytes,
    /// and none is empty or ends where no packet does.
    pub(super) fn new(
        identification: u32,
        (start, is_last): (u16, bool),
        length: usize,
        payload_max: usize,
    ) -> Result<Self, DropReason> {
        let is_possible = length > 0
            && (is_last || length.is_multiple_of(8))
            && usize::from(start) * 8 + length <= payload_max;
        let units = u16::try_from(length.div_ceil(8)).unwrap_or(u16::MAX);
        match is_possible {
            true => Ok(Self { identification, start, end: start + units, is_last }),
            false => Err(DropReason::BadFragment),
        }
    }

    /// Whether it has the transport header.
    pub(crate) fn is_first(&self) -> bool {
        self.start == 0
    }
}
