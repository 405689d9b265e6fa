//! Opening one socket, and what is asked of it later.

use std::error::Error;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::{DupFlags, FdFlags, dup3, fcntl_dupfd_cloexec, fcntl_setfd};
use xsk_rs::config::{Interface, SocketConfig};
use xsk_rs::socket::Fd;
use xsk_rs::{CompQueue, FillQueue, RxQueue, Socket, TxQueue, Umem};

use super::TRANSMIT_RING;

/// How long a queue may stay busy: the kernel frees it 10 to 35 ms after its last socket closed.
const BUSY_MAX: Duration = Duration::from_secs(1);

/// How long to wait between two tries. There is no event to wait for.
const BUSY_RETRY: Duration = Duration::from_millis(10);

/// linux/if_xdp.h since 6.17: how many frames one system call transmits in copy mode.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// A receive socket, for the steering map and for its statistics. It stays bound as long as this
/// or its lane lives.
#[derive(Debug)]
pub struct SocketFd {
    /// The device's index.
    pub device: u16,
    /// The receive queue.
    pub queue: u32,
    /// The worker that receives on it.
    pub worker: u8,
    /// The socket.
    pub fd: OwnedFd,
}

impl SocketFd {
    /// What the kernel has counted for this socket. Any thread may ask at any time.
    ///
    /// # Errors
    ///
    /// When the kernel does not answer.
    pub fn statistics(&self) -> io::Result<SocketStatistics> {
        let counted = rustix::net::sockopt::xdp_statistics(&self.fd)?;
        Ok(SocketStatistics {
            rx_dropped: counted.rx_dropped,
            // Kernels before 5.9 do not count these two.
            rx_ring_full: counted.rx_ring_full.unwrap_or_default(),
            fill_ring_empty: counted.rx_fill_ring_empty_descs.unwrap_or_default(),
            rx_invalid_descriptors: counted.rx_invalid_descs,
            tx_invalid_descriptors: counted.tx_invalid_descs,
        })
    }
}

impl AsFd for SocketFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What the kernel counts for a socket, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketStatistics {
    /// Dropped on the way to the receive ring, `fill_ring_empty` included but not `rx_ring_full`.
    pub rx_dropped: u64,
    /// Dropped because the worker was too slow: its receive ring was full.
    pub rx_ring_full: u64,
    /// Found no free frame. Counted per queue: every socket of the queue reports the same.
    pub fill_ring_empty: u64,
    /// Descriptors on the fill ring that the kernel refused: a fault.
    pub rx_invalid_descriptors: u64,
    /// Descriptors on the transmit ring that the kernel refused: a fault.
    pub tx_invalid_descriptors: u64,
}

/// The rings of a new socket; fill and completion ring only of the first on its queue.
pub(super) type Rings = (TxQueue, RxQueue, Option<(FillQueue, CompQueue)>);

/// Opens a socket, waiting a bounded time for a queue that is just being freed.
pub(super) fn create(
    umem: &Umem,
    device: &Interface,
    queue: u32,
    config: SocketConfig,
) -> io::Result<Rings> {
    let deadline = Instant::now() + BUSY_MAX;
    loop {
        // SAFETY: every frame of the UMEM is outside all rings until the sockets exist, and from
        // then on in one place only (see `Pool`).
        let result = unsafe { Socket::new(config, umem, device, queue) };
        let error = match result {
            Ok(rings) => {
                // The library opens sockets that a child process would inherit, and keep bound.
                fcntl_setfd(borrow(rings.1.fd()), FdFlags::CLOEXEC)?;
                return Ok(rings);
            }
            Err(error) => os_error(&error),
        };
        if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() >= deadline {
            return Err(error);
        }
        thread::sleep(BUSY_RETRY);
    }
}

/// Runs `create` while the UMEM's descriptor means `first`, the first socket of the queue.
///
/// A further socket of a queue must name a socket of the same queue as the one it shares with, but
/// libxdp always names the UMEM's own: the kernel answers EINVAL. So for a moment that number is
/// made to mean the right socket. Nothing else uses the number: lanes do not exist yet.
pub(super) fn sharing_with<T>(
    first: BorrowedFd<'_>,
    umem_fd: RawFd,
    create: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    if first.as_raw_fd() == umem_fd {
        return create();
    }
    // SAFETY: the UMEM owns this descriptor and lives longer; it is not closed here.
    let mut umem_fd = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(umem_fd) });
    let saved = fcntl_dupfd_cloexec(&*umem_fd, 3)?;
    dup3(first, &mut umem_fd, DupFlags::CLOEXEC)?;
    let created = create();
    dup3(&saved, &mut umem_fd, DupFlags::CLOEXEC)?;
    created
}

/// Lets one system call transmit a whole ring. Older kernels do not know it, and are asked more
/// often instead.
pub(super) fn raise_transmit_budget(socket: BorrowedFd<'_>) {
    let budget = TRANSMIT_RING;
    // SAFETY: the option reads a 32-bit number.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            XDP_MAX_TX_SKB_BUDGET,
            std::ptr::from_ref(&budget).cast(),
            size_of_val(&budget).try_into().unwrap_or_default(),
        )
    };
    if result < 0 {
        tracing::debug!("transmit budget stays at 32 frames: {}", io::Error::last_os_error());
    }
}

/// The descriptor behind one of the library's sockets.
pub(super) fn borrow(fd: &Fd) -> BorrowedFd<'_> {
    // SAFETY: the ring that lent `fd` keeps its socket open, and is borrowed as long.
    unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }
}

/// The kernel's answer inside an error of the library.
fn os_error(error: &(dyn Error + 'static)) -> io::Error {
    error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error)
        .map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}
