//! `spillway observe`: what happened to flows and packets lately, and what happens now.

mod show;

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use spillway_api::Event;

use super::print;
use super::time::Moment;
use crate::observe::filter::Filter;
use crate::observe::follow::{Follower, Gap, time};
use crate::observe::source::{Batch, Source, may_pass};
use crate::observe::stop::Stop;

/// How often a router that had nothing new is asked again: it tells nobody by itself.
const INTERVAL: Duration = Duration::from_millis(200);

/// Events that are shown at most if nothing is said.
const LAST_DEFAULT: usize = 20;

/// Which events are shown, and how.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The last so many that match. Default: 20; none of before with --follow; all with --since or
    /// --until.
    #[arg(long, value_name = "NUMBER", conflicts_with = "all")]
    last: Option<usize>,
    /// All that the router keeps.
    #[arg(long)]
    all: bool,
    /// Those from this time on: 5m is five minutes ago; or RFC 3339, such as 2026-11-22T14:00:00Z.
    #[arg(long, value_name = "TIME", conflicts_with = "all")]
    since: Option<Moment>,
    /// Those until this time, likewise.
    #[arg(long, value_name = "TIME", conflicts_with_all = ["all", "follow"])]
    until: Option<Moment>,
    /// Go on with what happens, until Ctrl-C.
    #[arg(short, long)]
    follow: bool,
    /// As what they are shown.
    #[arg(short, long, value_enum, default_value_t = Output::Compact)]
    output: Output,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A line each.
    Compact,
    /// In columns.
    Table,
    /// One JSON object on a line each.
    Json,
}

/// Which events of the past are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Past {
    /// From this time on.
    since: Timestamp,
    /// Until this time.
    until: Timestamp,
    /// The last so many of them.
    last: usize,
}

impl Options {
    fn past(&self, now: Timestamp) -> Past {
        let since = self.since.map_or(Timestamp::MIN, |since| since.at(now));
        let until = self.until.map_or(Timestamp::MAX, |until| until.at(now));
        let last = match self.last {
            Some(last) => last,
            None if self.all || self.since.is_some() || self.until.is_some() => usize::MAX,
            None if self.follow => 0,
            None => LAST_DEFAULT,
        };
        Past { since, until, last }
    }
}

/// Shows events of the router that listens at `socket`.
pub(super) fn observe(options: &Options, socket: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(
        !(options.follow && options.output == Output::Table),
        "columns are as wide as the widest cell, which nobody knows of what is still to come: \
         --follow goes with -o compact or -o json"
    );
    let mut stop = Stop::on_signals()?;
    let mut source = Source::new(socket, Follower::oldest());
    let now = Timestamp::now();
    let past = read_past(&mut source, options.past(now), &options.filter, now, &mut stop)?;
    let is_open = match options.output {
        Output::Table => print(&show::table(&past)).map(|()| false)?,
        Output::Compact | Output::Json => print_lines(past.iter(), options.output)?,
    };
    if is_open && options.follow {
        follow(&mut source, options, &mut stop)?;
    }
    Ok(())
}

/// What has happened until `now`, as far as it is wanted.
fn read_past(
    source: &mut Source,
    past: Past,
    filter: &Filter,
    now: Timestamp,
    stop: &mut Stop,
) -> anyhow::Result<VecDeque<Event>> {
    let mut kept = VecDeque::new();
    loop {
        let Batch { gaps, events, .. } = source.poll()?;
        tell(&gaps);
        // Who is slower than the router would never come to the end.
        let is_last = events.last().is_none_or(|event| time(event.time_us) > now);
        for event in events {
            let at = time(event.time_us);
            if (past.since..=past.until).contains(&at) && filter.matches(&event) {
                kept.push_back(event);
            }
            if kept.len() > past.last {
                kept.pop_front();
            }
        }
        if is_last || stop.wait(Duration::ZERO) {
            return Ok(kept);
        }
    }
}

/// Shows what happens, until somebody wants no more. A router that goes away may come back.
fn follow(source: &mut Source, options: &Options, stop: &mut Stop) -> anyhow::Result<()> {
    let mut is_away = false;
    while !stop.wait(Duration::ZERO) {
        let batch = match source.poll() {
            Ok(batch) => batch,
            Err(error) if may_pass(&error) => {
                if !is_away {
                    say(&format!("{error} Waiting for it."));
                }
                is_away = true;
                stop.wait(INTERVAL);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        is_away = false;
        tell(&batch.gaps);
        let events = batch.events.iter().filter(|event| options.filter.matches(event));
        if !print_lines(events, options.output)? {
            return Ok(());
        }
        if batch.events.is_empty() {
            stop.wait(INTERVAL);
        }
    }
    Ok(())
}

/// Whether somebody still reads.
fn print_lines<'a>(
    events: impl Iterator<Item = &'a Event>,
    output: Output,
) -> anyhow::Result<bool> {
    let mut text = String::new();
    for event in events {
        match output {
            Output::Json => text.push_str(&show::json(event)?),
            Output::Compact | Output::Table => text.push_str(&show::compact(event)),
        }
        text.push('\n');
    }
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(anyhow::anyhow!("cannot write to standard output: {error}")),
    }
}

/// Tells what is missing.
fn tell(gaps: &[Gap]) {
    for gap in gaps {
        let many = gap.lost.map_or("some".to_owned(), |lost| lost.to_string());
        let Gap { from, to, why, .. } = gap;
        say(&format!("events lost: {many}, from {from:.6} to {to:.6}: {}", why.words()));
    }
}

fn say(text: &str) {
    // Standard error may be closed: then nobody wants to know.
    let _ = writeln!(io::stderr(), "spillway: {text}");
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn what_is_shown_of_the_past_follows_from_the_options() {
        let now: Timestamp = "2026-11-22T14:00:00Z".parse().unwrap();
        let [earlier, later]: [Timestamp; 2] =
            ["2026-11-22T13:55:00Z", "2026-11-22T13:58:00Z"].map(|text| text.parse().unwrap());
        let (first, end) = (Timestamp::MIN, Timestamp::MAX);
        for (options, since, until, last) in [
            (&[][..], first, end, 20),
            (&["--last", "3"], first, end, 3),
            (&["--all"], first, end, usize::MAX),
            (&["--since", "5m"], earlier, end, usize::MAX),
            (&["--since", "2026-11-22T14:55:00+01:00"], earlier, end, usize::MAX),
            (&["--since", "5m", "--last", "3"], earlier, end, 3),
            (&["--since", "5m", "--until", "2m"], earlier, later, usize::MAX),
            (&["--until", "2026-11-22T13:58:00Z", "--last", "3"], first, later, 3),
            (&["--follow"], first, end, 0),
            (&["-f", "--last", "3"], first, end, 3),
            (&["-f", "--all"], first, end, usize::MAX),
        ] {
            let line = Line::try_parse_from([&["observe"], options].concat()).unwrap();
            assert_eq!(line.options.past(now), Past { since, until, last }, "{options:?}");
        }
        for options in [&["--all", "--since", "5m"][..], &["-f", "--until", "now"]] {
            assert!(Line::try_parse_from([&["observe"], options].concat()).is_err(), "{options:?}");
        }
    }
}
