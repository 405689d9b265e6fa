//! Devices that are too small for what goes through them.

use spillway_api::{Document, IpFamily};

/// What every link carries of IPv6, in bytes (RFC 8200 section 5).
pub(crate) const IPV6_MTU_MIN: u32 = 1280;

/// What a tunnel adds: outer IP, UDP, VXLAN and inner Ethernet headers, in bytes.
pub(crate) const fn overhead(underlay: IpFamily) -> u32 {
    match underlay {
        IpFamily::V4 => 50,
        IpFamily::V6 => 70,
    }
}

/// What an operator should know of the devices that tunnels go through, each with its MTU, when there
/// are IPv6 pods: whoever speaks IPv6 takes it for granted that a packet of 1,280 bytes arrives, and
/// nobody cuts it for a tunnel.
pub(crate) fn reports<'a>(
    document: &Document,
    devices: impl Iterator<Item = (&'a str, u32)>,
) -> Vec<String> {
    if !document.pods().any(|pod| pod.is_ipv6()) {
        return Vec::new();
    }
    let needed = IPV6_MTU_MIN + overhead(document.underlay());
    let small = devices.filter(|(_, mtu)| *mtu < needed);
    let report = |(device, mtu)| {
        format!(
            "{device} has an MTU of {mtu}, too small for IPv6 in a tunnel: replies of \
             {IPV6_MTU_MIN} bytes need {needed}, and larger ones than fit are lost: \
             `ip link set {device} mtu {needed}`, or more"
        )
    };
    small.map(report).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "
generation: 1
tunnels: [{address: 192.168.44.128, peers: [{address: 192.168.211.128}]}]
egress_addresses: [{address: 192.168.44.129, kind: own}, {address: '2001:db8::129', kind: own}]
policies:
  - name: app1
    egress_addresses: [192.168.44.129, '2001:db8::129']
    destinations: [203.0.113.0/24, '2001:db8:203::/64']
    pods: [10.0.1.40]
";

    const WITH_POD: &str = "    pods: [10.0.1.40, 'fd00:10:0:1::40']\n";
    const WITH_GROUP: &str = "    pods: []
    pod_groups: [six]
pod_groups: [{name: six, pods: ['fd00:10:0:1::40']}]
";

    fn reports_of(text: &str, devices: [(&str, u32); 2]) -> Vec<String> {
        reports(&Document::parse(text).unwrap(), devices.into_iter())
    }

    #[test]
    fn a_device_is_too_small_for_ipv6_in_a_tunnel_below_1330_bytes() {
        let reports = |text: &str| reports_of(text, [("eth0", 1329), ("pods", 1330)]);
        assert_eq!(reports(DOCUMENT), [""; 0]);
        for pods in [WITH_POD, WITH_GROUP] {
            let reports = reports(&DOCUMENT.replace("    pods: [10.0.1.40]\n", pods));
            assert_eq!(reports.len(), 1);
            assert!(reports[0].starts_with("eth0 has an MTU of 1329"), "{}", reports[0]);
        }
    }

    #[test]
    fn over_ipv6_below_1350_bytes() {
        let tunnels = "{address: '2001:db8:44::128', peers: [{address: '2001:db8:211::128'}]}";
        let text = DOCUMENT
            .replace("{address: 192.168.44.128, peers: [{address: 192.168.211.128}]}", tunnels)
            .replace("    pods: [10.0.1.40]\n", WITH_POD);
        let reports = reports_of(&text, [("eth0", 1349), ("pods", 1350)]);
        assert_eq!(reports.len(), 1);
        assert!(reports[0].contains("`ip link set eth0 mtu 1350`"), "{}", reports[0]);
    }
}
