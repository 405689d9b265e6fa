//! Packets that are too large for their way and may be cut.

use etherparse::SlicedPacket;
use etherparse::defrag::IpDefragPool;
use spillway_engine::Verdict;

use crate::common::build::{Body, End, changed, ethernet, packet, packet_with, vxlan};
use crate::common::gateway::*;

const POD_END: End = (POD, 5000);
const REMOTE_END: End = (REMOTE, 53);
const PUBLIC_END: End = (EGRESS, 5000);

/// A packet that routers may fragment.
fn large(from: End, to: End, ttl: u8, payload: &[u8]) -> Vec<u8> {
    changed(packet_with(Body::Udp, from, to, ttl, payload), |bytes| bytes[6] = 0)
}

/// The payload of the packet whose fragments these Ethernet frames carry.
fn reassembled<'a>(frames: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut pool: IpDefragPool = IpDefragPool::new();
    let mut whole = None;
    for frame in frames {
        assert!(whole.is_none(), "complete before the last fragment");
        let sliced = SlicedPacket::from_ethernet(frame).unwrap();
        whole = pool.process_sliced_packet(&sliced, (), ()).unwrap();
    }
    whole.unwrap().payload
}

#[test]
fn a_reply_that_does_not_fit_the_tunnel_is_cut() {
    let mut gateway = Gateway::new();
    gateway.sent(tunnel_frame(&packet(Body::Udp, POD_END, REMOTE_END, 64)));
    let payload: Vec<u8> = (0..1472).map(|byte: usize| byte.to_le_bytes()[0]).collect();
    let reply = large(REMOTE_END, PUBLIC_END, 64, &payload);
    let (device, frames) = gateway.fragmented(reply_frame(&reply));
    assert_eq!((device, frames.len()), (UNDERLAY, 2));
    let expected = large(REMOTE_END, POD_END, 63, &payload);
    for frame in &frames {
        assert!(frame.len() <= 14 + 1500);
        let source_port = u16::from_be_bytes([frame[34], frame[35]]);
        let inner = ethernet(UNDERLAY_MAC, POD_MAC, &frame[64..]);
        let outer = vxlan((UNDERLAY_MAC, PEER_MAC), PEER, source_port, [0, 0, 2], &inner);
        assert_eq!(frame, &outer);
    }
    assert_eq!(reassembled(frames.iter().map(|frame| &frame[50..])), expected[20..]);
    // The rest of the header is the packet's own.
    assert_eq!(frames[1][65], expected[1]);
    assert_eq!(frames[1][68..70], expected[4..6]);
    assert_eq!(frames[1][72..74], expected[8..10]);
}

#[test]
fn a_packet_that_does_not_fit_the_way_out_is_cut() {
    for mtu in [1280, 1003, 576, 68] {
        let mut gateway = Gateway::new();
        gateway.change(|input| input.devices[0].mtu = mtu);
        let request = large(POD_END, REMOTE_END, 64, &[3; 1400]);
        let (device, frames) = gateway.fragmented(tunnel_frame(&request));
        assert_eq!(device, UPLINK);
        assert!(frames.iter().all(|frame| frame.len() <= 14 + usize::from(mtu)));
        let expected = large(PUBLIC_END, REMOTE_END, 63, &[3; 1400]);
        assert_eq!(reassembled(frames.iter().map(Vec::as_slice)), expected[20..], "MTU {mtu}");
    }
}

#[test]
fn a_packet_that_just_fits_stays_whole() {
    let mut gateway = Gateway::new();
    gateway.sent(tunnel_frame(&packet(Body::Udp, POD_END, REMOTE_END, 64)));
    gateway.sent(reply_frame(&large(REMOTE_END, PUBLIC_END, 64, &[3; 1422])));
    gateway.sent(tunnel_frame(&large(POD_END, REMOTE_END, 64, &[3; 1472])));
    assert_eq!(gateway.engine.counters().fragmented, 0);
    let (_, frames) =
        gateway.fragmented(reply_frame(&large(REMOTE_END, PUBLIC_END, 64, &[3; 1423])));
    assert_eq!(frames.len(), 2);
}

/// Else a remote would put pieces of one pod's packet and of another's together.
#[test]
fn packets_of_different_pods_that_may_be_cut_are_told_apart() {
    let mut gateway = Gateway::new();
    let identification = |frame: &[u8]| [frame[18], frame[19]];
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..100 {
        for pod in [POD, OTHER_POD] {
            let (_, sent) = gateway.sent(tunnel_frame(&large((pod, 5000), REMOTE_END, 64, b"x")));
            assert!(seen.insert(identification(&sent)));
            let (header, _) = etherparse::Ipv4Header::from_slice(&sent[14..]).unwrap();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
        }
    }
    let (_, sent) = gateway.sent(tunnel_frame(&packet(Body::Udp, POD_END, REMOTE_END, 64)));
    assert_eq!(identification(&sent), [0x12, 0x34], "what may not be cut keeps it");
}

#[test]
fn the_number_of_fragments_is_known_before_they_are_made() {
    let mut gateway = Gateway::new();
    gateway.change(|input| input.devices[0].mtu = 68);
    for size in [41, 48, 88, 89, 1000] {
        let frame = tunnel_frame(&large(POD_END, REMOTE_END, 64, &vec![1; size]));
        let (verdict, frame) = gateway.process(frame);
        let Verdict::Fragment { fragments, .. } = verdict else { panic!("{verdict:?}") };
        assert_eq!(
            fragments.count(&gateway.tables, &frame),
            pieces(fragments, &gateway.tables, &frame).len(),
            "{size}"
        );
    }
}
