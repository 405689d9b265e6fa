//! A gateway that is being drained: what flows goes on, and nothing new begins.

use spillway_engine::{DropReason, FlowState};

use crate::common::build::{Body, packet};
use crate::common::gateway::*;

/// A pod's packet, and one to it from outside.
fn sends(body: Body, port: u16) -> Vec<u8> {
    tunnel_frame(&packet(body, (POD, port), (REMOTE, 443), 64))
}
fn gets(body: Body, port: u16) -> Vec<u8> {
    reply_frame(&packet(body, (REMOTE, 443), (EGRESS, port), 64))
}

fn drain(gateway: &mut Gateway, draining: bool) {
    gateway.change(|input| input.draining = draining);
}

#[test]
fn what_flows_goes_on_and_nothing_new_begins() {
    let mut gateway = Gateway::new();
    gateway.sent(sends(Body::Syn, 5000));
    gateway.sent(sends(Body::Udp, 6000));
    drain(&mut gateway, true);
    // Not answered yet, so sent once more.
    gateway.sent(sends(Body::Syn, 5000));
    gateway.sent(gets(Body::SynAck, 5000));
    gateway.sent(sends(Body::Ack, 5000));
    gateway.sent(sends(Body::Udp, 6000));
    gateway.sent(gets(Body::Udp, 6000));
    for (body, port) in [(Body::Syn, 5001), (Body::Udp, 6001), (Body::EchoRequest, 7001)] {
        assert_eq!(gateway.dropped(sends(body, port)), DropReason::Draining);
    }
    let of_ipv6 = packet(Body::Udp, (POD6, 6001), (REMOTE6, 443), 64);
    assert_eq!(gateway.dropped(tunnel_frame(&of_ipv6)), DropReason::Draining);
    assert_eq!(gateway.flows().len(), 2);

    drain(&mut gateway, false);
    gateway.sent(sends(Body::Syn, 5001));
    gateway.sent(tunnel_frame(&of_ipv6));
    assert_eq!(gateway.flows().len(), 4);
}

/// Else a pod that opens one connection after another from one port would never be drained.
#[test]
fn a_connection_that_has_closed_does_not_begin_anew() {
    let mut gateway = Gateway::new();
    gateway.sent(sends(Body::Syn, 5000));
    gateway.sent(gets(Body::SynAck, 5000));
    drain(&mut gateway, true);
    gateway.sent(sends(Body::Fin, 5000));
    gateway.sent(gets(Body::Fin, 5000));
    assert_eq!(gateway.dropped(sends(Body::Syn, 5000)), DropReason::Draining);
    assert_eq!(gateway.flows()[0].state, FlowState::Closing);
    // Its end may still be acknowledged.
    gateway.sent(sends(Body::Ack, 5000));
    drain(&mut gateway, false);
    gateway.sent(sends(Body::Syn, 5000));
    assert_eq!(gateway.flows()[0].state, FlowState::Opening);
}

#[test]
fn a_drained_gateway_has_no_flow_left_in_the_end() {
    let mut gateway = Gateway::new();
    gateway.sent(sends(Body::Udp, 6000));
    drain(&mut gateway, true);
    gateway.pass(3600);
    assert_eq!(gateway.flows().len(), 0);
    assert_eq!(gateway.dropped(sends(Body::Udp, 6000)), DropReason::Draining);
}
