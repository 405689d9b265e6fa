//! Where records come from: the log's files, and the router for what is not in them yet.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use jiff::Timestamp;
use spillway_api::{Client, ClientError, EventPage};

use super::history::{Answer, History, Question};
use crate::nat_log::file::{LINE_BYTES_MAX, rotated};
use crate::nat_log::record::Record;
use crate::observe::follow::{Gap, Why, time};

/// Rotated files that are looked for, at most: all are open at a time, so that none is missed that is
/// rotated meanwhile.
pub(crate) const ROTATED_MAX: u32 = 500;

/// What the logs of one or several gateways know, and, of one gateway, its router at `socket`; and
/// notes about what could not be read.
pub(crate) fn ask(
    question: &Question,
    logs: &[PathBuf],
    socket: &Path,
    now: Timestamp,
) -> anyhow::Result<(Answer, Vec<String>)> {
    let (mut answers, mut notes) = (Vec::new(), Vec::new());
    for log in logs {
        let mut history = History::new(question.clone());
        let damaged = read_log(&mut history, log)?;
        if damaged > 0 {
            notes.push(format!("{}: {damaged} lines are no records", log.display()));
        }
        if logs.len() == 1
            && !history.is_enough()
            && let Err(error) = ask_router(&mut history, socket, now, true)
        {
            notes.push(format!("the log ends before that time, and {error}"));
        }
        answers.push(history.answer());
    }
    if logs.is_empty() {
        let mut history = History::new(question.clone());
        ask_router(&mut history, socket, now, false)?;
        answers.push(history.answer());
    }
    let uncertain = answers.iter().find_map(|answer| answer.uncertain.clone());
    let holders = answers.into_iter().flat_map(|answer| answer.holders).collect();
    Ok((Answer { holders, uncertain }, notes))
}

/// Reads a log with its rotated files, the oldest first. Returns how many lines are no records.
fn read_log(history: &mut History, log: &Path) -> anyhow::Result<u64> {
    let open = |path: &Path| {
        File::open(path).with_context(|| format!("cannot read the NAT log {}", path.display()))
    };
    let mut files = vec![(log.to_owned(), open(log)?)];
    for number in 1..=ROTATED_MAX {
        let path = rotated(log, number);
        match File::open(&path) {
            Ok(file) => files.push((path, file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(_) => files.push((path.clone(), open(&path)?)),
        }
    }
    let mut damaged = 0;
    for (path, file) in files.into_iter().rev() {
        let read = read_file(history, BufReader::new(file));
        damaged += read.with_context(|| format!("cannot read {}", path.display()))?;
    }
    Ok(damaged)
}

fn read_file(history: &mut History, mut file: BufReader<File>) -> io::Result<u64> {
    let (mut line, mut damaged) = (Vec::new(), 0);
    loop {
        line.clear();
        if file.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(damaged);
        }
        match serde_json::from_slice::<Record>(&line) {
            Ok(record) => history.add(&record),
            // The last line may be half written still.
            Err(_) => damaged += u64::from(line.ends_with(b"\n")),
        }
    }
}

/// Asks the router what happened lately, and what it has: behind a log what that would have, in the same
/// words. Else flows, which say more than the blocks of ports that they are in.
fn ask_router(
    history: &mut History,
    socket: &Path,
    now: Timestamp,
    is_behind_a_log: bool,
) -> Result<(), ClientError> {
    let mut client = Client::connect(socket)?;
    let page = match client.events(0) {
        Ok(page) => Some(page),
        Err(ClientError::Refused(_)) => None,
        Err(error) => return Err(error),
    };
    let blocks = is_behind_a_log && page.as_ref().is_some_and(|page| page.port_blocks);
    let is_wanted = |record: &Record| match blocks {
        true => !record.is_in_a_block(),
        false => record.block().is_none(),
    };
    match page {
        Some(page) => read_events(history, &mut client, page, now, &is_wanted)?,
        None => history.goes_on_at(now),
    }
    let mut cursor = Some(0);
    while let Some(from) = cursor {
        let page = client.flows(from)?;
        let records = page.rows.into_iter().map(|flow| Record::of_flow(flow, now));
        records.filter(is_wanted).for_each(|record| history.add(&record));
        cursor = page.next;
    }
    let mut cursor = blocks.then_some(0);
    while let Some(from) = cursor {
        let page = client.port_blocks(from)?;
        page.rows.into_iter().for_each(|block| history.add(&Record::of_block(block, now)));
        cursor = page.next;
    }
    history.is_known_until(now);
    Ok(())
}

/// Takes all events that the router keeps, until now.
fn read_events(
    history: &mut History,
    client: &mut Client,
    mut page: EventPage,
    now: Timestamp,
    is_wanted: &dyn Fn(&Record) -> bool,
) -> Result<(), ClientError> {
    // It keeps all events, or the last ones.
    let begin = match page.events.first() {
        Some(event) if event.number > 1 => time(event.time_us),
        _ => time(page.since_us),
    };
    history.goes_on_at(begin);
    if page.lost > 0 {
        let (lost, why) = (Some(page.lost), Why::RouterBusy);
        history.add(&Record::Gap(Gap { from: begin, to: now, lost, why }));
    }
    loop {
        // Who is slower than the router would never come to the end.
        let is_last = page.events.last().is_none_or(|event| time(event.time_us) > now);
        let records = page.events.into_iter().filter_map(Record::of_event);
        records.filter(is_wanted).for_each(|record| history.add(&record));
        if is_last {
            return Ok(());
        }
        page = client.events(page.next)?;
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use tempfile::TempDir;

    use super::*;
    use crate::nat_log::record::tests::{at, session};
    use crate::nat_log::record::{At, Session};

    fn line(record: &Record) -> String {
        String::from_utf8(record.line().unwrap()).unwrap()
    }

    #[test]
    fn rotated_files_are_read_first_and_damaged_lines_are_counted() {
        let directory = TempDir::new().unwrap();
        let log = directory.path().join("nat.log");
        let began = session("2026-11-22T10:00:00Z");
        let ended = Session { time: at("2026-11-22T12:00:00Z"), ..began.clone() };
        let complete = line(&Record::Complete(At { time: began.time }));
        std::fs::write(rotated(&log, 2), complete + &line(&Record::Begin(began.clone()))).unwrap();
        std::fs::write(rotated(&log, 1), "{\"event\":\"mark\",\"ti\n").unwrap();
        let mut text = line(&Record::End(ended));
        write!(text, "{{\"event\":\"begin\",").unwrap();
        std::fs::write(&log, text).unwrap();
        let time = at("2026-11-22T11:00:00Z");
        let question = Question {
            address: began.egress_address,
            port: began.egress_port,
            from: time,
            to: time,
            protocol: None,
            remote: None,
            remote_port: None,
        };
        let nowhere = Path::new("/nowhere");
        let (answer, notes) = ask(&question, std::slice::from_ref(&log), nowhere, time).unwrap();
        assert_eq!((answer.holders.len(), answer.uncertain), (1, None));
        assert_eq!(notes, [format!("{}: 1 lines are no records", log.display())]);

        // Beyond the log's end only the router could tell.
        let later = at("2026-11-22T13:00:00Z");
        let question = Question { from: later, to: later, ..question };
        let (answer, notes) = ask(&question, &[log], nowhere, later).unwrap();
        assert!(answer.holders.is_empty() && answer.uncertain.is_some());
        assert!(notes[1].contains("cannot reach Spillway at /nowhere"), "{notes:?}");
        let error = ask(&question, &["/nowhere/nat.log".into()], nowhere, later).unwrap_err();
        assert!(error.to_string().contains("/nowhere/nat.log"), "{error}");
    }
}
