//! Longest-prefix match by binary search: nested prefixes flattened into ranges that do not
//! overlap. Building is linear in the sorted prefixes, a lookup touches one array.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// The value of the longest prefix that contains an address.
#[derive(Clone, Debug)]
pub(crate) struct PrefixMap<T> {
    /// The first address of each range, ascending; a range ends where the next one starts.
    starts: Vec<u32>,
    /// The value of the range of the same index.
    values: Vec<Option<T>>,
}

impl<T> Default for PrefixMap<T> {
    fn default() -> Self {
        Self { starts: Vec::new(), values: Vec::new() }
    }
}

impl<T: Copy + PartialEq> PrefixMap<T> {
    /// Flattens prefixes, which ascend by network address and then by length, each given once.
    pub(crate) fn new(prefixes: &[(Ipv4Net, T)]) -> Self {
        debug_assert!(prefixes.is_sorted_by(|a, b| a.0 < b.0));
        let mut map = Self::default();
        let mut open: Vec<(Ipv4Net, T)> = Vec::new();
        map.start(0, None);
        for &(prefix, value) in prefixes {
            map.close(&mut open, Some(prefix));
            map.start(prefix.network().to_bits(), Some(value));
            open.push((prefix, value));
        }
        map.close(&mut open, None);
        map
    }

    /// Ends the open prefixes that do not contain `next`, innermost first.
    fn close(&mut self, open: &mut Vec<(Ipv4Net, T)>, next: Option<Ipv4Net>) {
        while let Some(&(innermost, _)) = open.last() {
            if next.is_some_and(|next| innermost.contains(&next)) {
                return;
            }
            open.pop();
            if let Some(after) = innermost.broadcast().to_bits().checked_add(1) {
                self.start(after, open.last().map(|(_, value)| *value));
            }
        }
    }

    /// From this address on, the value is another one.
    fn start(&mut self, address: u32, value: Option<T>) {
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
    pub(crate) fn lookup(&self, address: Ipv4Addr) -> Option<T> {
        let after = self.starts.partition_point(|start| *start <= address.to_bits());
        self.values.get(after.checked_sub(1)?).copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

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
            let map = PrefixMap::new(&list);
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
        assert_eq!(PrefixMap::<u8>::new(&[]).lookup(Ipv4Addr::LOCALHOST), None);
        assert_eq!(PrefixMap::<u8>::default().lookup(Ipv4Addr::LOCALHOST), None);
    }
}
