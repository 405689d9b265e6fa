//! Rules of policy routing, as rtnetlink messages tell them and as the engine takes them.

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use spillway_engine::fib;

use super::family;

/// `FRA_PAD` of `linux/fib_rules.h`: an attribute without meaning.
const PADDING: u16 = 18;

/// One `ip rule`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KernelRule {
    pub(super) family: AddressFamily,
    pub(super) priority: u32,
    /// What the engine is told, or what it would need and cannot do.
    pub(super) meaning: Meaning,
}

/// What a rule means to the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It is followed: packets from and to these prefixes are treated so.
    Rule { from: IpNet, to: IpNet, action: fib::RuleAction },
    /// It does nothing (`nop`).
    Nothing,
    /// It has these selectors or actions that the engine does not know.
    Unsupported(Vec<String>),
}

/// Reads a rule; `None` for other families.
pub(super) fn rule(message: &RuleMessage) -> Option<KernelRule> {
    let family = message.header.family;
    let (from, to) = selectors(message)?;
    let priority = message.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Priority(priority) => Some(*priority),
        _ => None,
    });
    let meaning = meaning(message, from, to);
    Some(KernelRule { family, priority: priority.unwrap_or(0), meaning })
}

fn meaning(message: &RuleMessage, from: IpNet, to: IpNet) -> Meaning {
    let unsupported = unsupported(message);
    if !unsupported.is_empty() {
        return Meaning::Unsupported(unsupported);
    }
    match action(message) {
        Some(action) => Meaning::Rule { from, to, action },
        None => Meaning::Nothing,
    }
}

fn action(message: &RuleMessage) -> Option<fib::RuleAction> {
    match message.header.action {
        RuleAction::ToTable => Some(fib::RuleAction::Table(table(message))),
        RuleAction::Blackhole | RuleAction::Unreachable | RuleAction::Prohibit => {
            Some(fib::RuleAction::Unreachable)
        }
        _ => None,
    }
}

/// The table's number; the header has room for one byte only.
fn table(message: &RuleMessage) -> u32 {
    let attribute = message.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Table(table) => Some(*table),
        _ => None,
    });
    attribute.unwrap_or(u32::from(message.header.table))
}

/// The prefixes of source and destination; `None` for other families.
fn selectors(message: &RuleMessage) -> Option<(IpNet, IpNet)> {
    let header = &message.header;
    let any = family::unspecified(header.family)?;
    let (mut from, mut to) = (any, any);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Source(address) => from = *address,
            RuleAttribute::Destination(address) => to = *address,
            _ => {}
        }
    }
    Some((family::prefix(from, header.src_len), family::prefix(to, header.dst_len)))
}

/// Everything in a rule that the engine does not know, in `ip rule`'s words.
fn unsupported(message: &RuleMessage) -> Vec<String> {
    let header = &message.header;
    let mut found: Vec<String> = message.attributes.iter().filter_map(selector).collect();
    if header.flags.contains(RuleFlags::Invert) {
        found.push("not".into());
    }
    if header.tos != 0 {
        found.push(format!("tos {:#x}", header.tos));
    }
    match header.action {
        RuleAction::ToTable
        | RuleAction::Nop
        | RuleAction::Blackhole
        | RuleAction::Unreachable
        | RuleAction::Prohibit => {}
        RuleAction::Goto => found.push("goto".into()),
        other => found.push(format!("action {}", u8::from(other))),
    }
    found
}

/// One attribute, if it is more than the engine knows.
fn selector(attribute: &RuleAttribute) -> Option<String> {
    Some(match attribute {
        RuleAttribute::Source(_)
        | RuleAttribute::Destination(_)
        | RuleAttribute::Priority(_)
        | RuleAttribute::Table(_)
        | RuleAttribute::Protocol(_)
        | RuleAttribute::Realm(_)
        | RuleAttribute::FwMask(_)
        | RuleAttribute::Goto(_)
        | RuleAttribute::L3MDev(false)
        | RuleAttribute::SuppressIfGroup(u32::MAX)
        | RuleAttribute::SuppressPrefixLen(u32::MAX) => return None,
        RuleAttribute::Iifname(name) => format!("iif {name}"),
        RuleAttribute::Oifname(name) => format!("oif {name}"),
        RuleAttribute::FwMark(mark) => format!("fwmark {mark:#x}"),
        RuleAttribute::TunId(id) => format!("tun_id {id}"),
        RuleAttribute::SuppressIfGroup(group) => format!("suppress_ifgroup {group}"),
        RuleAttribute::SuppressPrefixLen(length) => format!("suppress_prefixlength {length}"),
        RuleAttribute::L3MDev(true) => "l3mdev".into(),
        RuleAttribute::UidRange(range) => format!("uidrange {}-{}", range.start, range.end),
        RuleAttribute::IpProtocol(protocol) => format!("ipproto {}", u8::from(*protocol)),
        RuleAttribute::SourcePortRange(range) => format!("sport {}-{}", range.start, range.end),
        RuleAttribute::DestinationPortRange(range) => {
            format!("dport {}-{}", range.start, range.end)
        }
        other => match netlink_packet_core::Nla::kind(other) {
            PADDING => return None,
            kind => format!("attribute {kind}"),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn message(action: RuleAction, attributes: Vec<RuleAttribute>) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.action = action;
        message.attributes = attributes;
        message
    }

    fn reasons(message: &RuleMessage) -> String {
        match rule(message).unwrap().meaning {
            Meaning::Unsupported(reasons) => reasons.join(", "),
            followed => panic!("expected an unsupported rule, not {followed:?}"),
        }
    }

    #[test]
    fn a_rule_with_prefixes_and_a_table_is_followed() {
        for (from, length, to) in [("10.0.0.0", 8, "0.0.0.0/0"), ("2001:db8::", 32, "::/0")] {
            let source: IpAddr = from.parse().unwrap();
            let mut message = message(
                RuleAction::ToTable,
                vec![
                    RuleAttribute::Priority(100),
                    RuleAttribute::Source(source),
                    RuleAttribute::Table(40_000),
                    RuleAttribute::SuppressPrefixLen(u32::MAX),
                ],
            );
            message.header.family = family::of(source);
            message.header.src_len = length;
            message.header.table = 252;
            let expected = Meaning::Rule {
                from: IpNet::new(source, length).unwrap(),
                to: to.parse().unwrap(),
                action: fib::RuleAction::Table(40_000),
            };
            let rule = rule(&message).unwrap();
            assert_eq!((rule.family, rule.priority), (family::of(source), 100));
            assert_eq!(rule.meaning, expected);
        }
    }

    #[test]
    fn a_rule_of_another_family_is_none_of_ours() {
        let mut mpls = message(RuleAction::ToTable, vec![]);
        mpls.header.family = AddressFamily::Mpls;
        assert_eq!(rule(&mpls), None);
    }

    #[test]
    fn every_discarding_action_is_unreachable_and_nop_is_nothing() {
        for action in [RuleAction::Blackhole, RuleAction::Unreachable, RuleAction::Prohibit] {
            let Meaning::Rule { action: followed, .. } =
                rule(&message(action, vec![])).unwrap().meaning
            else {
                panic!("{action:?} is followed");
            };
            assert_eq!(followed, fib::RuleAction::Unreachable);
        }
        let nop = rule(&message(RuleAction::Nop, vec![])).unwrap();
        assert_eq!(nop.meaning, Meaning::Nothing);
    }

    #[test]
    fn what_the_engine_does_not_know_is_named_in_the_words_of_ip_rule() {
        let cases = [
            (RuleAttribute::FwMark(1), "fwmark 0x1"),
            (RuleAttribute::Iifname("lo".into()), "iif lo"),
            (RuleAttribute::Oifname("eth0".into()), "oif eth0"),
            (RuleAttribute::L3MDev(true), "l3mdev"),
            (RuleAttribute::SuppressPrefixLen(0), "suppress_prefixlength 0"),
            (RuleAttribute::IpProtocol(6.into()), "ipproto 6"),
        ];
        for (attribute, expected) in cases {
            assert_eq!(reasons(&message(RuleAction::ToTable, vec![attribute])), expected);
        }
        assert_eq!(reasons(&message(RuleAction::Goto, vec![])), "goto");
        let mut inverted = message(RuleAction::ToTable, vec![RuleAttribute::FwMark(2)]);
        inverted.header.flags = RuleFlags::Invert;
        inverted.header.tos = 0x10;
        assert_eq!(reasons(&inverted), "fwmark 0x2, not, tos 0x10");
    }

    #[test]
    fn an_attribute_newer_than_this_code_makes_a_rule_unsupported() {
        let unknown = netlink_packet_core::DefaultNla::new(25, vec![0]);
        let newer = message(RuleAction::ToTable, vec![RuleAttribute::Other(unknown)]);
        assert_eq!(reasons(&newer), "attribute 25");
    }
}
