//! `spillway capture`: what the router receives, translates, sends and drops, for Wireshark or in lines.

mod line;
mod pcapng;

use std::fs::OpenOptions;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use mio::{Events, Interest, Poll, Token};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;
use spillway_api::{
    CaptureCount, CapturePoint, CaptureRequest, CapturedPacket, Client, SNAPLEN_DEFAULT, os_error,
};

use self::line::{about, line};
use self::pcapng::{Direction, Packet, Writer};
use crate::answer::protocol_number;

/// How often the router is asked for packets when there were none left: it tells nobody by itself.
const INTERVAL: Duration = Duration::from_millis(50);

/// What to capture, and where to write it.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Write pcapng to this file, or with `-` to standard output, instead of a line for each packet.
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Where, in a list with commas. Default: received, sent and dropped; with --drop-reason: dropped.
    #[arg(long, value_name = "POINTS", value_delimiter = ',')]
    at: Vec<Point>,
    /// Only packets from or to this address.
    #[arg(long, value_name = "ADDRESS")]
    host: Option<IpAddr>,
    /// Only packets from or to the pod with this address, its replies before their translation too.
    #[arg(long, value_name = "ADDRESS")]
    pod: Option<IpAddr>,
    /// Only packets from or to this TCP, UDP or SCTP port.
    #[arg(long)]
    port: Option<u16>,
    /// Only packets of this IP protocol: tcp, udp, icmp, sctp, gre, esp or a number.
    #[arg(long, value_parser = protocol_number)]
    protocol: Option<u8>,
    /// Only packets that are dropped for this reason, by its name in `spillway drops`.
    #[arg(long, value_name = "REASON")]
    drop_reason: Option<String>,
    /// How many bytes of a frame to keep.
    #[arg(long, value_name = "BYTES", default_value_t = SNAPLEN_DEFAULT)]
    snaplen: u32,
    /// End after so many packets.
    #[arg(short, long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after so many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    duration: Option<u64>,
}

/// A place where packets can be captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Point {
    /// As steering gave it to a worker.
    Received,
    /// With its new addresses, without the tunnel's headers.
    Translated,
    /// As it was given to a device.
    Sent,
    /// As it stood when it was dropped.
    Dropped,
}

impl From<Point> for CapturePoint {
    fn from(point: Point) -> Self {
        match point {
            Point::Received => Self::Received,
            Point::Translated => Self::Translated,
            Point::Sent => Self::Sent,
            Point::Dropped => Self::Dropped,
        }
    }
}

impl Options {
    fn request(&self) -> CaptureRequest {
        let asked: Vec<CapturePoint> = self.at.iter().copied().map(CapturePoint::from).collect();
        let points = match (asked.is_empty(), self.drop_reason.is_some()) {
            (false, _) => asked,
            (true, true) => vec![CapturePoint::Dropped],
            (true, false) => {
                vec![CapturePoint::Received, CapturePoint::Sent, CapturePoint::Dropped]
            }
        };
        CaptureRequest {
            points,
            host: self.host,
            pod: self.pod,
            port: self.port,
            protocol: self.protocol,
            drop_reason: self.drop_reason.clone(),
            snaplen: self.snaplen,
        }
    }
}

/// What an interface of a file says of itself.
const fn description(point: CapturePoint) -> &'static str {
    match point {
        CapturePoint::Received => {
            "as steering gave it to a worker: a pod's packet without the tunnel's headers, the destination \
             of its Ethernet header zeros since it is not kept; a reply exactly as it came"
        }
        CapturePoint::Translated => {
            "with its new addresses, exactly as sent but for the tunnel's outer headers"
        }
        CapturePoint::Sent => "exactly as given to a device",
        CapturePoint::Dropped => {
            "as it stood when it was dropped, with the reason as comment; else as received"
        }
    }
}

/// Where packets are written to.
enum Sink {
    Lines(Box<dyn Write>),
    File(Writer<Box<dyn Write>>, Vec<CapturePoint>),
}

impl Sink {
    fn open(options: &Options, request: &CaptureRequest) -> anyhow::Result<Self> {
        let output: Box<dyn Write> = match &options.write {
            None => return Ok(Self::Lines(Box::new(BufWriter::new(io::stdout())))),
            Some(path) if path.as_os_str() == "-" => {
                ensure!(
                    !io::stdout().is_terminal(),
                    "standard output is a terminal, which cannot show pcapng: pipe it, as in `spillway \
                     capture --write - | wireshark -k -i -`, or name a file"
                );
                Box::new(io::stdout())
            }
            Some(path) => {
                // Packets are nobody else's business.
                let file = OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(path)
                    .map_err(|error| {
                        anyhow::anyhow!("cannot write {}: {}", path.display(), os_error(&error))
                    })?;
                Box::new(file)
            }
        };
        let mut points = request.points.clone();
        points.sort_unstable();
        points.dedup();
        let interfaces: Vec<_> =
            points.iter().map(|point| (point.name(), description(*point))).collect();
        let application = concat!("spillway ", env!("CARGO_PKG_VERSION"));
        let output: Box<dyn Write> = Box::new(BufWriter::new(output));
        let mut writer = Writer::new(output, application, &interfaces, request.snaplen)?;
        // Whoever reads along sees the interfaces before the first packet.
        writer.flush()?;
        Ok(Self::File(writer, points))
    }

    fn packet(&mut self, packet: &CapturedPacket) -> io::Result<()> {
        let (writer, points) = match self {
            Self::Lines(output) => return output.write_all(line(packet).as_bytes()),
            Self::File(writer, points) => (writer, points),
        };
        let Some(interface) = interface(points, packet.point) else { return Ok(()) };
        let inbound = matches!(packet.point, CapturePoint::Received | CapturePoint::Dropped);
        let about = about(packet);
        let worker = format!("worker {}", packet.worker);
        let comment = if about.is_empty() { worker } else { format!("{about}, {worker}") };
        writer.packet(&Packet {
            interface,
            time_ns: packet.time_ns,
            length: packet.length,
            data: &packet.data.0,
            direction: if inbound { Direction::Inbound } else { Direction::Outbound },
            id: packet.number,
            comment: &comment,
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Lines(output) => output.flush(),
            Self::File(writer, _) => writer.flush(),
        }
    }

    /// Writes how many packets there were, at the time of the last one.
    fn finish(&mut self, counts: &[CaptureCount], time_ns: u64) -> io::Result<()> {
        if let Self::File(writer, points) = self {
            for CaptureCount { point, captured, lost } in counts {
                if let Some(interface) = interface(points, *point) {
                    let received = captured.saturating_add(*lost);
                    writer.statistics(interface, time_ns, [received, *lost])?;
                }
            }
        }
        self.flush()
    }
}

/// The number of a point's interface.
fn interface(points: &[CapturePoint], point: CapturePoint) -> Option<u32> {
    points.iter().position(|of| *of == point).and_then(|at| u32::try_from(at).ok())
}

/// Captures until it is told to end, and says on standard error how much it was.
///
/// # Errors
/// When the router refuses, or the file cannot be written.
pub(super) fn capture(options: &Options, socket: &Path) -> anyhow::Result<()> {
    let request = options.request();
    let mut client = Client::connect(socket)?;
    let mut sink = Sink::open(options, &request)?;
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot catch signals")?;
    let mut poll = Poll::new().context("cannot make an event loop")?;
    poll.registry().register(&mut signals, Token(0), Interest::READABLE)?;

    let names: Vec<&str> = request.points.iter().map(|point| point.name()).collect();
    let id = client.capture(request)?;
    tell(&format!("capturing what is {}; Ctrl-C ends it", names.join(", ")));
    let deadline = options.duration.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut left = options.count.unwrap_or(u64::MAX);
    let (mut end, mut written, mut last_ns) = (false, 0_u64, 0);
    let mut reader_is_gone = false;
    let counts = loop {
        end |= left == 0
            || reader_is_gone
            || deadline.is_some_and(|deadline| deadline <= Instant::now());
        let page = client.take_captured(id, end)?;
        for packet in page.packets.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            if is_closed(sink.packet(packet))? {
                reader_is_gone = true;
                break;
            }
            left -= 1;
            written += 1;
            last_ns = packet.time_ns;
        }
        reader_is_gone |= is_closed(sink.flush())?;
        if end && !page.more {
            break page.points;
        }
        if !end && !page.more && left > 0 && !reader_is_gone {
            end = is_signalled(&mut poll, &mut signals)?;
        }
    };
    is_closed(sink.finish(&counts, last_ns))?;
    let lost: u64 = counts.iter().map(|count| count.lost).sum();
    let note =
        if lost > 0 { ": they came faster than they were taken; a filter helps" } else { "" };
    tell(&format!("packets captured: {written}, lost: {lost}{note}"));
    Ok(())
}

/// Tells on standard error, which may be closed: then nobody wants to know.
fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Waits for a signal, and not for long.
fn is_signalled(poll: &mut Poll, signals: &mut Signals) -> anyhow::Result<bool> {
    let mut events = Events::with_capacity(1);
    match poll.poll(&mut events, Some(INTERVAL)) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        result => result.context("cannot wait for signals")?,
    }
    Ok(signals.pending().next().is_some())
}

/// Whether nobody reads what was written: that is no error.
fn is_closed(written: io::Result<()>) -> anyhow::Result<bool> {
    match written {
        Ok(()) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(true),
        Err(error) => Err(anyhow::anyhow!("cannot write packets: {}", os_error(&error))),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn request(words: &str) -> CaptureRequest {
        let words = std::iter::once("capture").chain(words.split_whitespace());
        Line::try_parse_from(words).unwrap().options.request()
    }

    #[test]
    fn the_points_follow_from_what_is_asked() {
        use CapturePoint::{Dropped, Received, Sent, Translated};
        assert_eq!(request("").points, [Received, Sent, Dropped]);
        assert_eq!(request("--drop-reason no-flow").points, [Dropped]);
        assert_eq!(request("--at translated,sent").points, [Translated, Sent]);
    }

    #[test]
    fn protocols_have_names_and_numbers() {
        for (words, expected) in [("tcp", 6), ("icmp", 1), ("icmpv6", 58), ("gre", 47), ("6", 6)] {
            assert_eq!(request(&format!("--protocol {words}")).protocol, Some(expected));
        }
        for wrong in ["--protocol tpc", "--protocol 256", "--at lost", "--count 0", "--pod a"] {
            let words = std::iter::once("capture").chain(wrong.split(' '));
            assert!(Line::try_parse_from(words).is_err(), "{wrong}");
        }
    }
}
