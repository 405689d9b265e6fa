//! What the commands' BPF objects have in common: how they are opened, and how a map is found.

use anyhow::{Context as _, Result};
use libbpf_rs::{MapCore as _, MapHandle, Object, ObjectBuilder, OpenObject};

/// Opens a compiled object that this program carries.
///
/// # Errors
///
/// When it is no object.
pub(crate) fn open(object: &[u8]) -> Result<OpenObject> {
    // A copy, which the allocator aligns: libelf reads its structures where they are.
    let aligned = object.to_vec();
    ObjectBuilder::default().open_memory(&aligned).context("cannot read the BPF object")
}

/// A handle of one of a loaded object's maps, for any thread.
///
/// # Errors
///
/// When the object has no such map, or no descriptor is left.
pub(crate) fn map(object: &Object, name: &str) -> Result<MapHandle> {
    let map = object.maps().find(|map| map.name() == name);
    let map = map.with_context(|| format!("the BPF object lacks its map {name}"))?;
    Ok(MapHandle::try_from(&map)?)
}
