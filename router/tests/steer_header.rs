//! The steer header has two definitions, one for each side: `xdp/src/steer.h` for the steering
//! program, `spillway_engine::steer` for the engine. They must agree.

use spillway_engine::steer;

const STEER_H: &str = include_str!("../../xdp/src/steer.h");

/// The value of a `#define` of steer.h.
fn defined(name: &str) -> u64 {
    let prefix = format!("#define {name} ");
    let line = STEER_H
        .lines()
        .find_map(|line| line.strip_prefix(&prefix))
        .unwrap_or_else(|| panic!("steer.h does not define {name}"));
    let value = line.trim();
    match value.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => value.parse(),
    }
    .unwrap_or_else(|_| panic!("{name} is {value}, which is no number"))
}

#[test]
fn both_sides_have_the_same_constants() {
    assert_eq!(defined("TUNNEL_OVERHEAD"), steer::TUNNEL_OVERHEAD as u64);
    assert_eq!(defined("TUNNEL_OVERHEAD_6"), steer::TUNNEL_OVERHEAD_6 as u64);
    assert_eq!(defined("KIND_TUNNEL"), u64::from(steer::KIND_TUNNEL));
    assert_eq!(defined("KIND_REPLY"), u64::from(steer::KIND_REPLY));
    assert_eq!(defined("KIND_ARP"), u64::from(steer::KIND_ARP));
    assert_eq!(defined("KIND_PING"), u64::from(steer::KIND_PING));
    assert_eq!(defined("KIND_NEIGHBOUR"), u64::from(steer::KIND_NEIGHBOUR));
    assert_eq!(defined("FAMILY_6"), u64::from(steer::FAMILY_6));
    assert_eq!(defined("EXTENSIONS_MAX"), u64::from(steer::EXTENSIONS_MAX));
    assert_eq!(defined("EXTENSION_BYTES_MAX"), u64::from(steer::EXTENSION_BYTES_MAX));
    assert_eq!(defined("UNDERLAY_6"), u64::from(steer::UNDERLAY_6));
    assert_eq!(defined("ECN_SHIFT"), u64::from(steer::ECN_SHIFT));
    assert_eq!(defined("DATAGRAM_NS_MAX"), spillway_engine::DATAGRAM_NS_MAX);
    assert_eq!(defined("CLASSES"), steer::CLASSES as u64);
    assert_eq!(defined("CLASS_MULTIPLIER"), u64::from(steer::CLASS_MULTIPLIER));
}

#[test]
fn both_sides_have_the_same_layout() {
    let (_, after) = STEER_H.split_once("struct steer_header {").expect("steer.h has the struct");
    let (body, _) = after.split_once('}').expect("the struct ends");
    let fields: Vec<(usize, &str)> = body
        .lines()
        .filter_map(|line| {
            let (declaration, _) = line.split_once(';')?;
            let (kind, name) = declaration.trim().split_once(' ')?;
            let (name, count) = match name.split_once('[') {
                Some((name, count)) => (name, count.trim_end_matches(']').parse().ok()?),
                None => (name, 1),
            };
            let size: usize = if kind == "__be32" { 4 } else { 1 };
            Some((size * count, name))
        })
        .collect();
    assert_eq!(fields, [(1, "kind"), (3, "vni"), (4, "outer_source"), (6, "inner_source")]);
    assert_eq!(fields.iter().map(|(size, _)| size).sum::<usize>(), steer::STEER_HEADER_LEN);
}

#[test]
fn every_class_has_256_ports() {
    let mut ports = [0u32; steer::CLASSES];
    for port in 0..=u16::MAX {
        ports[usize::from(steer::class(port))] += 1;
    }
    assert!(ports.iter().all(|count| *count == 256));
}
