//! What can go wrong with devices: each says what, where, and what to do.

use std::io;

use super::FILL_RING;

/// Why the devices could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// No such device.
    #[error(
        "device {name} does not exist in this network namespace: name one that `ip link` lists"
    )]
    NotFound {
        /// The name asked for.
        name: String,
    },
    /// A device whose frames have no Ethernet header.
    #[error("{name} is not an Ethernet device: Spillway needs one that carries Ethernet frames")]
    NotEthernet {
        /// The device.
        name: String,
    },
    /// The kernel did not tell something.
    #[error("cannot ask the kernel for {what} of {name}: {source}")]
    Query {
        /// The device.
        name: String,
        /// What was asked.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Segment merging could not be switched off.
    #[error(
        "cannot switch off {feature} on {name}: {source}; merged segments do not fit a frame: \
         switch it off with `ethtool -K {name} {feature} off`"
    )]
    Offload {
        /// The device.
        name: String,
        /// `gro` or `lro`.
        feature: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// `workers` is zero.
    #[error("workers: 0 leaves nobody to forward: set 1 or more")]
    NoWorkers,
    /// The list of devices is empty.
    #[error("the configuration names no device: list at least one under `devices`")]
    NoDevices,
    /// A device is listed more than once.
    #[error("device {name} is named twice: list it once")]
    NamedTwice {
        /// The device.
        name: String,
    },
    /// A chunk size that the kernel or this crate does not know.
    #[error("frame_size: {frame_size} is not a chunk size: set 2048 or 4096")]
    FrameSize {
        /// The size asked for, in bytes.
        frame_size: u32,
    },
    /// Fewer queues named than the device receives on.
    #[error(
        "{name} has {queues} receive queues, the configuration names {wanted}: a queue without a \
         socket would drop; set queues: {queues} or run `{command}`"
    )]
    QueuesWithoutSocket {
        /// The device.
        name: String,
        /// What it has.
        queues: u32,
        /// What was asked for.
        wanted: u32,
        /// What gives the device as many.
        command: String,
    },
    /// More queues named than the device has.
    #[error(
        "{name} has {queues} receive queue{}, the configuration names {wanted}: set queues: \
         {queues} or run `{command}`", if *.queues == 1 { "" } else { "s" }
    )]
    QueuesMissing {
        /// The device.
        name: String,
        /// What it has.
        queues: u32,
        /// What was asked for.
        wanted: u32,
        /// What gives the device as many.
        command: String,
    },
    /// Frames that may not fit a chunk.
    #[error(
        "{name}'s MTU {mtu} needs {frame}-byte frames, a chunk of {frame_size} holds {capacity}: \
         lower the MTU to {mtu_max}{larger}"
    )]
    MtuTooLarge {
        /// The device.
        name: String,
        /// Its MTU.
        mtu: u32,
        /// The largest frame, encapsulated.
        frame: u32,
        /// The chunk size.
        frame_size: u32,
        /// What of a chunk a frame can use.
        capacity: u32,
        /// The largest MTU for this chunk size.
        mtu_max: u32,
        /// The other way out, if there is one.
        larger: String,
    },
    /// The socket matrix is too large.
    #[error(
        "{queues} receive queues times {workers} workers are {sockets} sockets, more than 4096: \
         lower `workers`, or the queues with `ethtool -L`"
    )]
    TooManySockets {
        /// Queues of all devices.
        queues: u32,
        /// Workers.
        workers: u8,
        /// Their product.
        sockets: u32,
    },
    /// The UMEM cannot fill its rings.
    #[error(
        "umem_frames: {umem_frames} is too few, the rings and caches hold {needed}: set {needed} \
         or more, or 0 to have it computed"
    )]
    UmemTooSmall {
        /// What was asked for.
        umem_frames: u32,
        /// What the rings need.
        needed: u64,
    },
    /// More frames than can be counted.
    #[error("{frames} frames of {frame_size} bytes are too many: lower umem_frames or `workers`")]
    UmemTooLarge {
        /// Frames, rounded.
        frames: u64,
        /// The chunk size.
        frame_size: u32,
    },
    /// The kernel refused the UMEM.
    #[error("cannot make a UMEM of {frames} frames of {frame_size} bytes: {reason}")]
    Umem {
        /// Frames.
        frames: u32,
        /// The chunk size.
        frame_size: u32,
        /// What the library and the kernel say.
        reason: String,
    },
    /// Another AF_XDP socket has the queue.
    #[error(
        "queue {queue} of {name} is in use by another AF_XDP socket: another Spillway or another \
         program has it; `ss --xdp -ep` names it, stop it first"
    )]
    Busy {
        /// The device.
        name: String,
        /// The queue.
        queue: u32,
    },
    /// The driver has no zero-copy mode.
    #[error("{name} (driver {driver}) cannot do zero-copy ({source}): set zero_copy: false for it")]
    NoZeroCopy {
        /// The device.
        name: String,
        /// Its driver.
        driver: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused a socket.
    #[error(
        "cannot open the AF_XDP socket of worker {worker} on queue {queue} of {name}: {source}"
    )]
    Socket {
        /// The device.
        name: String,
        /// The queue.
        queue: u32,
        /// The worker.
        worker: u8,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A fill ring took fewer frames than it has room for.
    #[error("the fill ring of queue {queue} of {name} did not take its {FILL_RING} frames")]
    Fill {
        /// The device.
        name: String,
        /// The queue.
        queue: u32,
    },
}
