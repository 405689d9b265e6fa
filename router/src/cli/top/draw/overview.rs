//! Throughput, workers, and what is dropped.

use std::{array, mem};

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Sparkline, Widget as _};
use spillway_api::Status;

use super::super::rates::{DropRate, Sample, Traffic, WorkerRates};
use super::super::screen::Known;
use super::super::units::{bit_rate, short};
use super::{HEADING, Look, UNKNOWN, render_rows, styled};
use crate::cli::table::Align::{Left, Right};
use crate::cli::table::Table;

/// From this width on workers have columns for what seldom happens.
const WIDE: u16 = 110;

pub(super) fn draw(known: &Known, sample: &Sample, look: Look, area: Rect, buffer: &mut Buffer) {
    let status = &sample.status;
    let workers = u16::try_from(status.workers.len()).unwrap_or(u16::MAX);
    let [charts, _, totals, _, table, _, drops] = Layout::vertical([
        Constraint::Length(5),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        // Of many workers some, so that there is room for what is dropped.
        Constraint::Length((workers + 1).min(area.height.saturating_sub(12).max(3))),
        Constraint::Length(1),
        Constraint::Fill(1),
    ])
    .areas(area);
    draw_charts(known, look, charts, buffer);
    Line::raw(totals_line(known, status)).render(totals, buffer);
    let rates = known.rates.as_ref().map(|rates| rates.workers.as_slice());
    let lines = match area.width {
        WIDE.. => worker_table::<11>(status, rates).lines(3),
        _ => worker_table::<9>(status, rates).lines(2),
    };
    render_rows(styled(lines), table, buffer);
    render_rows(drop_lines(known), drops, buffer);
}

fn draw_charts(known: &Known, look: Look, area: Rect, buffer: &mut Buffer) {
    let [forward, _, reply] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Length(2), Constraint::Fill(1)])
            .areas(area);
    let history = |which: fn(&(u64, u64)) -> u64| -> Vec<Option<u64>> {
        known.history.iter().map(|point| point.as_ref().map(which)).collect()
    };
    let rates = known.rates.as_ref();
    let (now, past) = (rates.map(|rates| rates.forward), history(|point| point.0));
    chart("Forward to outside", now, &past, look.forward(), forward, buffer);
    let (now, past) = (rates.map(|rates| rates.reply), history(|point| point.1));
    chart("Reply to pods", now, &past, look.reply(), reply, buffer);
}

/// A heading, the rate in words, and the history below, the newest at the right.
fn chart(
    name: &str,
    traffic: Option<Traffic>,
    values: &[Option<u64>],
    style: Style,
    area: Rect,
    buffer: &mut Buffer,
) {
    let [head, bars] = Layout::vertical([Constraint::Length(2), Constraint::Fill(1)]).areas(area);
    let width = usize::from(bars.width);
    let shown = values.get(values.len().saturating_sub(width)..).unwrap_or_default();
    let peak = shown.iter().flatten().max().copied().unwrap_or_default();
    let now = traffic.map_or(UNKNOWN.to_owned(), |traffic| {
        format!("{}, {} packets/s", bit_rate(traffic.bits), short(traffic.packets))
    });
    let lines = vec![
        Line::styled(format!("{name}; peak {}", bit_rate(peak as f64)), HEADING),
        Line::styled(now, style),
    ];
    Paragraph::new(lines).render(head, buffer);
    let mut data = vec![None; width - shown.len()];
    data.extend(shown);
    let bars_shown = Sparkline::default().data(data).max(peak.max(1)).style(style);
    bars_shown.absent_value_symbol(" ").render(bars, buffer);
}

fn totals_line(known: &Known, status: &Status) -> String {
    let flows: u64 = status.workers.iter().map(|worker| worker.flows).sum();
    let held: u64 = status.workers.iter().map(|worker| worker.held).sum();
    let rate = |value: Option<f64>| value.map_or(UNKNOWN.to_owned(), short);
    let rates = known.rates.as_ref();
    format!(
        "Flows {flows}   New {}/s   Dropped {}/s   Held {held}   Frames free {} of {}",
        rate(rates.map(|rates| rates.new_flows)),
        rate(rates.map(|rates| rates.dropped)),
        status.frames.free,
        status.frames.total
    )
}

/// What a worker's row has; on a narrow terminal the first nine.
const WORKER_COLUMNS: [&str; 11] = [
    "Worker",
    "Flows",
    "New/s",
    "Forward/s",
    "Reply/s",
    "Bit/s",
    "Drops/s",
    "Held",
    "TX full/s",
    "No frame/s",
    "Handed off/s",
];

/// A table with the first columns, as many as it has.
fn worker_table<const COLUMNS: usize>(
    status: &Status,
    rates: Option<&[WorkerRates]>,
) -> Table<COLUMNS> {
    let mut table = Table::new(array::from_fn(|column| (WORKER_COLUMNS[column], Right)));
    for mut cells in worker_rows(status, rates) {
        table.row(array::from_fn(|column| mem::take(&mut cells[column])));
    }
    table
}

fn worker_rows(
    status: &Status,
    rates: Option<&[WorkerRates]>,
) -> impl Iterator<Item = [String; 11]> {
    status.workers.iter().enumerate().map(move |(at, worker)| {
        let of = rates.and_then(|rates| rates.get(at));
        let rate =
            |value: fn(&WorkerRates) -> f64| of.map_or(UNKNOWN.to_owned(), |of| short(value(of)));
        [
            worker.id.to_string(),
            worker.flows.to_string(),
            rate(|of| of.new_flows),
            rate(|of| of.forward.packets),
            rate(|of| of.reply.packets),
            rate(|of| of.forward.bits + of.reply.bits),
            rate(|of| of.dropped),
            worker.held.to_string(),
            rate(|of| of.tx_ring_full),
            rate(|of| of.frames_missing),
            rate(|of| of.handed_off),
        ]
    })
}

fn drop_lines(known: &Known) -> Vec<Line<'static>> {
    let moving = known.moving_drops();
    if moving.is_empty() {
        return vec![Line::raw(match known.rates {
            Some(_) => "Nothing was dropped within the last minute.",
            None => "What is dropped is known with the next answer.",
        })];
    }
    let mut table = Table::new([("Dropped", Left), ("Packets/s", Right), ("Why", Left)]);
    for DropRate { reason, per_second, description, .. } in moving {
        table.row([reason.clone(), short(*per_second), description.clone()]);
    }
    styled(table.lines(2))
}
