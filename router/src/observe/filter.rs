//! Which events somebody wants to see: the words are those of `hubble observe`. Pure.

mod negation;

use std::net::IpAddr;

use clap::{ArgMatches, Args, Command, FromArgMatches, ValueEnum};
use ipnet::IpNet;
use spillway_api::{Event, EventKind};

use crate::answer::protocol;
use negation::Negated;

/// What events must be and must not be. One that is given several times is met by any of its values; all
/// that are given must be met, and none of those behind `--not`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    filters: Filters,
    negated: Negated,
}

#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Filters")]
struct Filters {
    /// Pods whose names begin so, in this namespace or in any.
    #[arg(long, value_name = "[NAMESPACE/]PREFIX")]
    pod: Vec<String>,
    /// Pods of this namespace.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Vec<String>,
    /// From or to these addresses.
    #[arg(long, value_name = "ADDRESS|PREFIX", value_parser = prefix)]
    ip: Vec<IpNet>,
    /// From these addresses.
    #[arg(long, value_name = "ADDRESS|PREFIX", value_parser = prefix)]
    from_ip: Vec<IpNet>,
    /// To these addresses.
    #[arg(long, value_name = "ADDRESS|PREFIX", value_parser = prefix)]
    to_ip: Vec<IpNet>,
    /// With these egress addresses.
    #[arg(long, value_name = "ADDRESS|PREFIX", value_parser = prefix)]
    snat_ip: Vec<IpNet>,
    /// From or to this port, or with this echo identifier.
    #[arg(long, value_name = "PORT")]
    port: Vec<u16>,
    /// From this port.
    #[arg(long, value_name = "PORT")]
    from_port: Vec<u16>,
    /// To this port.
    #[arg(long, value_name = "PORT")]
    to_port: Vec<u16>,
    /// Of this protocol: tcp, udp, icmp, icmpv6, sctp, gre, esp, or its number.
    #[arg(long, value_name = "PROTOCOL", value_parser = protocol)]
    protocol: Vec<String>,
    /// What became of the packet. Where flows begin and end, packets are forwarded.
    #[arg(long, value_enum, ignore_case = true)]
    verdict: Vec<Verdict>,
    /// What happened.
    #[arg(short = 't', long = "type", value_enum)]
    kind: Vec<Kind>,
    /// Packets that were dropped for this reason; `spillway drops --all` shows them all.
    #[arg(long, value_name = "REASON", hide_possible_values = true,
          value_parser = spillway_engine::DropReason::ALL.iter().map(|reason| reason.name())
              .collect::<Vec<_>>())]
    drop_reason: Vec<String>,
    /// Flows of this policy.
    #[arg(long, value_name = "NAME")]
    policy: Vec<String>,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Verdict {
    Forwarded,
    Dropped,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A flow began.
    Begin,
    /// A flow ended.
    End,
    /// A packet was dropped, one of those that are sampled.
    Drop,
    /// A packet was forwarded, one of those that are sampled.
    Forward,
    /// A pod has a block of ports.
    BlockBegin,
    /// It has it no more.
    BlockEnd,
}

impl FromArgMatches for Filter {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let filters = Filters::from_arg_matches(matches)?;
        Ok(Self { filters, negated: Negated::of(matches, &Self::names())? })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Filter {
    fn augment_args(command: Command) -> Command {
        Filters::augment_args(command).arg(negation::argument())
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl Filter {
    /// How clap names the filters.
    fn names() -> Vec<String> {
        let command = Filters::augment_args(Command::new(""));
        command.get_arguments().map(|argument| argument.get_id().to_string()).collect()
    }

    /// Whether somebody wants to see an event.
    pub(crate) fn matches(&self, event: &Event) -> bool {
        let Self { filters, negated } = self;
        let original = &event.original;
        // With NAT64 the pod's destination has two forms.
        let to = [Some(original.destination), event.reply.as_ref().map(|reply| reply.source)];
        let to = || to.iter().flatten();
        let from = original.source;
        let snat = event.reply.as_ref().map(|reply| reply.destination);
        let (from_port, to_port) = (original.source_port, original.destination_port);
        let is_in = |net: &IpNet, address: &IpAddr| net.contains(address);
        negated.met("pod", &filters.pod, |prefix| is_pod(event, prefix))
            && negated.met("namespace", &filters.namespace, |name| namespace(event) == Some(name))
            && negated.met("ip", &filters.ip, |net| {
                is_in(net, &from) || to().any(|address| is_in(net, address))
            })
            && negated.met("from_ip", &filters.from_ip, |net| is_in(net, &from))
            && negated.met("to_ip", &filters.to_ip, |net| to().any(|address| is_in(net, address)))
            && negated.met("snat_ip", &filters.snat_ip, |net| {
                snat.is_some_and(|address| is_in(net, &address))
            })
            && negated.met("port", &filters.port, |port| [from_port, to_port].contains(port))
            && negated.met("from_port", &filters.from_port, |port| from_port == *port)
            && negated.met("to_port", &filters.to_port, |port| to_port == *port)
            && negated.met("protocol", &filters.protocol, |protocol| event.protocol == *protocol)
            && negated.met("verdict", &filters.verdict, |verdict| {
                Some(*verdict) == verdict_of(event.kind)
            })
            && negated.met("kind", &filters.kind, |kind| *kind == kind_of(event.kind))
            && negated
                .met("drop_reason", &filters.drop_reason, |reason| is_dropped_for(event, reason))
            && negated.met("policy", &filters.policy, |name| is_policy(event, name))
    }
}

fn namespace(event: &Event) -> Option<&str> {
    event.pod.as_deref()?.split_once('/').map(|(namespace, _)| namespace)
}

fn is_pod(event: &Event, prefix: &str) -> bool {
    let Some(pod) = event.pod.as_deref() else { return false };
    match prefix.contains('/') {
        true => pod.starts_with(prefix),
        false => pod.split_once('/').is_some_and(|(_, name)| name.starts_with(prefix)),
    }
}

/// A policy that the control plane has written in several parts has `#2` and so on behind its name.
fn is_policy(event: &Event, name: &str) -> bool {
    let rest = event.policy.as_deref().and_then(|policy| policy.strip_prefix(name));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('#'))
}

fn is_dropped_for(event: &Event, reason: &str) -> bool {
    event.kind == EventKind::Drop && event.reason.as_deref() == Some(reason)
}

/// None of what is about no packet.
fn verdict_of(kind: EventKind) -> Option<Verdict> {
    match kind {
        EventKind::Drop => Some(Verdict::Dropped),
        EventKind::Begin | EventKind::End | EventKind::Forward => Some(Verdict::Forwarded),
        EventKind::BlockBegin | EventKind::BlockEnd => None,
    }
}

fn kind_of(kind: EventKind) -> Kind {
    match kind {
        EventKind::Begin => Kind::Begin,
        EventKind::End => Kind::End,
        EventKind::Drop => Kind::Drop,
        EventKind::Forward => Kind::Forward,
        EventKind::BlockBegin => Kind::BlockBegin,
        EventKind::BlockEnd => Kind::BlockEnd,
    }
}

/// An address, or a prefix of addresses.
fn prefix(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| address()).map_err(|_| {
        "expected an address or a prefix, such as 192.0.2.1 or 2001:db8::/32".to_owned()
    })
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
