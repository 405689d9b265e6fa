//! What the tunnels of a state document must be.

use std::collections::HashSet;
use std::net::IpAddr;

use super::{at_most, check_host, check_outside, check_unique};
use crate::document::{Document, Peer};
use crate::family::IpFamily;
use crate::limits::{PEERS_MAX, TUNNELS_MAX};
use crate::scalar::quote;
use crate::yaml::{FieldPath, Problem};

/// Bytes of a network device's name in Linux, at most (`IFNAMSIZ` less its end).
const DEVICE_NAME_BYTES_MAX: usize = 15;

impl Document {
    pub(super) fn check_tunnels(&self) -> Result<(), Problem> {
        let path = FieldPath::root("tunnels");
        at_most(&path, self.tunnels.len(), TUNNELS_MAX, "tunnels")?;
        let mut ours = HashSet::new();
        for (index, tunnel) in self.tunnels.iter().enumerate() {
            let path = path.clone().index(index).field("address");
            self.check_end(&path, tunnel.address)?;
            check_unique(&path, &mut ours, tunnel.address, "is listed twice")?;
        }
        let mut peers = HashSet::new();
        for (index, tunnel) in self.tunnels.iter().enumerate() {
            let path = path.clone().index(index).field("peers");
            at_most(&path, peers.len() + tunnel.peers.len(), PEERS_MAX, "peers of all tunnels")?;
            for (index, peer) in tunnel.peers.iter().enumerate() {
                let path = path.clone().index(index);
                self.check_end(&path.clone().field("address"), peer.address)?;
                check_peer(&path, peer, &mut peers, &ours)?;
            }
        }
        Ok(())
    }

    /// Either end of a tunnel.
    fn check_end(&self, path: &FieldPath, address: IpAddr) -> Result<(), Problem> {
        check_host(path, address)?;
        check_family(path, address, self.underlay())?;
        check_outside(path, address, self.nat64_prefix)
    }
}

/// The nodes speak one family with each other: a reply goes back as its flow has come, and there is
/// one length of the outer headers for all.
fn check_family(path: &FieldPath, address: IpAddr, underlay: IpFamily) -> Result<(), Problem> {
    let family = IpFamily::of(address);
    if family == underlay {
        return Ok(());
    }
    let message = format!(
        "{address} is {family}, and the first tunnel address is {underlay}; expected one family for \
         all tunnels and peers"
    );
    Err(path.problem(message))
}

fn check_peer(
    path: &FieldPath,
    peer: &Peer,
    seen: &mut HashSet<IpAddr>,
    ours: &HashSet<IpAddr>,
) -> Result<(), Problem> {
    let address_path = path.clone().field("address");
    let address = peer.address;
    if ours.contains(&address) {
        let message = format!("{address} is a tunnel address of ours, no peer");
        return Err(address_path.problem(message));
    }
    let twice = "is a peer already, of this tunnel or of another; a peer has one tunnel address";
    check_unique(&address_path, seen, address, twice)?;
    match (&peer.device, peer.mac) {
        (None, None) => Ok(()),
        (Some(_), None) => Err(path.clone().field("device").problem("expected mac beside it")),
        (None, Some(_)) => Err(path.clone().field("mac").problem("expected device beside it")),
        (Some(device), Some(mac)) => {
            check_device_name(device).map_err(|m| path.clone().field("device").problem(m))?;
            let multicast = mac.0[0] & 1 == 1;
            if multicast || mac.0 == [0; 6] {
                let message = format!("expected the MAC address of one device, found {mac}");
                return Err(path.clone().field("mac").problem(message));
            }
            Ok(())
        }
    }
}

/// Checks what Linux takes as the name of a network device.
///
/// # Errors
///
/// A sentence that says what was expected.
pub fn check_device_name(name: &str) -> Result<(), String> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '/' || c == ':';
    let length = 1..=DEVICE_NAME_BYTES_MAX;
    if length.contains(&name.len()) && name != "." && name != ".." && !name.contains(bad) {
        return Ok(());
    }
    Err(format!(
        "expected the name of a network device, 1 to {DEVICE_NAME_BYTES_MAX} bytes \
         without spaces, '/' and ':', found {}",
        quote(name)
    ))
}
