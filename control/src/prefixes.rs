//! Sets of IPv4 prefixes.

use ipnet::Ipv4Net;

/// What is left of `prefix` without `hole`, as few prefixes as can say it.
pub(crate) fn subtract(prefix: Ipv4Net, hole: Ipv4Net) -> Vec<Ipv4Net> {
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
pub(crate) fn covered(destinations: &[Ipv4Net], exclusions: &[Ipv4Net]) -> Vec<Ipv4Net> {
    let of_one = |&destination: &Ipv4Net| {
        let inside = exclusions.iter().filter(|exclusion| destination.contains(*exclusion));
        inside.fold(vec![destination], |pieces, &hole| {
            pieces.into_iter().flat_map(|piece| subtract(piece, hole)).collect()
        })
    };
    Ipv4Net::aggregate(&destinations.iter().flat_map(of_one).collect())
}

/// Takes `holes` out of what destinations with exclusions cover, and leaves the destinations' own
/// lengths as they are: they decide between policies.
pub(crate) fn exclude(
    destinations: &mut Vec<Ipv4Net>,
    exclusions: &mut Vec<Ipv4Net>,
    holes: &[Ipv4Net],
) {
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
    use std::net::Ipv4Addr;

    fn nets(text: &str) -> Vec<Ipv4Net> {
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
    }

    /// The rule itself, one address at a time.
    fn is_covered(address: Ipv4Addr, destinations: &[Ipv4Net], exclusions: &[Ipv4Net]) -> bool {
        let longest = |nets: &[Ipv4Net]| {
            let around = nets.iter().filter(|net| net.contains(&address));
            around.map(|net| i16::from(net.prefix_len())).max().unwrap_or(-1)
        };
        longest(destinations) > longest(exclusions)
    }

    /// Prefixes that meet often: within 10.0.0.0/26.
    fn few_nets() -> impl Strategy<Value = Vec<Ipv4Net>> {
        let net = (0u8..64, 26u8..=32).prop_map(|(host, length)| {
            Ipv4Net::new(Ipv4Addr::new(10, 0, 0, host), length).unwrap().trunc()
        });
        proptest::collection::vec(net, 0..6)
    }

    proptest! {
        #[test]
        fn sets_agree_with_the_rule_for_every_address(
            destinations in few_nets(), exclusions in few_nets(), holes in few_nets()
        ) {
            let set = covered(&destinations, &exclusions);
            let (mut left, mut out) = (destinations.clone(), exclusions.clone());
            exclude(&mut left, &mut out, &holes);
            for host in 0..64 {
                let address = Ipv4Addr::new(10, 0, 0, host);
                let was = is_covered(address, &destinations, &exclusions);
                prop_assert_eq!(set.iter().any(|net| net.contains(&address)), was);
                let hole = holes.iter().any(|hole| hole.contains(&address));
                prop_assert_eq!(is_covered(address, &left, &out), was && !hole);
            }
        }
    }
}
