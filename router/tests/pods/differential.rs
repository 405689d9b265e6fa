//! The same traffic through Spillway and through a gateway whose kernel does the NAT: the pods'
//! sockets and the server's must see the same. Where they shall not, [`DELIBERATE`] says why.

mod extensions;
mod icmp;
mod silent;
mod tcp;
mod udp;

use crate::family::{Family, IPV4, IPV6};
use crate::underlay::{OVER_IPV4, OVER_IPV6, Underlay};
use crate::world::{Options, Translator, World};

/// What the sockets of one case saw, in order: who and what.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen(Vec<String>);

impl Seen {
    fn note(&mut self, who: &str, what: impl std::fmt::Display) {
        self.0.push(format!("{who}: {what}"));
    }

    fn notes(&mut self, who: &str, what: impl IntoIterator<Item = String>) {
        for one in what {
            self.note(who, one);
        }
    }
}

/// Traffic, and what was seen of it. Each case has ports of its own.
type Case = (&'static str, fn(&World) -> Seen);

const CASES: &[Case] = &[
    ("tcp: a transfer each way, then the pod is done first", tcp::transfer),
    ("tcp: the server is done first, the pod goes on", tcp::server_is_done_first),
    ("tcp: both close at once", tcp::both_close),
    ("tcp: the pod resets", tcp::pod_resets),
    ("tcp: the server resets", tcp::server_resets),
    ("tcp: a closed port refuses", tcp::refused),
    ("tcp: a port is used again after a reset", tcp::again_after_reset),
    ("tcp: a port is used again after both have closed", tcp::again_after_close),
    ("tcp: two pods with one port", tcp::two_pods_one_port),
    ("tcp: a transfer each way through a narrow link", tcp::narrow),
    ("tcp: a router refuses", tcp::routers_refuse),
    ("udp: questions and answers of all sizes", udp::sizes),
    ("udp: datagrams in fragments", udp::fragments),
    ("udp: two pods with one port", udp::two_pods_one_port),
    ("udp: a closed port refuses, then it opens", udp::refused_then_open),
    ("udp: the pod's closed port refuses", udp::pods_port_is_closed),
    ("udp: a router refuses", udp::routers_refuse),
    ("udp: a datagram that does not fit the way", udp::too_large_for_the_way),
    ("udp: an answer that does not fit the tunnel", udp::too_large_for_the_tunnel),
    ("icmp: ping of all sizes", icmp::ping),
    ("icmp: both pods ping with one identifier", icmp::two_pods_one_identifier),
    ("icmp: ping through a narrow link", icmp::ping_narrow),
    ("icmp: the server pings the egress address", icmp::ping_egress),
    ("icmp: traceroute by UDP", icmp::trace_udp),
    ("icmp: traceroute by echo", icmp::trace_echo),
    ("icmp: traceroute by TCP", icmp::trace_tcp),
    ("silent: TCP that no pod asked for", silent::unasked_tcp),
    ("silent: UDP that no pod asked for", silent::unasked_udp),
    ("silent: an answer of another port", silent::answer_of_another),
    ("silent: a segment in the middle of no connection", silent::midstream),
];

/// What only IPv4 has: routers that cut packets, and options.
const IPV4_CASES: &[Case] = &[
    ("udp: an answer that is cut for the tunnel", udp::cut_for_the_tunnel),
    ("silent: IP options", silent::options),
];

/// What only IPv6 has.
const IPV6_CASES: &[Case] = &[("udp: behind extension headers", extensions::options)];

/// A difference that is meant.
struct Deliberate {
    case: &'static str,
    kernel: &'static [&'static str],
    spillway: &'static [&'static str],
    why: &'static str,
}

const DELIBERATE: &[Deliberate] = &[
    Deliberate {
        case: "silent: TCP that no pod asked for",
        kernel: &["server: connection refused"],
        spillway: &["server: silence"],
        why: "an own egress address is Spillway's alone: no host is behind it that could refuse",
    },
    Deliberate {
        case: "silent: UDP that no pod asked for",
        kernel: &["server: connection refused"],
        spillway: &["server: silence"],
        why: "as for TCP",
    },
    Deliberate {
        case: "silent: an answer of another port",
        kernel: &["pod: silence", "server: connection refused"],
        spillway: &["pod: silence", "server: silence"],
        why: "neither gives it to the pod; the kernel, whose address it is, refuses it",
    },
    Deliberate {
        case: "silent: a segment in the middle of no connection",
        kernel: &["server: a segment from the egress address's port 40300", "pod: a RST"],
        spillway: &["server: silence", "pod: silence"],
        why: "conntrack picks up connections that it has not seen begin (nf_conntrack_tcp_loose); \
              Spillway opens a flow for a SYN only, so that nothing leaves with a wrong port",
    },
    Deliberate {
        case: "silent: IP options",
        kernel: &["pod: 1 received"],
        spillway: &["pod: 0 received"],
        why: "options are dropped rather than guessed at",
    },
];

const TRACED_THROUGH_THE_KERNEL: &[&str] =
    &["pod: 1 169.254.1.1", "pod: 2 192.168.2.3", "pod: 3 192.168.2.2", "pod: 4 203.0.113.10"];
const TRACED_THROUGH_SPILLWAY: &[&str] =
    &["pod: 1 169.254.1.1", "pod: 2 192.0.0.8", "pod: 3 192.168.2.2", "pod: 4 203.0.113.10"];

/// The same of IPv4 in a tunnel over IPv6 alone.
const DELIBERATE_OVER_IPV6: &[Deliberate] = &[
    Deliberate {
        case: "icmp: traceroute by UDP",
        kernel: TRACED_THROUGH_THE_KERNEL,
        spillway: TRACED_THROUGH_SPILLWAY,
        why: "the tunnel has no IPv4 address, and an egress address could be the host's own, from \
              which its kernel takes nothing for its pods: 192.0.0.8 is for this (RFC 7600)",
    },
    Deliberate {
        case: "icmp: traceroute by echo",
        kernel: TRACED_THROUGH_THE_KERNEL,
        spillway: TRACED_THROUGH_SPILLWAY,
        why: "as by UDP",
    },
    Deliberate {
        case: "icmp: traceroute by TCP",
        kernel: TRACED_THROUGH_THE_KERNEL,
        spillway: TRACED_THROUGH_SPILLWAY,
        why: "as by UDP",
    },
];

/// What a case gave, beside what was expected of it.
fn judge(
    deliberate: &[&[Deliberate]],
    case: &str,
    kernel: &Seen,
    spillway: &Seen,
) -> Option<String> {
    let meant = deliberate.iter().copied().flatten().find(|deliberate| deliberate.case == case);
    let right = match meant {
        Some(Deliberate { kernel: theirs, spillway: ours, .. }) => {
            kernel.0.iter().eq(*theirs) && spillway.0.iter().eq(*ours)
        }
        // Two that both fail are no proof.
        None => kernel == spillway && !kernel.0.iter().any(|seen| seen.ends_with("silence")),
    };
    let meant = meant.map_or("to be equal".to_owned(), |meant| {
        format!("{:?} and {:?}: {}", meant.kernel, meant.spillway, meant.why)
    });
    (!right).then(|| format!("{case}\n  kernel   {kernel:?}\n  spillway {spillway:?}\n  {meant}"))
}

fn compare(
    cases: &[&[Case]],
    family: &'static Family,
    underlay: &'static Underlay,
    deliberate: &[&[Deliberate]],
) {
    let options = Options { workers: 2, queues: 2, ports: None, tcp_closing: 10 };
    let name = |who: &str| format!("{who}{}-{}", underlay.name, family.nft);
    let kernel = World::new(&name("kernel"), &Translator::Kernel, family, underlay);
    let spillway = World::new(&name("ours"), &Translator::Spillway(&options), family, underlay);
    let cases = cases.iter().copied().flatten();
    let wrong: Vec<String> = cases
        .filter_map(|(case, traffic)| {
            let (kernel, spillway) = std::thread::scope(|scope| {
                let theirs = scope.spawn(|| traffic(&kernel));
                let ours = traffic(&spillway);
                (theirs.join().unwrap(), ours)
            });
            judge(deliberate, case, &kernel, &spillway)
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn sockets_see_through_spillway_what_they_see_through_the_kernels_nat() {
    compare(&[CASES, IPV4_CASES], &IPV4, &OVER_IPV4, &[DELIBERATE]);
}

#[test]
fn sockets_of_ipv6_see_through_spillway_what_they_see_through_the_kernels_nat() {
    compare(&[CASES, IPV6_CASES], &IPV6, &OVER_IPV4, &[DELIBERATE]);
}

#[test]
fn sockets_see_through_a_tunnel_over_ipv6_what_they_see_through_the_kernels_nat() {
    compare(&[CASES, IPV4_CASES], &IPV4, &OVER_IPV6, &[DELIBERATE, DELIBERATE_OVER_IPV6]);
}

#[test]
fn sockets_of_ipv6_see_through_a_tunnel_over_ipv6_what_they_see_through_the_kernels_nat() {
    compare(&[CASES, IPV6_CASES], &IPV6, &OVER_IPV6, &[DELIBERATE]);
}

#[test]
fn each_deliberate_difference_belongs_to_a_case() {
    let cases = CASES.iter().chain(IPV4_CASES).map(|(case, _)| *case);
    let mut deliberate = DELIBERATE.iter().chain(DELIBERATE_OVER_IPV6);
    assert!(deliberate.all(|meant| cases.clone().any(|case| case == meant.case)));
}
