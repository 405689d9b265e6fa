//! `spillway serve`: where to listen.

use std::net::{IpAddr, SocketAddr};

use clap::Args;

/// Where to listen.
#[derive(Debug, Args)]
pub(super) struct Listen {
    /// Where to listen. Whoever gets there can read the metrics, and change nothing. An address of either
    /// family may stand in brackets.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9602",
          value_parser = socket_address)]
    pub(super) listen: SocketAddr,
    /// Where else to answer /livez and /readyz, whatever happens at the other place: a kubelet's, on an
    /// address that nobody else reaches.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = socket_address)]
    pub(super) probes: Option<SocketAddr>,
}

/// Reads an address and a port. A manifest writes `[$(HOST_IP)]:9602`, whatever family that is of.
fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let bracketed = || {
        let (address, port) = text.strip_prefix('[')?.split_once("]:")?;
        Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, port.parse().ok()?))
    };
    text.parse().ok().or_else(bracketed).ok_or_else(|| {
        "expected an address and a port, such as 192.0.2.1:9602 or [2001:db8::1]:9602".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_may_have_brackets() {
        for (text, address) in [
            ("192.0.2.1:9602", Some("192.0.2.1:9602")),
            ("[192.0.2.1]:9602", Some("192.0.2.1:9602")),
            ("[2001:db8::1]:9602", Some("[2001:db8::1]:9602")),
            // It could be an address without a port.
            ("2001:db8::1:9602", None),
            ("192.0.2.1", None),
            ("[192.0.2.1]:", None),
            ("[192.0.2.1]:65536", None),
            ("[]:9602", None),
            ("localhost:9602", None),
        ] {
            let expected = address.map(|address| address.parse::<SocketAddr>().unwrap());
            assert_eq!(socket_address(text).ok(), expected, "{text}");
        }
    }
}
