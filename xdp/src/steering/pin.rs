//! What outlives the process: pinned links on a bpffs; and what ends with it: a lock per device.
//!
//! Names carry the network namespace and the interface's number, so that equal names in two
//! namespaces do not meet (and because a bpffs allows no dots, which device names may have).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::error::SteeringError;
use super::link::Link;

/// `f_type` of a bpffs, from linux/magic.h.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// How often a lock is tried for again that others only look at.
const ASKERS_MAX: u32 = 100_000;

/// The number of this thread's network namespace.
fn namespace() -> Result<u64, SteeringError> {
    const PATH: &str = "/proc/thread-self/ns/net";
    let metadata = fs::metadata(PATH);
    let metadata = metadata.map_err(|e| SteeringError::file("cannot read", PATH, e))?;
    Ok(metadata.ino())
}

/// Where the link of an interface of this network namespace is pinned.
pub(crate) fn link_path(directory: &Path, ifindex: u32) -> Result<PathBuf, SteeringError> {
    Ok(directory.join(format!("steer-{}-{ifindex}", namespace()?)))
}

/// Makes sure that `directory` exists and is a bpffs; mounts one there if it is not.
///
/// # Errors
/// When it can be neither made nor mounted.
pub fn ensure_bpffs(directory: &Path) -> Result<(), SteeringError> {
    let failed = |what| move |e| SteeringError::file(what, directory, e);
    fs::create_dir_all(directory).map_err(failed("cannot make the directory"))?;
    if is_bpffs(directory)? {
        return Ok(());
    }
    rustix::mount::mount(c"bpf", directory, c"bpf", rustix::mount::MountFlags::empty(), None)
        .map_err(|e| failed("cannot mount a bpffs on")(e.into()))
}

/// Whether `directory` exists and is on a bpffs.
///
/// # Errors
/// When the kernel does not tell.
pub fn is_bpffs(directory: &Path) -> Result<bool, SteeringError> {
    match rustix::fs::statfs(directory) {
        Ok(found) => Ok(u64::try_from(found.f_type).is_ok_and(|kind| kind == BPF_FS_MAGIC)),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(e) => Err(SteeringError::file("cannot stat", directory, e.into())),
    }
}

/// Detaches and unpins every steering program that is pinned in `directory` for this network
/// namespace: selected traffic is the kernel's again. Returns the devices' names.
///
/// # Errors
/// When a link cannot be opened, detached or unpinned; the ones before it are gone by then.
pub fn detach(directory: &Path) -> Result<Vec<String>, SteeringError> {
    let prefix = format!("steer-{}-", namespace()?);
    let entries = match fs::read_dir(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| SteeringError::file("cannot list", directory, e))?,
    };
    let mut detached = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| SteeringError::file("cannot list", directory, e))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(ifindex) = name.strip_prefix(&prefix) else { continue };
        let device = ifindex
            .parse()
            .ok()
            .and_then(crate::device::ethtool::interface_name)
            .unwrap_or_else(|| format!("interface {ifindex} (gone)"));
        Link::open(&path)?.detach(&path)?;
        fs::remove_file(&path).map_err(|e| SteeringError::file("cannot unpin", &path, e))?;
        detached.push(device);
    }
    detached.sort();
    Ok(detached)
}

/// Holds a device for this process: a second instance on it is refused. Ends with the process.
#[derive(Debug)]
pub struct DeviceLock {
    _file: File,
}

impl DeviceLock {
    /// Takes the lock of `device` in `directory`, which must exist.
    ///
    /// # Errors
    /// [`SteeringError::Locked`] when another process has it.
    pub fn take(directory: &Path, device: &str, ifindex: u32) -> Result<Self, SteeringError> {
        let path = lock_path(directory, ifindex)?;
        let failed = |e| SteeringError::file("cannot use the lock file", &path, e);
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        if !lock(&file) {
            let pid = read_pid(&mut file).map_err(failed)?;
            return Err(SteeringError::Locked { device: device.to_string(), pid, path });
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }

    /// The process that holds the lock of a device, if any does. The lock is tried for a moment in
    /// shared mode: several may ask at once.
    ///
    /// # Errors
    /// When the lock file cannot be read.
    pub fn holder(directory: &Path, ifindex: u32) -> Result<Option<String>, SteeringError> {
        let path = lock_path(directory, ifindex)?;
        let failed = |e| SteeringError::file("cannot use the lock file", &path, e);
        let mut file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(None),
            Err(rustix::io::Errno::WOULDBLOCK) => read_pid(&mut file).map(Some).map_err(failed),
            Err(e) => Err(failed(e.into())),
        }
    }
}

/// Takes a lock for oneself, if no router has it. One that asks who has it, as [`DeviceLock::holder`]
/// does, is waited for: it lets go at once, and shares it meanwhile.
fn lock(file: &File) -> bool {
    for _ in 0..ASKERS_MAX {
        if rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return true;
        }
        if rustix::fs::flock(file, FlockOperation::NonBlockingLockShared).is_err() {
            return false;
        }
        let _ = rustix::fs::flock(file, FlockOperation::Unlock);
        std::thread::yield_now();
    }
    false
}

fn lock_path(directory: &Path, ifindex: u32) -> Result<PathBuf, SteeringError> {
    Ok(directory.join(format!("{}-{ifindex}.lock", namespace()?)))
}

/// The number of the process that has a lock file, in words.
fn read_pid(file: &mut File) -> io::Result<String> {
    let mut pid = String::new();
    file.read_to_string(&mut pid)?;
    Ok(if pid.trim().is_empty() { "unknown" } else { pid.trim() }.to_string())
}
