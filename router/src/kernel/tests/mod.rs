//! The kernel's tables against a real kernel, in network namespaces. They need root.

mod follow;
mod lookup;
mod namespace;
mod neighbours;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::Kernel;
use namespace::Namespace;

/// How long the kernel may take for what it does in the background.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for notifications and follows them until `condition` holds.
fn follow_until(kernel: &mut Kernel, what: &str, condition: impl Fn(&Kernel) -> bool) {
    let mut poll = mio::Poll::new().unwrap();
    poll.registry().register(kernel.source(), mio::Token(0), mio::Interest::READABLE).unwrap();
    let mut events = mio::Events::with_capacity(1);
    let deadline = Instant::now() + PATIENCE;
    kernel.follow().unwrap();
    while !condition(kernel) {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(
            !left.is_zero(),
            "never came: {what}; the kernel's tables as followed: {kernel:#?}"
        );
        poll.poll(&mut events, Some(left)).unwrap();
        while kernel.follow().unwrap().unfinished {}
    }
    poll.registry().deregister(kernel.source()).unwrap();
}

/// What was followed must be what a fresh list says.
#[track_caller]
fn assert_in_step(kernel: &Kernel) {
    let fresh = Kernel::open().unwrap();
    assert_eq!(kernel.links, fresh.links);
    assert_eq!(kernel.addresses, fresh.addresses);
    assert_eq!(kernel.rules, fresh.rules);
    assert_eq!(kernel.routes, fresh.routes);
}

/// Follows until the links' own changes, which come later, have come, and what was followed is what
/// is listed.
fn follow_until_in_step(kernel: &mut Kernel, context: &str) {
    follow_until(kernel, context, |kernel| {
        let fresh = Kernel::open().unwrap();
        kernel.links == fresh.links
            && kernel.addresses == fresh.addresses
            && kernel.rules == fresh.rules
            && kernel.routes == fresh.routes
    });
}

/// Whether each IPv6 address has the route to itself: the kernel makes it in its own time.
fn settled(kernel: &Kernel) -> bool {
    kernel.addresses().all(|local| match local.address {
        IpNet::V4(_) => true,
        IpNet::V6(net) => {
            let itself = IpNet::from(IpAddr::from(net.addr()));
            kernel.routes.iter().any(|(key, _)| key.destination == itself)
        }
    })
}

/// A namespace with `eth0`, which has 192.0.2.1/24, 2001:db8:2::1/64 and fe80::1/64, and one with
/// its far end, which has the same with a 2.
fn pair(name: &str) -> (Namespace, Namespace) {
    let here = Namespace::new(name);
    let there = Namespace::new(&format!("{name}-peer"));
    here.veth("eth0", &there, "eth0");
    for (namespace, last) in [(&here, 1), (&there, 2)] {
        namespace.ip(&format!("addr add 192.0.2.{last}/24 dev eth0"));
        namespace.ip(&format!("addr add 2001:db8:2::{last}/64 dev eth0 nodad"));
        namespace.ip(&format!("addr add fe80::{last}/64 dev eth0 nodad"));
        namespace.enter(|| follow_until(&mut Kernel::open().unwrap(), "addresses", settled));
    }
    (here, there)
}

/// A small generator of numbers, so that a failure can be repeated.
struct Random(u64);

impl Random {
    /// A number below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % bound
    }

    /// One of several.
    fn of<'a>(&mut self, several: &[&'a str]) -> &'a str {
        several[usize::try_from(self.below(several.len() as u64)).unwrap()]
    }
}

/// The interface index of a link.
fn ifindex(kernel: &Kernel, name: &str) -> u32 {
    kernel.link(name).unwrap().ifindex
}
