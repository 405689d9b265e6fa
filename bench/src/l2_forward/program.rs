//! The XDP program that gives all IPv4 frames to the sockets.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use libbpf_rs::{MapCore as _, MapFlags};
use spillway_xdp::device::{DeviceInfo, SocketFd};

use crate::bpf;

/// redirect.bpf.c, compiled.
static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/redirect.bpf.o"));

/// The program on each device; it ends with this value.
pub(crate) struct Redirect {
    _links: Vec<OwnedFd>,
}

impl Redirect {
    /// Attaches the program to each device, with that device's sockets in its map.
    pub(crate) fn attach(
        workers: u8,
        strip_port: Option<u16>,
        devices: &[DeviceInfo],
        sockets: &[SocketFd],
    ) -> Result<Self> {
        let mut links = Vec::with_capacity(devices.len());
        for (index, device) in (0_u16..).zip(devices) {
            let of_device = sockets.iter().filter(|socket| socket.device == index);
            let link = attach(u32::from(workers), strip_port, (index, device), of_device)
                .with_context(|| format!("cannot forward on {}; needs root", device.name))?;
            links.push(link);
        }
        Ok(Self { _links: links })
    }
}

fn attach<'a>(
    workers: u32,
    strip_port: Option<u16>,
    (index, device): (u16, &DeviceInfo),
    sockets: impl Iterator<Item = &'a SocketFd>,
) -> Result<OwnedFd> {
    let mut open = bpf::open(OBJECT)?;
    {
        let mut constants = open
            .maps_mut()
            .find(|map| map.name().to_string_lossy().ends_with(".rodata"))
            .context("the program lacks its constants")?;
        let bytes = constants.initial_value_mut().context("its constants have no value")?;
        // In the order of redirect.bpf.c.
        let numbers = [workers, u32::from(index)].map(u32::to_ne_bytes);
        let values = [numbers.as_flattened(), &strip_port.unwrap_or(0).to_ne_bytes()].concat();
        bytes
            .get_mut(..values.len())
            .context("its constants are too short")?
            .copy_from_slice(&values);
    }
    let object = open.load().context("the kernel refuses the program")?;
    let map = bpf::map(&object, "xsks")?;
    for socket in sockets {
        let slot = socket.queue * workers + u32::from(socket.worker);
        map.update(&slot.to_ne_bytes(), &socket.fd.as_raw_fd().to_ne_bytes(), MapFlags::ANY)
            .with_context(|| format!("the map refuses the socket of queue {}", socket.queue))?;
    }
    let program = object.progs_mut().next().context("the object has no program")?;
    let link = program.attach_xdp(i32::try_from(device.ifindex)?)?;
    Ok(link.as_fd().try_clone_to_owned()?)
}
