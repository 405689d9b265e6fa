//! Pairs of virtual Ethernet devices between namespaces.

use crate::namespace::{Namespace, run};

/// Joins two namespaces with a veth pair: `a_device` in `a`, `b_device` in `b`, each with `queues`
/// receive and transmit queues, both up. The two namespaces may be the same.
///
/// # Panics
///
/// When `ip` fails, for instance because a device of that name exists.
pub fn veth_pair(a: &Namespace, a_device: &str, b: &Namespace, b_device: &str, queues: u32) {
    let queues = queues.to_string();
    run(
        "ip",
        [
            ["link", "add", "name", a_device].as_slice(),
            &["netns", a.name(), "numrxqueues", &queues, "numtxqueues", &queues],
            &["type", "veth", "peer", "name", b_device],
            &["netns", b.name(), "numrxqueues", &queues, "numtxqueues", &queues],
        ]
        .concat(),
    );
    a.run(["ip", "link", "set", a_device, "up"]);
    b.run(["ip", "link", "set", b_device, "up"]);
}

/// Makes the kernel finish TCP and UDP checksums itself before it sends on this device.
///
/// On a veth it leaves them to hardware that is not there, and an AF_XDP receiver sees them
/// unfinished: switch this off on the end where the sending kernel is.
///
/// # Panics
///
/// When `ethtool` fails.
pub fn checksum_offload_off(namespace: &Namespace, device: &str) {
    namespace.run(["ethtool", "-K", device, "tx", "off"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_has_the_queues_asked_for_and_carries_a_ping() {
        let (a, b) = (Namespace::new("veth-a"), Namespace::new("veth-b"));
        veth_pair(&a, "eth0", &b, "eth1", 2);
        checksum_offload_off(&a, "eth0");
        a.run(["ip", "address", "add", "10.9.0.1/24", "dev", "eth0"]);
        b.run(["ip", "address", "add", "10.9.0.2/24", "dev", "eth1"]);
        a.run(["ping", "-c", "1", "-W", "5", "10.9.0.2"]);
        let channels = b.run(["ethtool", "-l", "eth1"]);
        assert!(channels.contains("RX:\t\t2"), "{channels}");
    }
    #[test]
    fn a_pair_carries_ipv6_where_it_is_on() {
        let (a, b) = (Namespace::new("veth6-a"), Namespace::new("veth6-b"));
        a.enable_ipv6();
        b.enable_ipv6();
        veth_pair(&a, "eth0", &b, "eth1", 1);
        a.run(["ip", "address", "add", "2001:db8::1/64", "dev", "eth0"]);
        b.run(["ip", "address", "add", "2001:db8::2/64", "dev", "eth1"]);
        a.wait_for_ipv6();
        b.wait_for_ipv6();
        a.run(["ping", "-c", "1", "-W", "5", "2001:db8::2"]);
    }
}
