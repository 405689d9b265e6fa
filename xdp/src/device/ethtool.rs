//! What the kernel says about a device, asked by ioctl.
//!
//! Not from /sys: that shows the devices of the namespace it was mounted in, which need not be the
//! one this process is in. Every function works in the calling thread's network namespace.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::config::DeviceInfo;
use super::error::DeviceError;

/// Numbers of linux/ethtool.h.
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_SGRO: u32 = 0x2c;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETH_FLAG_LRO: u32 = 1 << 15;

/// struct ethtool_value.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// struct ethtool_drvinfo, of which only the driver's name is read.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// struct ethtool_channels.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    receive_max: u32,
    transmit_max: u32,
    other_max: u32,
    combined_max: u32,
    receive: u32,
    transmit: u32,
    other: u32,
    combined: u32,
}

/// Structs that the ethtool ioctl reads and writes.
///
/// # Safety
///
/// The type has the layout that linux/ethtool.h gives the struct of every command it is used with,
/// and every bit pattern is a value of it.
unsafe trait EthtoolStruct {}
// SAFETY: struct ethtool_value: two __u32.
unsafe impl EthtoolStruct for Value {}
// SAFETY: struct ethtool_drvinfo: 196 bytes, checked below; bytes and one __u32.
unsafe impl EthtoolStruct for DriverInfo {}
// SAFETY: struct ethtool_channels: nine __u32.
unsafe impl EthtoolStruct for Channels {}
const _: () = assert!(size_of::<DriverInfo>() == 196 && size_of::<Channels>() == 36);

/// Asks the kernel about a device in the calling thread's network namespace.
///
/// # Errors
///
/// When the device does not exist, is no Ethernet device, or a question fails.
pub fn probe(name: &str) -> Result<DeviceInfo, DeviceError> {
    let control = Control::open(name)?;
    let ifindex = rustix::net::netdevice::name_to_index(control.socket.as_fd(), name)
        .map_err(|_| DeviceError::NotFound { name: name.to_owned() })?;
    let (queues, combined) = control.queues()?;
    Ok(DeviceInfo {
        name: name.to_owned(),
        ifindex,
        mac: control.mac()?,
        mtu: control.mtu()?,
        queues,
        combined,
        driver: control.driver()?,
    })
}

/// Which of a device's received packets are merged before anybody sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merging {
    /// By the kernel: generic receive offload.
    pub gro: bool,
    /// By the hardware: large receive offload.
    pub lro: bool,
}

/// Asks whether a device merges segments that it receives.
///
/// # Errors
///
/// When the device does not exist, or the kernel does not tell.
pub fn merging(name: &str) -> Result<Merging, DeviceError> {
    let control = Control::open(name)?;
    let is_on = |get, bits| control.is_on(get, bits).map_err(control.failed("the offloads"));
    Ok(Merging { gro: is_on(ETHTOOL_GGRO, u32::MAX)?, lro: is_on(ETHTOOL_GFLAGS, ETH_FLAG_LRO)? })
}

/// Switches GRO and LRO off: merged segments do not fit a frame in generic mode.
///
/// # Errors
///
/// When the device does not exist, or stays with one of them on.
pub fn set_gro_lro_off(name: &str) -> Result<(), DeviceError> {
    let control = Control::open(name)?;
    let failed =
        |feature| move |source| DeviceError::Offload { name: name.to_owned(), feature, source };
    control.switch_off(ETHTOOL_GGRO, ETHTOOL_SGRO, u32::MAX).map_err(failed("gro"))?;
    control.switch_off(ETHTOOL_GFLAGS, ETHTOOL_SFLAGS, ETH_FLAG_LRO).map_err(failed("lro"))
}

/// The name of the device with this index, if there is one.
#[must_use]
pub fn interface_name(ifindex: u32) -> Option<String> {
    rustix::net::netdevice::index_to_name(control_socket().ok()?, ifindex).ok()
}

/// A socket to ask the kernel through.
fn control_socket() -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
}

/// A socket to ask through, and the device to ask about.
struct Control<'a> {
    socket: OwnedFd,
    name: &'a str,
}

impl<'a> Control<'a> {
    fn open(name: &'a str) -> Result<Self, DeviceError> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('\0') {
            return Err(DeviceError::NotFound { name: name.to_owned() });
        }
        let socket = control_socket().map_err(|errno| DeviceError::Query {
            name: name.to_owned(),
            what: "the properties",
            source: errno.into(),
        })?;
        Ok(Self { socket, name })
    }

    fn mtu(&self) -> Result<u32, DeviceError> {
        let mut request = self.request();
        self.ioctl(libc::SIOCGIFMTU, &mut request).map_err(self.failed("the MTU"))?;
        // SAFETY: after SIOCGIFMTU the union holds the MTU.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        Ok(u32::try_from(mtu).unwrap_or_default())
    }

    fn mac(&self) -> Result<[u8; 6], DeviceError> {
        let mut request = self.request();
        self.ioctl(libc::SIOCGIFHWADDR, &mut request).map_err(self.failed("the link address"))?;
        // SAFETY: after SIOCGIFHWADDR the union holds the link address.
        let address = unsafe { request.ifr_ifru.ifru_hwaddr };
        if address.sa_family != libc::ARPHRD_ETHER {
            return Err(DeviceError::NotEthernet { name: self.name.to_owned() });
        }
        let mut mac = [0; 6];
        for (byte, &source) in mac.iter_mut().zip(&address.sa_data) {
            *byte = source.to_ne_bytes()[0];
        }
        Ok(mac)
    }

    fn driver(&self) -> Result<String, DeviceError> {
        let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
        self.ethtool(&mut info).map_err(self.failed("the driver"))?;
        let end = info.driver.iter().position(|&byte| byte == 0).unwrap_or(info.driver.len());
        Ok(String::from_utf8_lossy(&info.driver[..end]).into_owned())
    }

    /// The receive queues in use, and whether they are `combined` ones. A driver that knows no
    /// channels has one queue.
    fn queues(&self) -> Result<(u32, bool), DeviceError> {
        let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
        match self.ethtool(&mut channels) {
            Ok(()) => Ok(((channels.receive + channels.combined).max(1), channels.combined > 0)),
            Err(error) if is_unsupported(&error) => Ok((1, true)),
            Err(error) => Err(self.failed("the receive queues")(error)),
        }
    }

    /// A setting. A device that does not know it does not have it on.
    fn setting(&self, get: u32) -> io::Result<u32> {
        let mut value = Value { command: get, data: 0 };
        match self.ethtool(&mut value) {
            Err(error) if is_unsupported(&error) => Ok(0),
            result => result.map(|()| value.data),
        }
    }

    /// Whether any of `bits` of a setting is set.
    fn is_on(&self, get: u32, bits: u32) -> io::Result<bool> {
        Ok(self.setting(get)? & bits != 0)
    }

    /// Clears `bits` of a setting and checks that they are clear.
    fn switch_off(&self, get: u32, set: u32, bits: u32) -> io::Result<()> {
        let data = self.setting(get)?;
        if data & bits == 0 {
            return Ok(());
        }
        self.ethtool(&mut Value { command: set, data: data & !bits })?;
        if self.is_on(get, bits)? {
            return Err(io::Error::other("the driver keeps it on"));
        }
        Ok(())
    }

    /// A request that names the device.
    fn request(&self) -> libc::ifreq {
        // SAFETY: a struct ifreq is bytes, integers and a pointer that may be null.
        let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
        for (to, from) in request.ifr_name.iter_mut().zip(self.name.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        request
    }

    /// An ioctl whose answer is in the request itself.
    fn ioctl(&self, operation: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: the request is an initialised struct ifreq, and for SIOCETHTOOL its pointer, set
        // by `ethtool`, is valid for the struct of its command.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), operation, request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The ioctl whose answer is in a struct of its own.
    fn ethtool<T: EthtoolStruct>(&self, data: &mut T) -> io::Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_data = std::ptr::from_mut(data).cast();
        self.ioctl(libc::SIOCETHTOOL, &mut request)
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> DeviceError {
        let name = self.name.to_owned();
        move |source| {
            if source.raw_os_error() == Some(libc::ENODEV) {
                DeviceError::NotFound { name }
            } else {
                DeviceError::Query { name, what, source }
            }
        }
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use spillway_testing::{Namespace, veth_pair};

    #[test]
    fn a_device_is_described_as_ip_and_ethtool_describe_it() {
        let namespace = Namespace::new("probe");
        veth_pair(&namespace, "eth0", &namespace, "eth1", 3);
        namespace.run(["ip", "link", "set", "eth0", "mtu", "1400", "address", "02:00:00:00:00:07"]);
        let info = namespace.enter(|| probe("eth0")).unwrap();
        let ip = namespace.run(["ip", "-oneline", "link", "show", "eth0"]);
        assert!(ip.starts_with(&format!("{}:", info.ifindex)), "{ip}");
        assert_eq!(info.mac, [2, 0, 0, 0, 0, 7]);
        assert_eq!((info.mtu, info.queues, info.combined), (1400, 3, false));
        assert_eq!((info.name.as_str(), info.driver.as_str()), ("eth0", "veth"));
        assert_eq!(namespace.enter(|| interface_name(info.ifindex)).as_deref(), Some("eth0"));
        assert_eq!(namespace.enter(|| interface_name(9999)), None);
    }

    #[test]
    fn a_device_that_is_not_there_or_not_ethernet_is_refused() {
        let namespace = Namespace::new("absent");
        for name in ["eth9", "", "a-name-that-is-too-long"] {
            let error = namespace.enter(|| probe(name)).unwrap_err().to_string();
            assert!(error.contains("does not exist in this network namespace"), "{error}");
        }
        let error = namespace.enter(|| probe("lo")).unwrap_err().to_string();
        assert!(error.contains("lo is not an Ethernet device"), "{error}");
    }

    #[test]
    fn merging_of_segments_is_switched_off() {
        let namespace = Namespace::new("offload");
        veth_pair(&namespace, "eth0", &namespace, "eth1", 1);
        namespace.run(["ethtool", "-K", "eth0", "gro", "on"]);
        let merging = || namespace.enter(|| merging("eth0")).unwrap();
        assert_eq!(merging(), Merging { gro: true, lro: false });
        namespace.enter(|| set_gro_lro_off("eth0")).unwrap();
        assert_eq!(merging(), Merging::default());
        let features = namespace.run(["ethtool", "-k", "eth0"]);
        assert!(features.contains("generic-receive-offload: off"), "{features}");
        assert!(features.contains("large-receive-offload: off"), "{features}");
        namespace.enter(|| set_gro_lro_off("eth0")).unwrap();
    }
}
