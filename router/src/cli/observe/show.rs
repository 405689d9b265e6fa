//! An event as it is shown.

use std::fmt::Write as _;
use std::net::SocketAddr;

use serde::Serialize;
use spillway_api::{Event, EventKind};

use crate::cli::flows::tuple;
use crate::cli::table::Align::Left;
use crate::cli::table::Table;
use crate::observe::follow::time;

/// A line for people.
pub(super) fn compact(event: &Event) -> String {
    let mut line = format!("{:.6} {} {}", time(event.time_us), word(event.kind), event.protocol);
    let mut add = |words: String| {
        // Writing to a string cannot fail.
        let _ = write!(line, " {words}");
    };
    event.pod.iter().for_each(|pod| add(pod.clone()));
    add(original(event));
    egress(event).iter().for_each(|egress| add(format!("as {egress}")));
    event.policy.iter().for_each(|policy| add(format!("policy {policy}")));
    event.reason.iter().for_each(|reason| add(reason.clone()));
    total(event).iter().for_each(|total| add(total.clone()));
    line
}

/// One JSON object, with the time as people read it too.
pub(super) fn json(event: &Event) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Line<'a> {
        time: String,
        #[serde(flatten)]
        event: &'a Event,
    }
    serde_json::to_string(&Line { time: format!("{:.6}", time(event.time_us)), event })
}

/// In columns.
pub(super) fn table<'a>(events: impl IntoIterator<Item = &'a Event>) -> String {
    let mut table = Table::new([
        ("Time", Left),
        ("Event", Left),
        ("Protocol", Left),
        ("Pod", Left),
        ("Original", Left),
        ("Egress", Left),
        ("Policy", Left),
        ("Reason", Left),
        ("Total", Left),
    ]);
    for event in events {
        table.row([
            format!("{:.6}", time(event.time_us)),
            word(event.kind).to_owned(),
            event.protocol.clone(),
            event.pod.clone().unwrap_or_default(),
            original(event),
            egress(event).unwrap_or_default(),
            event.policy.clone().unwrap_or_default(),
            event.reason.clone().unwrap_or_default(),
            total(event).unwrap_or_default(),
        ]);
    }
    table.text()
}

fn word(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Begin => "begin",
        EventKind::End => "end",
        EventKind::Drop => "drop",
        EventKind::Forward => "forward",
        EventKind::BlockBegin => "block-begin",
        EventKind::BlockEnd => "block-end",
    }
}

/// As the pod sends; of a port block the pod.
fn original(event: &Event) -> String {
    match event.last_port {
        Some(_) => event.original.source.to_string(),
        None => tuple(&event.original),
    }
}

/// What the outside sees: an address and its port, or the first one and the last one.
fn egress(event: &Event) -> Option<String> {
    let reply = event.reply?;
    let first = SocketAddr::new(reply.destination, reply.destination_port);
    Some(event.last_port.map_or(first.to_string(), |last| format!("{first}-{last}")))
}

/// What a flow carried, to the outside and back.
fn total(event: &Event) -> Option<String> {
    let total = event.total?;
    Some(format!(
        "{}.{:03}s, packets {}/{}, bytes {}/{}",
        total.duration_ms / 1_000,
        total.duration_ms % 1_000,
        total.original_packets,
        total.reply_packets,
        total.original_bytes,
        total.reply_bytes
    ))
}

#[cfg(test)]
mod tests {
    use spillway_api::{FlowTotal, Tuple};

    use super::*;

    fn ended() -> Event {
        let (pod, remote) = ([10, 0, 1, 40].into(), [203, 0, 113, 10].into());
        Event {
            number: 7,
            time_us: 1_795_357_371_120_000,
            worker: 1,
            kind: EventKind::End,
            protocol: "tcp".to_owned(),
            original: Tuple {
                source: pod,
                source_port: 41_000,
                destination: remote,
                destination_port: 443,
            },
            reply: Some(Tuple {
                source: remote,
                source_port: 443,
                destination: [192, 168, 44, 129].into(),
                destination_port: 41_001,
            }),
            pod: Some("shop/cart-0".to_owned()),
            policy: Some("app1".to_owned()),
            peer: None,
            reason: Some("closed".to_owned()),
            total: Some(FlowTotal {
                duration_ms: 65_040,
                original_packets: 5,
                original_bytes: 420,
                reply_packets: 4,
                reply_bytes: 990,
            }),
            last_port: None,
        }
    }

    #[test]
    fn a_line_says_who_left_as_whom() {
        assert_eq!(
            compact(&ended()),
            "2026-11-22T14:22:51.120000Z end tcp shop/cart-0 10.0.1.40:41000 -> 203.0.113.10:443 as \
             192.168.44.129:41001 policy app1 closed 65.040s, packets 5/4, bytes 420/990"
        );
        let dropped = Event {
            kind: EventKind::Drop,
            reply: None,
            pod: None,
            policy: None,
            reason: Some("no-flow".to_owned()),
            total: None,
            ..ended()
        };
        assert_eq!(
            compact(&dropped),
            "2026-11-22T14:22:51.120000Z drop tcp 10.0.1.40:41000 -> 203.0.113.10:443 no-flow"
        );
    }

    #[test]
    fn a_port_block_is_a_pods_and_has_two_ports() {
        let [pod, none] = [[10, 0, 1, 40], [0; 4]].map(std::net::IpAddr::from);
        let tuple = |source, destination, destination_port| Tuple {
            source,
            source_port: 0,
            destination,
            destination_port,
        };
        let block = Event {
            kind: EventKind::BlockBegin,
            protocol: "any".to_owned(),
            original: tuple(pod, none, 0),
            reply: Some(tuple(none, [192, 168, 44, 129].into(), 4_096)),
            policy: None,
            reason: None,
            total: None,
            last_port: Some(4_159),
            ..ended()
        };
        assert_eq!(
            compact(&block),
            "2026-11-22T14:22:51.120000Z block-begin any shop/cart-0 10.0.1.40 as \
             192.168.44.129:4096-4159"
        );
    }

    #[test]
    fn json_is_the_event_and_its_time() {
        let line = json(&ended()).unwrap();
        assert!(line.starts_with(r#"{"time":"2026-11-22T14:22:51.120000Z","number":7,"#), "{line}");
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), ended());
    }

    #[test]
    fn a_table_has_a_row_for_each() {
        let text = table(&[ended(), ended()]);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("192.168.44.129:41001   app1     closed"), "{text}");
    }
}
