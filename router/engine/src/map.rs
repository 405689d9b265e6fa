//! The hash map of tables that are built once and looked up by packets.

use std::collections::HashMap;

use foldhash::fast::RandomState;

/// With a hash that costs less than the standard library's. That one withstands keys chosen to
/// collide, but these come from the state document and the kernel, and a packet adds none.
pub(crate) type Map<K, V> = HashMap<K, V, RandomState>;
