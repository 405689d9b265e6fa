//! How far a flow has come, and how long it may stay idle (RFC 4787, RFC 5382, RFC 5508).

use crate::engine::Nanos;
use crate::packet::{SCTP, TCP, Transport, Wire};

/// What one direction of a flow has shown: each direction keeps its own in its own cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Progress(u8);

impl Progress {
    pub(crate) const NONE: Self = Self(0);

    /// It has sent something other than what opens a connection.
    const SPOKEN: u8 = 1;
    /// It has sent a FIN.
    const FIN: u8 = 2;
    /// It has sent what ends a connection at once: a RST, an ABORT, a SHUTDOWN COMPLETE.
    const RST: u8 = 4;

    /// As a number, for [`Progress::from_bits`].
    pub(super) fn bits(self) -> u8 {
        self.0
    }

    /// `None` when the number has a bit that means nothing.
    pub(super) fn from_bits(bits: u8) -> Option<Self> {
        (bits & !(Self::SPOKEN | Self::FIN | Self::RST) == 0).then_some(Self(bits))
    }

    /// Takes note of a packet in this direction.
    #[inline]
    pub(crate) fn note(&mut self, transport: Transport) {
        self.0 |= match transport {
            Transport::Tcp(segment) => {
                let fin = if segment.has_fin() { Self::FIN } else { 0 };
                let rst = if segment.has_rst() { Self::RST } else { 0 };
                let spoken = if segment.opens() { 0 } else { Self::SPOKEN };
                fin | rst | spoken
            }
            Transport::Sctp(chunk) => {
                let end = if chunk.ends() { Self::RST } else { 0 };
                end | if chunk.opens() { 0 } else { Self::SPOKEN }
            }
            Transport::Udp | Transport::Portless | Transport::Echo => Self::SPOKEN,
            // What a packet says, its first fragment has said.
            Transport::Error | Transport::Later => 0,
        };
    }

    /// Takes note of a packet that neither opens nor ends a connection.
    #[inline]
    pub(super) fn note_usual(&mut self) {
        self.0 |= Self::SPOKEN;
    }

    /// Whether it has sent something other than what opens a connection.
    pub(super) fn has_spoken(self) -> bool {
        self.has(Self::SPOKEN)
    }

    fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }
}

/// How far a flow has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowState {
    /// Not yet answered; of TCP and SCTP, not yet both ways.
    Opening,
    /// Both sides have spoken.
    Established,
    /// TCP: one side has sent FIN, the other has not yet.
    HalfClosed,
    /// TCP: both sides have sent FIN, or one a RST. SCTP: one has sent what ends it.
    Closing,
}

impl FlowState {
    /// The state of a flow whose directions have come so far.
    pub(crate) fn of(original: Progress, reply: Progress) -> Self {
        let reset = original.has(Progress::RST) || reply.has(Progress::RST);
        let fins = (original.has(Progress::FIN), reply.has(Progress::FIN));
        let both_spoke = original.has_spoken() && reply.has_spoken();
        match fins {
            fins if reset || fins == (true, true) => Self::Closing,
            _ if !both_spoke => Self::Opening,
            (false, false) => Self::Established,
            _ => Self::HalfClosed,
        }
    }
}

/// No timeout may be longer, in nanoseconds: a week.
pub const TIMEOUT_NS_MAX: Nanos = 7 * 24 * 3600 * 1_000_000_000;

/// How long a flow may stay idle in both directions before it ends, in nanoseconds; each at most
/// [`TIMEOUT_NS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP (and SCTP, here and below) that is opening: 240 s, the least that RFC 5382 allows.
    pub tcp_opening_ns: Nanos,
    /// TCP that is established: 7,440 s, the least that RFC 5382 allows.
    pub tcp_established_ns: Nanos,
    /// TCP that one side has closed: 900 s, as pf has it.
    pub tcp_half_closed_ns: Nanos,
    /// TCP that both sides have closed or one has reset: 10 s, as Cilium.
    pub tcp_closing_ns: Nanos,
    /// UDP and protocols without ports: 300 s, as RFC 4787 recommends.
    pub udp_ns: Nanos,
    /// ICMP echo: 60 s, the least that RFC 5508 allows.
    pub icmp_ns: Nanos,
}

impl Default for Timeouts {
    fn default() -> Self {
        const SECOND: Nanos = 1_000_000_000;
        Self {
            tcp_opening_ns: 240 * SECOND,
            tcp_established_ns: 7_440 * SECOND,
            tcp_half_closed_ns: 900 * SECOND,
            tcp_closing_ns: 10 * SECOND,
            udp_ns: 300 * SECOND,
            icmp_ns: 60 * SECOND,
        }
    }
}

impl Timeouts {
    /// Of each the lesser.
    pub(crate) fn least(self, other: Self) -> Self {
        Self {
            tcp_opening_ns: self.tcp_opening_ns.min(other.tcp_opening_ns),
            tcp_established_ns: self.tcp_established_ns.min(other.tcp_established_ns),
            tcp_half_closed_ns: self.tcp_half_closed_ns.min(other.tcp_half_closed_ns),
            tcp_closing_ns: self.tcp_closing_ns.min(other.tcp_closing_ns),
            udp_ns: self.udp_ns.min(other.udp_ns),
            icmp_ns: self.icmp_ns.min(other.icmp_ns),
        }
    }

    /// The shortest of them.
    pub(crate) fn shortest(&self) -> Nanos {
        let open = self.tcp_opening_ns.min(self.tcp_established_ns);
        let tcp = open.min(self.tcp_half_closed_ns).min(self.tcp_closing_ns);
        tcp.min(self.udp_ns).min(self.icmp_ns)
    }

    /// The timeout of a flow.
    pub(crate) fn of<F: Wire>(&self, protocol: u8, state: FlowState) -> Nanos {
        match (protocol, state) {
            (TCP | SCTP, FlowState::Opening) => self.tcp_opening_ns,
            (TCP | SCTP, FlowState::Established) => self.tcp_established_ns,
            (TCP | SCTP, FlowState::HalfClosed) => self.tcp_half_closed_ns,
            (TCP | SCTP, FlowState::Closing) => self.tcp_closing_ns,
            (icmp, _) if icmp == F::ICMP => self.icmp_ns,
            _ => self.udp_ns,
        }
    }
}
