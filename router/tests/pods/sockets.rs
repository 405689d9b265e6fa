//! Sockets in namespaces, and what they see.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_linger, set_socket_reuseaddr, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
use spillway_testing::{Namespace, bind_udp};

/// How long a socket waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// How long one waits for what does not come.
pub(crate) const SILENCE: Duration = Duration::from_millis(700);

/// A TCP connection from a port of the namespace; 0 is any. It waits [`PATIENCE`] at most, in
/// everything.
pub(crate) fn tcp(from: &Namespace, port: u16, to: SocketAddr) -> io::Result<TcpStream> {
    tcp_within(PATIENCE, from, port, to)
}

/// The same with another patience.
pub(crate) fn tcp_within(
    patience: Duration,
    from: &Namespace,
    port: u16,
    to: SocketAddr,
) -> io::Result<TcpStream> {
    from.enter(|| connect_here(patience, port, to))
}

/// So many connections, one after the other.
pub(crate) fn tcp_many(count: usize, from: &Namespace, to: SocketAddr) -> Vec<TcpStream> {
    let one = |_| connect_here(PATIENCE, 0, to).expect("the pod connects");
    from.enter(|| (0..count).map(one).collect())
}

/// From the calling thread's namespace.
fn connect_here(patience: Duration, port: u16, to: SocketAddr) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_reuseaddr(&socket, true)?;
    // It bounds `connect` too.
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(patience))?;
    if port != 0 {
        bind(&socket, &any_as(to, port))?;
    }
    connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}

/// A port of all addresses of another's family.
fn any_as(other: SocketAddr, port: u16) -> SocketAddr {
    let address: IpAddr = match other {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(address, port)
}

/// Listens on this port, on all addresses of the family.
pub(crate) fn listen(server: &Namespace, at: SocketAddr) -> TcpListener {
    server.enter(|| TcpListener::bind(any_as(at, at.port())).unwrap())
}

/// The next connection; one must be waiting, or come within [`PATIENCE`].
pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    set_socket_timeout(listener, Timeout::Recv, Some(PATIENCE)).unwrap();
    let (stream, _) = listener.accept().expect("a connection comes");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Ends a connection with a RST.
pub(crate) fn reset(stream: TcpStream) {
    set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// A UDP socket on this port, on all addresses of the family.
pub(crate) fn udp(namespace: &Namespace, at: SocketAddr) -> UdpSocket {
    namespace.enter(|| bind_udp(any_as(at, at.port())))
}

/// The same from any or a certain port, speaking to one remote only: it is told of errors.
pub(crate) fn udp_to(namespace: &Namespace, port: u16, to: SocketAddr) -> UdpSocket {
    let socket = udp(namespace, any_as(to, port));
    socket.connect(to).unwrap();
    socket
}

/// What a call on a socket gave, in a word.
pub(crate) fn word<T: ToString>(result: io::Result<T>) -> String {
    match result {
        Ok(value) => value.to_string(),
        Err(error) => match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            Some(rustix::io::Errno::AGAIN | rustix::io::Errno::INPROGRESS) => "silence".to_owned(),
            Some(rustix::io::Errno::MSGSIZE) => "message too long".to_owned(),
            _ => error.kind().to_string(),
        },
    }
}

/// Sixteen bytes to know others by (FNV-1a).
pub(crate) fn digest(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!("{} bytes, {hash:016x}", bytes.len())
}

/// Bytes that differ from place to place.
pub(crate) fn pattern(seed: u8, length: usize) -> Vec<u8> {
    let mut value = u32::from(seed) | 1;
    std::iter::repeat_with(|| {
        value = value.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        value.to_be_bytes()[0]
    })
    .take(length)
    .collect()
}
