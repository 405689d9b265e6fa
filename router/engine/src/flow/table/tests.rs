//! The table against a map of the standard library, with hashes that collide on purpose.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::family::V4;

/// A slot that is its tuple and a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    port: u16,
    value: u32,
    used: bool,
}

impl Slot for Entry {
    type Family = V4;

    const EMPTY: Self = Self { port: 0, value: 0, used: false };

    fn key(&self) -> Key<V4> {
        Tuple { protocol: u8::from(self.used), ..tuple(self.port) }.key()
    }
}

fn tuple(port: u16) -> Tuple<Ipv4Addr> {
    Tuple {
        source: Ipv4Addr::UNSPECIFIED,
        destination: Ipv4Addr::UNSPECIFIED,
        source_port: port,
        destination_port: 0,
        protocol: 1,
    }
}

/// How a hash is made of a port: well, all in one group, in few groups with few tags, in the last.
fn hash(kind: u8, port: u16) -> u64 {
    match kind {
        0 => u64::from(port).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        1 => 0,
        2 => u64::from(port % 3) << 56 | u64::from(port % 2) << 31,
        _ => u64::from(port) << 56 | 0xffff_ffff,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u16),
    Remove(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let port = 1..120_u16;
    let step = prop_oneof![port.clone().prop_map(Step::Insert), port.prop_map(Step::Remove)];
    prop::collection::vec(step, 1..400)
}

proptest! {
    #[test]
    fn a_table_holds_what_a_map_holds(kind in 0..4_u8, steps in steps()) {
        let mut table: Table<Entry> = Table::new(64);
        let mut model: HashMap<u16, (u32, SlotIndex)> = HashMap::new();
        let room = table.groups() * TAG_LANES;
        for (value, step) in (0..).zip(steps) {
            match step {
                Step::Insert(port) if !model.contains_key(&port) => {
                    let place = table.insert(hash(kind, port), Entry { port, value, used: true });
                    prop_assert_eq!(place.is_some(), model.len() < room);
                    if let Some(place) = place {
                        model.insert(port, (value, place));
                    }
                }
                Step::Remove(port) => {
                    if let Some((_, place)) = model.remove(&port) {
                        table.remove(hash(kind, port), place);
                    }
                }
                Step::Insert(_) => {}
            }
        }
        for port in 0..130 {
            let hash = hash(kind, port);
            let found = table.find(&tuple(port), hash);
            prop_assert_eq!(found, model.get(&port).map(|(_, place)| *place));
            let value = model.get(&port).map(|(value, _)| *value);
            prop_assert_eq!(found.map(|place| table[place].value), value);
            for candidate in [table.candidate::<true>(hash), table.candidate::<false>(0)] {
                let near = table.get_near(&tuple(port).key(), hash, candidate);
                prop_assert_eq!(near.map(|entry| entry.value), value);
            }
        }
        let entries = (0..table.groups()).flat_map(|group| table.entries(group));
        prop_assert_eq!(entries.count(), model.len());
        for (port, (_, place)) in model {
            table.remove(hash(kind, port), place);
        }
        let empty = (0..table.groups()).all(|group| !table.groups[group].overflowed());
        prop_assert!(empty, "an overflow counter is left over");
    }
}

#[test]
fn a_table_for_one_entry_has_room_for_it() {
    let mut table: Table<Entry> = Table::new(1);
    assert!(table.insert(u64::MAX, Entry { port: 1, value: 1, used: true }).is_some());
    assert_eq!(table.find(&tuple(2), u64::MAX), None);
}

#[test]
fn an_empty_slot_is_no_candidate() {
    let mut table: Table<Entry> = Table::new(8);
    let candidate = table.candidate::<true>(0);
    assert_eq!(table.get_near(&tuple(0).key(), 0, candidate), None);
}
