//! From a router's events to the log's records, until somebody wants no more.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use spillway_api::ClientError;

use super::export::Exporter;
use super::file::{LogFile, beside};
use super::record::{At, Record};
use crate::observe::follow::{Follower, Position, Why, now};
use crate::observe::source::{Source, may_pass};
use crate::observe::stop::Stop;

/// How often a router that had nothing new is asked again: it tells nobody by itself.
const INTERVAL: Duration = Duration::from_millis(200);

/// How long what is written may wait until it survives the machine.
const SYNC: SignedDuration = SignedDuration::from_secs(1);

/// How often the log says that it goes on, where nothing else is written.
const MARK: SignedDuration = SignedDuration::from_secs(60);

/// Where the lines go.
#[derive(Debug)]
pub(crate) enum Lines {
    /// To a file; how far it goes is in `FILE.cursor`.
    File(LogFile, PathBuf),
    /// To standard output, at the end of each turn.
    Output(Vec<u8>),
    /// Nowhere: there is a collector.
    Nowhere,
}

/// The log, and where it goes.
#[derive(Debug)]
pub(crate) struct Recorder {
    lines: Lines,
    exporter: Option<Exporter>,
    /// When lines were made to survive last.
    synced: Timestamp,
    /// Until when the log says that nothing is missing.
    marked: Timestamp,
    /// What the router has now that is to be written down; none when it is.
    listing: Option<Listing>,
    /// Whether pods have whole blocks of ports there: flows with a port are not written down then.
    port_blocks: bool,
    is_away: bool,
}

/// Writing down what the router has now.
#[derive(Clone, Copy, Debug)]
struct Listing {
    what: Listed,
    /// Where its next page begins.
    cursor: u64,
    /// Whether the collector does not know of it all.
    is_news: bool,
}

/// What a router has: first the one, then the other.
#[derive(Clone, Copy, Debug)]
enum Listed {
    /// The flows that live.
    Flows,
    /// The blocks of ports that pods have.
    Blocks,
}

impl Listing {
    fn new(is_news: bool) -> Self {
        Self { what: Listed::Flows, cursor: 0, is_news }
    }
}

/// The place of `FILE.cursor`.
pub(crate) fn cursor_file(log: &Path) -> PathBuf {
    beside(log, ".cursor")
}

impl Recorder {
    pub(crate) fn new(lines: Lines, exporter: Option<Exporter>) -> Self {
        let past = Timestamp::UNIX_EPOCH;
        Self {
            lines,
            exporter,
            synced: past,
            marked: past,
            listing: None,
            port_blocks: false,
            is_away: false,
        }
    }

    /// Writes the log of the router that listens at `socket`. One that is not there may come.
    pub(crate) fn run(mut self, socket: &Path) -> anyhow::Result<()> {
        let mut stop = Stop::on_signals()?;
        let position = self.last_position()?;
        // Where the log goes on it has all flows already, but perhaps in files that were removed, or will be.
        self.listing = Some(Listing::new(position.is_none()));
        let follower = position.map_or_else(Follower::whole, Follower::from);
        let mut source = Source::new(socket, follower);
        self.write(&Record::Start(At { time: now() }))?;
        loop {
            let is_idle = self.turn(&mut source)?;
            let timeout = if is_idle { INTERVAL } else { Duration::ZERO };
            if stop.wait(timeout) || !self.settle(&source, now())? {
                break;
            }
        }
        let known_until = source.position().map_or_else(now, |position| position.until);
        self.write(&Record::Stop(At { time: known_until }))?;
        self.synced = Timestamp::UNIX_EPOCH;
        self.settle(&source, now()).map(|_| ())
    }

    /// Takes the next page of events, and of flows where they are wanted. Whether there was nothing.
    fn turn(&mut self, source: &mut Source) -> anyhow::Result<bool> {
        let asked = now();
        let batch = match source.poll() {
            Ok(batch) => batch,
            Err(error) => return self.away(error).map(|()| true),
        };
        self.is_away = false;
        self.port_blocks = batch.port_blocks;
        let is_idle = batch.events.is_empty() && self.listing.is_none();
        for gap in batch.gaps {
            let why = gap.why.words();
            tracing::warn!("a gap in the log, from {} to {}: {why}", gap.from, gap.to);
            // What has begun meanwhile is among those.
            let was_news = self.listing.is_some_and(|listing| listing.is_news);
            self.listing = Some(Listing::new(was_news || gap.why != Why::ClockSetBack));
            self.write(&Record::Gap(gap))?;
        }
        for record in batch.events.into_iter().filter_map(Record::of_event) {
            self.write_wanted(&record)?;
        }
        self.write_listing(source)?;
        if is_idle && has_passed(MARK, self.marked, asked) {
            self.write(&Record::Mark(At { time: asked }))?;
        }
        Ok(is_idle)
    }

    /// Writes the next page of what the router has now, if it is wanted: its flows, then its blocks.
    fn write_listing(&mut self, source: &mut Source) -> anyhow::Result<()> {
        let Some(listing) = self.listing else { return Ok(()) };
        let asked = now();
        let page = match listing.what {
            Listed::Flows => source.flows(listing.cursor).map(|page| {
                let rows = page.rows.into_iter().map(|row| Record::of_flow(row, asked));
                (rows.collect::<Vec<_>>(), page.next)
            }),
            Listed::Blocks => source.port_blocks(listing.cursor).map(|page| {
                let rows = page.rows.into_iter().map(|row| Record::of_block(row, asked));
                (rows.collect(), page.next)
            }),
        };
        let (records, next) = match page {
            Ok(page) => page,
            Err(error) => return self.away(error),
        };
        records.iter().try_for_each(|record| self.write_wanted(record))?;
        self.listing = match (next, listing.what) {
            (Some(cursor), _) => Some(Listing { cursor, ..listing }),
            (None, Listed::Flows) if self.port_blocks => {
                Some(Listing { what: Listed::Blocks, cursor: 0, ..listing })
            }
            (None, _) => None,
        };
        if self.listing.is_none() {
            if let Lines::File(file, _) = &mut self.lines {
                file.has_all_flows();
            }
            self.write(&Record::Complete(At { time: asked }))?;
        }
        Ok(())
    }

    /// Writes what blocks do not say already.
    fn write_wanted(&mut self, record: &Record) -> anyhow::Result<()> {
        if self.port_blocks && record.is_in_a_block() { Ok(()) } else { self.write(record) }
    }

    /// A router that is being restarted comes back.
    fn away(&mut self, error: ClientError) -> anyhow::Result<()> {
        if !may_pass(&error) {
            return Err(error.into());
        }
        if !self.is_away {
            tracing::warn!("{error} Waiting for it.");
        }
        self.is_away = true;
        Ok(())
    }

    fn write(&mut self, record: &Record) -> anyhow::Result<()> {
        self.marked = record.time();
        match &mut self.lines {
            Lines::File(file, _) => file.append(record)?,
            Lines::Output(waiting) => waiting.extend(record.line()?),
            Lines::Nowhere => {}
        }
        let is_known = matches!(record, Record::Live(_) | Record::BlockLive(_))
            && self.listing.is_some_and(|listing| !listing.is_news);
        if let Some(exporter) = self.exporter.as_mut().filter(|_| !is_known) {
            exporter.add(record, now());
        }
        Ok(())
    }

    /// Brings to its place what was written. Whether somebody still wants it.
    fn settle(&mut self, source: &Source, now: Timestamp) -> anyhow::Result<bool> {
        // Before the collector, which may take its time.
        if let Lines::File(file, _) = &mut self.lines {
            file.write()?;
        }
        if let Some(exporter) = &mut self.exporter {
            exporter.send(now);
        }
        match &mut self.lines {
            Lines::File(file, cursor) => {
                if has_passed(SYNC, self.synced, now) {
                    file.sync()?;
                    self.synced = now;
                    // Not before the flows are written: behind a gap, who goes on from here would not
                    // tell the collector of them.
                    if let Some(position) = source.position().filter(|_| self.listing.is_none()) {
                        save(cursor, position)?;
                    }
                    if file.follow_name()? {
                        // Also those that are in the other one already.
                        let is_news = self.listing.is_some_and(|listing| listing.is_news);
                        self.listing = Some(Listing::new(is_news));
                    }
                }
                if self.listing.is_none() && file.wants_all_flows() {
                    self.listing = Some(Listing::new(false));
                }
            }
            Lines::Output(waiting) => {
                let lines = std::mem::take(waiting);
                let mut output = io::stdout().lock();
                match output.write_all(&lines).and_then(|()| output.flush()) {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
                    written => written.context("cannot write to standard output")?,
                }
            }
            Lines::Nowhere => {}
        }
        Ok(true)
    }

    /// How far the log was written before; none of a new one.
    fn last_position(&self) -> anyhow::Result<Option<Position>> {
        let Lines::File(_, cursor) = &self.lines else { return Ok(None) };
        let text = match std::fs::read(cursor) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", cursor.display()));
            }
        };
        serde_json::from_slice(&text).map(Some).with_context(|| {
            let path = cursor.display();
            format!("{path} does not say how far the log goes; without it, all is read again")
        })
    }
}

/// Whether so long has passed; a clock that was set back does not make anybody wait.
pub(super) fn has_passed(duration: SignedDuration, since: Timestamp, now: Timestamp) -> bool {
    let passed = now.duration_since(since);
    passed.is_negative() || passed >= duration
}

/// Replaces the file as a whole.
fn save(path: &Path, position: &Position) -> anyhow::Result<()> {
    let new = beside(path, ".new");
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(position)?)?;
        file.sync_data()?;
        std::fs::rename(&new, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
