//! How many IPsec states (security associations) the kernel has, as `ip xfrm state count` shows it.

use std::io;

use netlink_packet_core::{
    Emitable as _, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NlasIterator,
};
use netlink_sys::protocols::NETLINK_XFRM;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};

use super::socket::{ANSWER_TIMEOUT, receive_from};

/// Messages and an attribute of `linux/xfrm.h`.
const XFRM_MSG_NEWSADINFO: u16 = 0x22;
const XFRM_MSG_GETSADINFO: u16 = 0x23;
const XFRMA_SAD_CNT: u16 = 1;

/// `NLMSG_ERROR` of `linux/netlink.h`.
const NLMSG_ERROR: u16 = 2;

/// Bytes of the flags that follow the netlink header here, and of both together.
const FLAGS: usize = 4;
const REQUEST: u8 = 20;

/// Asks for the number of states in this thread's network namespace. A kernel without IPsec has none.
///
/// # Errors
/// When the kernel does not tell: it wants CAP_NET_ADMIN.
pub(crate) fn ipsec_states() -> io::Result<u32> {
    let socket = match Socket::new(NETLINK_XFRM) {
        Err(error) if error.raw_os_error() == Some(Errno::PROTONOSUPPORT.raw_os_error()) => {
            return Ok(0);
        }
        socket => socket?,
    };
    sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
    socket.send_to(&request(), &SocketAddr::new(0, 0), 0)?;
    let mut buffer = [0; 4096];
    let (length, sender) = receive_from(&socket, &mut buffer)?;
    let datagram = buffer.get(..length).filter(|_| sender.port_number() == 0);
    count(datagram.unwrap_or_default())
}

fn request() -> [u8; REQUEST as usize] {
    let mut bytes = [0; REQUEST as usize];
    let mut header = NetlinkHeader::default();
    header.length = REQUEST.into();
    header.message_type = XFRM_MSG_GETSADINFO;
    header.flags = NLM_F_REQUEST;
    header.emit(&mut bytes);
    // Flags that the kernel only gives back.
    bytes
}

/// The number of states in the kernel's answer.
fn count(datagram: &[u8]) -> io::Result<u32> {
    let odd = || io::Error::new(io::ErrorKind::InvalidData, "an answer that is not understood");
    let message = NetlinkBuffer::new_checked(datagram).map_err(|_| odd())?;
    match message.message_type() {
        NLMSG_ERROR => {
            let code = message.payload().first_chunk().ok_or_else(odd)?;
            Err(io::Error::from_raw_os_error(i32::from_ne_bytes(*code).saturating_neg()))
        }
        XFRM_MSG_NEWSADINFO => {
            let attributes = message.payload().get(FLAGS..).ok_or_else(odd)?;
            let mut found = NlasIterator::new(attributes).flatten();
            let count = found.find(|one| one.kind() == XFRMA_SAD_CNT);
            let bytes = count.and_then(|one| one.value().try_into().ok()).ok_or_else(odd)?;
            Ok(u32::from_ne_bytes(bytes))
        }
        _ => Err(odd()),
    }
}

#[cfg(test)]
mod tests {
    use spillway_testing::Namespace;

    use super::*;

    #[test]
    fn states_are_counted_as_ip_counts_them() {
        let namespace = Namespace::new("ipsec");
        assert_eq!(namespace.enter(ipsec_states).unwrap(), 0);
        // Those that wait for their keys need no algorithm, which a kernel may lack.
        for spi in ["0x1001", "0x1002"] {
            let state = "src 192.0.2.1 dst 192.0.2.2 proto esp mode tunnel reqid";
            let words = ["ip", "xfrm", "state", "allocspi"].into_iter().chain(state.split(' '));
            namespace.run(words.chain([spi, "min", spi, "max", spi]));
        }
        assert_eq!(namespace.enter(ipsec_states).unwrap(), 2);
        assert!(namespace.run(["ip", "xfrm", "state", "count"]).contains("SAD count 2"));
    }

    #[test]
    fn an_answer_without_the_count_is_an_error() {
        for datagram in [&[][..], &[0; 7], &request()] {
            assert!(count(datagram).is_err(), "{datagram:?}");
        }
        let mut answer = request();
        answer[4..6].copy_from_slice(&XFRM_MSG_NEWSADINFO.to_ne_bytes());
        assert!(count(&answer).is_err());
    }
}
