//! Opening: from a configuration to lanes.

use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use rustix::io::fcntl_dupfd_cloexec;
use xsk_rs::config::{
    BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, QueueSizeError, SocketConfig,
    UmemConfig,
};
use xsk_rs::{FrameDesc, RxQueue, TxQueue, Umem};

use super::cache::Cache;
use super::config::{DeviceInfo, DevicesConfig, Group, plan};
use super::error::DeviceError;
use super::lane::Lane;
use super::pool::{Pool, SharedPool};
use super::receiver::Receiver;
use super::rings::QueueRings;
use super::socket::{SocketFd, borrow, create, raise_transmit_budget, sharing_with};
use super::transmitter::Transmitter;
use super::{COMPLETION_RING, FILL_RING, TRANSMIT_RING, receive_ring};

/// Opens every device of the configuration: `infos` are what [`probe`](super::probe) says about
/// each, in the same order. Returns a lane per worker, and a descriptor of every receive socket.
///
/// Works in the calling thread's network namespace, and must be called before another thread makes
/// use of the sockets. Nothing is received until the sockets are in the steering map.
///
/// # Errors
///
/// When device and configuration do not fit, a queue is in use, or the kernel refuses. All that was
/// opened is closed again.
pub fn open(
    config: &DevicesConfig,
    infos: &[DeviceInfo],
) -> Result<(Vec<Lane>, Vec<SocketFd>), DeviceError> {
    assert_eq!(config.devices.len(), infos.len(), "one description for each device");
    let groups = plan(config, infos)?;
    let mut lanes: Vec<LaneParts> = (0..config.workers).map(LaneParts::new).collect();
    let mut sockets = Vec::new();
    for group in &groups {
        open_group(config, infos, group, &mut lanes, &mut sockets)?;
    }
    sockets.sort_by_key(|socket| (socket.device, socket.queue, socket.worker));
    Ok((lanes.into_iter().map(LaneParts::finish).collect(), sockets))
}

/// A lane in the making.
struct LaneParts {
    worker: u8,
    caches: Vec<Cache>,
    receivers: Vec<Receiver>,
    /// By device index, which is not the order in which groups are opened.
    transmitters: Vec<(usize, Transmitter)>,
    /// Frames put on fill rings in its name.
    filled: u64,
}

impl LaneParts {
    fn new(worker: u8) -> Self {
        Self { worker, caches: vec![], receivers: vec![], transmitters: vec![], filled: 0 }
    }

    fn finish(mut self) -> Lane {
        self.transmitters.sort_by_key(|&(device, _)| device);
        let transmitters = self.transmitters.into_iter().map(|(_, ring)| ring).collect();
        Lane::new(self.worker, self.caches, self.receivers, transmitters, self.filled)
    }
}

/// One socket of the matrix.
struct Cell {
    device: usize,
    queue: u32,
    worker: u8,
    transmit: TxQueue,
    receive: RxQueue,
    rings: Arc<QueueRings>,
}

/// Opens the devices that share one UMEM.
fn open_group(
    config: &DevicesConfig,
    infos: &[DeviceInfo],
    group: &Group,
    lanes: &mut [LaneParts],
    sockets: &mut Vec<SocketFd>,
) -> Result<(), DeviceError> {
    let (umem, frames) = make_umem(config.frame_size, group.frames)?;
    let mut cells = Vec::new();
    for &device in &group.devices {
        for queue in 0..infos[device].queues {
            open_queue(&umem, group, (device, &infos[device]), queue, config.workers, &mut cells)?;
        }
    }
    let filled = fill(&cells, infos, &frames)?;
    let pool = Arc::new(SharedPool::new(Pool::new(umem, group.frames)));
    pool.add(&frames[filled..]);
    for lane in lanes.iter_mut() {
        lane.caches.push(Cache::new(pool.clone()));
    }
    lanes[0].filled += filled as u64;
    for cell in cells {
        sockets.push(descriptor(&cell, &infos[cell.device])?);
        place(cell, infos, &mut lanes[..]);
    }
    Ok(())
}

/// Makes the UMEM, on huge pages if there are any.
fn make_umem(frame_size: u32, frames: u32) -> Result<(Umem, Vec<FrameDesc>), DeviceError> {
    let failed = |reason: String| DeviceError::Umem { frames, frame_size, reason };
    let count = NonZeroU32::new(frames).ok_or_else(|| failed("it has no frames".to_owned()))?;
    let config = UmemConfig::builder()
        .frame_size(FrameSize::new(frame_size).map_err(|e| failed(e.to_string()))?)
        .fill_queue_size(ring(FILL_RING).map_err(|e| failed(e.to_string()))?)
        .comp_queue_size(ring(COMPLETION_RING).map_err(|e| failed(e.to_string()))?)
        .build()
        .map_err(|e| failed(e.to_string()))?;
    Umem::new(config, count, true)
        .or_else(|error| {
            tracing::info!(
                "no huge pages for {frames} frames of {frame_size} bytes, using small ones: {error}"
            );
            Umem::new(config, count, false)
        })
        .map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            failed(cause.unwrap_or_else(|| error.to_string()))
        })
}

fn ring(size: u32) -> Result<QueueSize, QueueSizeError> {
    QueueSize::new(size)
}

/// Opens every worker's socket on one queue.
fn open_queue(
    umem: &Umem,
    group: &Group,
    (device, info): (usize, &DeviceInfo),
    queue: u32,
    workers: u8,
    cells: &mut Vec<Cell>,
) -> Result<(), DeviceError> {
    let interface: Interface =
        info.name.parse().map_err(|_| DeviceError::NotFound { name: info.name.clone() })?;
    let umem_fd: Option<RawFd> = cells.first().map(|cell| cell.receive.fd().as_raw_fd());
    let first_of_queue = cells.len();
    for worker in 0..workers {
        let refused = |source| refusal(source, info, group.zero_copy, queue, worker);
        let config = socket_config(group.zero_copy, workers, transmits_on(worker, queue, info))
            .map_err(|error| refused(std::io::Error::other(error.to_string())))?;
        let create = || create(umem, &interface, queue, config);
        let first = cells.get(first_of_queue).map(|cell| borrow(cell.receive.fd()));
        let created = match (first, umem_fd) {
            (Some(first), Some(umem_fd)) => sharing_with(first, umem_fd, create),
            _ => create(),
        };
        let (transmit, receive, rings) = created.map_err(refused)?;
        let rings = match (rings, cells.get(first_of_queue)) {
            (Some((fill, completion)), None) => Arc::new(QueueRings::new(fill, completion)),
            (None, Some(first)) => first.rings.clone(),
            _ => {
                let source = std::io::Error::other("the library mixed up the queue's rings");
                return Err(refused(source));
            }
        };
        cells.push(Cell { device, queue, worker, transmit, receive, rings });
    }
    Ok(())
}

/// Whether this is the queue that the worker transmits on.
fn transmits_on(worker: u8, queue: u32, info: &DeviceInfo) -> bool {
    u32::from(worker) % info.queues == queue
}

fn socket_config(
    zero_copy: bool,
    workers: u8,
    transmits: bool,
) -> Result<SocketConfig, QueueSizeError> {
    let mode = if zero_copy { BindFlags::XDP_ZEROCOPY } else { BindFlags::XDP_COPY };
    Ok(SocketConfig::builder()
        .rx_queue_size(ring(receive_ring(workers))?)
        // The library makes a transmit ring for every socket: the least, where it is not used.
        .tx_queue_size(ring(if transmits { TRANSMIT_RING } else { 1 })?)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(mode | BindFlags::XDP_USE_NEED_WAKEUP)
        .build())
}

/// What the kernel's refusal of a socket means.
fn refusal(
    source: std::io::Error,
    info: &DeviceInfo,
    zero_copy: bool,
    queue: u32,
    worker: u8,
) -> DeviceError {
    let name = info.name.clone();
    match source.raw_os_error() {
        Some(libc::EBUSY) => DeviceError::Busy { name, queue },
        Some(libc::EOPNOTSUPP | libc::EINVAL) if zero_copy => {
            DeviceError::NoZeroCopy { name, driver: info.driver.clone(), source }
        }
        Some(libc::ENODEV) => DeviceError::NotFound { name },
        _ => DeviceError::Socket { name, queue, worker, source },
    }
}

/// Fills every queue's fill ring; returns how many of the frames that took.
fn fill(cells: &[Cell], infos: &[DeviceInfo], frames: &[FrameDesc]) -> Result<usize, DeviceError> {
    let mut used = 0;
    for cell in cells.iter().filter(|cell| cell.worker == 0) {
        let share = &frames[used..used + FILL_RING as usize];
        // SAFETY: fresh frames of the same UMEM, each put on one ring only.
        let taken = unsafe { cell.rings.fill().produce(share) };
        if taken != share.len() {
            let name = infos[cell.device].name.clone();
            return Err(DeviceError::Fill { name, queue: cell.queue });
        }
        used += taken;
    }
    Ok(used)
}

/// A descriptor of the cell's socket that lives on its own.
fn descriptor(cell: &Cell, info: &DeviceInfo) -> Result<SocketFd, DeviceError> {
    let &Cell { device, queue, worker, .. } = cell;
    let fd = fcntl_dupfd_cloexec(borrow(cell.receive.fd()), 3).map_err(|errno| {
        DeviceError::Socket { name: info.name.clone(), queue, worker, source: errno.into() }
    })?;
    // There are at most SOCKETS_MAX devices.
    Ok(SocketFd { device: u16::try_from(device).unwrap_or(u16::MAX), queue, worker, fd })
}

/// Gives the cell's rings to its worker's lane. A transmit ring on another queue than the worker's
/// is let go.
fn place(cell: Cell, infos: &[DeviceInfo], lanes: &mut [LaneParts]) {
    let lane = &mut lanes[usize::from(cell.worker)];
    let cache = lane.caches.len() - 1;
    lane.receivers.push(Receiver::new(cell.receive, cell.rings.clone(), cache));
    if transmits_on(cell.worker, cell.queue, &infos[cell.device]) {
        raise_transmit_budget(borrow(cell.transmit.fd()));
        let transmitter = Transmitter::new(cell.transmit, cell.rings, cache);
        lane.transmitters.push((cell.device, transmitter));
    }
}
