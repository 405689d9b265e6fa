//! `spillway top`: what a router does now, on the whole terminal.
//!
//! Answers, keys and signals come through one channel to the thread that draws ([`watch`]); what they
//! change is [`Screen`]'s, and how it looks is `draw`'s.

mod ask;
mod draw;
mod rates;
mod screen;
mod units;
mod usage_rates;

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use crossbeam::channel::{Receiver, Sender, bounded};
use ratatui::DefaultTerminal;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::Rect;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use ask::Asker;
use draw::Look;
use rates::Sample;
use screen::{Key, Screen, View};

/// Answers, keys and signals that wait to be drawn.
const NEWS_MAX: usize = 16;

/// What is printed by `--once` when standard output is no terminal: columns, and lines at most.
const WIDTH: u16 = 100;
const HEIGHT_MAX: u16 = 250;

/// How the router is watched.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Seconds between two questions.
    #[arg(long, value_name = "SECONDS", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=60))]
    interval: u64,
    /// What to show first.
    #[arg(long, value_enum, default_value_t = View::Overview)]
    view: View,
    /// Print it once, as text, after one interval (5 seconds at least for egress), and end.
    #[arg(long)]
    once: bool,
}

/// What the thread that draws is told.
#[expect(clippy::large_enum_variant, reason = "there are few at a time, and most are answers")]
enum News {
    /// The router has answered, or not at that time.
    Answer(Result<Sample, (String, Duration)>),
    Key(Key),
    /// The terminal has another size.
    Resized,
    /// A signal, or the end of standard input.
    End,
    /// The terminal cannot be read.
    Failed(io::Error),
}

/// Shows the router that listens at `socket`, until somebody quits.
pub(super) fn top(options: &Options, socket: &Path) -> anyhow::Result<()> {
    let look = Look { colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) };
    let interval = Duration::from_secs(options.interval);
    if options.once {
        return super::print(&once(options.view, interval, socket)?);
    }
    anyhow::ensure!(
        io::stdout().is_terminal() && io::stdin().is_terminal(),
        "standard input and output are no terminal: `spillway top --once` prints text"
    );
    let news = bounded(NEWS_MAX);
    let wants_flows = Arc::new(AtomicBool::new(options.view == View::Flows));
    // Before the terminal is changed: from here on no signal ends the process by itself.
    listen_to_signals(news.0.clone())?;
    let terminal = Restored(ratatui::try_init().context("cannot take the terminal")?);
    listen_to_keys(news.0.clone());
    let (_over, is_over) = bounded(0);
    let asker = Asker::new(socket, Arc::clone(&wants_flows));
    thread::spawn(move || asker.ask_on(interval, &is_over, &news.0, News::Answer));
    watch(terminal, Screen::new(options.view), look, &news.1, &wants_flows)
}

/// The terminal, given back as it was when dropped. When this process panics, ratatui's hook does so.
struct Restored(DefaultTerminal);

impl Drop for Restored {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = ratatui::try_restore();
    }
}

fn watch(
    mut terminal: Restored,
    mut screen: Screen,
    look: Look,
    news: &Receiver<News>,
    wants_flows: &AtomicBool,
) -> anyhow::Result<()> {
    loop {
        let drawn = terminal.0.draw(|frame| {
            draw::draw(&screen, look, frame.area(), frame.buffer_mut());
        });
        drawn.context("cannot draw on the terminal")?;
        match news.recv().context("nobody asks the router any more")? {
            News::Answer(answer) => screen.take(answer),
            News::Key(key) => {
                if !screen.press(key) {
                    return Ok(());
                }
                wants_flows.store(screen.wants_flows(), Relaxed);
            }
            News::Resized => {}
            News::End => return Ok(()),
            News::Failed(error) => return Err(error).context("cannot read from the terminal"),
        }
    }
}

fn listen_to_signals(news: Sender<News>) -> anyhow::Result<()> {
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]);
    let mut signals = signals.context("cannot catch signals")?;
    thread::spawn(move || {
        if signals.forever().next().is_some() {
            // Whoever draws may have ended.
            let _ = news.send(News::End);
        }
    });
    Ok(())
}

fn listen_to_keys(news: Sender<News>) {
    thread::spawn(move || {
        loop {
            let told = match event::read() {
                Ok(Event::Key(pressed)) => key(pressed).map(News::Key),
                Ok(Event::Resize(..)) => Some(News::Resized),
                Ok(_) => None,
                Err(error) => {
                    let _ = news.send(News::Failed(error));
                    return;
                }
            };
            if told.is_some_and(|told| news.send(told).is_err()) {
                return;
            }
        }
    });
}

/// What a key means, if it means something. In raw mode Ctrl-C is a key.
fn key(pressed: KeyEvent) -> Option<Key> {
    let is_control = pressed.modifiers.contains(KeyModifiers::CONTROL);
    Some(match pressed.code {
        KeyCode::Char('c') if is_control => Key::Quit,
        _ if is_control || pressed.is_release() => return None,
        KeyCode::Char('q') | KeyCode::Esc => Key::Quit,
        KeyCode::Tab | KeyCode::Right => Key::NextView,
        KeyCode::BackTab | KeyCode::Left => Key::PreviousView,
        KeyCode::Char('p' | ' ') => Key::Pause,
        KeyCode::Char('?' | 'h') => Key::Help,
        KeyCode::Char(digit @ '1'..='4') => {
            Key::View(*View::ALL.get(digit.to_digit(10)? as usize - 1)?)
        }
        _ => return None,
    })
}

/// One screen as text, from two answers.
fn once(view: View, interval: Duration, socket: &Path) -> anyhow::Result<String> {
    let mut screen = Screen::new(view);
    let mut asker = Asker::new(socket, Arc::new(AtomicBool::new(screen.wants_flows())));
    screen.take(Ok(asker.ask()?));
    thread::sleep(match view {
        // What flows use is not counted anew before.
        View::Egress => interval.max(ask::USAGE_EVERY),
        View::Overview | View::Drops | View::Flows => interval,
    });
    screen.take(Ok(asker.ask()?));
    let width = match io::stdout().is_terminal() {
        true => ratatui::crossterm::terminal::size().map_or(WIDTH, |(columns, _)| columns),
        false => WIDTH,
    };
    Ok(text(&screen, width))
}

fn text(screen: &Screen, width: u16) -> String {
    let area = Rect::new(0, 0, width.max(1), HEIGHT_MAX);
    let mut buffer = Buffer::empty(area);
    draw::draw_once(screen, Look { colours: false }, area, &mut buffer);
    let mut text = draw::lines(&buffer).join("\n");
    text.truncate(text.trim_end_matches('\n').len());
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_what_the_help_says() {
        let plain = |code| KeyEvent::new(code, KeyModifiers::NONE);
        for (pressed, meant) in [
            (plain(KeyCode::Char('q')), Some(Key::Quit)),
            (plain(KeyCode::Tab), Some(Key::NextView)),
            (KeyEvent::new(KeyCode::BackTab, KeyModifiers::SHIFT), Some(Key::PreviousView)),
            (plain(KeyCode::Char('1')), Some(Key::View(View::Overview))),
            (plain(KeyCode::Char('4')), Some(Key::View(View::Flows))),
            (plain(KeyCode::Char('5')), None),
            (plain(KeyCode::Char('p')), Some(Key::Pause)),
            (plain(KeyCode::Char('?')), Some(Key::Help)),
            (plain(KeyCode::Char('c')), None),
            (KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Key::Quit)),
            (KeyEvent::new(KeyCode::Char('p'), KeyModifiers::CONTROL), None),
        ] {
            assert_eq!(key(pressed), meant, "{pressed:?}");
        }
    }
}
