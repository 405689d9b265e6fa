//! Why a packet died: the error type of the forwarding path, and its counters.

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why the engine or its worker dropped a packet. Each drop is counted exactly once.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// Every reason, in the order of their counters.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)+];

            /// Its stable name, as metrics and `spillway drops` show it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)+ }
            }

            /// One sentence for a person: what happened.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(DropReason::$variant => concat!($($doc,)+).trim_ascii(),)+ }
            }
        }
    };
}

drop_reasons! {
    /// The steer header names no kind of frame that the engine knows.
    UnknownKind = "unknown-kind",
    /// The frame ends before the packet in it does.
    Truncated = "truncated",
    /// The packet is not IPv4, as steering says.
    NotIpv4 = "not-ipv4",
    /// The packet is not IPv6, as steering says.
    NotIpv6 = "not-ipv6",
    /// The IP headers' own lengths contradict each other.
    BadIpLength = "bad-ip-length",
    /// IPv4 with options, or IPv6 with more or other extension headers than are carried.
    IpOptions = "ip-options",
    /// The IPv4 header checksum is wrong.
    BadIpChecksum = "bad-ip-checksum",
    /// The place that a fragment says is its own is impossible.
    BadFragment = "bad-fragment",
    /// A fragment of an ICMP error, of SCTP whose port had to change, or of ICMP that changes its
    /// family: no checksum can follow.
    UnsupportedFragment = "unsupported-fragment",
    /// The fragment overlaps or repeats another one of its packet.
    FragmentOverlap = "fragment-overlap",
    /// The first fragment of the packet, which has the ports, did not come in time.
    FragmentTimeout = "fragment-timeout",
    /// The first fragment of the packet has opened no flow.
    FragmentWithoutFlow = "fragment-without-flow",
    /// Too many packets are on their way in fragments, or one is in too many parts.
    FragmentsFull = "fragments-full",
    /// The source address cannot be that of a host on a network.
    MartianSource = "martian-source",
    /// The destination address is not that of one host on a network.
    MartianDestination = "martian-destination",
    /// The packet has come to the end of its time to live here.
    TtlExpired = "ttl-expired",
    /// The transport protocol cannot be translated: its checksum or signature covers addresses.
    UnsupportedProtocol = "unsupported-protocol",
    /// The TCP, UDP, SCTP or ICMP header is cut short or its lengths contradict the packet's.
    BadTransport = "bad-transport",
    /// A UDP header of IPv6 without a checksum, or a fragment without one that would become IPv6.
    NoUdpChecksum = "no-udp-checksum",
    /// An ICMP message that is neither an echo in the right direction nor an error, or has no equal in
    /// the other family.
    UnsupportedIcmp = "unsupported-icmp",
    /// The checksum of an ICMP error or of a ping is wrong.
    BadIcmpChecksum = "bad-icmp-checksum",
    /// An ICMP error quotes nothing that tells its flow.
    BadQuote = "bad-quote",
    /// An ARP packet that is no valid request of another host.
    BadArp = "bad-arp",
    /// A neighbour solicitation that is no valid one of another host.
    BadSolicitation = "bad-solicitation",
    /// Asked for by ARP or neighbour discovery, or pinged, but Spillway does not announce the address.
    NotAnnounced = "not-announced",
    /// Another host claims an egress address that Spillway announces.
    AddressConflict = "address-conflict",
    /// A ping of an announced address beyond what its sender is answered.
    PingLimited = "ping-limited",
    /// The tunnel was congested, and the packet has no other way to say so (RFC 6040).
    EcnCongested = "ecn-congested",
    /// Steering gave the frame to a worker that does not own its port.
    WrongWorker = "wrong-worker",
    /// No state document is in force yet.
    NotProgrammed = "not-programmed",
    /// The tunnel frame's outer source is no listed peer.
    UnknownPeer = "unknown-peer",
    /// No policy covers this pod and destination.
    NoPolicy = "no-policy",
    /// The flow has ended: its policy or its egress address was taken away.
    Deselected = "deselected",
    /// The gateway is being drained: what flows goes on, and nothing new begins.
    Draining = "draining",
    /// The policy's egress address is not listed.
    NoEgressAddress = "no-egress-address",
    /// A TCP segment of no known flow that does not open one.
    TcpNotSyn = "tcp-not-syn",
    /// An SCTP packet of no known flow that does not open one.
    SctpNotInit = "sctp-not-init",
    /// A reply from outside that belongs to no flow.
    NoFlow = "no-flow",
    /// An ICMP error about a packet of no known flow.
    ErrorWithoutFlow = "error-without-flow",
    /// The flow table is full; live flows are not evicted.
    FlowTableFull = "flow-table-full",
    /// Every port of the egress address towards this remote is leased, with every worker.
    PortsExhausted = "ports-exhausted",
    /// The pod has as many flows as its policy allows.
    PodFlowLimit = "pod-flow-limit",
    /// There are as many endpoint-independent mappings as there may be.
    MappingsExhausted = "mappings-exhausted",
    /// The port of the pod's endpoint-independent mapping cannot be used towards this remote.
    MappingConflict = "mapping-conflict",
    /// Another pod uses the egress address towards this remote, and the protocol has no ports.
    AddressTaken = "address-taken",
    /// The protocol has no ports, and the host uses the egress address too.
    NeedsOwnAddress = "needs-own-address",
    /// No route leads to the destination.
    NoRoute = "no-route",
    /// A rule or route of the kernel discards packets to the destination.
    RouteUnreachable = "route-unreachable",
    /// The destination is an address of this host.
    LocalDestination = "local-destination",
    /// The destination is an egress address that Spillway itself announces here.
    Hairpin = "hairpin",
    /// The route leads out of a device that Spillway does not drive.
    ForeignDevice = "foreign-device",
    /// The packet is larger than the outgoing device's MTU and may not be fragmented.
    ExceedsMtu = "exceeds-mtu",
    /// The reply does not fit the tunnel and may not be fragmented.
    ExceedsTunnelMtu = "exceeds-tunnel-mtu",
    /// The next hop's link address did not become known in time.
    NeighbourUnresolved = "neighbour-unresolved",
    /// Too many frames already wait for link addresses.
    HoldQueueFull = "hold-queue-full",
    /// Too many flows of this worker already live with others.
    RedirectsFull = "redirects-full",
    /// The worker that the frame should go to does not keep up with what others hand it.
    HandOffFull = "hand-off-full",
}

/// How many reasons there are: the length of the counter array.
pub const DROP_REASONS: usize = DropReason::ALL.len();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_the_index_of_its_counter() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
    }

    #[test]
    fn the_readme_lists_every_reason_with_its_description() {
        let readme = include_str!("../README.md");
        let (_, readme) = readme.split_once("## Drop reasons").unwrap();
        for reason in DropReason::ALL {
            let row = format!("| `{}` | {} |", reason.name(), reason.description());
            assert!(readme.contains(&row), "router/engine/README.md lacks the row: {row}");
        }
        let rows = readme.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, DROP_REASONS, "router/engine/README.md has rows for no reason");
    }
}
