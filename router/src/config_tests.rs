//! The configuration: its defaults, its example, and every refusal.

use super::*;

const EXAMPLE: &str = include_str!("../config.example.yaml");
const STATE: &str = include_str!("../api/tests/example.yaml");

fn refusal(text: &str) -> String {
    Config::parse(text).expect_err("the configuration is refused").to_string()
}

#[test]
fn the_example_holds_every_option_with_its_default() {
    let shortest = Config::parse("devices: [{name: eth0}]").unwrap();
    let example = Config::parse(EXAMPLE).unwrap();
    assert_eq!(example.socket(), shortest.socket());
    assert_eq!(example.read_only_socket(), shortest.read_only_socket());
    let sockets = Config {
        socket: Some(shortest.socket()),
        read_only_socket: Some(shortest.read_only_socket()),
        ..shortest.clone()
    };
    assert_eq!(example, sockets);

    let text: serde_json::Value = serde_saphyr::from_str(EXAMPLE).unwrap();
    let options = serde_json::to_value(&shortest).unwrap();
    for option in options.as_object().unwrap().keys() {
        let shown = text.get(option).is_some();
        assert!(shown || EXAMPLE.contains(&format!("# {option}: ")), "{option} is not there");
    }
    for option in options["devices"][0].as_object().unwrap().keys() {
        let shown = text["devices"][0].get(option).is_some();
        assert!(shown || EXAMPLE.contains(&format!("# {option}: ")), "{option} is not there");
    }
}

#[test]
fn every_option_can_be_set() {
    let config = Config::parse(
        "devices: [{name: eth0, queues: 4, mode: native, zero_copy: true}, {name: eth1, mode: \
         generic}]\nworkers: 64\ntunnel_port: 4789\nframe_size: 4096\numem_frames: 65536\n\
         flows_max: 1\nruntime_dir: /tmp/a\nread_only_group: 9602\ntimeouts: {udp: 30}\nidle: spin\nunclassified_tunnel_frames: pass\nevents: {kept: 9, drops_per_second: 0, forwarded_one_in: 1000}\nport_blocks: {size: 128, per_pod: 2}\n",
    )
    .unwrap();
    assert_eq!(config.devices[0].queues, Some(4));
    assert_eq!(config.devices[0].mode, Mode::Native);
    assert!(config.devices[0].zero_copy);
    assert_eq!(config.devices[1].mode, Mode::Generic);
    assert_eq!((config.workers, config.tunnel_port), (64, 4_789));
    assert_eq!((config.frame_size, config.umem_frames, config.flows_max), (4_096, 65_536, 1));
    assert_eq!(config.socket(), Path::new("/tmp/a/spillway.sock"));
    assert_eq!(config.read_only_socket(), Path::new("/tmp/a/read-only/spillway.sock"));
    assert_eq!(config.read_only_group, Some(9_602));
    assert_eq!(config.pin_directory(), Path::new("/tmp/a/bpf"));
    let defaults = Timeouts::default();
    assert_eq!(config.timeouts.to_engine(), Timeouts { udp_ns: 30 * SECOND, ..defaults });
    assert_eq!(config.idle, Idle::Spin);
    assert_eq!(config.unclassified_tunnel_frames, Unclassified::Pass);
    let events = EventsConfig { kept: 9, drops_per_second: 0, forwarded_one_in: 1_000 };
    assert_eq!(config.events, events);
    assert_eq!(config.port_blocks, PortBlocksConfig { size: 128, per_pod: 2 });
    assert_eq!(
        (config.port_blocks.run(), config.port_blocks.blocks_per_pod()),
        (Run::of(128).unwrap(), 2)
    );
    assert_eq!(PortBlocksConfig::default().run(), Run::ONE);
}

/// (what stands after `devices: [{name: eth0}]`, the whole refusal)
const REFUSED_OPTIONS: &[(&str, &str)] = &[
    (
        "worker: 2",
        "line 2, column 1: worker: unknown field \"worker\"; expected one of devices, \
      workers, tunnel_port, frame_size, umem_frames, flows_max, mss_clamp, timeouts, runtime_dir, \
      socket, read_only_socket, read_only_group, idle, unclassified_tunnel_frames, events, port_blocks",
    ),
    ("workers: 0", "line 2, column 10: workers: expected a whole number from 1 to 64, found 0"),
    ("workers: 65", "line 2, column 10: workers: expected a whole number from 1 to 64, found 65"),
    (
        "workers: two",
        "line 2, column 10: workers: expected a whole number from 1 to 64, found \"two\"",
    ),
    (
        "tunnel_port: 65536",
        "line 2, column 14: tunnel_port: expected a whole number from 1 to 65535, found 65536",
    ),
    ("frame_size: 3000", "line 2, column 13: frame_size: expected 2048 or 4096, found 3000"),
    (
        "umem_frames: 4194305",
        "line 2, column 14: umem_frames: expected a whole number from 0 to 4194304, found 4194305",
    ),
    (
        "flows_max: 0",
        "line 2, column 12: flows_max: expected a whole number from 1 to 16777216, found 0",
    ),
    (
        "timeouts: {udp: 0}",
        "line 2, column 17: timeouts.udp: expected a whole number from 1 to 604800, found 0",
    ),
    (
        "timeouts: {tcp_closing: 604801}",
        "line 2, column 25: timeouts.tcp_closing: expected a whole number from 1 to 604800, found \
         604801",
    ),
    (
        "timeouts: {tcp: 9}",
        "line 2, column 12: timeouts.tcp: unknown field \"tcp\"; expected one of tcp_opening, \
         tcp_established, tcp_half_closed, tcp_closing, udp, icmp",
    ),
    (
        "runtime_dir: run/spillway",
        "line 2, column 14: runtime_dir: expected an absolute path, found \"run/spillway\"",
    ),
    (
        "socket: spillway.sock",
        "line 2, column 9: socket: expected an absolute path, found \"spillway.sock\"",
    ),
    (
        "events: {kept: 1048577}",
        "line 2, column 16: events.kept: expected a whole number from 0 to 1048576, found 1048577",
    ),
    (
        "port_blocks: {size: 48}",
        "line 2, column 21: port_blocks.size: expected 8, 16, 32, 64, 128 or 256, or 0 for none, found 48",
    ),
    (
        "port_blocks: {per_pod: 17}",
        "line 2, column 24: port_blocks.per_pod: expected a whole number from 1 to 16, found 17",
    ),
    (
        "read_only_socket: read.sock",
        "line 2, column 19: read_only_socket: expected an absolute path, found \"read.sock\"",
    ),
    (
        "read_only_socket: /run/spillway/spillway.sock",
        "line 2, column 19: read_only_socket: expected another path than that of `socket`, which \
         takes every request",
    ),
    (
        "read_only_group: 4294967295",
        "line 2, column 18: read_only_group: expected a whole number from 0 to 4294967294, found \
         4294967295",
    ),
    ("mss_clamp: no", "line 2, column 12: mss_clamp: expected true or false"),
    ("idle: doze", "line 2, column 7: idle: expected one of sleep, spin, found \"doze\""),
    (
        "unclassified_tunnel_frames: steer",
        "line 2, column 29: unclassified_tunnel_frames: expected one of drop, pass, found \
         \"steer\"",
    ),
];

#[test]
fn every_wrong_option_is_refused_with_its_place_and_what_was_expected() {
    for (option, expected) in REFUSED_OPTIONS {
        assert_eq!(refusal(&format!("devices: [{{name: eth0}}]\n{option}\n")), *expected);
    }
}

#[test]
fn every_wrong_device_is_refused_with_its_place_and_what_was_expected() {
    let seventeen: Vec<String> = (0..17).map(|n| format!("{{name: eth{n}}}")).collect();
    let seventeen = seventeen.join(", ");
    for (devices, expected) in [
        ("", "line 1, column 10: devices: expected 1 to 16 devices, found 0"),
        (&*seventeen, "line 1, column 10: devices: expected 1 to 16 devices, found 17"),
        ("{queues: 1}", "line 1, column 12: devices[0]: the field \"name\" is missing"),
        ("eth0", "line 1, column 11: devices[0]: expected fields"),
        (
            "{name: eth/0}",
            "line 1, column 18: devices[0].name: expected the name of a network device, 1 to 15 \
             bytes without spaces, '/' and ':', found \"eth/0\"",
        ),
        ("{name: a}, {name: a}", "line 1, column 29: devices[1].name: a is listed twice"),
        (
            "{name: a, queues: 0}",
            "line 1, column 29: devices[0].queues: expected a whole number from 1 to 256, found 0",
        ),
        (
            "{name: a, mode: driver}",
            "line 1, column 27: devices[0].mode: expected one of auto, native, generic, found \
             \"driver\"",
        ),
        (
            "{name: a, zero_copy: yes}",
            "line 1, column 32: devices[0].zero_copy: expected true or false",
        ),
        (
            "{name: a, mode: generic, zero_copy: true}",
            "line 1, column 47: devices[0].zero_copy: only a driver can do it; expected mode \
             native or auto beside it",
        ),
    ] {
        assert_eq!(refusal(&format!("devices: [{devices}]\n")), expected);
    }
    assert_eq!(refusal("workers: 1\n"), "line 1, column 1: the field \"devices\" is missing");
}

#[test]
fn a_socket_path_that_linux_cannot_bind_is_refused() {
    let directory = format!("/{}", "d".repeat(83));
    let text = format!("devices: [{{name: eth0}}]\nruntime_dir: {directory}\n");
    assert_eq!(
        refusal(&text),
        format!(
            "line 2, column 14: runtime_dir: expected a socket path of at most 107 bytes, found \
             {directory}/read-only/spillway.sock"
        )
    );
    assert!(Config::parse(&text.replacen("dddd", "ddd", 1)).is_ok());
}

#[test]
fn a_document_is_held_against_the_configuration() {
    let good = Config::parse("devices: [{name: eth0}, {name: spw-pods}]").unwrap();
    assert!(good.parse_document(STATE).is_ok());
    let other = Config::parse("devices: [{name: eth0}, {name: eth1}]").unwrap();
    assert_eq!(
        other.parse_document(STATE).unwrap_err().to_string(),
        "line 9, column 17: tunnels[1].peers[0].device: spw-pods is no device of the \
         configuration, which has eth0, eth1"
    );
    let announced = STATE.replacen("kind: own", "kind: own\n    announce: eth1", 1);
    assert_eq!(
        good.parse_document(&announced).unwrap_err().to_string(),
        "line 15, column 15: egress_addresses[0].announce: eth1 is no device of the \
         configuration, which has eth0, spw-pods"
    );
    let port = Config { tunnel_port: 20_000, ..good.clone() };
    assert_eq!(
        port.parse_document(STATE).unwrap_err().to_string(),
        "line 17, column 12: egress_addresses[1].ports: 16384-29999 holds the tunnel port 20000, \
         and 192.168.44.128 is a tunnel address; expected a range without it"
    );
    let wrong = STATE.replacen("10.0.2.182", "10.0.1.40", 1);
    assert!(good.parse_document(&wrong).unwrap_err().message.contains("listed twice"));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Config::load(Path::new("/nonexistent/config.yaml")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot read /nonexistent/config.yaml: No such file or directory"
    );
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    std::fs::write(&path, [0xff, 0xfe, 0x41]).unwrap();
    let error = Config::load(&path).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot read {}: it is not UTF-8 text", path.display()));
}
