//! The screen as text. Pure: what is known goes in, cells come out.
//!
//! It reads without colours: what matters is said in words, headings are bold, and an alarm is reversed.

mod details;
mod egress;
mod overview;

use ratatui::buffer::{Buffer, Cell};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Paragraph, Widget as _, Wrap};
use spillway_api::Status;

use super::super::duration;
use super::screen::{Known, Screen, View};

const KEYS: &str = "q quit   Tab next view   1-4 view   p pause   ? help";

const HELP: &str = "\
Tab, Shift-Tab   the next view, the one before
1 to 4           Overview, Drops, Egress, Flows
p                pause: what is shown stays, until p again
?                this help
q, Ctrl-C        quit

Rates are each second's, between the last two answers of the
router. Forward is what pods send to the outside, reply what
comes back to them; bits are those of IP packets.

Held: packets that wait for a neighbour, now. TX full: packets
that found the transmit ring full. Drops has the reasons that
moved within the last minute. Egress is counted every 5 seconds:
out is to the outside, in is back from there, - not known yet.
Flows shows the most active of the first 4096 flows.";

/// How things look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Whether to use colours.
    pub(super) colours: bool,
}

impl Look {
    fn coloured(self, style: Style, colour: Color) -> Style {
        if self.colours { style.fg(colour) } else { style }
    }

    fn alarm(self) -> Style {
        self.coloured(Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD), Color::Red)
    }

    fn forward(self) -> Style {
        self.coloured(Style::new(), Color::Cyan)
    }

    fn reply(self) -> Style {
        self.coloured(Style::new(), Color::Magenta)
    }
}

/// Where a rate is not known.
const UNKNOWN: &str = "-";

const HEADING: Style = Style::new().add_modifier(Modifier::BOLD);

/// Draws the whole screen: what is always there, and the view between.
pub(super) fn draw(screen: &Screen, look: Look, area: Rect, buffer: &mut Buffer) {
    let rows = [Constraint::Length(1), Constraint::Length(1), Constraint::Length(1)];
    let [title, state, _] = Layout::vertical(rows).areas(area);
    let [_, body, keys] =
        Layout::vertical([Constraint::Length(3), Constraint::Fill(1), Constraint::Length(1)])
            .areas(area);
    head(screen, look, [title, state], buffer);
    view(screen, look, body, buffer);
    let paused = if screen.is_paused() { "PAUSED   " } else { "" };
    let keys_line = Line::from(vec![
        Span::styled(paused, Style::new().add_modifier(Modifier::REVERSED)),
        Span::raw(KEYS),
    ]);
    keys_line.render(keys, buffer);
    if screen.help {
        help(area, buffer);
    }
}

/// Draws what a script wants of it: without keys and without tabs.
pub(super) fn draw_once(screen: &Screen, look: Look, area: Rect, buffer: &mut Buffer) {
    let [head, _, body] =
        Layout::vertical([Constraint::Length(2), Constraint::Length(1), Constraint::Fill(1)])
            .areas(area);
    Paragraph::new(vec![title(screen.known()), state(screen.known(), look)]).render(head, buffer);
    view(screen, look, body, buffer);
}

/// What is drawn, without the spaces at the ends of lines.
pub(super) fn lines(buffer: &Buffer) -> Vec<String> {
    let rows = buffer.content().chunks(usize::from(buffer.area().width.max(1)));
    let text = rows.map(|row| row.iter().map(Cell::symbol).collect::<String>());
    text.map(|line| line.trim_end().to_owned()).collect()
}

fn head(screen: &Screen, look: Look, [title_row, state_row]: [Rect; 2], buffer: &mut Buffer) {
    let mut tabs = Vec::new();
    for (number, view) in (1..).zip(View::ALL) {
        let style = match view == screen.view {
            true => Style::new().add_modifier(Modifier::REVERSED),
            false => Style::new(),
        };
        tabs.push(Span::styled(format!(" {number} {} ", view.name()), style));
    }
    let tabs = Line::from(tabs).right_aligned();
    title(screen.known()).render(title_row, buffer);
    tabs.render(title_row, buffer);
    state(screen.known(), look).render(state_row, buffer);
}

fn view(screen: &Screen, look: Look, body: Rect, buffer: &mut Buffer) {
    let known = screen.known();
    let Some(sample) = &known.sample else { return };
    match screen.view {
        View::Overview => overview::draw(known, sample, look, body, buffer),
        View::Drops => details::drops(known, sample, body, buffer),
        View::Egress => egress::draw(known, sample, look, body, buffer),
        View::Flows => details::flows(known, sample, body, buffer),
    }
}

fn title(known: &Known) -> Line<'static> {
    let text = match &known.sample {
        Some(sample) => {
            let Status { version, uptime_s, .. } = &sample.status;
            format!("Spillway {version}, up {}", duration(*uptime_s))
        }
        None => "Spillway".to_owned(),
    };
    Line::styled(text, HEADING)
}

/// How the router is, in a sentence.
fn state(known: &Known, look: Look) -> Line<'static> {
    if let Some((why, silent_for)) = &known.trouble {
        let since = duration(silent_for.as_secs());
        return Line::styled(format!("No answer for {since}: {why}"), look.alarm());
    }
    let Some(sample) = &known.sample else { return Line::raw("Asking the router ...") };
    let status = &sample.status;
    if let Some(refused) = &status.refused {
        let (age, source) = (duration(refused.age_s), &refused.source);
        let text =
            format!("The document from {source}, {age} ago, was refused: {}", refused.message);
        return Line::styled(text, look.alarm());
    }
    match (status.generation, status.draining_s) {
        (None, _) => Line::styled("No state document yet: nothing is forwarded", look.alarm()),
        (Some(_), Some(since)) => {
            let text = format!("Draining for {}: no new flow begins", duration(since));
            Line::styled(text, look.alarm())
        }
        (Some(generation), None) => {
            Line::raw(format!("Forwarding: generation {generation}, from {}", status.state_source))
        }
    }
}

fn help(area: Rect, buffer: &mut Buffer) {
    let height = u16::try_from(HELP.lines().count()).unwrap_or(u16::MAX);
    let block = ratatui::widgets::Block::bordered().title("Help");
    let middle = area.centered(Constraint::Length(68), Constraint::Length(height + 2));
    Clear.render(middle, buffer);
    Paragraph::new(HELP).block(block).wrap(Wrap { trim: false }).render(middle, buffer);
}

/// A table's lines, headings bold.
fn styled(lines: Vec<String>) -> Vec<Line<'static>> {
    let mut lines: Vec<Line<'static>> = lines.into_iter().map(Line::raw).collect();
    if let Some(first) = lines.first_mut() {
        first.style = HEADING;
    }
    lines
}

/// Draws lines, as many as fit; where some do not, the last one says how many rows are missing. What is cut
/// off at the right ends with an ellipsis, so that nobody takes a part of a number for the whole.
fn render_rows(mut lines: Vec<Line<'static>>, area: Rect, buffer: &mut Buffer) {
    let room = usize::from(area.height);
    let cut_off: Vec<bool> =
        lines.iter().map(|line| line.width() > usize::from(area.width)).collect();
    if lines.len() > room {
        let missing = lines.len() - room + 1;
        lines.truncate(room.saturating_sub(1));
        lines.push(Line::raw(format!("... and {missing} more")));
    }
    let shown = lines.len();
    Paragraph::new(lines).render(area, buffer);
    for (row, is_cut) in (area.top()..area.bottom()).zip(cut_off).take(shown) {
        if is_cut && let Some(last) = buffer.cell_mut((area.right().saturating_sub(1), row)) {
            last.set_symbol("…");
        }
    }
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
