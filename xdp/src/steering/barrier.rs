//! Waiting until no program that runs now runs any more.
//!
//! Whoever changes an entry of a map of maps gets control back only when every program that could be
//! using the old entry has ended (`maybe_wait_bpf_programs` in kernel/bpf/syscall.c, since Linux
//! 4.20). It waits for all programs, whatever map they use, so a map that nobody else knows is
//! enough. Takes some tens of milliseconds.

use std::os::fd::{AsFd as _, AsRawFd as _};

use libbpf_rs::{MapCore as _, MapFlags, MapHandle, MapType, Result, libbpf_sys};

/// A map of maps for the sake of the wait.
#[derive(Debug)]
pub(crate) struct Barrier {
    outer: MapHandle,
    inner: MapHandle,
}

impl Barrier {
    pub(crate) fn new() -> Result<Self> {
        let mut options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
            ..Default::default()
        };
        let inner = MapHandle::create(MapType::Array, Some("barrier_inner"), 4, 4, 1, &options)?;
        options.inner_map_fd = u32::try_from(inner.as_fd().as_raw_fd()).unwrap_or_default();
        let outer = MapHandle::create(MapType::ArrayOfMaps, Some("barrier"), 4, 4, 1, &options)?;
        Ok(Self { outer, inner })
    }

    /// Returns when every program that ran at the time of the call has ended.
    pub(crate) fn wait(&self) -> Result<()> {
        let inner = self.inner.as_fd().as_raw_fd().to_ne_bytes();
        self.outer.update(&0u32.to_ne_bytes(), &inner, MapFlags::ANY)
    }
}
