//! The views behind the overview that list what there is: drops, flows.

use std::net::SocketAddr;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Widget as _, Wrap};
use spillway_api::{Device, Flow, RingStatistics};

use super::super::rates::{FlowRate, Sample};
use super::super::screen::Known;
use super::super::units::short;
use super::{HEADING, render_rows, styled};
use crate::cli::table::Align::{Left, Right};
use crate::cli::table::Table;

/// Flows that are shown at most.
const FLOWS_SHOWN: usize = 200;

/// Each reason on a line, with its sentence below; then what the rings have lost.
pub(super) fn drops(known: &Known, sample: &Sample, area: Rect, buffer: &mut Buffer) {
    let moving = known.moving_drops();
    let mut lines = Vec::new();
    if moving.is_empty() {
        lines.push(Line::raw("Nothing was dropped within the last minute."));
    }
    for drop in moving {
        let (rate, packets) = (short(drop.per_second), drop.packets);
        let head = format!("{}   {rate}/s, {packets} since the start", drop.reason);
        lines.push(Line::styled(head, HEADING));
        lines.push(Line::raw(format!("  {}", drop.description)));
    }
    let losing: Vec<&Device> =
        sample.status.devices.iter().filter(|device| has_lost(&device.rings)).collect();
    lines.push(Line::raw(""));
    if losing.is_empty() {
        lines.push(Line::raw("No device's rings have lost a frame since the start."));
    } else {
        lines.extend(styled(rings(&losing).lines(2)));
    }
    lines.push(Line::raw("`spillway drops` has what was dropped before."));
    Paragraph::new(lines).wrap(Wrap { trim: false }).render(area, buffer);
}

fn has_lost(rings: &RingStatistics) -> bool {
    rings.rx_dropped + rings.rx_ring_full + rings.fill_ring_empty > 0
}

fn rings(devices: &[&Device]) -> Table<4> {
    let mut table = Table::new([
        ("Lost since the start", Left),
        ("RX Dropped", Right),
        ("RX Ring Full", Right),
        ("Fill Ring Empty", Right),
    ]);
    for Device { name, rings, .. } in devices {
        let cells = [rings.rx_dropped, rings.rx_ring_full, rings.fill_ring_empty];
        let [dropped, full, empty] = cells.map(|count| count.to_string());
        table.row([name.clone(), dropped, full, empty]);
    }
    table
}

/// The most active flows; before there are rates, the first ones.
pub(super) fn flows(known: &Known, sample: &Sample, area: Rect, buffer: &mut Buffer) {
    let Some(some) = &sample.flows else {
        return Line::raw("Flows come with the next answer.").render(area, buffer);
    };
    let rates = known.rates.as_ref().map_or(&[][..], |rates| &rates.flows);
    if rates.is_empty() {
        let text = match some.rows.is_empty() {
            true => "There are no flows.",
            false => "Rates come with the next answer.",
        };
        return Line::raw(text).render(area, buffer);
    }
    let shown = rates.get(..FLOWS_SHOWN).unwrap_or(rates);
    let mut lines = styled(flow_table(shown).lines(2));
    if !some.are_all {
        let (seen, all) = (some.rows.len(), sample.status.workers.iter().map(|w| w.flows));
        let note = format!(
            "Of {} flows the first {seen} were looked at: `spillway flows` has all.",
            all.sum::<u64>()
        );
        lines.insert(0, Line::styled(note, Style::new().add_modifier(Modifier::REVERSED)));
    }
    render_rows(lines, area, buffer);
}

/// On a narrow terminal the first four columns are there.
fn flow_table(rates: &[FlowRate]) -> Table<7> {
    let mut table = Table::new([
        ("Bit/s", Right),
        ("Proto", Left),
        ("Pod -> destination", Left),
        ("As", Left),
        ("Pkt/s", Right),
        ("State", Left),
        ("Policy", Left),
    ]);
    for FlowRate { flow, traffic } in rates {
        let Flow { original, reply, .. } = flow;
        let pod = SocketAddr::new(original.source, original.source_port);
        let destination = SocketAddr::new(original.destination, original.destination_port);
        table.row([
            short(traffic.bits),
            flow.protocol.clone(),
            format!("{pod} -> {destination}"),
            SocketAddr::new(reply.destination, reply.destination_port).to_string(),
            short(traffic.packets),
            flow.state.clone(),
            flow.policy.clone(),
        ]);
    }
    table
}
