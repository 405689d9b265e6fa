//! Which of several egress addresses a pod has: always the same one (RFC 4787, REQ-2, "Paired"), on
//! every worker and after a restart, with nothing remembered.
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998): the pod has the address with the greatest
//! weight. A new address takes its share of the pods and moves no other; the pods of one that goes
//! are shared out among the rest. Nobody gains by making weights collide, so the hash has no key.

use std::net::{IpAddr, Ipv6Addr};

use crate::family::Family;

/// The egress address of a pod among those of its policy, in whatever order they are; `None` when
/// there are none of its family.
#[must_use]
pub fn paired_address<A: Copy + Ord + Into<IpAddr>>(pod: A, addresses: &[A]) -> Option<A> {
    let weighed = |address: &A| Some((weight(pod.into(), (*address).into())?, *address));
    addresses.iter().filter_map(weighed).max().map(|(_, address)| address)
}

/// The same among addresses of the pod's family. Mostly there is one, which need not be weighed.
pub(crate) fn paired<F: Family>(pod: F::Address, addresses: &[F::Address]) -> Option<F::Address> {
    match addresses {
        [only] => Some(*only),
        _ => paired_address(pod, addresses),
    }
}

/// How much an address weighs for a pod; `None` when they are of two families. To change it is to give
/// pods other addresses.
fn weight(pod: IpAddr, address: IpAddr) -> Option<u64> {
    match (pod, address) {
        (IpAddr::V4(pod), IpAddr::V4(address)) => {
            Some(mix(u64::from(pod.to_bits()) << 32 | u64::from(address.to_bits())))
        }
        (IpAddr::V6(pod), IpAddr::V6(address)) => {
            let halves = [pod, address].map(Ipv6Addr::to_bits);
            let words =
                halves.into_iter().flat_map(|bits| [bits >> 64, bits & u128::from(u64::MAX)]);
            #[expect(clippy::cast_possible_truncation, reason = "the halves have 64 bits")]
            let words = words.map(|word| word as u64);
            Some(words.fold(0, |mixed, word| mix(mixed ^ word)))
        }
        _ => None,
    }
}

/// SplitMix64's finalizer: a bijection, so no two IPv4 addresses weigh the same for a pod. Of IPv6
/// addresses that do, the greater one counts.
fn mix(word: u64) -> u64 {
    let mixed = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use super::*;

    fn addresses(count: u8) -> Vec<Ipv4Addr> {
        (0..count).map(|last| Ipv4Addr::new(198, 51, 100, last)).collect()
    }

    fn pods() -> impl Iterator<Item = Ipv4Addr> {
        (0..4000_u32).map(|number| Ipv4Addr::from_bits(0x0a00_0000 + number))
    }

    #[test]
    fn pods_are_shared_out_evenly() {
        let addresses = addresses(4);
        let mut counts: BTreeMap<Ipv4Addr, u32> = BTreeMap::new();
        for pod in pods() {
            *counts.entry(paired_address(pod, &addresses).unwrap()).or_default() += 1;
        }
        assert!(
            counts.len() == 4 && counts.values().all(|count| (900..1100).contains(count)),
            "{counts:?}"
        );
        assert_eq!(paired_address(Ipv4Addr::new(10, 0, 0, 1), &[]), None);
        assert_eq!(
            paired_address(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), &[Ipv6Addr::LOCALHOST.into()]),
            None
        );
    }

    #[test]
    fn a_new_address_moves_its_share_only_and_order_means_nothing() {
        let (four, mut five) = (addresses(4), addresses(5));
        let new = five[4];
        five.reverse();
        let mut moved = 0;
        for pod in pods() {
            let (before, after) = (paired_address(pod, &four), paired_address(pod, &five));
            assert!(before == after || after == Some(new), "{pod}: {before:?} to {after:?}");
            moved += u32::from(before != after);
        }
        assert!((700..900).contains(&moved), "{moved} of 4000 moved, a fifth should");
    }

    /// Computed apart from this code, in Python: a pod's address outlives versions of Spillway.
    #[test]
    fn weights_stay_what_they_were() {
        let address = Ipv4Addr::new(198, 51, 100, 7).into();
        let weight = |pod: Ipv4Addr, address| weight(pod.into(), address).unwrap();
        assert_eq!(weight(Ipv4Addr::new(10, 0, 1, 40), address), 0x15c8_4cef_83b0_e016);
        assert_eq!(weight(Ipv4Addr::new(10, 0, 1, 41), address), 0xc4d1_8c05_f2cb_c163);
        let [pod, address] = ["fd00::1:28", "2001:db8:100::7"].map(|text| text.parse().unwrap());
        assert_eq!(super::weight(pod, address), Some(0xe7ec_a7e0_09f7_e406));
    }
}
