//! Extension headers in any order, against what their descriptions say.

use spillway_xdp::steering::{SteerOutcome, Unclassified};

use crate::frames::*;
use crate::owner;
use crate::rig::*;

use SteerOutcome::*;

/// The numbers of a linear congruential generator, high bits first.
fn random(state: &mut u64) -> u32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 32) as u32
}

#[derive(Clone, Copy, Debug)]
enum Extension {
    /// Of so many bytes.
    Options(usize),
    /// With so many segments left, 24 bytes.
    Routing(u8),
    /// Offset, and whether more follow.
    Fragment(u16, bool),
}

use Extension::*;

impl Extension {
    fn any(state: &mut u64) -> Self {
        match random(state) % 8 {
            0 => Fragment(0, true),
            1 => Fragment((random(state) % 2 * 185) as u16, random(state) > 0x8000_0000),
            2 => Routing(u8::from(random(state).is_multiple_of(4))),
            3 => Options(8 * (1 + random(state) % 30) as usize),
            _ => Options(8 * (1 + random(state) % 3) as usize),
        }
    }

    fn bytes(self) -> usize {
        match self {
            Options(bytes) => bytes,
            Routing(_) => 24,
            Fragment(..) => 8,
        }
    }

    fn append(self, frame: Vec<u8>, identification: u32) -> Vec<u8> {
        match self {
            Options(bytes) => with_options_of(frame, bytes),
            Routing(left) => with_routing(frame, left),
            Fragment(offset, more) => with_fragment(frame, (offset, more), identification),
        }
    }
}

/// What lies behind some extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Behind {
    Transport,
    FirstFragment,
    LaterFragment,
    Refused,
}

fn behind(extensions: &[Extension]) -> Behind {
    let later = |extension: &Extension| matches!(extension, Fragment(1.., _));
    let end = extensions.iter().position(later).map_or(extensions.len(), |at| at + 1);
    let seen = &extensions[..end];
    let fragments = seen.iter().filter(|extension| matches!(extension, Fragment(..))).count();
    let bytes: usize = seen.iter().map(|extension| extension.bytes()).sum();
    let routed = seen.iter().any(|extension| matches!(extension, Routing(1..)));
    if seen.len() > 6 || bytes > 256 || fragments > 1 || routed {
        Behind::Refused
    } else if seen.iter().any(later) {
        Behind::LaterFragment
    } else if fragments == 1 {
        Behind::FirstFragment
    } else {
        Behind::Transport
    }
}

#[test]
fn extension_headers_lead_where_they_say() {
    // Of two workers only one listens, so that an outcome says whose a frame was.
    let rig = Rig::new(Unclassified::Drop, &[0]);
    let place = |steered, port| if owner(port) == 0 { steered } else { DropNoSocket };
    let mut state = 1;
    let mut seen = std::collections::HashMap::new();
    for identification in 0..2_000 {
        let count = random(&mut state) % 8;
        let extensions: Vec<_> = (0..count).map(|_| Extension::any(&mut state)).collect();
        let port = (16_384 + random(&mut state) % 13_000) as u16;
        let extended = |frame| {
            let all = extensions.iter();
            all.fold(frame, |frame, extension| extension.append(frame, identification))
        };
        let of_pod = tunnel(&extended(tcp((POD_6, port), (REMOTE_6, 443))));
        let reply = extended(tcp((REMOTE_6, 443), (SHARED_6, port)));
        let behind = behind(&extensions);
        let (tunnel, shared) = match behind {
            Behind::Transport => (place(SteerTunnel, port), place(SteerReply, port)),
            Behind::FirstFragment => (place(SteerTunnel, 0), place(SteerReply, 0)),
            Behind::LaterFragment => (place(SteerTunnel, 0), PassHost),
            Behind::Refused => (DropExtensions, PassHost),
        };
        assert_eq!(rig.run(&of_pod).outcome, tunnel, "{extensions:?}, port {port}");
        assert_eq!(rig.run(&reply).outcome, shared, "{extensions:?}, port {port}");
        *seen.entry(behind).or_insert(0) += 1;
    }
    assert!(seen.len() == 4 && seen.values().all(|count| *count > 50), "all happen: {seen:?}");
}
