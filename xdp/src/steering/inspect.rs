//! What XDP there is on a device, and what there could be: asked, nothing is changed.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use libbpf_rs::{Program, libbpf_sys};

use super::error::SteeringError;
use super::link::{self, AttachMode, Link, Queried, check};
use super::pin;

/// XDP on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceXdp {
    /// Whether the driver says that it runs XDP programs. Kernels before 6.3 do not tell: `false`.
    pub native: bool,
    /// Whether the driver says that it does without copying. Kernels before 6.3 do not tell: `false`.
    pub zero_copy: bool,
    /// Whose program is there.
    pub occupant: Occupant,
}

/// Whose program a device runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occupant {
    /// There is none.
    Nobody,
    /// A router that has ended, or still runs, has pinned it: the next one takes it over.
    Spillway(AttachMode),
    /// Somebody else.
    Other(ForeignProgram),
}

/// A program that is not Spillway's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignProgram {
    /// Its number, as `bpftool prog show id` takes it.
    pub id: u32,
    /// Its name, where the kernel tells it: that needs CAP_SYS_ADMIN.
    pub name: Option<String>,
    /// Where it runs.
    pub mode: AttachMode,
}

/// Asks the kernel about XDP on an interface of this thread's network namespace; the links of
/// Spillway's own programs are pinned in `pin_directory`.
///
/// # Errors
/// When the kernel does not answer, or a pinned link cannot be read.
pub fn inspect(
    device: &str,
    ifindex: u32,
    pin_directory: &Path,
) -> Result<DeviceXdp, SteeringError> {
    let Queried { program, native, zero_copy } = link::query(ifindex)
        .map_err(|source| SteeringError::Query { device: device.to_owned(), source })?;
    let occupant = match program {
        None => Occupant::Nobody,
        Some((id, mode)) if pinned(pin_directory, ifindex)? == Some(id) => Occupant::Spillway(mode),
        Some((id, mode)) => Occupant::Other(ForeignProgram { id, name: name(id).ok(), mode }),
    };
    Ok(DeviceXdp { native, zero_copy, occupant })
}

/// The number of the program whose link is pinned for this interface, if any.
fn pinned(directory: &Path, ifindex: u32) -> Result<Option<u32>, SteeringError> {
    let path = pin::link_path(directory, ifindex)?;
    if !path.exists() {
        return Ok(None);
    }
    let program = Link::open(&path)?.program();
    program.map(Some).map_err(|e| SteeringError::file("cannot read the pinned link", path, e))
}

/// A program's name.
fn name(id: u32) -> io::Result<String> {
    let program = Program::fd_from_id(id).map_err(io::Error::other)?;
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut length = u32::try_from(size_of_val(&info)).unwrap_or_default();
    // SAFETY: `info` outlives the call, which is told its size; its pointers are null and their
    // lengths zero, so that nothing else is written.
    check(unsafe {
        libbpf_sys::bpf_prog_get_info_by_fd(
            program.as_fd().as_raw_fd(),
            &raw mut info,
            &raw mut length,
        )
    })?;
    let bytes = info.name.iter().map(|byte| byte.to_ne_bytes()[0]);
    let bytes: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
