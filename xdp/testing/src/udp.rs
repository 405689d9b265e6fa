//! UDP sockets of tests.

use std::io::ErrorKind;
use std::net::{ToSocketAddrs, UdpSocket};
use std::time::Duration;

use crate::wait_until;

/// How long a socket's address may be taken yet, and how long its reads wait.
const PATIENCE: Duration = Duration::from_secs(10);

/// A UDP socket of the calling thread's network namespace at this address, whose reads wait ten
/// seconds at most.
///
/// The address may be that of a socket which has just been closed. A process that another test
/// begins has copies of this process's sockets until it executes its program, and a port is taken
/// until its last copy is closed: this waits for that.
///
/// # Panics
///
/// When the address is still taken after ten seconds, or cannot be taken at all.
pub fn bind_udp(at: impl ToSocketAddrs + std::fmt::Debug) -> UdpSocket {
    let mut bound = None;
    wait_until(&format!("{at:?} to be free"), PATIENCE, || {
        bound = match UdpSocket::bind(&at) {
            Ok(socket) => Some(socket),
            Err(error) if error.kind() == ErrorKind::AddrInUse => None,
            Err(error) => panic!("a UDP socket at {at:?}: {error}"),
        };
        bound.is_some()
    });
    let socket = bound.expect("it was waited for");
    socket.set_read_timeout(Some(PATIENCE)).expect("the kernel has such a timeout");
    socket
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_closed_sockets_address_is_free_whatever_processes_begin_meanwhile() {
        let at = bind_udp("127.0.0.1:0").local_addr().unwrap();
        std::thread::scope(|scope| {
            let others = scope.spawn(|| {
                for _ in 0..100 {
                    assert!(Command::new("true").status().unwrap().success());
                }
            });
            while !others.is_finished() {
                assert_eq!(bind_udp(at).local_addr().unwrap(), at);
            }
        });
    }
}
