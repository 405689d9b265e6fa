//! The attachment of a program to a device, as a `bpf_link`: what keeps the program there, and
//! what can be given another program without a gap.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use libbpf_rs::libbpf_sys;

use super::error::SteeringError;

/// From linux/if_link.h.
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const XDP_ATTACHED_SKB: u8 = 2;

/// Where in the kernel the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver, before the kernel has made anything of the frame.
    Native,
    /// In the stack, on any device, slower.
    Generic,
}

impl AttachMode {
    /// `native` or `generic`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// An attached program.
#[derive(Debug)]
pub(crate) struct Link {
    fd: OwnedFd,
}

/// A negative return of libbpf's as an error.
pub(crate) fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
}

/// `path` for a system call; the kernel refuses what a path with a NUL would be cut to.
fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

impl Link {
    /// Attaches `program` to an interface that has none.
    pub(crate) fn create(
        program: BorrowedFd<'_>,
        ifindex: u32,
        mode: AttachMode,
    ) -> io::Result<Self> {
        let flags = match mode {
            AttachMode::Native => XDP_FLAGS_DRV_MODE,
            AttachMode::Generic => XDP_FLAGS_SKB_MODE,
        };
        let options = libbpf_sys::bpf_link_create_opts {
            sz: size_of::<libbpf_sys::bpf_link_create_opts>() as libbpf_sys::size_t,
            flags,
            ..Default::default()
        };
        let interface = i32::try_from(ifindex).map_err(io::Error::other)?;
        // SAFETY: `options` outlives the call and says its own size; the descriptors are only
        // numbers to the kernel.
        let fd = check(unsafe {
            libbpf_sys::bpf_link_create(
                program.as_raw_fd(),
                interface,
                libbpf_sys::BPF_XDP,
                &raw const options,
            )
        })?;
        // SAFETY: the kernel just made this descriptor for us, nobody else has it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Opens a pinned link.
    pub(crate) fn open(path: &Path) -> Result<Self, SteeringError> {
        let name = c_path(path);
        // SAFETY: `name` is a NUL-terminated string that outlives the call.
        let fd = check(unsafe { libbpf_sys::bpf_obj_get(name.as_ptr()) })
            .map_err(|e| SteeringError::file("cannot open the pinned link", path, e))?;
        // SAFETY: the kernel just made this descriptor for us, nobody else has it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Pins the link, so that it outlives the process.
    pub(crate) fn pin(&self, path: &Path) -> Result<(), SteeringError> {
        let name = c_path(path);
        // SAFETY: `name` is a NUL-terminated string that outlives the call.
        check(unsafe { libbpf_sys::bpf_obj_pin(self.fd.as_raw_fd(), name.as_ptr()) })
            .map_err(|e| SteeringError::file("cannot pin the link as", path, e))?;
        Ok(())
    }

    /// The number of the program that is attached by it.
    pub(crate) fn program(&self) -> io::Result<u32> {
        let mut info = libbpf_sys::bpf_link_info::default();
        let mut length = u32::try_from(size_of_val(&info)).unwrap_or_default();
        // SAFETY: `info` outlives the call, which is told its size.
        check(unsafe {
            libbpf_sys::bpf_link_get_info_by_fd(self.fd.as_raw_fd(), &raw mut info, &raw mut length)
        })?;
        Ok(info.prog_id)
    }

    /// Puts `program` in the place of the one that is there: no frame meets none or both.
    pub(crate) fn replace(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: no options; the descriptors are only numbers to the kernel.
        check(unsafe {
            libbpf_sys::bpf_link_update(self.fd.as_raw_fd(), program.as_raw_fd(), std::ptr::null())
        })?;
        Ok(())
    }

    /// Takes the program off the device; a device that is gone took it along.
    pub(crate) fn detach(&self, path: &Path) -> Result<(), SteeringError> {
        // SAFETY: the descriptor is only a number to the kernel.
        match check(unsafe { libbpf_sys::bpf_link_detach(self.fd.as_raw_fd()) }) {
            Err(e) if e.raw_os_error() == Some(libc::ENOLINK) => Ok(()),
            Err(e) => Err(SteeringError::file("cannot detach the link", path, e)),
            Ok(_) => Ok(()),
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// From linux/netdev.h: the driver runs a program's verdicts, and its redirections.
const XDP_FEATURES_NATIVE: u64 = 0b11;

/// From linux/netdev.h: the driver reads and writes a UMEM itself.
const XDP_FEATURE_ZERO_COPY: u64 = 1 << 3;

/// What the kernel says of XDP on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Queried {
    /// The number of the program that is there, if any, and where it runs.
    pub(crate) program: Option<(u32, AttachMode)>,
    /// Whether the driver has native XDP. Kernels before 6.3 do not tell: then `false`.
    pub(crate) native: bool,
    /// Whether the driver does without copying. Kernels before 6.3 do not tell: then `false`.
    pub(crate) zero_copy: bool,
}

/// Asks the kernel about XDP on an interface.
pub(crate) fn query(ifindex: u32) -> io::Result<Queried> {
    let mut options = libbpf_sys::bpf_xdp_query_opts {
        sz: size_of::<libbpf_sys::bpf_xdp_query_opts>() as libbpf_sys::size_t,
        ..Default::default()
    };
    let interface = i32::try_from(ifindex).map_err(io::Error::other)?;
    // SAFETY: `options` outlives the call and says its own size.
    check(unsafe { libbpf_sys::bpf_xdp_query(interface, 0, &raw mut options) })?;
    let mode = match options.attach_mode {
        XDP_ATTACHED_SKB => AttachMode::Generic,
        _ => AttachMode::Native,
    };
    let features = options.feature_flags;
    Ok(Queried {
        program: (options.prog_id != 0).then_some((options.prog_id, mode)),
        native: features & XDP_FEATURES_NATIVE == XDP_FEATURES_NATIVE,
        zero_copy: features & XDP_FEATURE_ZERO_COPY != 0,
    })
}
