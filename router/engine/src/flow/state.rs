//! How far a flow has come, and how long it may stay idle (RFC 4787, RFC 5382, RFC 5508).

use crate::engine::Nanos;
use crate::packet::{TCP, Transport, UDP};

/// What one direction of a flow has shown: each direction keeps its own in its own cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Progress(u8);

impl Progress {
    pub(crate) const NONE: Self = Self(0);

    /// It has sent something other than a TCP segment that opens.
    const SPOKEN: u8 = 1;
    /// It has sent a FIN.
    const FIN: u8 = 2;
    /// It has sent a RST.
    const RST: u8 = 4;

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
            Transport::Udp | Transport::Echo => Self::SPOKEN,
            Transport::Error => 0,
        };
    }

    /// Whether it has sent something other than a TCP segment that opens.
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
    /// Not yet answered; of TCP, not yet both ways.
    Opening,
    /// Both sides have spoken.
    Established,
    /// TCP: one side has sent FIN, the other has not yet.
    HalfClosed,
    /// TCP: both sides have sent FIN, or one a RST.
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

/// How long a flow may stay idle in both directions before it ends, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP that is opening: 240 s, the least that RFC 5382 allows.
    pub tcp_opening_ns: Nanos,
    /// TCP that is established: 7,440 s, the least that RFC 5382 allows.
    pub tcp_established_ns: Nanos,
    /// TCP that one side has closed: 900 s, as pf has it.
    pub tcp_half_closed_ns: Nanos,
    /// TCP that both sides have closed or one has reset: 10 s, as Cilium.
    pub tcp_closing_ns: Nanos,
    /// UDP: 300 s, as RFC 4787 recommends.
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
    /// The shortest of them.
    pub(crate) fn shortest(&self) -> Nanos {
        let open = self.tcp_opening_ns.min(self.tcp_established_ns);
        let tcp = open.min(self.tcp_half_closed_ns).min(self.tcp_closing_ns);
        tcp.min(self.udp_ns).min(self.icmp_ns)
    }

    /// The timeout of a flow.
    pub(crate) fn of(&self, protocol: u8, state: FlowState) -> Nanos {
        match (protocol, state) {
            (TCP, FlowState::Opening) => self.tcp_opening_ns,
            (TCP, FlowState::Established) => self.tcp_established_ns,
            (TCP, FlowState::HalfClosed) => self.tcp_half_closed_ns,
            (TCP, FlowState::Closing) => self.tcp_closing_ns,
            (UDP, _) => self.udp_ns,
            _ => self.icmp_ns,
        }
    }
}
