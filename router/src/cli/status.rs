//! `spillway status`.

use spillway_api::{Frames, Status};

use super::duration;
use super::table::Align::{Left, Right};
use super::table::Table;

/// The status for people.
pub(super) fn table(status: &Status, socket: &str) -> String {
    let mut text = summary(status, socket);
    text.push('\n');
    devices(status).append_to(&mut text);
    text.push('\n');
    workers(status).append_to(&mut text);
    let Frames { total, free, receiving, transmitting, held } = status.frames;
    text.push_str(&format!(
        "\nFrames: {total}, of them {free} free, {receiving} to receive into, {transmitting} being \
         sent, {held} held\n"
    ));
    for report in &status.reports {
        text.push_str(&format!("Note: {report}\n"));
    }
    text
}

fn summary(status: &Status, socket: &str) -> String {
    let Status { version, pid, uptime_s, state_source, .. } = status;
    let mut text = format!(
        "Spillway {version}, process {pid}, up {}\nSocket: {socket}\n",
        duration(*uptime_s)
    );
    match status.generation {
        Some(generation) => {
            text.push_str(&format!("State: generation {generation}, from {state_source}\n"));
        }
        None => text.push_str("State: none yet; nothing is forwarded\n"),
    }
    if let Some(since) = status.draining_s {
        text.push_str(&format!(
            "Draining: for {}; no new flow begins until `spillway drain --undo`\n",
            duration(since)
        ));
    }
    if let Some(refused) = &status.refused {
        text.push_str(&format!(
            "Refused: the state from {}, {} ago: {}\n",
            refused.source,
            duration(refused.age_s),
            refused.message
        ));
    }
    text
}

fn devices(status: &Status) -> Table<10> {
    let mut table = Table::new([
        ("Device", Left),
        ("Index", Right),
        ("MAC", Left),
        ("MTU", Right),
        ("Queues", Right),
        ("XDP", Left),
        ("Zero-copy", Left),
        ("RX Dropped", Right),
        ("RX Ring Full", Right),
        ("Fill Ring Empty", Right),
    ]);
    for device in &status.devices {
        table.row([
            device.name.clone(),
            device.ifindex.to_string(),
            device.mac.to_string(),
            device.mtu.to_string(),
            device.queues.to_string(),
            device.xdp_mode.clone(),
            if device.zero_copy { "yes" } else { "no" }.to_owned(),
            device.rings.rx_dropped.to_string(),
            device.rings.rx_ring_full.to_string(),
            device.rings.fill_ring_empty.to_string(),
        ]);
    }
    table
}

fn workers(status: &Status) -> Table<12> {
    let mut table = Table::new([
        ("Worker", Right),
        ("Flows", Right),
        ("Received", Right),
        ("Transmitted", Right),
        ("Dropped", Right),
        ("Held", Right),
        ("TX Ring Full", Right),
        ("No Frame", Right),
        ("Fragmented", Right),
        ("Handed Off", Right),
        ("Answered", Right),
        ("ICMP Errors", Right),
    ]);
    for worker in &status.workers {
        table.row([
            worker.id.to_string(),
            worker.flows.to_string(),
            worker.received.to_string(),
            worker.transmitted.to_string(),
            worker.dropped.to_string(),
            worker.held.to_string(),
            worker.tx_ring_full.to_string(),
            worker.frames_missing.to_string(),
            worker.fragmented.to_string(),
            worker.handed_off.to_string(),
            worker.answered.to_string(),
            worker.errors_sent.to_string(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use spillway_api::{
        Device, EventCounts, MacAddress, Programmed, Programming, RefusedState, RingStatistics,
        Worker,
    };

    use super::*;

    fn status() -> Status {
        Status {
            version: "0.1.0".to_owned(),
            api_version: 1,
            pid: 4_711,
            uptime_s: 3_725,
            generation: Some(7),
            state_source: "/etc/spillway/state.yaml".to_owned(),
            refused: None,
            draining_s: None,
            author_age_s: None,
            programmed: Programmed::default(),
            programming: Programming::default(),
            flows_max: 65_536,
            devices: vec![Device {
                name: "eth0".to_owned(),
                ifindex: 2,
                mac: MacAddress([2, 0, 0, 0, 0, 1]),
                mtu: 1_500,
                queues: 4,
                xdp_mode: "native".to_owned(),
                zero_copy: false,
                rings: RingStatistics { rx_ring_full: 12, ..RingStatistics::default() },
            }],
            workers: vec![Worker { id: 0, flows: 3, received: 1_000, ..Worker::default() }],
            frames: Frames {
                total: 16_384,
                free: 8_192,
                receiving: 8_190,
                transmitting: 2,
                held: 0,
            },
            events: EventCounts::default(),
            reports: vec!["rule 100: fwmark 0x1 is not supported and is ignored".to_owned()],
        }
    }

    #[test]
    fn a_healthy_router_is_shown_on_one_screen() {
        assert_eq!(
            table(&status(), "/run/spillway/spillway.sock"),
            "Spillway 0.1.0, process 4711, up 1h2m\n\
             Socket: /run/spillway/spillway.sock\n\
             State: generation 7, from /etc/spillway/state.yaml\n\
             \n\
             Device   Index   MAC                  MTU   Queues   XDP      Zero-copy   \
             RX Dropped   RX Ring Full   Fill Ring Empty\n\
             eth0         2   02:00:00:00:00:01   1500        4   native   no          \
             \u{20}        0             12                 0\n\
             \n\
             Worker   Flows   Received   Transmitted   Dropped   Held   TX Ring Full   \
             No Frame   Fragmented   Handed Off   Answered   ICMP Errors\n\
             \u{20}    0       3       1000             0         0      0              0   \
             \u{20}      0            0            0          0             0\n\
             \n\
             Frames: 16384, of them 8192 free, 8190 to receive into, 2 being sent, 0 held\n\
             Note: rule 100: fwmark 0x1 is not supported and is ignored\n"
        );
    }

    #[test]
    fn a_refused_document_and_a_missing_one_are_told() {
        let status = Status {
            generation: None,
            refused: Some(RefusedState {
                source: "socket".to_owned(),
                message: "line 3, column 5: policies: expected a list".to_owned(),
                age_s: 12,
            }),
            ..status()
        };
        let text = table(&Status { draining_s: Some(61), ..status }, "/s");
        assert!(text.contains("State: none yet; nothing is forwarded\n"), "{text}");
        assert!(text.contains("Draining: for 1m1s; no new flow begins until"), "{text}");
        assert!(
            text.contains(
                "Refused: the state from socket, 12s ago: line 3, column 5: policies: expected a \
                 list\n"
            ),
            "{text}"
        );
    }
}
