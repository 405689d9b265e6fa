//! What every packet of the generator says of itself; label.h is the twin of this file, and draws it.

/// The first two bytes.
const MAGIC: u16 = 0x5357;

/// The label's length in bytes: what a UDP packet in a frame of 64 bytes has room for.
pub(crate) const LABEL_LEN: usize = 18;

/// How many flows a label can tell apart.
pub(crate) const FLOWS_MAX: u32 = 1 << FLOW_BITS;

/// How many streams the sink keeps sequence numbers of.
pub(crate) const STREAMS_MAX: u8 = 16;

const FLOW_BITS: u32 = 24;

/// One packet's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    /// The sending thread, which counts its own packets.
    pub(crate) stream: u8,
    /// The flow, below [`FLOWS_MAX`].
    pub(crate) flow: u32,
    /// The packet's number in its stream, from 0 on.
    pub(crate) sequence: u32,
    /// When it was made, by the monotonic clock, in nanoseconds.
    pub(crate) time_ns: u64,
}

impl Label {
    /// As it is on the wire.
    pub(crate) fn to_bytes(self) -> [u8; LABEL_LEN] {
        let mut bytes = [0; LABEL_LEN];
        let origin = u32::from(self.stream) << FLOW_BITS | self.flow;
        bytes[..2].copy_from_slice(&MAGIC.to_be_bytes());
        bytes[2..6].copy_from_slice(&origin.to_be_bytes());
        bytes[6..10].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[10..].copy_from_slice(&self.time_ns.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_laid_out_as_label_h_draws_it() {
        let label = Label { stream: 3, flow: 0x01_0203, sequence: 0x0405_0607, time_ns: 8 };
        let bytes = label.to_bytes();
        assert_eq!(bytes, *b"SW\x03\x01\x02\x03\x04\x05\x06\x07\0\0\0\0\0\0\0\x08");
    }
}
