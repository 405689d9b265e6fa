//! What `spillway trace` says of a connection that there is, over either underlay.

use spillway_api::Trace;

use crate::family::{FAMILIES, Family};
use crate::sockets::{accept, listen, tcp};
use crate::underlay::{OVER_IPV4, OVER_IPV6, Underlay};
use crate::world::{Options, Translator, World};

const PORT: u16 = 443;

const OPTIONS: Options = Options { workers: 2, queues: 2, ports: None, tcp_closing: 1 };

fn trace(world: &World, from: &str, to: &str) -> Trace {
    let answer = world.operator(&["trace", "--from", from, "--to", to, "-o", "json"]);
    serde_json::from_str(&answer).unwrap()
}

/// A step's verdict and why.
fn step<'a>(trace: &'a Trace, name: &str) -> (&'a str, &'a str) {
    let step = trace.steps.iter().find(|step| step.step == name);
    step.map_or(("", ""), |step| (&step.verdict, &step.detail))
}

fn trace_both_ways(underlay: &'static Underlay, family: &'static Family) {
    let name = format!("trace{}{}", underlay.name, family.nft);
    let world = World::new(&name, &Translator::Spillway(&OPTIONS), family, underlay);
    let listener = listen(&world.server, world.at(PORT));
    let pod = tcp(&world.pods[0], 0, world.at(PORT)).expect("the pod connects");
    let public = accept(&listener).peer_addr().unwrap().to_string();
    let (pod, server) = (pod.local_addr().unwrap().to_string(), world.at(PORT).to_string());
    let node = underlay.node;
    let flow = format!("{pod} to {server} as {public}, peer {node}");

    let (there, back) = (trace(&world, &pod, &server), trace(&world, &server, &public));
    for trace in [&there, &back] {
        let (verdict, why) = step(trace, "flow");
        assert_eq!(verdict, "known", "{trace:#?}");
        assert!(why.ends_with(&flow), "{trace:#?}");
        assert_eq!(step(trace, "verdict").0, "sent", "{trace:#?}");
    }
    let tunnel = format!("VXLAN from {node} to {}", underlay.gateway);
    assert_eq!(step(&there, "tunnel"), ("peer", tunnel.as_str()));
    let (device, way) = step(&there, "route");
    assert_eq!(device, "out");
    assert!(way.starts_with(&format!("next hop {}, ", family.hop)), "{way}");
    let (device, way) = step(&back, "route");
    assert_eq!(device, "node");
    assert!(way.starts_with(&format!("tunnel to {node}, link address ")), "{way}");
}

#[test]
fn a_connection_is_traced_both_ways() {
    for underlay in [&OVER_IPV4, &OVER_IPV6] {
        FAMILIES.iter().for_each(|family| trace_both_ways(underlay, family));
    }
}
