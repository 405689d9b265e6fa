//! Where a packet comes from or goes to, as people write it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// An address, and perhaps a port of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) address: IpAddr,
    pub(super) port: Option<u16>,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let with_port =
            |socket: SocketAddr| Self { address: socket.ip(), port: Some(socket.port()) };
        let without = || text.parse().map(|address| Self { address, port: None });
        text.parse().map(with_port).or_else(|_| without()).map_err(|_| {
            "expected an address, such as 203.0.113.10, 203.0.113.10:443 or [2001:db8::1]:443"
                .to_owned()
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_have_a_port() {
        for (text, address, port) in [
            ("10.0.1.40", "10.0.1.40", None),
            ("10.0.1.40:53", "10.0.1.40", Some(53)),
            ("fd00::40", "fd00::40", None),
            ("[fd00::40]:53", "fd00::40", Some(53)),
        ] {
            let place: Place = text.parse().unwrap();
            assert_eq!(place, Place { address: address.parse().unwrap(), port }, "{text}");
            assert_eq!(place.to_string(), text);
        }
        for text in ["pod-a", "example.org", "10.0.1.40:", "[fd00::40]", ""] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
