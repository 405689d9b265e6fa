//! The kernel's tables against a real kernel, in network namespaces. They need root.

mod follow;
mod lookup;
mod namespace;
mod neighbours;

use std::time::{Duration, Instant};

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

/// A namespace with `eth0`, which has 192.0.2.1/24, and one with its far end, 192.0.2.2.
fn pair(name: &str) -> (Namespace, Namespace) {
    let here = Namespace::new(name);
    let there = Namespace::new(&format!("{name}-peer"));
    here.veth("eth0", &there, "eth0");
    here.ip("addr add 192.0.2.1/24 dev eth0");
    there.ip("addr add 192.0.2.2/24 dev eth0");
    (here, there)
}

/// The interface index of a link.
fn ifindex(kernel: &Kernel, name: &str) -> u32 {
    kernel.link(name).unwrap().ifindex
}
