//! Nanoseconds a packet over the number of flows.

use anyhow::Result;
use plotters::prelude::*;

use super::Plot;
use super::canvas::{self, BLUE, GREY, INK, Mark, ORANGE, SKY, draw_axes, room_above};
use crate::report::input::{Direction, Measured};
use crate::report::markdown::grouped;
use crate::report::promises::forward_targets;

/// Family, variant, and how they are shown.
const SERIES: [(&str, &str, &str, RGBColor); 4] = [
    ("IPv4", "spillway", "Spillway", BLUE),
    ("IPv6", "spillway", "Spillway, IPv6", GREY),
    ("IPv4", "no-prefetch", "without prefetching", SKY),
    ("IPv4", "naive", "naive (two hash maps)", ORANGE),
];

/// A series' flows and nanoseconds.
fn points(measured: &Measured, family: &str, variant: &str) -> Vec<(f64, f64)> {
    let lines = measured.forwarding().filter(|(way, line)| {
        *way == Direction::Forward
            && line.family == family
            && line.variant == variant
            && line.distribution == "uniform"
            && line.burst == 64
    });
    lines.map(|(_, line)| (f64::from(line.flows), line.ns_per_packet)).collect()
}

pub(super) fn plot(measured: &Measured) -> Result<Option<Plot>> {
    let series =
        SERIES.map(|(family, variant, _, colour)| (points(measured, family, variant), colour));
    let all = || series.iter().flat_map(|(points, _)| points);
    let Some(most) = all().map(|(flows, _)| *flows).reduce(f64::max) else { return Ok(None) };
    let least = all().map(|(flows, _)| *flows).fold(most, f64::min);
    let top = room_above(all().map(|(_, ns)| *ns));
    let shown = SERIES.iter().zip(&series).filter(|(_, (points, _))| !points.is_empty());
    let mut legend: Vec<_> =
        shown.map(|((.., name, colour), _)| (Mark::Line(*colour), *name)).collect();
    legend.push((Mark::Target, "target"));
    let title = "Engine: nanoseconds a packet, forward, uniform, burst 64";
    let svg = canvas::draw(title, &legend, 560, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(14)
            .x_label_area_size(48)
            .y_label_area_size(58)
            .build_cartesian_2d((0.7 * least..1.6 * most).log_scale(), 0.0..top)?;
        let mut mesh = chart.configure_mesh();
        mesh.x_desc("flows (logarithmic)")
            .y_desc("nanoseconds a packet")
            .x_label_formatter(&flows_label)
            .y_label_formatter(&|ns| format!("{ns:.0}"));
        draw_axes(&mut mesh)?;
        for (points, colour) in &series {
            chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?;
            chart.draw_series(points.iter().map(|at| Circle::new(*at, 4, colour.filled())))?;
        }
        chart.draw_series(forward_targets().filter(|(flows, _)| *flows <= most).map(
            |(flows, ns)| {
                PathElement::new([(flows / 1.35, ns), (flows * 1.35, ns)], INK.stroke_width(3))
            },
        ))?;
        Ok(())
    })?;
    Ok(Some(Plot { file: "engine.svg", title, svg }))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "powers of ten")]
fn flows_label(flows: &f64) -> String {
    grouped(flows.round() as u32)
}
