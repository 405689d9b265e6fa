//! Captures of packets, as the main thread has them: begun, asked for what was captured, and ended, also
//! when nobody asks any more.
//!
//! tcpdump on the gateway does not see what Spillway forwards. While a capture goes on, each worker has a
//! tap ([`tap`]) that copies what is wanted into a queue of a fixed size ([`queue`]), which the client
//! empties by asking for one page after the other. Without a capture a worker asks once in a burst whether
//! there is one.

mod filter;
mod frame;
mod queue;
mod tap;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, bail, ensure};
use spillway_api::limits::{CAPTURE_PAGE_BYTES_MAX, CAPTURE_TIMEOUT, PAGE_ROWS_MAX};
use spillway_api::{
    Bytes, CaptureCount, CapturePage, CapturePoint, CaptureRequest, CapturedPacket, Origin,
    SNAPLEN_MIN,
};
use spillway_engine::steer::{KIND_MASK, KIND_REPLY, KIND_TUNNEL, SteerHeader};
use spillway_engine::{DropReason, Nanos};

use crate::gateway::Gateway;
use crate::numbers::Assigned;
use crate::worker::now as workers_clock;
use filter::Filter;
pub(crate) use filter::Seen;
use queue::{Captured, Queue};
pub(crate) use tap::Tap;
use tap::Wanted;

/// A capture that goes on, or has been ended and not yet emptied.
#[derive(Debug)]
struct Capture {
    id: u64,
    queue: Arc<Queue>,
    wanted: Wanted,
    /// What the wall clock was when the workers' was 0, in nanoseconds since 1970.
    epoch_ns: u64,
    began: Instant,
    /// When it ends if nobody asks before.
    deadline: Instant,
    /// Whether the workers have no tap any more.
    ended: bool,
}

/// The capture, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Captures {
    current: Option<Capture>,
    /// The id of the one before.
    last: u64,
}

impl Captures {
    /// When [`expire`] must be called at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.current.as_ref().map(|capture| capture.deadline)
    }
}

/// Begins a capture; gives its id.
///
/// # Errors
/// When one goes on, or the request is wrong; the message says how.
pub(crate) fn begin(
    gateway: &mut Gateway,
    request: &CaptureRequest,
    now: Instant,
) -> anyhow::Result<u64> {
    if let Some(capture) = &gateway.captures.current {
        bail!(
            "another capture goes on, since {} s: there can be one at a time. End it, or wait until it \
             has ended",
            now.saturating_duration_since(capture.began).as_secs()
        );
    }
    let wanted = wanted(request)?;
    let snaplen = usize::try_from(request.snaplen.min(gateway.config.frame_size))?;
    let queue = Arc::new(Queue::new(snaplen));
    let taps = |worker| Some(Box::new(Tap::new(Arc::clone(&queue), wanted, worker, snaplen)));
    if let Err(error) = gateway.workers.tap(taps) {
        // Those that have one by now; what they say does not matter.
        let _ = gateway.workers.tap(|_| None);
        return Err(error);
    }
    let captures = &mut gateway.captures;
    captures.last += 1;
    let id = captures.last;
    captures.current = Some(Capture {
        id,
        queue,
        wanted,
        epoch_ns: wall_clock()?.saturating_sub(workers_clock()),
        began: now,
        deadline: now + CAPTURE_TIMEOUT,
        ended: false,
    });
    tracing::info!("capture {id} has begun");
    Ok(id)
}

/// What a capture has captured since the last time; ends it when that is wanted.
///
/// # Errors
/// When there is no such capture any more.
pub(crate) fn take(
    gateway: &mut Gateway,
    id: u64,
    end: bool,
    now: Instant,
) -> anyhow::Result<CapturePage> {
    let capture = gateway.captures.current.as_mut().filter(|capture| capture.id == id);
    let Some(capture) = capture else {
        bail!(
            "there is no capture {id} any more: it was ended, or nobody took its packets for {} s",
            CAPTURE_TIMEOUT.as_secs()
        );
    };
    capture.deadline = now + CAPTURE_TIMEOUT;
    if end && !capture.ended {
        gateway.workers.tap(|_| None)?;
        capture.ended = true;
    }
    let names: Vec<&str> = gateway.devices.iter().map(|device| device.name.as_str()).collect();
    let page = page(capture, &names, &gateway.numbers);
    if capture.ended && !page.more {
        gateway.captures.current = None;
        tracing::info!("capture {id} has ended");
    }
    Ok(page)
}

/// Ends a capture whose client is gone.
pub(crate) fn expire(gateway: &mut Gateway, now: Instant) {
    let Some(capture) = gateway.captures.current.take_if(|capture| capture.deadline <= now) else {
        return;
    };
    tracing::info!("capture {} has ended: nobody takes its packets", capture.id);
    if !capture.ended
        && let Err(error) = gateway.workers.tap(|_| None)
    {
        tracing::warn!("a worker may go on capturing: {error:#}");
    }
}

/// What a request asks for, if it can be had.
fn wanted(request: &CaptureRequest) -> anyhow::Result<Wanted> {
    let CaptureRequest { points, host, pod, port, protocol, drop_reason, snaplen } = request;
    ensure!(!points.is_empty(), "expected at least one point to capture at");
    ensure!(
        *snaplen >= SNAPLEN_MIN,
        "expected a snaplen of {SNAPLEN_MIN} bytes or more, found {snaplen}"
    );
    let reason = |name: &String| {
        let known = DropReason::ALL.iter().find(|reason| reason.name() == name).copied();
        known.with_context(|| {
            format!("there is no drop reason \"{name}\": `spillway drops --all` lists them")
        })
    };
    let drop_reason = drop_reason.as_ref().map(reason).transpose()?;
    ensure!(
        drop_reason.is_none() || *points == [CapturePoint::Dropped],
        "a drop reason can be asked for at the point `dropped` only"
    );
    let filter = Filter { host: *host, pod: *pod, port: *port, protocol: *protocol, drop_reason };
    Ok(Wanted { filter, points: CapturePoint::ALL.map(|point| points.contains(&point)) })
}

/// The next packets.
fn page(capture: &Capture, devices: &[&str], numbers: &Assigned) -> CapturePage {
    let mut page = CapturePage::default();
    let mut bytes = 0;
    while bytes < CAPTURE_PAGE_BYTES_MAX
        && page.packets.len() < PAGE_ROWS_MAX as usize
        && capture.queue.take(|captured| {
            bytes += captured.bytes().len();
            page.packets.push(packet(captured, capture.epoch_ns, devices, numbers));
        })
    {}
    page.more = !capture.queue.is_empty();
    let asked = |point: &CapturePoint| capture.wanted.points[*point as usize];
    page.points = CapturePoint::ALL
        .into_iter()
        .filter(asked)
        .map(|point| {
            let (captured, lost) = capture.queue.count(point);
            CaptureCount { point, captured, lost }
        })
        .collect();
    page
}

fn packet(
    captured: &Captured,
    epoch_ns: u64,
    devices: &[&str],
    numbers: &Assigned,
) -> CapturedPacket {
    let label = &captured.label;
    let device = label.device.and_then(|index| devices.get(usize::from(index)));
    CapturedPacket {
        time_ns: epoch_ns.saturating_add(label.now),
        point: label.point,
        worker: label.worker.into(),
        number: label.number,
        length: u32::try_from(captured.length).unwrap_or(u32::MAX),
        data: Bytes(captured.bytes().to_vec()),
        origin: label.steer.as_ref().map(|steer| origin(steer, numbers)),
        drop_reason: label.reason.map(|reason| reason.name().to_owned()),
        device: device.map(|name| (*name).to_owned()),
    }
}

/// Where a packet came from.
fn origin(steer: &SteerHeader, numbers: &Assigned) -> Origin {
    match steer.kind & KIND_MASK {
        KIND_TUNNEL => {
            let [a, b, c] = steer.vni;
            let vni = u32::from_be_bytes([0, a, b, c]);
            Origin::Tunnel { vni, peer: numbers.peer(steer.outer_source) }
        }
        KIND_REPLY => Origin::Outside,
        _ => Origin::Link,
    }
}

/// The wall clock, in nanoseconds since 1970.
fn wall_clock() -> anyhow::Result<Nanos> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let since = since.context("the clock is before 1970: set it")?;
    Ok(u64::try_from(since.as_nanos())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> CaptureRequest {
        CaptureRequest {
            points: CapturePoint::ALL.to_vec(),
            host: None,
            pod: None,
            port: None,
            protocol: None,
            drop_reason: None,
            snaplen: 96,
        }
    }

    #[test]
    fn what_cannot_be_captured_is_refused_with_what_is_wrong() {
        wanted(&request()).unwrap();
        let no_route = Some("no-route".to_owned());
        let dropped = vec![CapturePoint::Dropped];
        wanted(&CaptureRequest { drop_reason: no_route.clone(), points: dropped, ..request() })
            .unwrap();
        for (request, expected) in [
            (CaptureRequest { points: Vec::new(), ..request() }, "at least one point"),
            (CaptureRequest { snaplen: 63, ..request() }, "64 bytes or more, found 63"),
            (CaptureRequest { drop_reason: no_route, ..request() }, "`dropped` only"),
            (
                CaptureRequest { drop_reason: Some("no-rout".to_owned()), ..request() },
                "no drop reason \"no-rout\"",
            ),
        ] {
            let error = wanted(&request).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
