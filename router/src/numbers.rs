//! Numbers that stand for IPv6 addresses where there is room for an IPv4 one only: in the IPv4
//! translator for the pods that NAT64 has translated, and in the steer header for the peers of
//! tunnels over IPv6. They are IPv4 addresses that no host has. Pure.
//!
//! A flow is known by them, and a pod's number decides which of several egress addresses it has: so
//! an address keeps its number from document to document, also when it goes and comes back, and from
//! process to process ([`crate::handover`]). It follows from the address, unless another one has it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::Ipv4Net;
use spillway_api::Document;
use spillway_api::limits::{PEERS_MAX, PODS_MAX};

/// Where numbers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Space {
    /// The first and the last address of it are no numbers: they mean something by themselves.
    net: Ipv4Net,
    /// Addresses that have gone and keep their numbers, at most.
    former_max: usize,
}

/// Reserved "for future use" (RFC 1112, section 4): no packet that is routed has such a source, and
/// no document such a pod.
const PODS: Space =
    Space { net: Ipv4Net::new_assert(Ipv4Addr::new(240, 0, 0, 0), 4), former_max: PODS_MAX };

/// "This network" (RFC 1122, section 3.2.1.3): no peer has such an address.
const PEERS: Space =
    Space { net: Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 8), former_max: PEERS_MAX };

// A search for a free number comes to an end.
const _: () = assert!(2 * PODS_MAX < 1 << 27 && 2 * PEERS_MAX < 1 << 23);

/// The numbers of a document's pods and peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assigned {
    /// Of pods' IPv6 addresses, while there is NAT64.
    pub(crate) pods: Numbers,
    /// Of the peers of tunnels over IPv6.
    pub(crate) peers: Numbers,
}

impl Default for Assigned {
    fn default() -> Self {
        Self { pods: Numbers::of(PODS), peers: Numbers::of(PEERS) }
    }
}

impl Assigned {
    /// Those of the next document.
    #[must_use]
    pub(crate) fn after(&self, document: &Document) -> Self {
        let pods = document.pods().filter(|_| document.nat64_prefix.is_some());
        let peers = document.tunnels.iter().flat_map(|tunnel| &tunnel.peers);
        Self {
            pods: self.pods.assign(pods.filter_map(ipv6)),
            peers: self.peers.assign(peers.filter_map(|peer| ipv6(peer.address))),
        }
    }

    /// Numbers as [`Numbers::all`] has given them, of pods and of peers; `None` when it has not.
    pub(crate) fn restore(
        pods: impl Iterator<Item = (Ipv4Addr, Ipv6Addr)>,
        peers: impl Iterator<Item = (Ipv4Addr, Ipv6Addr)>,
    ) -> Option<Self> {
        Some(Self { pods: Numbers::restore(PODS, pods)?, peers: Numbers::restore(PEERS, peers)? })
    }

    /// What stands for a peer in the steer header: an IPv4 address is there itself.
    pub(crate) fn key(&self, peer: IpAddr) -> Option<Ipv4Addr> {
        match peer {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(address) => self.peers.number(address),
        }
    }

    /// The peer that a key stands for.
    pub(crate) fn peer(&self, key: Ipv4Addr) -> IpAddr {
        self.peers.address(key).map_or(IpAddr::V4(key), IpAddr::V6)
    }
}

fn ipv6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address),
    }
}

/// Whether an address stands for a pod.
pub(crate) fn is_pod(address: Ipv4Addr) -> bool {
    PODS.net.contains(&address)
}

/// The numbers of some addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Numbers {
    space: Space,
    /// What each address has.
    given: BTreeMap<Ipv6Addr, Given>,
    addresses: BTreeMap<Ipv4Addr, Ipv6Addr>,
    /// How often numbers were given out.
    round: u64,
}

/// What an address has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Given {
    number: Ipv4Addr,
    /// The first round without it, when it has gone.
    gone: Option<u64>,
}

impl Numbers {
    /// None yet.
    fn of(space: Space) -> Self {
        Self { space, given: BTreeMap::new(), addresses: BTreeMap::new(), round: 0 }
    }

    /// The number of an address that has one.
    pub(crate) fn number(&self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        self.given.get(&address).map(|given| given.number)
    }

    /// The address of a number.
    pub(crate) fn address(&self, number: Ipv4Addr) -> Option<Ipv6Addr> {
        self.addresses.get(&number).copied()
    }

    /// Every address with its number, also those that have gone; ascending by address.
    pub(crate) fn all(&self) -> impl ExactSizeIterator<Item = (Ipv4Addr, Ipv6Addr)> + '_ {
        self.given.iter().map(|(address, given)| (given.number, *address))
    }

    /// The same without those that have gone.
    pub(crate) fn present(&self) -> impl Iterator<Item = (Ipv4Addr, Ipv6Addr)> + '_ {
        let present = self.given.iter().filter(|(_, given)| given.gone.is_none());
        present.map(|(address, given)| (given.number, *address))
    }

    /// The numbers of these addresses, in whatever order they come. Those that have gone keep theirs
    /// too, as long as there are not too many: their flows live on for a while, and are shown.
    #[must_use]
    pub(crate) fn assign(&self, addresses: impl Iterator<Item = Ipv6Addr>) -> Self {
        let present: BTreeSet<Ipv6Addr> = addresses.collect();
        let mut next = self.clone();
        next.round += 1;
        for (address, given) in &mut next.given {
            given.gone = match present.contains(address) {
                true => None,
                false => given.gone.or(Some(next.round)),
            };
        }
        next.forget_former();
        for address in present {
            if !next.given.contains_key(&address) {
                let number = next.free(address);
                next.give(address, number, None);
            }
        }
        next
    }

    /// Numbers as [`Numbers::all`] has given them; `None` when it has not. The addresses have gone
    /// until they are asked for.
    fn restore(space: Space, all: impl Iterator<Item = (Ipv4Addr, Ipv6Addr)>) -> Option<Self> {
        let mut restored = Self::of(space);
        for (number, address) in all {
            let is_new = space.net.contains(&number)
                && restored.address(number).is_none()
                && restored.number(address).is_none();
            is_new.then(|| restored.give(address, number, Some(0)))?;
        }
        Some(restored)
    }

    fn give(&mut self, address: Ipv6Addr, number: Ipv4Addr, gone: Option<u64>) {
        self.given.insert(address, Given { number, gone });
        self.addresses.insert(number, address);
    }

    /// Takes the numbers back of those that have been gone for longest, where there are too many.
    fn forget_former(&mut self) {
        let former = self.given.iter().filter_map(|(address, given)| Some((given.gone?, *address)));
        let mut former: Vec<_> = former.collect();
        former.sort_unstable();
        let too_many = former.len().saturating_sub(self.space.former_max);
        for (_, address) in former.into_iter().take(too_many) {
            if let Some(given) = self.given.remove(&address) {
                self.addresses.remove(&given.number);
            }
        }
    }

    /// The number that follows from an address, or the next one that is free.
    fn free(&self, address: Ipv6Addr) -> Ipv4Addr {
        let (first, last) =
            (self.space.net.network().to_bits(), self.space.net.broadcast().to_bits());
        let count = u64::from(last - first - 1);
        let wanted = hash(address) % count;
        let numbers = (wanted..count).chain(0..wanted).map(|place| {
            #[expect(clippy::cast_possible_truncation, reason = "it is below `count`")]
            Ipv4Addr::from_bits(first + 1 + place as u32)
        });
        let mut free = numbers.filter(|number| !self.addresses.contains_key(number));
        free.next().unwrap_or_else(|| unreachable!("there are more numbers than addresses"))
    }
}

/// FNV-1a with 64 bits (draft-eastlake-fnv). To change it is to give pods other egress addresses,
/// where a policy has several.
fn hash(address: Ipv6Addr) -> u64 {
    let octets = address.octets().into_iter();
    octets.fold(0xcbf2_9ce4_8422_2325, |hash, octet| {
        (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 30 numbers, so that addresses want the same ones, and room for 8 that have gone.
    const FEW: Space =
        Space { net: Ipv4Net::new_assert(Ipv4Addr::new(240, 0, 0, 0), 27), former_max: 8 };

    fn address(last: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x10, 1, 0, 0, 0, 0, last)
    }

    fn given(numbers: &Numbers) -> BTreeMap<Ipv6Addr, Ipv4Addr> {
        numbers.present().map(|(number, address)| (address, number)).collect()
    }

    /// Computed apart from this code, in Python: a pod's egress address outlives versions of Spillway.
    #[test]
    fn a_number_follows_from_the_address() {
        for (text, pod, peer) in [
            ("fd00:10:1::40", "243.163.224.22", "0.219.154.118"),
            ("fd00:10:1::41", "243.163.190.99", "0.217.152.195"),
            ("2001:db8::1", "241.234.86.239", "0.133.113.33"),
        ] {
            let address: Ipv6Addr = text.parse().unwrap();
            for (numbers, expected) in [(Numbers::of(PODS), pod), (Numbers::of(PEERS), peer)] {
                let numbers = numbers.assign([address].into_iter());
                let expected = expected.parse().unwrap();
                assert_eq!(numbers.number(address), Some(expected));
                assert_eq!(numbers.address(expected), Some(address));
            }
        }
        assert!(is_pod(Ipv4Addr::new(243, 163, 224, 22)) && !is_pod(Ipv4Addr::new(10, 0, 0, 1)));
    }

    #[test]
    fn a_document_of_the_largest_size_has_numbers_for_all() {
        let pods =
            |first: u32| (0..65_536).map(move |n| Ipv6Addr::from_bits(u128::from(first + n)));
        let one = Numbers::of(PODS).assign(pods(0));
        let other = one.assign(pods(1 << 16));
        let third = other.assign(pods(1 << 17));
        for (numbers, pods) in [(&one, pods(0)), (&other, pods(1 << 16)), (&third, pods(1 << 17))] {
            assert_eq!(numbers.present().count(), 65_536);
            assert!(pods.zip(numbers.present()).all(|(pod, (_, address))| pod == address));
        }
        // The first ones' were taken back.
        assert_eq!(third.all().len(), 2 * 65_536);
        assert!(pods(0).all(|pod| third.number(pod).is_none()));
    }

    #[test]
    fn what_was_never_given_is_not_restored() {
        let (one, other) = (address(1), address(2));
        let number = |last| Ipv4Addr::new(240, 0, 0, last);
        let restore = |all: &[(Ipv4Addr, Ipv6Addr)]| Numbers::restore(FEW, all.iter().copied());
        assert!(restore(&[(number(1), one), (number(2), other)]).is_some());
        assert_eq!(restore(&[(number(1), one), (number(1), other)]), None, "a number twice");
        assert_eq!(restore(&[(number(1), one), (number(2), one)]), None, "an address twice");
        assert_eq!(restore(&[(number(32), one)]), None, "out of the space");
    }

    proptest! {
        #[test]
        fn numbers_are_unique_and_stay(
            rounds in prop::collection::vec(prop::collection::btree_set(0_u16..40, 0..20), 1..12),
        ) {
            let mut numbers = Numbers::of(FEW);
            for round in rounds {
                let addresses = round.iter().map(|last| address(*last));
                let next = numbers.assign(addresses.clone());
                // The order does not matter.
                prop_assert_eq!(&next, &numbers.assign(addresses.clone().rev()));
                let all: BTreeSet<Ipv4Addr> = next.all().map(|(number, _)| number).collect();
                prop_assert_eq!(all.len(), next.all().len(), "some number was given twice");
                prop_assert!(all.iter().all(|number| FEW.net.hosts().any(|host| host == *number)));
                let gone = next.all().len() - next.present().count();
                prop_assert!(gone <= FEW.former_max);
                let before = given(&numbers);
                let after = given(&next);
                prop_assert!(after.keys().copied().eq(addresses));
                for (address, number) in &after {
                    prop_assert_eq!(next.number(*address), Some(*number));
                    prop_assert_eq!(next.address(*number), Some(*address));
                    prop_assert!(before.get(address).is_none_or(|before| before == number));
                    // One that was remembered has come back.
                    prop_assert!(numbers.number(*address).is_none_or(|known| known == *number));
                }
                let restored = Numbers::restore(FEW, next.all()).unwrap();
                prop_assert_eq!(restored.present().count(), 0);
                let again = restored.assign(round.iter().map(|last| address(*last)));
                prop_assert_eq!(given(&again), after);
                numbers = next;
            }
        }
    }
}
