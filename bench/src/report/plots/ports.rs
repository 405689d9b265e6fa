//! What a new flow costs while ports run out.

use anyhow::Result;
use plotters::prelude::*;

use super::Plot;
use super::canvas::{self, BLUE, Mark, draw_axes};
use crate::report::input::Measured;
use crate::report::markdown::short;

pub(super) fn plot(measured: &Measured) -> Result<Option<Plot>> {
    // Each step at its middle; asking beyond the last port is another matter.
    let steps = measured.leases().filter(|line| line.taken_percent[0] < 100);
    let points: Vec<(f64, f64)> = steps
        .map(|line| {
            (
                f64::midpoint(line.taken_percent[0].into(), line.taken_percent[1].into()),
                line.ns_per_flow,
            )
        })
        .collect();
    if points.is_empty() {
        return Ok(None);
    }
    let least = points.iter().map(|(_, ns)| *ns).fold(f64::INFINITY, f64::min);
    let most = points.iter().map(|(_, ns)| *ns).fold(0.0, f64::max);
    let title = "Engine: a new flow while the ports towards one remote run out";
    let legend =
        [(Mark::Line(BLUE), "Spillway, one egress address, the whole packet that opens the flow")];
    let svg = canvas::draw(title, &legend, 420, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(14)
            .x_label_area_size(48)
            .y_label_area_size(66)
            .build_cartesian_2d(0.0..100.0, (0.5 * least..2.0 * most).log_scale())?;
        let mut mesh = chart.configure_mesh();
        mesh.x_desc("leased ports, per cent")
            .y_desc("nanoseconds a new flow (logarithmic)")
            .x_label_formatter(&|percent| format!("{percent:.0}"))
            .y_label_formatter(&|ns| short(*ns));
        draw_axes(&mut mesh)?;
        chart.draw_series(LineSeries::new(points.clone(), BLUE.stroke_width(2)))?;
        chart.draw_series(points.iter().map(|at| Circle::new(*at, 4, BLUE.filled())))?;
        Ok(())
    })?;
    Ok(Some(Plot { file: "ports.svg", title, svg }))
}
