//! Longest-prefix match by binary search: nested prefixes flattened into ranges that do not
//! overlap. Building is linear in the sorted prefixes, a lookup touches one array.

use crate::family::Family;

/// The value of the longest prefix that contains an address.
#[derive(Clone, Debug)]
pub(crate) struct PrefixMap<F: Family, T> {
    /// The first address of each range, ascending; a range ends where the next one starts.
    starts: Vec<F::Bits>,
    /// The value of the range of the same index.
    values: Vec<Option<T>>,
}

impl<F: Family, T> Default for PrefixMap<F, T> {
    fn default() -> Self {
        Self { starts: Vec::new(), values: Vec::new() }
    }
}

impl<F: Family, T: Copy + PartialEq> PrefixMap<F, T> {
    /// Flattens prefixes, which ascend by network address and then by length, each given once.
    pub(crate) fn new(prefixes: &[(F::Net, T)]) -> Self {
        debug_assert!(prefixes.is_sorted_by(|a, b| a.0 < b.0));
        let mut map = Self::default();
        let mut open: Vec<(F::Net, T)> = Vec::new();
        map.start(F::bits(F::UNSPECIFIED), None);
        for &(prefix, value) in prefixes {
            map.close(&mut open, Some(prefix));
            map.start(F::bits(F::first(prefix)), Some(value));
            open.push((prefix, value));
        }
        map.close(&mut open, None);
        map
    }

    /// Ends the open prefixes that do not contain `next`, innermost first.
    fn close(&mut self, open: &mut Vec<(F::Net, T)>, next: Option<F::Net>) {
        while let Some(&(innermost, _)) = open.last() {
            if next.is_some_and(|next| F::contains(innermost, next)) {
                return;
            }
            open.pop();
            if let Some(after) = F::following(F::last(innermost)) {
                self.start(after, open.last().map(|(_, value)| *value));
            }
        }
    }

    /// From this address on, the value is another one.
    fn start(&mut self, address: F::Bits, value: Option<T>) {
        if self.starts.last() == Some(&address) {
            self.starts.pop();
            self.values.pop();
        }
        if self.values.last() != Some(&value) {
            self.starts.push(address);
            self.values.push(value);
        }
    }

    /// The value of the longest prefix that contains `address`.
    pub(crate) fn lookup(&self, address: F::Address) -> Option<T> {
        let after = self.starts.partition_point(|start| *start <= F::bits(address));
        self.values.get(after.checked_sub(1)?).copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use std::net::Ipv4Addr;

    use ipnet::Ipv4Net;
    use proptest::prelude::*;

    use super::*;
    use crate::family::V4;

    /// Prefixes close to each other, so that many nest.
    fn prefixes() -> impl Strategy<Value = BTreeMap<Ipv4Net, u8>> {
        let prefix = (0..=255_u32, prop_oneof![Just(0_u8), 24..=32_u8, 8..=16_u8]).prop_map(
            |(low, length)| {
                let address = Ipv4Addr::from_bits(if low > 250 { !0 } else { 0x0a00_0000 | low });
                Ipv4Net::new(address, length).unwrap().trunc()
            },
        );
        prop::collection::btree_map(prefix, any::<u8>(), 0..40)
    }

    proptest! {
        #[test]
        fn a_lookup_finds_the_longest_prefix(prefixes in prefixes(), low in 0..=300_u32) {
            let list: Vec<_> = prefixes.iter().map(|(prefix, value)| (*prefix, *value)).collect();
            let map = PrefixMap::<V4, _>::new(&list);
            let ends = [Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST];
            for address in [Ipv4Addr::from_bits(0x0a00_0000 | low), ends[0], ends[1]] {
                let naive = list.iter().filter(|(prefix, _)| prefix.contains(&address));
                let naive = naive.max_by_key(|(prefix, _)| prefix.prefix_len());
                prop_assert_eq!(map.lookup(address), naive.map(|(_, value)| *value));
            }
        }
    }

    #[test]
    fn an_empty_map_has_nothing() {
        assert_eq!(PrefixMap::<V4, u8>::new(&[]).lookup(Ipv4Addr::LOCALHOST), None);
        assert_eq!(PrefixMap::<V4, u8>::default().lookup(Ipv4Addr::LOCALHOST), None);
    }
}
