//! What the steering program costs, case by case: many different frames, and one again and again.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::Plot;
use super::canvas::{self, BLUE, Mark, SKY, draw_axes, room_above, text_at};
use crate::report::input::{Measured, Steering};
use crate::report::markdown::{grouped, short};

/// Pixels of a case's row, and of the axis below them all.
const ROW: u32 = 26;
const AXIS: u32 = 62;
const NAMES: u32 = 380;

/// A case's name, and its nanoseconds with many frames and with one.
struct Case {
    frame: String,
    name: String,
    many: f64,
    one: Option<f64>,
}

fn cases(measured: &Measured) -> Vec<Case> {
    let key = |line: &Steering| (line.frame.clone(), line.pods, line.sets, line.cidrs_per_set);
    let many = measured.steering.iter().filter(|line| line.distinct_frames > 1);
    many.map(|line| {
        let one =
            measured.steering.iter().find(|it| it.distinct_frames == 1 && key(it) == key(line));
        let [pods, sets, cidrs] = [line.pods, line.sets, line.cidrs_per_set].map(grouped);
        Case {
            frame: line.frame.clone(),
            name: format!("{}: {pods} × {sets} × {cidrs}", line.frame),
            many: line.ns_per_frame.median,
            one: one.map(|line| line.ns_per_frame.median),
        }
    })
    .collect()
}

pub(super) fn plot(measured: &Measured) -> Result<Option<Plot>> {
    let mut cases = cases(measured);
    if cases.is_empty() {
        return Ok(None);
    }
    // What is measured with one size only first, then size by size.
    let sizes = |frame: &str| cases.iter().filter(|case| case.frame == frame).count();
    let mut order: Vec<_> =
        cases.iter().map(|case| (sizes(&case.frame), case.frame.clone())).collect();
    order.sort();
    order.dedup();
    cases.sort_by_key(|case| order.iter().position(|(_, frame)| *frame == case.frame));
    let top = room_above(cases.iter().flat_map(|case| [case.many, case.one.unwrap_or(0.0)]));
    let rows = u32::try_from(cases.len())?;
    let title = "Steering: nanoseconds a frame; pods × policy sets × CIDRs a set";
    let distinct = measured.steering.iter().map(|line| line.distinct_frames).max();
    let distinct = format!("{} different frames", grouped(distinct.unwrap_or_default()));
    let legend =
        [(Mark::Bar(BLUE), distinct.as_str()), (Mark::Bar(SKY), "one frame, again and again")];
    let svg = canvas::draw(title, &legend, 80 + AXIS + rows * ROW, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(10)
            .x_label_area_size(AXIS - 14)
            .y_label_area_size(NAMES)
            .build_cartesian_2d(0.0..top, f64::from(rows)..0.0)?;
        let mut mesh = chart.configure_mesh();
        mesh.disable_y_mesh()
            .y_labels(0)
            .x_desc("nanoseconds a frame, without the empty program's")
            .x_label_formatter(&|ns| format!("{ns:.0}"));
        draw_axes(&mut mesh)?;
        for (case, row) in cases.iter().zip(0_u32..) {
            let at = f64::from(row);
            let bar = |from: f64, until: f64, ns: f64, colour: RGBColor| {
                Rectangle::new([(0.0, at + from), (ns, at + until)], colour.filled())
            };
            let one = case.one.map(|ns| bar(0.56, 0.86, ns, SKY));
            chart.draw_series([bar(0.14, 0.54, case.many, BLUE)].into_iter().chain(one))?;
            let (x, y) = chart.backend_coord(&(0.0, at + 0.5));
            let style = text_at(12, HPos::Right, VPos::Center);
            canvas::write(area, (x - 8, y), case.name.clone(), style)?;
            let (x, y) = chart.backend_coord(&(case.many, at + 0.34));
            let style = text_at(11, HPos::Left, VPos::Center);
            canvas::write(area, (x + 4, y), short(case.many), style)?;
        }
        Ok(())
    })?;
    Ok(Some(Plot { file: "steering.svg", title, svg }))
}
