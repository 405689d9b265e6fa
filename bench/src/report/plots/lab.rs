//! Packets without loss, end to end: a group of bars for each way and size of frames.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::Plot;
use super::canvas::{self, BLUE, GREY, INK, Mark, ORANGE, draw_axes, room_above, text_at};
use crate::report::input::{Lab, Measured};

const SYSTEMS: [(&str, &str, RGBColor); 3] = [
    ("spillway", "Spillway", BLUE),
    ("l2-forward", "AF_XDP without an engine (the floor)", GREY),
    ("kernel", "the kernel: VXLAN, conntrack, nftables", ORANGE),
];

pub(super) fn plot(measured: &Measured) -> Result<Option<Plot>> {
    let lines: Vec<_> = measured.lab_metric("loss_free_pps").collect();
    let mut groups: Vec<(&str, &str)> = Vec::new();
    for line in &lines {
        let group = (line.direction.as_str(), line.size.as_str());
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    if groups.is_empty() {
        return Ok(None);
    }
    let top = room_above(lines.iter().map(|line| line.max / 1e6));
    let legend = SYSTEMS.map(|(_, name, colour)| (Mark::Bar(colour), name));
    let title = "Lab: million packets a second without loss";
    let svg = canvas::draw(title, &legend, 440, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(14)
            .x_label_area_size(48)
            .y_label_area_size(62)
            .build_cartesian_2d(0.0..f64::from(u32::try_from(groups.len())?), 0.0..top)?;
        let mut mesh = chart.configure_mesh();
        mesh.disable_x_mesh()
            .x_labels(0)
            .x_desc("direction, bytes of the inner frame")
            .y_desc("Mpps, at most 0.5 % lost")
            .y_label_formatter(&|rate| format!("{rate:.1}"));
        draw_axes(&mut mesh)?;
        for (group, number) in groups.iter().zip(0_u32..) {
            let start = f64::from(number) + 0.1;
            for ((system, _, colour), place) in SYSTEMS.iter().zip(0_u32..) {
                let is_it = |line: &&&Lab| {
                    line.system == *system
                        && (line.direction.as_str(), line.size.as_str()) == *group
                };
                let Some(line) = lines.iter().find(is_it) else { continue };
                let from = start + 0.27 * f64::from(place);
                let [low, median, high] = [line.min, line.median, line.max].map(|rate| rate / 1e6);
                let bar = Rectangle::new([(from, 0.0), (from + 0.25, median)], colour.filled());
                chart.draw_series([bar])?;
                let middle = from + 0.125;
                let extremes =
                    PathElement::new([(middle, low), (middle, high)], INK.stroke_width(1));
                chart.draw_series([extremes])?;
                let (x, y) = chart.backend_coord(&(middle, high));
                let style = text_at(12, HPos::Center, VPos::Bottom);
                canvas::write(area, (x, y - 3), format!("{median:.2}"), style)?;
            }
            let (x, y) = chart.backend_coord(&(f64::from(number) + 0.5, 0.0));
            let name = format!("{} {}", group.0, group.1);
            let style = text_at(13, HPos::Center, VPos::Top);
            canvas::write(area, (x, y + 6), name, style)?;
        }
        Ok(())
    })?;
    Ok(Some(Plot { file: "lab.svg", title, svg }))
}
