//! Attaching, outliving, taking over, detaching. Needs root.

use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::Duration;

use spillway_testing::wait_until;
use spillway_xdp::steering::{
    AttachMode, DeviceLock, DeviceXdp, ForeignProgram, Occupant, Steering, SteeringError,
    Unclassified, detach, ensure_bpffs, inspect, is_bpffs,
};

use crate::rig::{Place, Rig, config, tables};

/// A bpffs of the test's own, unmounted at its end.
struct Pins(PathBuf);

impl Pins {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("spwt-{}-{name}", std::process::id()));
        assert!(!is_bpffs(&path).unwrap());
        ensure_bpffs(&path).unwrap();
        assert!(is_bpffs(&path).unwrap());
        ensure_bpffs(&path).expect("a bpffs is taken as it is");
        Self(path)
    }

    fn inspect(&self, place: &Place) -> DeviceXdp {
        let device = &place.device;
        place.namespace.enter(|| inspect(&device.name, device.ifindex, &self.0)).unwrap()
    }

    fn load(&self, place: &Place, sockets: bool) -> Steering {
        let config = config(Unclassified::Drop, self.0.to_str().unwrap());
        place.namespace.enter(|| {
            let device = std::slice::from_ref(&place.device);
            let mut steering = Steering::load(&config, device).unwrap();
            for socket in place.sockets.iter().filter(|_| sockets) {
                let fd = socket.fd.as_fd();
                steering.register_socket(0, socket.queue, socket.worker, fd).unwrap();
            }
            steering.apply(&tables()).unwrap();
            steering
        })
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Whether this kernel tells what its drivers can do: from Linux 6.3.
fn kernel_tells() -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_str().unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let mut number = || numbers.next().unwrap().unwrap();
    (number(), number()) >= (6, 3)
}

#[test]
fn the_program_outlives_its_process_and_the_next_takes_over() {
    let rig = Rig::new(Unclassified::Drop, &[]);
    let place = &rig.place;
    let pins = Pins::new("outlives");
    let mut first = pins.load(place, true);
    assert!(!first.is_inherited());
    let DeviceXdp { native, zero_copy, occupant } = pins.inspect(place);
    assert_eq!(
        (native, zero_copy, occupant),
        (kernel_tells(), false, Occupant::Nobody),
        "of a veth"
    );
    let attached = place.namespace.enter(|| first.attach()).unwrap();
    assert_eq!((attached[0].mode, attached[0].replaced), (AttachMode::Native, false));
    drop(first);
    assert_eq!(pins.inspect(place).occupant, Occupant::Spillway(AttachMode::Native));

    let shown = place.namespace.run(["ip", "-d", "link", "show", "dev", "eth0"]);
    assert!(shown.contains("xdp"), "{shown}");
    let mut second = pins.load(place, true);
    assert!(second.is_inherited());
    let attached = place.namespace.enter(|| second.attach()).unwrap();
    assert!(attached[0].replaced);

    assert_eq!(place.namespace.enter(|| detach(&pins.0)).unwrap(), ["eth0"]);
    assert!(!second.is_inherited());
    let shown = place.namespace.run(["ip", "-d", "link", "show", "dev", "eth0"]);
    assert!(!shown.contains("prog/xdp"), "{shown}");
    assert_eq!(place.namespace.enter(|| detach(&pins.0)).unwrap(), [""; 0]);
}

#[test]
fn a_queue_without_a_socket_is_refused() {
    let rig = Rig::new(Unclassified::Drop, &[]);
    let place = &rig.place;
    let pins = Pins::new("socket");
    let error = place.namespace.enter(|| pins.load(place, false).attach()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "receive queue 0 of eth0 has no socket of worker 0: not attached"
    );
}

#[test]
fn another_program_on_the_device_is_named() {
    let rig = Rig::new(Unclassified::Drop, &[]);
    let place = &rig.place;
    let (ours, theirs) = (Pins::new("ours"), Pins::new("theirs"));
    let mut other = theirs.load(place, true);
    place.namespace.enter(|| other.attach()).unwrap();
    let error = place.namespace.enter(|| ours.load(place, true).attach()).unwrap_err();
    assert!(matches!(error, SteeringError::Occupied { .. }), "{error}");
    assert!(error.to_string().contains("eth0 already runs XDP program"), "{error}");
    let Occupant::Other(program) = ours.inspect(place).occupant else { panic!("{error}") };
    let ForeignProgram { id, name, mode } = program;
    assert!(error.to_string().contains(&format!("program {id},")), "{error}");
    assert_eq!((name.as_deref(), mode), (Some("steer"), AttachMode::Native));
    place.namespace.enter(|| detach(&theirs.0)).unwrap();
}

#[test]
fn a_second_instance_on_a_device_is_refused_with_the_first_ones_number() {
    let directory = std::env::temp_dir().join(format!("spwt-{}-lock", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let holder = || DeviceLock::holder(&directory, 7).unwrap();
    assert_eq!(holder(), None);
    let first = DeviceLock::take(&directory, "eth0", 7).unwrap();
    assert_eq!(holder(), Some(std::process::id().to_string()));
    assert_eq!(DeviceLock::holder(&directory, 8).unwrap(), None);
    let error = DeviceLock::take(&directory, "eth0", 7).unwrap_err().to_string();
    let number = format!("process {}", std::process::id());
    assert!(error.contains("eth0 is driven by another spillway"), "{error}");
    assert!(error.contains(&number), "{error}");
    DeviceLock::take(&directory, "eth1", 8).expect("another device is free");
    drop(first);
    // Another test's child has the descriptor, too, until it becomes another program.
    wait_until("the lock ends with its holder", Duration::from_secs(10), || {
        DeviceLock::take(&directory, "eth0", 7).is_ok()
    });
    wait_until("nobody holds it", Duration::from_secs(10), || holder().is_none());
    std::fs::remove_dir_all(&directory).unwrap();
}
