//! Links and their addresses, as rtnetlink messages tell them.

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State,
};

use super::family;

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
    /// Its operational state (RFC 2863), which follows the carrier, and IPv6 routes with it.
    pub(crate) state: State,
    /// What it is, as `ip link add type` takes it; nothing of most network cards.
    pub(crate) kind: Option<String>,
    /// The bond, team or bridge that it is a port of, by interface index.
    pub(crate) controller: Option<u32>,
    /// The UDP port of a VXLAN device.
    pub(crate) vxlan_port: Option<u16>,
}

/// An address of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LocalAddress {
    /// The link that carries it.
    pub(crate) ifindex: u32,
    /// The address itself with the length of its subnet's prefix; its own on a point-to-point link.
    pub(crate) address: IpNet,
}

/// Reads a link; `None` for messages that are about something else, such as a bridge's ports.
pub(super) fn link(message: &LinkMessage) -> Option<Link> {
    let header = &message.header;
    if header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let (mut name, mut mac, mut mtu, mut state) = (None, None, 0, State::Unknown);
    let (mut kind, mut controller, mut vxlan_port) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value.clone()),
            LinkAttribute::Address(bytes) => mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::Mtu(value) => mtu = *value,
            LinkAttribute::OperState(value) => state = *value,
            LinkAttribute::Controller(value) => controller = Some(*value),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(value) => kind = Some(value.to_string()),
                        LinkInfo::Data(InfoData::Vxlan(values)) => vxlan_port = port(values),
                        _ => {}
                    }
                }
            }
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
        state,
        kind,
        controller,
        vxlan_port,
    })
}

fn port(vxlan: &[InfoVxlan]) -> Option<u16> {
    vxlan.iter().find_map(|value| match value {
        InfoVxlan::Port(port) => Some(*port),
        _ => None,
    })
}

/// Reads an address; `None` for other families.
pub(super) fn local_address(message: &AddressMessage) -> Option<LocalAddress> {
    family::unspecified(message.header.family)?;
    let (mut local, mut prefix) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => prefix = Some(*address),
            _ => {}
        }
    }
    let local = local.or(prefix)?;
    // On a point-to-point link the prefix belongs to the far end's address.
    let point_to_point = prefix.is_some_and(|prefix| prefix != local);
    let address = if point_to_point {
        local.into()
    } else {
        IpNet::new(local, message.header.prefix_len).ok()?
    };
    Some(LocalAddress { ifindex: message.header.index, address })
}

/// Whether the host answers for an address: not while another host may have it (RFC 4862, section
/// 5.4), nor after that was found. An optimistic address (RFC 4429) is used meanwhile.
pub(super) fn is_assigned(message: &AddressMessage) -> bool {
    let flags = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    let flags = flags.unwrap_or(AddressFlags::empty());
    let optimistic = flags.contains(AddressFlags::Optimistic);
    let failed = flags.contains(AddressFlags::Dadfailed);
    !failed && (optimistic || !flags.contains(AddressFlags::Tentative))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use netlink_packet_route::link::InfoKind;

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
            LinkAttribute::OperState(State::Dormant),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
            LinkAttribute::Controller(3),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vxlan),
                LinkInfo::Data(InfoData::Vxlan(vec![InfoVxlan::Id(2), InfoVxlan::Port(8472)])),
            ]),
        ]);
        let expected = Link {
            ifindex: 7,
            name: "eth0".into(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            up: true,
            carrier: false,
            state: State::Dormant,
            kind: Some("vxlan".into()),
            controller: Some(3),
            vxlan_port: Some(8472),
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
        let mut message = AddressMessage::default();
        for (ours, far, length, ours_alone) in [
            ("10.0.0.1/24", "10.9.9.9", 24, "10.0.0.1/32"),
            ("2001:db8::1/64", "2001:db8::2", 64, "2001:db8::1/128"),
        ] {
            let (ours, far): (IpNet, IpAddr) = (ours.parse().unwrap(), far.parse().unwrap());
            message.header.family = family::of(far);
            message.header.prefix_len = length;
            for (prefix, expected) in [(ours.addr(), ours.to_string()), (far, ours_alone.into())] {
                message.attributes =
                    vec![AddressAttribute::Address(prefix), AddressAttribute::Local(ours.addr())];
                assert_eq!(local_address(&message).unwrap().address.to_string(), expected);
            }
        }
    }

    #[test]
    fn an_address_is_ours_once_no_other_host_can_have_it() {
        let cases = [
            (AddressFlags::Permanent, true),
            (AddressFlags::Permanent | AddressFlags::Deprecated, true),
            (AddressFlags::Tentative, false),
            (AddressFlags::Tentative | AddressFlags::Optimistic, true),
            (AddressFlags::Tentative | AddressFlags::Dadfailed, false),
            (AddressFlags::Permanent | AddressFlags::Dadfailed, false),
        ];
        let mut message = AddressMessage::default();
        assert!(is_assigned(&message));
        for (flags, expected) in cases {
            message.attributes = vec![AddressAttribute::Flags(flags)];
            assert_eq!(is_assigned(&message), expected, "{flags:?}");
        }
    }
}
