//! Bringing IPFIX messages to a collector, over UDP or TCP (RFC 7011, section 10). What cannot be
//! brought is not kept: it is counted, and the collector is told so as soon as it can be.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use jiff::{SignedDuration, Timestamp};

use super::ipfix::{Encoder, has_records};
use super::record::Record;
use super::recorder::has_passed;

/// How often templates are sent again over UDP, where a collector may have missed them, or have begun
/// later.
const TEMPLATES_AGAIN: SignedDuration = SignedDuration::from_secs(60);

/// How long a collector that could not be reached is left alone, at least.
const RETRY: SignedDuration = SignedDuration::from_secs(5);

/// How many times as long as the attempt has taken it is left alone: a name server that does not answer
/// takes half a minute, and events are not read meanwhile.
const RETRY_TIMES: i32 = 9;

/// How long making a connection, or writing to one, may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Records that wait for a message, at most.
const WAITING_MAX: usize = 4_096;

/// How messages come to a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// A collector, and what is to come to it.
#[derive(Debug)]
pub(crate) struct Exporter {
    /// `HOST:PORT`.
    to: String,
    transport: Transport,
    encoder: Encoder,
    connection: Option<Connection>,
    /// When templates were sent last, by this connection.
    templates: Option<Timestamp>,
    /// When it could not be reached last, and how long it is left alone since.
    failed: Option<(Timestamp, SignedDuration)>,
    waiting: Vec<Record>,
    /// Events of sessions that did not come to the collector since the start.
    not_sent: u64,
    /// What of that the collector was told.
    told: u64,
}

#[derive(Debug)]
enum Connection {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Exporter {
    pub(crate) fn new(to: &str, transport: Transport) -> Self {
        Self {
            to: to.to_owned(),
            transport,
            encoder: Encoder::default(),
            connection: None,
            templates: None,
            failed: None,
            waiting: Vec::new(),
            not_sent: 0,
            told: 0,
        }
    }

    /// Takes a record: of a gap, that events are missing.
    pub(crate) fn add(&mut self, record: &Record, now: Timestamp) {
        match record {
            // Where nobody knows how many they are, that there are some is told.
            Record::Gap(gap) => self.not_sent += gap.lost.unwrap_or(1),
            record if record.session().is_some() || record.block().is_some() => {
                self.waiting.push(record.clone());
            }
            _ => {}
        }
        if self.waiting.len() >= WAITING_MAX {
            self.send(now);
        }
    }

    /// Brings what waits to the collector.
    pub(crate) fn send(&mut self, now: Timestamp) {
        if self.waiting.is_empty() && self.told == self.not_sent {
            return;
        }
        let waiting = std::mem::take(&mut self.waiting);
        let mut sent = 0;
        let began = Instant::now();
        if let Err(error) = self.try_send(&waiting, &mut sent, now) {
            let lost = waiting.len() - sent;
            self.not_sent += lost as u64;
            if !self.is_left_alone(now) {
                tracing::warn!(
                    "the collector {} cannot be reached, and {lost} records are lost to it: {error}",
                    self.to
                );
                self.failed = Some(left_alone(now, began.elapsed()));
            }
            // A message may have been cut off: nothing can follow it.
            self.connection = None;
        }
    }

    /// `sent` are those that are on their way.
    fn try_send(&mut self, records: &[Record], sent: &mut usize, now: Timestamp) -> io::Result<()> {
        self.connect(now)?;
        self.refresh_templates(now)?;
        if self.told < self.not_sent {
            let (process, not_sent) = (std::process::id(), self.not_sent);
            let message = self.encoder.not_sent(now, process, not_sent);
            self.write(&message)?;
            self.told = not_sent;
        }
        while *sent < records.len() {
            let (message, taken) = self.encoder.records(now, &records[*sent..]);
            if has_records(&message) {
                self.write(&message)?;
            }
            *sent += taken;
        }
        Ok(())
    }

    fn is_left_alone(&self, now: Timestamp) -> bool {
        self.failed.is_some_and(|(failed, alone)| !has_passed(alone, failed, now))
    }

    fn connect(&mut self, now: Timestamp) -> io::Result<()> {
        if self.connection.as_ref().is_some_and(|connection| !connection.has_ended()) {
            return Ok(());
        }
        self.connection = None;
        if self.is_left_alone(now) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let mut last = io::Error::new(io::ErrorKind::NotFound, "it has no address");
        for address in self.to.to_socket_addrs()? {
            match Connection::to(address, self.transport) {
                Ok(connection) => {
                    // Messages are numbered anew by each TCP connection (RFC 7011, section 3.1).
                    if self.transport == Transport::Tcp {
                        self.encoder = Encoder::default();
                    }
                    (self.connection, self.templates, self.failed) = (Some(connection), None, None);
                    return Ok(());
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn refresh_templates(&mut self, now: Timestamp) -> io::Result<()> {
        let is_due = match (self.templates, self.transport) {
            (None, _) => true,
            (Some(_), Transport::Tcp) => false,
            (Some(sent), Transport::Udp) => has_passed(TEMPLATES_AGAIN, sent, now),
        };
        if is_due {
            let message = self.encoder.templates(now);
            self.write(&message)?;
            self.templates = Some(now);
        }
        Ok(())
    }

    fn write(&mut self, message: &[u8]) -> io::Result<()> {
        match &mut self.connection {
            Some(Connection::Tcp(stream)) => stream.write_all(message),
            // That nobody listened to the one before is all that UDP can tell.
            Some(Connection::Udp(socket)) => socket.send(message).map(|_| ()),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// From when on a collector is left alone, and for how long, to which an attempt was made `now` that took
/// so long.
fn left_alone(now: Timestamp, took: Duration) -> (Timestamp, SignedDuration) {
    let took = SignedDuration::try_from(took).unwrap_or(RETRY);
    (now, took.saturating_mul(1 + RETRY_TIMES).max(RETRY))
}

impl Connection {
    fn to(address: SocketAddr, transport: Transport) -> io::Result<Self> {
        match transport {
            Transport::Udp => {
                let any: SocketAddr = match address {
                    SocketAddr::V4(_) => ([0; 4], 0).into(),
                    SocketAddr::V6(_) => ([0; 16], 0).into(),
                };
                let socket = UdpSocket::bind(any)?;
                socket.connect(address)?;
                Ok(Self::Udp(socket))
            }
            Transport::Tcp => {
                let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                Ok(Self::Tcp(stream))
            }
        }
    }

    /// Whether the collector has ended it: what is written then is lost without an error at first.
    fn has_ended(&self) -> bool {
        let Self::Tcp(stream) = self else { return false };
        let peek = || {
            stream.set_nonblocking(true)?;
            let peeked = stream.peek(&mut [0]);
            stream.set_nonblocking(false)?;
            peeked
        };
        match peek() {
            Ok(count) => count == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;

    use super::super::record::tests::{at, session};
    use super::*;

    /// The version and the first set's number of the next message, and how many bytes it has.
    fn next(stream: &mut TcpStream) -> (u16, u16) {
        let mut header = [0; 20];
        stream.read_exact(&mut header).unwrap();
        let number = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let mut rest = vec![0; usize::from(number(2)) - header.len()];
        stream.read_exact(&mut rest).unwrap();
        (number(0), number(16))
    }

    #[test]
    fn what_a_collector_missed_is_told_when_it_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let mut exporter = Exporter::new(&address.to_string(), Transport::Tcp);
        let begin = Record::Begin(session("2026-11-22T14:00:00Z"));
        let now = at("2026-11-22T14:00:00Z");
        exporter.add(&begin, now);
        exporter.send(now);
        assert_eq!((exporter.not_sent, exporter.told), (1, 0));

        let listener = TcpListener::bind(address).unwrap();
        exporter.add(&begin, now);
        // It is left alone for a while.
        exporter.send(now);
        assert_eq!((exporter.not_sent, exporter.told), (2, 0));
        let now = at("2026-11-22T14:00:05Z");
        exporter.add(&begin, now);
        exporter.send(now);
        assert_eq!((exporter.not_sent, exporter.told), (2, 2));
        let (mut stream, _) = listener.accept().unwrap();
        assert_eq!([(); 3].map(|()| next(&mut stream)), [(10, 2), (10, 259), (10, 256)]);
    }

    #[test]
    fn what_a_collector_that_has_ended_the_connection_misses_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut exporter = Exporter::new(&address, Transport::Tcp);
        let begin = Record::Begin(session("2026-11-22T14:00:00Z"));
        exporter.add(&begin, at("2026-11-22T14:00:00Z"));
        exporter.send(at("2026-11-22T14:00:00Z"));
        let (mut stream, _) = listener.accept().unwrap();
        assert_eq!([(); 2].map(|()| next(&mut stream)), [(10, 2), (10, 256)]);
        drop((stream, listener));
        exporter.add(&begin, at("2026-11-22T14:00:01Z"));
        exporter.send(at("2026-11-22T14:00:01Z"));
        assert_eq!(exporter.not_sent, 1);
    }

    #[test]
    fn a_collector_whose_name_takes_long_to_find_is_left_alone_for_longer() {
        let now = at("2026-11-22T14:00:00Z");
        for (took, alone) in [(0, 5), (2, 20), (30, 300)] {
            let alone = SignedDuration::from_secs(alone);
            assert_eq!(left_alone(now, Duration::from_secs(took)), (now, alone));
        }
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_keep_a_collector_waiting() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let mut exporter = Exporter::new(&address.to_string(), Transport::Tcp);
        let begin = Record::Begin(session("2026-11-22T14:00:00Z"));
        exporter.add(&begin, at("2026-11-22T14:00:00Z"));
        exporter.send(at("2026-11-22T14:00:00Z"));
        assert_eq!(exporter.not_sent, 1);
        let _listener = TcpListener::bind(address).unwrap();
        exporter.add(&begin, at("2026-11-22T13:00:00Z"));
        exporter.send(at("2026-11-22T13:00:00Z"));
        assert_eq!((exporter.not_sent, exporter.told), (1, 1));
    }

    #[test]
    fn templates_are_sent_again_over_udp() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        collector.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let address = collector.local_addr().unwrap().to_string();
        let mut exporter = Exporter::new(&address, Transport::Udp);
        let received = || {
            let mut message = [0; 2_000];
            collector.recv(&mut message).unwrap();
            u16::from_be_bytes([message[16], message[17]])
        };
        for (time, sets) in [
            ("2026-11-22T14:00:00Z", &[2, 256][..]),
            ("2026-11-22T14:00:59Z", &[256]),
            ("2026-11-22T14:01:00Z", &[2, 256]),
        ] {
            exporter.add(&Record::Begin(session(time)), at(time));
            exporter.send(at(time));
            for set in sets {
                assert_eq!(received(), *set, "{time}");
            }
        }
    }
}
