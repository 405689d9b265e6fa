//! What is asked for, what the devices are, and whether the two fit: all of it checked before the
//! first socket exists.

use super::error::DeviceError;
use super::{BURST_MAX, ENCAPSULATION, ETHERNET_HEADER, FILL_RING, TRANSMIT_RING, XDP_HEADROOM};

/// Free frames that a worker keeps for itself at most, per UMEM.
pub(super) const CACHE_MAX: usize = 512;

/// Frames a worker may have in its hands: a burst, those that wait for a neighbour or for another
/// fragment, some that others have handed it, and room.
const HELD_PER_WORKER: u32 = 512;

/// Sockets that one process opens at most.
const SOCKETS_MAX: u32 = 4096;

/// The size of a huge page, in bytes. A UMEM is a whole number of them.
const HUGE_PAGE: u32 = 2 << 20;

/// The devices of a process and what they share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicesConfig {
    /// How many lanes there are, 1 to 255.
    pub workers: u8,
    /// The size of a chunk in bytes, 2048 or 4096. A packet has 256 bytes less.
    pub frame_size: u32,
    /// Frames of each UMEM, rounded up to whole huge pages; 0 computes what the rings need.
    pub umem_frames: u32,
    /// The devices, in the order of their device index.
    pub devices: Vec<DeviceConfig>,
}

/// What is asked for on one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceConfig {
    /// The device's name, as `ip link` shows it.
    pub name: String,
    /// How many receive queues it is expected to have; `None` takes what it has.
    pub queues: Option<u32>,
    /// Whether the driver reads and writes the UMEM itself. Untested on hardware.
    pub zero_copy: bool,
    /// Devices share a UMEM if this and `zero_copy` agree; frames that cross are copied.
    pub umem_group: u8,
}

impl DeviceConfig {
    /// A device with all its queues, in copy mode, in the common UMEM.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), queues: None, zero_copy: false, umem_group: 0 }
    }
}

/// What the kernel says about a device ([`super::probe`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its name.
    pub name: String,
    /// Its index in its network namespace.
    pub ifindex: u32,
    /// Its link address.
    pub mac: [u8; 6],
    /// The largest packet it carries, in bytes, Ethernet header not counted.
    pub mtu: u32,
    /// How many receive queues are in use.
    pub queues: u32,
    /// Whether `ethtool -L` sets its queues as `combined`, not as `rx` and `tx`.
    pub combined: bool,
    /// The name of its driver.
    pub driver: String,
}

impl DeviceInfo {
    /// The `ethtool` command that gives the device this many queues.
    #[must_use]
    pub fn set_queues(&self, queues: u32) -> String {
        if self.combined {
            format!("ethtool -L {} combined {queues}", self.name)
        } else {
            format!("ethtool -L {} rx {queues} tx {queues}", self.name)
        }
    }
}

/// Devices that share a UMEM.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// Their indices.
    pub(super) devices: Vec<usize>,
    pub(super) zero_copy: bool,
    /// How many frames the UMEM has.
    pub(super) frames: u32,
}

/// The memory that [`open`](super::open) takes for the frames of all devices, in bytes.
///
/// # Errors
///
/// When device and configuration do not fit, as `open` says it.
pub fn packet_memory(config: &DevicesConfig, infos: &[DeviceInfo]) -> Result<u64, DeviceError> {
    let groups = plan(config, infos)?;
    let frames: u64 = groups.iter().map(|group| u64::from(group.frames)).sum();
    Ok(frames * u64::from(config.frame_size))
}

/// Groups the devices by UMEM, or says why they cannot be opened like this.
pub(super) fn plan(
    config: &DevicesConfig,
    infos: &[DeviceInfo],
) -> Result<Vec<Group>, DeviceError> {
    check_shape(config)?;
    for (device, info) in config.devices.iter().zip(infos) {
        check_queues(device, info)?;
        check_mtu(info, config.frame_size)?;
    }
    let queues: u32 = infos.iter().map(|info| info.queues).sum();
    let sockets = queues.saturating_mul(config.workers.into());
    if sockets > SOCKETS_MAX {
        return Err(DeviceError::TooManySockets { queues, workers: config.workers, sockets });
    }
    group(config).into_iter().map(|group| size(group, config, infos)).collect()
}

fn check_shape(config: &DevicesConfig) -> Result<(), DeviceError> {
    if config.workers == 0 {
        return Err(DeviceError::NoWorkers);
    }
    if config.devices.is_empty() {
        return Err(DeviceError::NoDevices);
    }
    if !matches!(config.frame_size, 2048 | 4096) {
        return Err(DeviceError::FrameSize { frame_size: config.frame_size });
    }
    for (index, device) in config.devices.iter().enumerate() {
        if config.devices[..index].iter().any(|earlier| earlier.name == device.name) {
            return Err(DeviceError::NamedTwice { name: device.name.clone() });
        }
    }
    Ok(())
}

fn check_queues(device: &DeviceConfig, info: &DeviceInfo) -> Result<(), DeviceError> {
    let Some(wanted) = device.queues.filter(|&wanted| wanted != info.queues) else {
        return Ok(());
    };
    let name = info.name.clone();
    let queues = info.queues;
    let command = info.set_queues(wanted);
    Err(if wanted < info.queues {
        DeviceError::QueuesWithoutSocket { name, queues, wanted, command }
    } else {
        DeviceError::QueuesMissing { name, queues, wanted, command }
    })
}

/// The largest MTU whose frames fit a chunk of `frame_size` bytes (2048 or 4096), steering's
/// encapsulation included.
#[must_use]
pub const fn mtu_max(frame_size: u32) -> u32 {
    frame_size - XDP_HEADROOM - ETHERNET_HEADER - ENCAPSULATION
}

fn check_mtu(info: &DeviceInfo, frame_size: u32) -> Result<(), DeviceError> {
    if info.mtu <= mtu_max(frame_size) {
        return Ok(());
    }
    let larger = if frame_size < 4096 && info.mtu <= mtu_max(4096) {
        format!(", or set frame_size: 4096 (MTU up to {})", mtu_max(4096))
    } else {
        String::new()
    };
    Err(DeviceError::MtuTooLarge {
        name: info.name.clone(),
        mtu: info.mtu,
        frame: info.mtu.saturating_add(ETHERNET_HEADER + ENCAPSULATION),
        frame_size,
        capacity: frame_size - XDP_HEADROOM,
        mtu_max: mtu_max(frame_size),
        larger,
    })
}

fn group(config: &DevicesConfig) -> Vec<Group> {
    let key = |index: usize| {
        let device = &config.devices[index];
        (device.zero_copy, device.umem_group)
    };
    let mut groups: Vec<Group> = Vec::new();
    for index in 0..config.devices.len() {
        match groups.iter_mut().find(|group| key(group.devices[0]) == key(index)) {
            Some(group) => group.devices.push(index),
            None => groups.push(Group {
                devices: vec![index],
                zero_copy: config.devices[index].zero_copy,
                frames: 0,
            }),
        }
    }
    groups
}

/// Gives the group its frames: a full fill ring for every queue, a full transmit ring and cache for
/// every worker. Receive rings need none of their own: what is on them came off a fill ring.
fn size(
    mut group: Group,
    config: &DevicesConfig,
    infos: &[DeviceInfo],
) -> Result<Group, DeviceError> {
    let workers = u64::from(config.workers);
    let devices = group.devices.len() as u64;
    let queues: u64 = group.devices.iter().map(|&device| u64::from(infos[device].queues)).sum();
    let needed = queues * u64::from(FILL_RING)
        + workers * devices * u64::from(TRANSMIT_RING)
        + workers * (CACHE_MAX + BURST_MAX) as u64;
    if config.umem_frames > 0 && u64::from(config.umem_frames) < needed {
        return Err(DeviceError::UmemTooSmall { umem_frames: config.umem_frames, needed });
    }
    let wanted = match config.umem_frames {
        0 => needed + workers * u64::from(HELD_PER_WORKER),
        frames => frames.into(),
    };
    let rounded = wanted.next_multiple_of(u64::from(HUGE_PAGE / config.frame_size));
    group.frames = u32::try_from(rounded).map_err(|_| DeviceError::UmemTooLarge {
        frames: rounded,
        frame_size: config.frame_size,
    })?;
    Ok(group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::receive_ring;

    fn config(devices: &[&str]) -> DevicesConfig {
        DevicesConfig {
            workers: 1,
            frame_size: 2048,
            umem_frames: 0,
            devices: devices.iter().copied().map(DeviceConfig::new).collect(),
        }
    }

    fn info(name: &str) -> DeviceInfo {
        DeviceInfo {
            name: name.to_owned(),
            ifindex: 2,
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            queues: 1,
            combined: true,
            driver: "test".to_owned(),
        }
    }

    /// What `plan` says when it refuses.
    fn refusal(config: &DevicesConfig, infos: &[DeviceInfo]) -> String {
        plan(config, infos).unwrap_err().to_string()
    }

    #[test]
    fn a_queue_without_a_socket_is_refused_with_both_ways_out() {
        let mut config = config(&["eth0"]);
        config.devices[0].queues = Some(2);
        let infos = [DeviceInfo { queues: 4, ..info("eth0") }];
        assert_eq!(
            refusal(&config, &infos),
            "eth0 has 4 receive queues, the configuration names 2: a queue without a socket would \
             drop; set queues: 4 or run `ethtool -L eth0 combined 2`"
        );
    }

    #[test]
    fn more_queues_than_the_device_has_are_refused() {
        let mut config = config(&["eth0"]);
        config.devices[0].queues = Some(2);
        let infos = [DeviceInfo { combined: false, ..info("eth0") }];
        assert_eq!(
            refusal(&config, &infos),
            "eth0 has 1 receive queue, the configuration names 2: set queues: 1 or run \
             `ethtool -L eth0 rx 2 tx 2`"
        );
    }

    #[test]
    fn an_mtu_that_overflows_a_chunk_is_refused_with_what_would_fit() {
        let mut config = config(&["eth0"]);
        let jumbo = [DeviceInfo { mtu: 9000, ..info("eth0") }];
        assert_eq!(
            refusal(&config, &jumbo),
            "eth0's MTU 9000 needs 9084-byte frames, a chunk of 2048 holds 1792: lower the MTU to \
             1708"
        );
        let larger = [DeviceInfo { mtu: 3000, ..info("eth0") }];
        assert_eq!(
            refusal(&config, &larger),
            "eth0's MTU 3000 needs 3084-byte frames, a chunk of 2048 holds 1792: lower the MTU to \
             1708, or set frame_size: 4096 (MTU up to 3756)"
        );
        config.frame_size = 4096;
        assert!(plan(&config, &larger).is_ok());
    }

    #[test]
    fn the_largest_mtu_that_fits_is_taken() {
        let exact = [DeviceInfo { mtu: 1708, ..info("eth0") }];
        assert!(plan(&config(&["eth0"]), &exact).is_ok());
        let above = [DeviceInfo { mtu: 1709, ..info("eth0") }];
        assert!(plan(&config(&["eth0"]), &above).is_err());
    }

    #[test]
    fn a_umem_smaller_than_its_rings_is_refused() {
        let mut config = config(&["eth0"]);
        config.umem_frames = 4096;
        let text = refusal(&config, &[info("eth0")]);
        assert_eq!(
            text,
            "umem_frames: 4096 is too few, the rings and caches hold 6720: set 6720 or more, or 0 \
             to have it computed"
        );
        config.umem_frames = 6720;
        assert_eq!(plan(&config, &[info("eth0")]).unwrap()[0].frames, 7 * 1024);
        assert_eq!(packet_memory(&config, &[info("eth0")]).unwrap(), 7 * 1024 * 2048);
    }

    #[test]
    fn the_computed_umem_holds_every_ring_and_fills_huge_pages() {
        let mut config = config(&["eth0", "eth1"]);
        config.workers = 2;
        let infos = [DeviceInfo { queues: 2, ..info("eth0") }, info("eth1")];
        let groups = plan(&config, &infos).unwrap();
        assert_eq!(groups.len(), 1);
        assert!(groups[0].frames >= 3 * FILL_RING + 2 * 2 * TRANSMIT_RING);
        assert_eq!(groups[0].frames % 1024, 0);
    }

    #[test]
    fn receive_rings_share_half_of_a_queues_frames() {
        for (workers, size) in [(1, 2048), (2, 1024), (3, 512), (16, 128), (255, 8)] {
            assert_eq!(receive_ring(workers), size);
            assert!(u32::from(workers) * size <= FILL_RING / 2);
        }
    }

    #[test]
    fn devices_of_another_mode_or_group_have_another_umem() {
        let mut config = config(&["eth0", "eth1", "eth2", "eth3"]);
        config.devices[1].zero_copy = true;
        config.devices[2].umem_group = 1;
        let infos = ["eth0", "eth1", "eth2", "eth3"].map(info);
        let groups = plan(&config, &infos).unwrap();
        let devices: Vec<_> = groups.iter().map(|group| group.devices.as_slice()).collect();
        assert_eq!(devices, [[0, 3].as_slice(), &[1], &[2]]);
        assert_eq!(groups.iter().map(|g| g.zero_copy).collect::<Vec<_>>(), [false, true, false]);
    }

    #[test]
    fn a_configuration_without_sense_is_refused() {
        let one = [info("eth0")];
        let none = DevicesConfig { workers: 0, ..config(&["eth0"]) };
        assert!(refusal(&none, &one).contains("workers: 0"));
        assert!(refusal(&config(&[]), &[]).contains("no device"));
        let odd = DevicesConfig { frame_size: 3000, ..config(&["eth0"]) };
        assert!(refusal(&odd, &one).contains("frame_size: 3000"));
        let twice = refusal(&config(&["eth0", "eth0"]), &[info("eth0"), info("eth0")]);
        assert!(twice.contains("eth0 is named twice"), "{twice}");
        let many = DevicesConfig { workers: 255, ..config(&["eth0"]) };
        let queues = [DeviceInfo { queues: 64, ..info("eth0") }];
        assert!(refusal(&many, &queues).contains("16320 sockets"));
        let huge = DevicesConfig { umem_frames: u32::MAX, ..config(&["eth0"]) };
        assert!(refusal(&huge, &one).contains("umem_frames"));
    }
}
