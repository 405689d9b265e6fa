//! The pcapng format (draft-ietf-opsawg-pcapng), as far as a capture needs it: one section, an interface for
//! each point, packets, and what was lost. Little endian, times in nanoseconds.

use std::io::{self, Write};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;

const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
/// Not said: whoever reads goes from block to block.
const SECTION_LENGTH: u64 = u64::MAX;
const LINK_TYPE_ETHERNET: u16 = 1;

// Options; the numbers above 1 belong to a kind of block each.
const COMMENT: u16 = 1;
const USER_APPLICATION: u16 = 4;
const IF_NAME: u16 = 2;
const IF_DESCRIPTION: u16 = 3;
const IF_TIME_RESOLUTION: u16 = 9;
const PACKET_FLAGS: u16 = 2;
const PACKET_ID: u16 = 5;
const STATISTICS_RECEIVED: u16 = 4;
const STATISTICS_DROPPED: u16 = 5;

/// Times count in units of 10 to the minus so many seconds.
const NANOSECONDS: u8 = 9;

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Inbound = 1,
    Outbound = 2,
}

/// A packet block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    /// Which of the interfaces.
    pub(super) interface: u32,
    /// In nanoseconds since 1970.
    pub(super) time_ns: u64,
    /// How long the frame is; `data` is as much of it as was kept.
    pub(super) length: u32,
    pub(super) data: &'a [u8],
    pub(super) direction: Direction,
    /// The same for one packet on several interfaces.
    pub(super) id: u64,
    pub(super) comment: &'a str,
}

/// Writes a file, block by block.
#[derive(Debug)]
pub(super) struct Writer<W> {
    output: W,
}

impl<W: Write> Writer<W> {
    /// Begins a file that `application` has written, with these interfaces: name and description.
    pub(super) fn new(
        output: W,
        application: &str,
        interfaces: &[(&str, &str)],
        snaplen: u32,
    ) -> io::Result<Self> {
        let mut writer = Self { output };
        let mut header = Body::default();
        header.u32(BYTE_ORDER_MAGIC).u16(1).u16(0).u64(SECTION_LENGTH);
        header.option(USER_APPLICATION, application.as_bytes()).end_of_options();
        writer.block(SECTION_HEADER, &header)?;
        for (name, description) in interfaces {
            let mut interface = Body::default();
            interface.u16(LINK_TYPE_ETHERNET).u16(0).u32(snaplen);
            interface.option(IF_NAME, name.as_bytes());
            interface.option(IF_DESCRIPTION, description.as_bytes());
            interface.option(IF_TIME_RESOLUTION, &[NANOSECONDS]).end_of_options();
            writer.block(INTERFACE_DESCRIPTION, &interface)?;
        }
        Ok(writer)
    }

    pub(super) fn packet(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let mut body = Body::default();
        body.u32(packet.interface).time(packet.time_ns);
        body.u32(u32::try_from(packet.data.len()).unwrap_or(u32::MAX)).u32(packet.length);
        body.padded(packet.data);
        body.option(COMMENT, packet.comment.as_bytes());
        body.option(PACKET_FLAGS, &(packet.direction as u32).to_le_bytes());
        body.option(PACKET_ID, &packet.id.to_le_bytes()).end_of_options();
        self.block(ENHANCED_PACKET, &body)
    }

    /// How many packets an interface had until then, and how many of them are missing.
    pub(super) fn statistics(
        &mut self,
        interface: u32,
        time_ns: u64,
        [received, lost]: [u64; 2],
    ) -> io::Result<()> {
        let mut body = Body::default();
        body.u32(interface).time(time_ns);
        body.option(STATISTICS_RECEIVED, &received.to_le_bytes());
        body.option(STATISTICS_DROPPED, &lost.to_le_bytes()).end_of_options();
        self.block(INTERFACE_STATISTICS, &body)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    /// A block: its type, its length before and behind it.
    fn block(&mut self, kind: u32, Body(body): &Body) -> io::Result<()> {
        let length = u32::try_from(body.len() + 12).map_err(io::Error::other)?.to_le_bytes();
        self.output.write_all(&kind.to_le_bytes())?;
        self.output.write_all(&length)?;
        self.output.write_all(body)?;
        self.output.write_all(&length)
    }
}

/// What is in a block.
#[derive(Debug, Default)]
struct Body(Vec<u8>);

impl Body {
    fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// A time, its upper half first.
    fn time(&mut self, time_ns: u64) -> &mut Self {
        let [a, b, c, d, rest @ ..] = time_ns.to_be_bytes();
        self.u32(u32::from_be_bytes([a, b, c, d])).u32(u32::from_be_bytes(rest))
    }

    /// Bytes, and zeros up to the next multiple of 4.
    fn padded(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// An option; what is longer than an option can be is cut.
    fn option(&mut self, code: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
        self.u16(code).u16(length).padded(&value[..usize::from(length)])
    }

    fn end_of_options(&mut self) -> &mut Self {
        self.u32(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The blocks of a file: their types and bodies.
    fn blocks(mut file: &[u8]) -> Vec<(u32, &[u8])> {
        let mut blocks = Vec::new();
        while !file.is_empty() {
            let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
            let (kind, length) = (word(0), word(4) as usize);
            assert_eq!(length % 4, 0);
            assert_eq!(word(length - 4) as usize, length, "the length stands at the end again");
            blocks.push((kind, &file[8..length - 4]));
            file = &file[length..];
        }
        blocks
    }

    /// The options from a place on, up to their end.
    fn options(body: &[u8], mut at: usize) -> Vec<(u16, Vec<u8>)> {
        let mut options = Vec::new();
        loop {
            let half = |at: usize| u16::from_le_bytes(body[at..at + 2].try_into().unwrap());
            let (code, length) = (half(at), usize::from(half(at + 2)));
            if code == 0 {
                assert_eq!((length, at + 4), (0, body.len()));
                return options;
            }
            options.push((code, body[at + 4..at + 4 + length].to_vec()));
            at += 4 + length.next_multiple_of(4);
        }
    }

    fn file() -> Vec<u8> {
        let mut file = Vec::new();
        let interfaces = [("received", "as it came"), ("sent", "as it went")];
        let mut writer = Writer::new(&mut file, "spillway 0", &interfaces, 96).unwrap();
        let packet = Packet {
            interface: 1,
            time_ns: 0x0102_0304_0506_0708,
            length: 1500,
            data: &[9, 8, 7, 6, 5],
            direction: Direction::Outbound,
            id: 42,
            comment: "worker 3",
        };
        writer.packet(&packet).unwrap();
        writer.statistics(1, 7, [11, 10]).unwrap();
        file
    }

    #[test]
    fn a_file_has_its_section_its_interfaces_packets_and_statistics() {
        let file = file();
        let kinds: Vec<u32> = blocks(&file).iter().map(|(kind, _)| *kind).collect();
        let (section, interface) = (SECTION_HEADER, INTERFACE_DESCRIPTION);
        assert_eq!(kinds, [section, interface, interface, ENHANCED_PACKET, INTERFACE_STATISTICS]);
        let (_, section) = blocks(&file)[0];
        assert_eq!(section[..8], [0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0]);
        assert_eq!(options(section, 16), [(USER_APPLICATION, b"spillway 0".to_vec())]);
        let (_, interface) = blocks(&file)[2];
        assert_eq!(interface[..8], [1, 0, 0, 0, 96, 0, 0, 0]);
        let expected = [
            (IF_NAME, b"sent".to_vec()),
            (IF_DESCRIPTION, b"as it went".to_vec()),
            (IF_TIME_RESOLUTION, vec![9]),
        ];
        assert_eq!(options(interface, 8), expected);
    }

    #[test]
    fn a_packet_has_its_time_length_direction_number_and_comment() {
        let file = file();
        let (_, body) = blocks(&file)[3];
        let head = [1_u32, 0x0102_0304, 0x0506_0708, 5, 1500].map(u32::to_le_bytes).concat();
        assert_eq!(body[..20], head);
        assert_eq!(body[20..28], [9, 8, 7, 6, 5, 0, 0, 0]);
        let expected = [
            (COMMENT, b"worker 3".to_vec()),
            (PACKET_FLAGS, vec![2, 0, 0, 0]),
            (PACKET_ID, vec![42, 0, 0, 0, 0, 0, 0, 0]),
        ];
        assert_eq!(options(body, 28), expected);
        let (_, statistics) = blocks(&file)[4];
        let count = |count: u8| vec![count, 0, 0, 0, 0, 0, 0, 0];
        let expected = [(STATISTICS_RECEIVED, count(11)), (STATISTICS_DROPPED, count(10))];
        assert_eq!(options(statistics, 12), expected);
    }
}
