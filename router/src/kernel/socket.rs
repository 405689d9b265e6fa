//! Two rtnetlink sockets: one that the kernel sends notifications to, one for requests (RFC 3549).
//!
//! Both trust messages from the kernel only (netlink port 0), and no message is followed to a size
//! or a time without bound.

use std::io;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt::{self, Timeout};

use super::KernelError;

/// Multicast groups of `linux/rtnetlink.h`: links, neighbours, addresses, routes and rules of IPv4
/// and of IPv6, next-hop objects.
const GROUPS: [u32; 9] = [1, 3, 5, 7, 8, 9, 11, 19, 32];

/// `RTM_NEWNEXTHOP` and `RTM_DELNEXTHOP`.
const NEXT_HOP_OBJECT_MESSAGES: std::ops::RangeInclusive<u16> = 104..=105;

/// Receive buffer of the notification socket, in bytes: thousands of changes at once. What does
/// not fit is reported by the kernel (`ENOBUFS`) and read anew.
const NOTIFICATION_BUFFER_BYTES: usize = 4 << 20;

/// The largest datagram read, in bytes. The kernel sends at most 32 KiB in a dump.
const DATAGRAM_BYTES_MAX: usize = 64 << 10;

/// How long an answer of the kernel may take. It takes microseconds, but another process can hold
/// the kernel's configuration lock for long.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// One message of the kernel.
#[derive(Debug)]
pub(super) enum Message {
    /// It changes or lists a link, address, rule, route or neighbour; with its header's flags.
    Route(Box<RouteNetlinkMessage>, u16),
    /// A next-hop object has changed, and with it the routes that use it.
    NextHopObject,
}

/// What the notification socket holds.
#[derive(Debug)]
pub(super) enum Notified {
    /// Messages, in order.
    Messages(Vec<Message>),
    /// Messages were lost: what is known may be wrong.
    Lost,
    /// Nothing more for now.
    Empty,
}

/// The socket that the kernel sends notifications to.
#[derive(Debug)]
pub(super) struct Notifications {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Notifications {
    /// Opens the socket and subscribes.
    pub(super) fn open() -> Result<Self, KernelError> {
        let socket = open_socket()?;
        set_receive_buffer(&socket, NOTIFICATION_BUFFER_BYTES).map_err(at("receive buffer"))?;
        socket.set_non_blocking(true).map_err(at("non-blocking mode"))?;
        for group in GROUPS {
            socket.add_membership(group).map_err(at("subscription"))?;
        }
        Ok(Self { socket, buffer: vec![0; DATAGRAM_BYTES_MAX] })
    }

    /// The socket, for an event loop.
    pub(super) fn source(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// The next datagram.
    pub(super) fn receive(&mut self) -> Result<Notified, KernelError> {
        let (length, sender) = match receive_from(&self.socket, &mut self.buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Notified::Empty),
            Err(error) if is_overflow(&error) => return Ok(Notified::Lost),
            Err(cause) => return Err(KernelError::Notifications { cause }),
        };
        match self.buffer.get(..length) {
            _ if sender.port_number() != 0 => Ok(Notified::Messages(Vec::new())),
            Some(datagram) => {
                Ok(Notified::Messages(split(datagram).filter_map(notification).collect()))
            }
            None => Ok(Notified::Lost),
        }
    }

    /// Makes the kernel's queue so small that notifications get lost.
    #[cfg(test)]
    pub(super) fn shrink(&self) {
        sockopt::set_socket_recv_buffer_size(&self.socket, 0).unwrap();
    }
}

/// The socket for requests; it waits for the answer.
#[derive(Debug)]
pub(super) struct Requests {
    socket: Socket,
    buffer: Vec<u8>,
    sequence_number: u32,
}

/// Whether a table changed while it was listed, so that the list may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Dumped {
    Whole,
    /// The kernel listed it in parts and does not tell of changes in between: it lists IPv6 routes
    /// so, and after a change goes on where so many have gone before.
    InParts,
    Interrupted,
}

impl Requests {
    /// Opens the socket.
    pub(super) fn open() -> Result<Self, KernelError> {
        let socket = open_socket()?;
        sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))
            .map_err(|error| at("timeout")(error.into()))?;
        Ok(Self { socket, buffer: vec![0; DATAGRAM_BYTES_MAX], sequence_number: 0 })
    }

    /// Lists a table: hands each entry to `each`.
    pub(super) fn dump(
        &mut self,
        request: RouteNetlinkMessage,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<Dumped> {
        let in_parts = is_for_ipv6_routes(&request);
        self.send(request, NLM_F_REQUEST | NLM_F_DUMP)?;
        let (mut interrupted, mut parts) = (false, 0);
        loop {
            let length = self.receive()?;
            let datagram = self.buffer.get(..length).ok_or_else(too_long)?;
            let mut entries = 0;
            for part in split(datagram) {
                let Some(message) = answer(part, self.sequence_number)? else {
                    continue;
                };
                interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(entry) => {
                        entries += 1;
                        each(entry);
                    }
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Done(_) if interrupted => return Ok(Dumped::Interrupted),
                    NetlinkPayload::Done(_) => {
                        parts += usize::from(entries > 0);
                        let whole = parts <= 1 || !in_parts;
                        return Ok(if whole { Dumped::Whole } else { Dumped::InParts });
                    }
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io());
                    }
                    _ => {}
                }
            }
            parts += usize::from(entries > 0);
        }
    }

    /// Makes a request and waits until the kernel has carried it out.
    pub(super) fn execute(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(request, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        loop {
            let length = self.receive()?;
            let datagram = self.buffer.get(..length).ok_or_else(too_long)?;
            for part in split(datagram) {
                let Some(message) = answer(part, self.sequence_number)? else {
                    continue;
                };
                if let NetlinkPayload::Error(error) = message.payload {
                    return if error.code.is_some() { Err(error.to_io()) } else { Ok(()) };
                }
            }
        }
    }

    fn send(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence_number = self.sequence_number.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence_number;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).map(drop)
    }

    /// The length of the next datagram from the kernel.
    fn receive(&mut self) -> io::Result<usize> {
        loop {
            match receive_from(&self.socket, &mut self.buffer) {
                Ok((length, sender)) if sender.port_number() == 0 => return Ok(length),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let seconds = ANSWER_TIMEOUT.as_secs();
                    let text = format!("the kernel has not answered for {seconds} s");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn open_socket() -> Result<Socket, KernelError> {
    let mut socket = Socket::new(NETLINK_ROUTE).map_err(at("socket"))?;
    socket.bind_auto().map_err(at("bind"))?;
    Ok(socket)
}

fn at(step: &'static str) -> impl FnOnce(io::Error) -> KernelError {
    move |cause| KernelError::Open { step, cause }
}

/// Beyond `net.core.rmem_max` if we may, else up to it.
fn set_receive_buffer(socket: &Socket, bytes: usize) -> io::Result<()> {
    sockopt::set_socket_recv_buffer_size_force(socket, bytes)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, bytes))
        .map_err(Into::into)
}

/// Reads one datagram and returns its true length, which can exceed the buffer's.
pub(super) fn receive_from(socket: &Socket, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    let truncate = rustix::net::RecvFlags::TRUNC.bits().cast_signed();
    loop {
        match socket.recv_from(&mut &mut *buffer, truncate) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            received => return received,
        }
    }
}

fn is_overflow(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error())
}

fn is_for_ipv6_routes(request: &RouteNetlinkMessage) -> bool {
    let RouteNetlinkMessage::GetRoute(message) = request else {
        return false;
    };
    message.header.address_family == AddressFamily::Inet6
}

fn too_long() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("an answer is longer than {DATAGRAM_BYTES_MAX} bytes"),
    )
}

/// The messages of a datagram; what follows a malformed one is not looked at.
fn split(datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = NetlinkBuffer::new_checked(rest).ok()?.length() as usize;
        let message = rest.get(..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// Decodes a notification. One that cannot be decoded (an attribute newer than our library) is
/// logged and skipped.
fn notification(bytes: &[u8]) -> Option<Message> {
    let kind = NetlinkBuffer::new_checked(bytes).ok()?.message_type();
    if NEXT_HOP_OBJECT_MESSAGES.contains(&kind) {
        return Some(Message::NextHopObject);
    }
    let message = decode(bytes)?;
    match message.payload {
        NetlinkPayload::InnerMessage(inner) => {
            Some(Message::Route(Box::new(inner), message.header.flags))
        }
        _ => None,
    }
}

/// Decodes an answer to request `sequence_number`; `None` for late answers to earlier requests and
/// for entries that cannot be decoded.
fn answer(
    bytes: &[u8],
    sequence_number: u32,
) -> io::Result<Option<NetlinkMessage<RouteNetlinkMessage>>> {
    let header = NetlinkBuffer::new_checked(bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    if header.sequence_number() != sequence_number {
        return Ok(None);
    }
    Ok(decode(bytes))
}

fn decode(bytes: &[u8]) -> Option<NetlinkMessage<RouteNetlinkMessage>> {
    NetlinkMessage::deserialize(bytes)
        .inspect_err(|error| tracing::warn!("skipped an rtnetlink message: {error}"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `NLMSG_NOOP` messages with these payload lengths, padded as the kernel pads them.
    fn datagram(payloads: &[usize]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for payload in payloads {
            let length = 16 + payload;
            bytes.extend(u32::try_from(length).unwrap().to_ne_bytes());
            bytes.extend(1u16.to_ne_bytes());
            bytes.resize(bytes.len() + 10 + payload, 0);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn a_datagram_is_split_at_its_aligned_message_lengths() {
        let bytes = datagram(&[0, 5, 8]);
        let lengths: Vec<usize> = split(&bytes).map(<[u8]>::len).collect();
        assert_eq!(lengths, [16, 21, 24]);
    }

    #[test]
    fn a_truncated_or_empty_message_ends_the_datagram() {
        let bytes = datagram(&[4, 4]);
        assert_eq!(split(&bytes[..bytes.len() - 1]).count(), 1);
        assert_eq!(split(&[0; 16]).count(), 0);
        assert_eq!(split(&[]).count(), 0);
    }

    #[test]
    fn an_answer_to_an_earlier_request_is_not_ours() {
        let bytes = datagram(&[0]);
        assert!(answer(&bytes, 7).unwrap().is_none());
        assert!(answer(&bytes, 0).unwrap().is_some());
    }
}
