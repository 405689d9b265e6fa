//! AF_XDP devices: frames in, frames out, and every frame accounted for.
//!
//! [`open`] makes one UMEM, a receive socket for each (device, queue, worker), and one [`Lane`] per
//! worker: that worker's receive sockets, a transmit ring on every device, and its cache of free
//! frames. `README.md` beside this file draws a frame's life and says who owns it when.

mod cache;
mod config;
mod error;
pub mod ethtool;
mod frame;
mod lane;
mod open;
mod pool;
mod receiver;
mod rings;
mod socket;
mod statistics;
mod transmitter;

pub use config::{DeviceConfig, DeviceInfo, DevicesConfig, mtu_max, packet_memory};
pub use error::DeviceError;
pub use ethtool::probe;
pub use frame::Frame;
pub use lane::{Lane, ReceivedBurst};
pub use open::open;
pub use socket::{SocketFd, SocketStatistics};
pub use statistics::{Accounting, LaneStatistics};

/// How many frames one receive takes from one socket at most.
pub const BURST_MAX: usize = 64;

/// Descriptors of a fill ring: how many frames wait for packets on each receive queue.
pub const FILL_RING: u32 = 4096;

/// Descriptors of all receive rings of a queue together. It is half of the fill ring, so that
/// workers who do not keep up cannot hold all of a queue's frames and starve the others.
pub const RECEIVE_RINGS: u32 = FILL_RING / 2;

/// Descriptors of a transmit ring, one per (device, worker).
pub const TRANSMIT_RING: u32 = 2048;

/// Descriptors of a completion ring. Workers that share a transmit queue share it.
pub const COMPLETION_RING: u32 = 4096;

/// What the kernel keeps free in front of every received frame, in bytes.
pub const XDP_HEADROOM: u32 = 256;

/// Descriptors of one receive ring: an equal share for each worker, as a ring's size can be.
#[must_use]
pub const fn receive_ring(workers: u8) -> u32 {
    1 << (RECEIVE_RINGS / if workers == 0 { 1 } else { workers as u32 }).ilog2()
}

/// The Ethernet header, in bytes.
const ETHERNET_HEADER: u32 = 14;

/// What steering puts in front of a reply at most, and takes from a tunnel frame, in bytes: outer
/// Ethernet, IPv6, UDP and VXLAN headers. Whether tunnels go over IPv6 is not known at start.
const ENCAPSULATION: u32 = 70;
