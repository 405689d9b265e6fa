//! What is refused at start, on real devices.

use std::time::Duration;

use spillway_xdp::device::{DeviceError, DevicesConfig};

use crate::rig::{Side, config, namespaces};

/// Opens in the namespace and returns the refusal.
fn refusal(namespace: &spillway_testing::Namespace, config: &DevicesConfig) -> DeviceError {
    Side::try_open(namespace, config).err().expect("the devices were opened")
}

#[test]
fn a_queue_that_is_in_use_is_refused_and_free_again_after_its_user() {
    let (namespace, _far) = namespaces("busy", 1, 2);
    let mut first = Side::open(&namespace, &config(1, 2));
    let error = refusal(&namespace, &config(1, 1));
    assert!(matches!(&error, DeviceError::Busy { name, queue: 0 } if name == "eth0"), "{error}");
    let text = error.to_string();
    assert!(text.starts_with("queue 0 of eth0 is in use by another AF_XDP socket"), "{text}");
    first.assert_all_accounted_for();
    drop(first);
    Side::open(&namespace, &config(1, 2)).assert_all_accounted_for();
}

#[test]
fn a_queue_that_is_just_being_freed_is_waited_for() {
    let (namespace, _far) = namespaces("freed", 1, 1);
    let first = Side::open(&namespace, &config(1, 1));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            drop(first);
        });
        Side::open(&namespace, &config(1, 1)).assert_all_accounted_for();
    });
}

#[test]
fn a_queue_mismatch_is_refused() {
    let (namespace, _far) = namespaces("queues", 1, 2);
    let mut asked = config(1, 1);
    asked.devices[0].queues = Some(1);
    let text = refusal(&namespace, &asked).to_string();
    assert!(text.starts_with("eth0 has 2 receive queues, the configuration names 1"), "{text}");
    asked.devices[0].queues = Some(3);
    let text = refusal(&namespace, &asked).to_string();
    assert!(text.contains("set queues: 2 or run `ethtool -L eth0 rx 3 tx 3`"), "{text}");
    asked.devices[0].queues = Some(2);
    Side::open(&namespace, &asked);
}

#[test]
fn a_jumbo_mtu_is_refused() {
    let (namespace, _far) = namespaces("jumbo", 1, 1);
    namespace.run(["ip", "link", "set", "eth0", "mtu", "9000"]);
    let text = refusal(&namespace, &config(1, 1)).to_string();
    assert_eq!(
        text,
        "eth0's MTU 9000 needs 9084-byte frames, a chunk of 2048 holds 1792: lower the MTU to 1708"
    );
}

#[test]
fn a_device_that_does_not_exist_is_refused() {
    let (namespace, _far) = namespaces("missing", 1, 1);
    let text = refusal(&namespace, &config(2, 1)).to_string();
    assert!(text.starts_with("device eth1 does not exist in this network namespace"), "{text}");
}

#[test]
fn zero_copy_on_a_driver_without_it_is_refused() {
    let (namespace, _far) = namespaces("zerocopy", 1, 1);
    let mut asked = config(1, 1);
    asked.devices[0].zero_copy = true;
    let text = refusal(&namespace, &asked).to_string();
    assert!(text.starts_with("eth0 (driver veth) cannot do zero-copy"), "{text}");
    assert!(text.ends_with("set zero_copy: false for it"), "{text}");
}
