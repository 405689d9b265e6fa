//! What egress addresses and policies carry, and how full the addresses are.

use std::cmp::Reverse;

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Widget as _, Wrap};
use spillway_api::{EgressUsage, Usage};

use super::super::rates::Sample;
use super::super::screen::Known;
use super::super::units::{short, whole};
use super::super::usage_rates::BothWays;
use super::{Look, UNKNOWN, render_rows, styled};
use crate::cli::table::Align::{Left, Right};
use crate::cli::table::Table;
use crate::cli::usage;

/// Rows that each of the two upper tables has at most, headings included, as a part of all rows.
const PART: u16 = 3;

/// The busiest egress addresses, those with the fullest remotes, and the busiest policies.
pub(super) fn draw(known: &Known, sample: &Sample, look: Look, area: Rect, buffer: &mut Buffer) {
    let Some(usage) = sample.usage.as_ref().filter(|usage| usage.counted) else {
        let text = match &sample.usage {
            Some(usage) => usage::table(usage),
            None => "This router does not count what flows use: it is older.".to_owned(),
        };
        return Paragraph::new(text).wrap(Wrap { trim: true }).render(area, buffer);
    };
    let addresses = styled(addresses(known, usage).lines(2));
    let ports = styled(ports(&usage.egress_addresses).lines(2));
    let height = |lines: &[Line<'_>]| {
        let wanted = u16::try_from(lines.len()).unwrap_or(u16::MAX);
        Constraint::Length(wanted.min((area.height / PART).max(3)))
    };
    let gap = Constraint::Length(1);
    let rows = [height(&addresses), gap, height(&ports), gap, Constraint::Fill(1)];
    let [above, _, middle, _, below] = Layout::vertical(rows).areas(area);
    render_rows(addresses, above, buffer);
    render_rows(ports, middle, buffer);
    let mut lines = styled(policies(known, usage).lines(2));
    if usage.flows_of_no_policy > 0 {
        let count = usage.flows_of_no_policy;
        let note = format!("Flows that have not spoken since the policies changed: {count}");
        lines.insert(0, Line::styled(note, look.alarm()));
    }
    render_rows(lines, below, buffer);
}

fn addresses(known: &Known, usage: &Usage) -> Table<6> {
    let rates = known.usage_rates.as_ref();
    busiest(
        "Egress Address",
        usage.egress_addresses.iter().map(|egress| {
            let rate = rates.and_then(|rates| rates.egress_addresses.get(&egress.address));
            (egress.address.to_string(), egress.flows, rate.copied())
        }),
    )
}

fn policies(known: &Known, usage: &Usage) -> Table<6> {
    let rates = known.usage_rates.as_ref();
    busiest(
        "Policy",
        usage.policies.iter().map(|policy| {
            let rate = rates.and_then(|rates| rates.policies.get(&policy.name));
            (policy.name.clone(), policy.flows, rate.copied())
        }),
    )
}

/// Names with their flows and rates, those with most bits first, then those with most flows.
fn busiest(
    heading: &'static str,
    rows: impl Iterator<Item = (String, u64, Option<BothWays>)>,
) -> Table<6> {
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by_key(|(_, flows, rate)| Reverse((rate.map(|rate| whole(rate.bits())), *flows)));
    let mut table = Table::new([
        (heading, Left),
        ("Flows", Right),
        ("Pkt/s Out", Right),
        ("Bit/s Out", Right),
        ("Pkt/s In", Right),
        ("Bit/s In", Right),
    ]);
    for (name, flows, rate) in rows {
        let [packets_out, bits_out, packets_in, bits_in] = match rate {
            Some(BothWays { forward, reply }) => {
                [forward.packets, forward.bits, reply.packets, reply.bits].map(short)
            }
            None => [UNKNOWN; 4].map(ToOwned::to_owned),
        };
        table.row([name, flows.to_string(), packets_out, bits_out, packets_in, bits_in]);
    }
    table
}

/// How many of its ports each egress address has leased towards the remote that has most of them.
fn ports(used: &[EgressUsage]) -> Table<4> {
    let in_use = |egress: &EgressUsage| egress.fullest.as_ref().map_or(0, |remote| remote.ports);
    let mut used: Vec<&EgressUsage> = used.iter().collect();
    used.sort_by_key(|egress| Reverse(in_use(egress)));
    let mut table = Table::new([
        ("Egress Address", Left),
        ("Ports of the fullest remote", Left),
        ("In Use", Right),
        ("Remote", Left),
    ]);
    for egress in used {
        let ports = in_use(egress);
        table.row([
            egress.address.to_string(),
            bar(ports, egress.ports),
            ports.to_string(),
            egress.fullest.as_ref().map(usage::remote).unwrap_or_default(),
        ]);
    }
    table
}

/// A part of a whole, such as `[#####     ]  52%`.
fn bar(part: u64, whole: u64) -> String {
    const WIDTH: u64 = 16;
    let part = part.min(whole);
    let filled = (part * WIDTH).div_ceil(whole.max(1));
    let bar: String = (0..WIDTH).map(|at| if at < filled { '#' } else { ' ' }).collect();
    format!("[{bar}] {:3}%", part * 100 / whole.max(1))
}
