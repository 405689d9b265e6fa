//! Sets of prefixes, of both families: a prefix of one holds none of the other.

use ipnet::IpNet;

/// What is left of `prefix` without `hole`, as few prefixes as can say it.
pub(crate) fn subtract(prefix: IpNet, hole: IpNet) -> Vec<IpNet> {
    if hole.contains(&prefix) {
        return Vec::new();
    }
    let mut rest = Vec::new();
    let mut around = prefix;
    while around.contains(&hole) && around != hole {
        let Ok(halves) = around.subnets(around.prefix_len() + 1) else { break };
        for half in halves {
            if half.contains(&hole) {
                around = half;
            } else {
                rest.push(half);
            }
        }
    }
    if rest.is_empty() { vec![prefix] } else { rest }
}

/// What destinations with exclusions cover: the longest prefix decides, and an exclusion wins over
/// a destination of the same length. Aggregated, and sorted.
pub(crate) fn covered(destinations: &[IpNet], exclusions: &[IpNet]) -> Vec<IpNet> {
    let of_one = |&destination: &IpNet| {
        let inside = exclusions.iter().filter(|exclusion| destination.contains(*exclusion));
        inside.fold(vec![destination], |pieces, &hole| {
            pieces.into_iter().flat_map(|piece| subtract(piece, hole)).collect()
        })
    };
    IpNet::aggregate(&destinations.iter().flat_map(of_one).collect())
}

/// Takes `holes` out of what destinations with exclusions cover, and leaves the destinations' own
/// lengths as they are: they decide between policies.
pub(crate) fn exclude(destinations: &mut Vec<IpNet>, exclusions: &mut Vec<IpNet>, holes: &[IpNet]) {
    destinations.retain(|destination| !holes.iter().any(|hole| hole.contains(destination)));
    for hole in holes {
        if destinations.iter().any(|destination| destination.contains(hole)) {
            // Exclusions inside of the hole say nothing anymore.
            exclusions.retain(|exclusion| !hole.contains(exclusion));
            exclusions.push(*hole);
        }
    }
    exclusions.sort_unstable();
    exclusions.dedup();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::IpAddr;

    fn nets(text: &str) -> Vec<IpNet> {
        text.split_whitespace().map(|net| net.parse().unwrap()).collect()
    }

    #[test]
    fn a_hole_splits_a_prefix_into_the_fewest() {
        let whole = "10.0.0.0/8".parse().unwrap();
        assert_eq!(
            subtract(whole, "10.128.0.0/10".parse().unwrap()),
            nets("10.0.0.0/9 10.192.0.0/10")
        );
        assert_eq!(subtract(whole, "11.0.0.0/8".parse().unwrap()), [whole]);
        assert_eq!(subtract(whole, "0.0.0.0/0".parse().unwrap()), []);
        assert_eq!(subtract(whole, "10.1.2.3/32".parse().unwrap()).len(), 24);
        let whole = "2001:db8::/32".parse().unwrap();
        assert_eq!(
            subtract(whole, "2001:db8:8000::/34".parse().unwrap()),
            nets("2001:db8::/33 2001:db8:c000::/34")
        );
        assert_eq!(subtract(whole, "2001:db8::1/128".parse().unwrap()).len(), 96);
        assert_eq!(subtract(whole, "0.0.0.0/0".parse().unwrap()), [whole]);
    }

    /// The rule itself, one address at a time.
    fn is_covered(address: IpAddr, destinations: &[IpNet], exclusions: &[IpNet]) -> bool {
        let longest = |nets: &[IpNet]| {
            let around = nets.iter().filter(|net| net.contains(&address));
            around.map(|net| i16::from(net.prefix_len())).max().unwrap_or(-1)
        };
        longest(destinations) > longest(exclusions)
    }

    /// One of 64 addresses of each family.
    fn host(is_v4: bool, host: u8) -> IpAddr {
        if is_v4 {
            [10, 0, 0, host].into()
        } else {
            [0xfd00, 0, 0, 0, 0, 0, 0, u16::from(host)].into()
        }
    }

    /// Prefixes that meet often: within 10.0.0.0/26 and fd00::/122.
    fn few_nets() -> impl Strategy<Value = Vec<IpNet>> {
        let net = (any::<bool>(), 0u8..64, 0u8..=6).prop_map(|(is_v4, number, host_bits)| {
            let address = IpNet::from(host(is_v4, number));
            let length = address.max_prefix_len() - host_bits;
            IpNet::new(address.addr(), length).unwrap().trunc()
        });
        proptest::collection::vec(net, 0..9)
    }

    proptest! {
        #[test]
        fn sets_agree_with_the_rule_for_every_address(
            destinations in few_nets(), exclusions in few_nets(), holes in few_nets()
        ) {
            let set = covered(&destinations, &exclusions);
            let (mut left, mut out) = (destinations.clone(), exclusions.clone());
            exclude(&mut left, &mut out, &holes);
            for number in 0..128 {
                let address = host(number < 64, number % 64);
                let was = is_covered(address, &destinations, &exclusions);
                prop_assert_eq!(set.iter().any(|net| net.contains(&address)), was);
                let hole = holes.iter().any(|hole| hole.contains(&address));
                prop_assert_eq!(is_covered(address, &left, &out), was && !hole);
            }
        }
    }
}
