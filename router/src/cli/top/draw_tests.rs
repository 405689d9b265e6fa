//! Whole screens as text, which stand in `draw/screens`.

use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use spillway_api::RefusedState;

use super::super::rates::{Sample, SomeFlows};
use super::super::screen::Key;
use super::*;
use crate::serve::sample;

/// The answer of each second: traffic that grows, and packets that find no port.
fn sample_at(second: u64) -> Sample {
    let (mut status, mut drops) = (sample::status(), sample::drops());
    status.uptime_s += second;
    status.workers[0].forward_packets += 1_000 * second * second;
    status.workers[0].forward_bytes += 1_000_000 * second * second;
    status.workers[0].reply_packets += 500 * second;
    status.workers[0].reply_bytes += 700_000 * second;
    status.workers[0].dropped += 12 * second;
    status.workers[1].flows_created += 7 * second;
    let ports = drops.engine.iter_mut().find(|drop| drop.reason == "ports-exhausted").unwrap();
    ports.packets += 12 * second;
    // Of each second another count, as nobody asks so often.
    let mut usage = sample::usage();
    usage.counted_at_ms += 1_000 * second;
    let carried = usage.policies.iter_mut().map(|policy| &mut policy.traffic);
    for carried in
        carried.chain(usage.egress_addresses.first_mut().map(|egress| &mut egress.traffic))
    {
        carried.original_packets += 9_000 * second;
        carried.original_bytes += 9_000_000 * second;
        carried.reply_packets += 500 * second;
        carried.reply_bytes += 700_000 * second;
    }
    let flows =
        vec![sample::flow(40_000, 1_000_000 * second), sample::flow(40_001, 9_000_000 * second)];
    Sample {
        at: Duration::from_secs(second),
        status,
        drops,
        usage: Some(usage),
        flows: Some(SomeFlows { rows: flows, are_all: false }),
    }
}

/// A screen that has seen these seconds.
fn screen(view: View, seconds: u64) -> Screen {
    let mut screen = Screen::new(view);
    (0..=seconds).for_each(|second| screen.take(Ok(sample_at(second))));
    screen
}

/// What is drawn, as lines without the spaces at their ends.
fn drawn(screen: &Screen, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let look = Look { colours: false };
    terminal.draw(|frame| draw(screen, look, frame.area(), frame.buffer_mut())).unwrap();
    lines(terminal.backend().buffer())
}

fn text(screen: &Screen) -> String {
    drawn(screen, 80, 24).join("\n")
}

/// Compares a screen with `draw/screens/NAME.txt`; with UPDATE_SCREENS=1 in the environment it is written
/// there instead.
fn assert_screen(name: &str, lines: &[String]) {
    let path = format!("{}/src/cli/top/draw/screens/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let text = lines.join("\n") + "\n";
    if std::env::var_os("UPDATE_SCREENS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, expected, "{path}: UPDATE_SCREENS=1 writes it anew");
}

#[test]
fn every_view_is_readable_on_the_smallest_usual_terminal() {
    for view in View::ALL {
        assert_screen(&view.name().to_lowercase(), &drawn(&screen(view, 5), 80, 24));
    }
    assert_screen("wide", &drawn(&screen(View::Overview, 5), 120, 30));
}

#[test]
fn help_lies_over_the_view() {
    let mut screen = screen(View::Overview, 2);
    screen.press(Key::Help);
    assert_screen("help", &drawn(&screen, 80, 24));
    screen.press(Key::Help);
    assert!(!text(&screen).contains("Shift-Tab"));
}

#[test]
fn before_the_first_answer_and_without_one_it_says_so() {
    let mut screen = Screen::new(View::Overview);
    assert!(text(&screen).contains("Asking the router ..."));
    screen.take(Err(("nobody listens".to_owned(), Duration::from_secs(3))));
    assert!(text(&screen).contains("No answer for 0s: nobody listens"));
}

#[test]
fn what_is_wrong_with_the_router_is_on_the_second_line() {
    type Change = fn(&mut Status);
    let refused =
        RefusedState { source: "socket".to_owned(), message: "line 3".to_owned(), age_s: 61 };
    let changes: [(Change, &str); 3] = [
        (|status| status.generation = None, "No state document yet: nothing is forwarded"),
        (|status| status.draining_s = Some(61), "Draining for 1m1s: no new flow begins"),
        (|_| {}, "Forwarding: generation 7, from socket"),
    ];
    for (change, said) in changes {
        let mut sample = sample_at(0);
        change(&mut sample.status);
        let mut screen = Screen::new(View::Drops);
        screen.take(Ok(sample));
        assert_eq!(drawn(&screen, 80, 24)[1], said);
    }
    let mut sample = sample_at(0);
    sample.status.refused = Some(refused);
    let mut screen = Screen::new(View::Drops);
    screen.take(Ok(sample));
    let said = "The document from socket, 1m1s ago, was refused: line 3";
    assert_eq!(drawn(&screen, 80, 24)[1], said);
}

#[test]
fn a_router_that_is_away_leaves_what_was_seen_last() {
    let mut screen = screen(View::Overview, 3);
    screen.take(Err(("nobody listens".to_owned(), Duration::from_secs(4))));
    screen.take(Err(("nobody listens".to_owned(), Duration::from_secs(16))));
    screen.press(Key::Pause);
    let text = text(&screen);
    for said in ["No answer for 12s: nobody listens", "Flows 10   New -/s", "PAUSED"] {
        assert!(text.contains(said), "{said}\n{text}");
    }
}

#[test]
fn what_does_not_fit_is_counted() {
    let mut sample = sample_at(1);
    let usage = sample.usage.as_mut().unwrap();
    let policy = usage.policies[0].clone();
    usage.policies = vec![policy; 100];
    let mut screen = Screen::new(View::Egress);
    screen.take(Ok(sample));
    let lines = drawn(&screen, 80, 24);
    let more = lines.iter().find(|line| line.contains("... and ")).unwrap();
    let shown = lines.iter().filter(|line| line.contains("team/")).count();
    assert_eq!(*more, format!("... and {} more", 100 - shown));
}

#[test]
fn flows_that_are_not_counted_and_an_older_router_are_told() {
    let mut screen = Screen::new(View::Egress);
    screen.take(Ok(Sample { usage: Some(spillway_api::Usage::default()), ..sample_at(0) }));
    assert!(text(&screen).contains("Flows were not counted"));
    screen.take(Ok(Sample { usage: None, ..sample_at(1) }));
    assert!(text(&screen).contains("This router does not count"));
}

#[test]
fn any_size_is_drawn_without_a_panic() {
    for view in View::ALL {
        let mut screen = screen(view, 5);
        for (width, height) in [(1, 1), (3, 2), (20, 5), (79, 8), (200, 100)] {
            drawn(&screen, width, height);
            screen.press(Key::Help);
        }
    }
}

#[test]
fn colours_are_only_used_where_they_are_wanted() {
    let mut screen = screen(View::Overview, 5);
    screen.take(Err(("away".to_owned(), Duration::from_secs(9))));
    for colours in [false, true] {
        let area = Rect::new(0, 0, 80, 24);
        let mut buffer = Buffer::empty(area);
        draw(&screen, Look { colours }, area, &mut buffer);
        let is_coloured = |cell: &Cell| cell.fg != Color::Reset || cell.bg != Color::Reset;
        assert_eq!(buffer.content().iter().any(is_coloured), colours);
    }
}

#[test]
fn text_from_a_policy_cannot_move_the_cursor() {
    let mut sample = sample_at(0);
    sample.usage.as_mut().unwrap().policies[0].name = "a\u{1b}[2Jb".to_owned();
    let mut screen = Screen::new(View::Egress);
    screen.take(Ok(sample));
    assert!(!text(&screen).contains('\u{1b}'));
}
