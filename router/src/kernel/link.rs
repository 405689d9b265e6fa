//! Links and their IPv4 addresses, as rtnetlink messages tell them.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

/// A network interface of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) ifindex: u32,
    pub(crate) name: String,
    /// Its link address, if it is an Ethernet address.
    pub(crate) mac: Option<[u8; 6]>,
    /// The largest packet that it carries, without link header, in bytes.
    pub(crate) mtu: u32,
    /// Whether it is administratively up.
    pub(crate) up: bool,
    /// Whether it has a carrier.
    pub(crate) carrier: bool,
}

/// An IPv4 address of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LocalAddress {
    /// The link that carries it.
    pub(crate) ifindex: u32,
    /// The address itself with the length of its subnet's prefix; 32 on a point-to-point link.
    pub(crate) address: Ipv4Net,
}

/// Reads a link; `None` for messages that are about something else, such as a bridge's ports.
pub(super) fn link(message: &LinkMessage) -> Option<Link> {
    let header = &message.header;
    if header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let (mut name, mut mac, mut mtu) = (None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value.clone()),
            LinkAttribute::Address(bytes) => mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::Mtu(value) => mtu = *value,
            _ => {}
        }
    }
    Some(Link {
        ifindex: header.index,
        name: name?,
        mac,
        mtu,
        up: header.flags.contains(LinkFlags::Up),
        carrier: header.flags.contains(LinkFlags::LowerUp),
    })
}

/// Reads an address; `None` for other families.
pub(super) fn local_address(message: &AddressMessage) -> Option<LocalAddress> {
    if message.header.family != AddressFamily::Inet {
        return None;
    }
    let (mut local, mut prefix) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => local = Some(*address),
            AddressAttribute::Address(IpAddr::V4(address)) => prefix = Some(*address),
            _ => {}
        }
    }
    let local: Ipv4Addr = local.or(prefix)?;
    // On a point-to-point link the prefix belongs to the far end's address.
    let point_to_point = prefix.is_some_and(|prefix| prefix != local);
    let length = if point_to_point { 32 } else { message.header.prefix_len };
    let address = Ipv4Net::new(local, length).ok()?;
    Some(LocalAddress { ifindex: message.header.index, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link_message(attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.flags = LinkFlags::Up;
        message.attributes = attributes;
        message
    }

    #[test]
    fn a_link_is_read_from_its_message() {
        let message = link_message(vec![
            LinkAttribute::IfName("eth0".into()),
            LinkAttribute::Mtu(1500),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
        ]);
        let expected = Link {
            ifindex: 7,
            name: "eth0".into(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            up: true,
            carrier: false,
        };
        assert_eq!(link(&message), Some(expected));
    }

    #[test]
    fn a_bridge_port_or_a_nameless_message_is_no_link() {
        let mut port = link_message(vec![LinkAttribute::IfName("eth0".into())]);
        port.header.interface_family = AddressFamily::Bridge;
        assert_eq!(link(&port), None);
        assert_eq!(link(&link_message(vec![LinkAttribute::Mtu(1500)])), None);
    }

    #[test]
    fn a_link_address_of_another_length_is_no_mac() {
        let tunnel = link_message(vec![
            LinkAttribute::IfName("tunl0".into()),
            LinkAttribute::Address(vec![0; 4]),
        ]);
        assert_eq!(link(&tunnel).unwrap().mac, None);
    }

    #[test]
    fn the_prefix_of_a_point_to_point_link_is_not_ours() {
        let [ours, far] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 9, 9, 9)];
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = 24;
        for (prefix, expected) in [(ours, "10.0.0.1/24"), (far, "10.0.0.1/32")] {
            message.attributes = vec![
                AddressAttribute::Address(prefix.into()),
                AddressAttribute::Local(ours.into()),
            ];
            let read = local_address(&message).unwrap();
            assert_eq!(read.address.to_string(), expected);
        }
    }
}
