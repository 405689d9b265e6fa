//! Frames that nobody has sent: the copy of the program says what the program itself does.

use std::os::fd::AsFd as _;

use spillway_xdp::steering::{SteerOutcome, SteerTables, Trial, Tried, Unclassified};

use crate::frames::*;
use crate::rig::*;

use SteerOutcome::*;

fn trial(rig: &Rig) -> Trial {
    let sockets = &rig.place.sockets;
    rig.steering.trial(sockets.iter().map(|socket| (socket.worker, socket.fd.as_fd()))).unwrap()
}

/// A frame of each kind that steering tells apart by its tables.
fn frames() -> Vec<(Vec<u8>, SteerOutcome)> {
    vec![
        (valid(), SteerTunnel),
        (valid_ipv6(), SteerTunnel),
        (tunnel(&udp((POD, 1), (REMOTE, 2), &[7; 3_000])), SteerTunnel),
        (tunnel(&tcp((POD, 40_001), (EXCLUDED, 443))), PassNotCovered),
        (tunnel(&tcp((REMOTE, 40_001), (REMOTE, 443))), PassTunnelOther),
        (tunnel_from(REMOTE, TUNNEL, &tcp((POD, 40_001), (REMOTE, 443))), DropUnknownPeer),
        (tcp((REMOTE, 443), (OWN, 40_001)), SteerReply),
        (tcp((REMOTE_6, 443), (OWN_6, 40_001)), SteerReply),
        (tcp((REMOTE, 443), (TUNNEL, 40_001)), PassHost),
        (echo(REMOTE, ANNOUNCED, 1, false), SteerPing),
        (tcp((REMOTE, 443), (REMOTE, 443)), PassOther),
    ]
}

#[test]
fn a_trial_says_what_the_program_does_and_counts_nothing() {
    let rig = Rig::new(Unclassified::Drop, &[0, 1]);
    let trial = trial(&rig);
    let before = rig.steering.outcomes().unwrap();
    let tried: Vec<Tried> = frames().iter().map(|(frame, _)| trial.run(frame).unwrap()).collect();
    assert_eq!(rig.steering.outcomes().unwrap(), before);
    for ((frame, outcome), tried) in frames().into_iter().zip(tried) {
        let run = rig.run(&frame);
        assert_eq!(run.outcome, outcome);
        assert_eq!(tried, Tried { outcome, frame: run.bytes });
    }
}

#[test]
fn a_trial_follows_the_tables_and_a_frame_larger_than_a_page_is_tried_too() {
    let mut rig = Rig::new(Unclassified::Drop, &[0, 1]);
    let trial = trial(&rig);
    let large = tunnel(&udp((POD, 1), (REMOTE, 2), &[7; 9_000]));
    let Tried { outcome, frame } = trial.run(&large).unwrap();
    assert_eq!(outcome, SteerTunnel);
    assert_eq!(frame[14..], large[INNER_IP..]);
    rig.steering.apply(&SteerTables::default()).unwrap();
    assert_eq!(trial.run(&large).unwrap(), Tried { outcome: PassOther, frame: large });
    trial.run(&[0; 13]).unwrap_err();
}
