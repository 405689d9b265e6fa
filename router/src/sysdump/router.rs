//! What the router says of itself.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;
use spillway_api::{Client, ClientError, Document, Event, FlowPage, Status};

use super::Entry;
use super::anonymise::Names;

/// Rows of flows, policies and events, at most: so many are not cut in an entry.
const ROWS_MAX: usize = 8_000;

/// What lies between the two times that counters are asked for, at least.
const BETWEEN: Duration = Duration::from_secs(2);

/// The router, as far as it has answered.
pub(super) struct Router {
    client: Result<Client, String>,
    status: Option<Status>,
    asked: Instant,
    /// What stands for names, where they are to be replaced.
    names: Option<Names>,
    entries: Vec<Entry>,
}

impl Router {
    /// Asks it everything once.
    pub(super) fn ask(socket: &Path, names: Option<Names>) -> Self {
        let client = Client::connect(socket).map_err(|error| error.to_string());
        let (asked, entries) = (Instant::now(), Vec::new());
        let mut router = Self { client, status: None, asked, names, entries };
        router.status = router.add("status.json", Client::status);
        router.add("drops-first.json", Client::drops);
        router.add("usage.json", Client::usage_counted_anew);
        router.add("log-level.json", |client| client.log_level(None, None));
        router.add("policies.json", |client| {
            rows(client, 0, |client, cursor| {
                client.policies(cursor).map(|page| (page.rows, page.next))
            })
        });
        router.add("flows.json", |client| {
            let page = |page: FlowPage| (page.rows, page.next);
            rows(client, 0, |client, cursor| client.flows(cursor).map(page))
        });
        router.add("events.json", last_events);
        router.add_state();
        router
    }

    /// Asks for the counters again.
    pub(super) fn ask_again(&mut self) {
        if self.client.is_ok() {
            std::thread::sleep(BETWEEN.saturating_sub(self.asked.elapsed()));
        }
        self.add("status-later.json", Client::status);
        self.add("drops-later.json", Client::drops);
    }

    pub(super) fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    /// The router's process.
    pub(super) fn pid(&self) -> Option<u32> {
        self.status.as_ref().map(|status| status.pid)
    }

    /// Its devices.
    pub(super) fn devices(&self) -> Vec<String> {
        let devices = self.status.iter().flat_map(|status| &status.devices);
        devices.map(|device| device.name.clone()).collect()
    }

    /// Adds an answer; gives it back.
    fn add<T: Serialize>(
        &mut self,
        name: &str,
        ask: impl FnOnce(&mut Client) -> Result<T, ClientError>,
    ) -> Option<T> {
        let answer = match &mut self.client {
            Ok(client) => ask(client).map_err(|error| error.to_string()),
            Err(error) => Err(error.clone()),
        };
        let text = match &answer {
            Ok(answer) => self.text(answer).map_err(|error| error.to_string()),
            Err(error) => Err(error.clone()),
        };
        self.entries.push(Entry::new(format!("router/{name}"), text));
        answer.ok()
    }

    /// Adds the state document as it was written; where names are replaced, only what it says: comments may
    /// have names too.
    fn add_state(&mut self) {
        if self.names.is_none() {
            self.add("state.json", Client::state);
            return;
        }
        let ask = |client: &mut Client| -> anyhow::Result<Option<Document>> {
            Ok(client.state()?.map(|text| Document::parse(&text)).transpose()?)
        };
        let document = match &mut self.client {
            Ok(client) => ask(client).context("the state document"),
            Err(error) => Err(anyhow::anyhow!(error.clone())),
        };
        let text = document.and_then(|document| Ok(self.text(&document)?));
        self.entries.push(Entry::new("router/state.json", text));
    }

    fn text(&mut self, answer: &impl Serialize) -> serde_json::Result<String> {
        let Some(names) = &mut self.names else { return serde_json::to_string_pretty(answer) };
        let mut answer = serde_json::to_value(answer)?;
        names.replace(&mut answer);
        serde_json::to_string_pretty(&answer)
    }
}

/// The last events.
fn last_events(client: &mut Client) -> Result<Vec<Event>, ClientError> {
    let end = client.events(u64::MAX)?.next;
    rows(client, end.saturating_sub(ROWS_MAX as u64), |client, cursor| {
        let page = client.events(cursor)?;
        let next = (!page.events.is_empty()).then_some(page.next);
        Ok((page.events, next))
    })
}

/// The rows of all pages from `first` on, up to [`ROWS_MAX`].
fn rows<T>(
    client: &mut Client,
    first: u64,
    page: impl Fn(&mut Client, u64) -> Result<(Vec<T>, Option<u64>), ClientError>,
) -> Result<Vec<T>, ClientError> {
    let mut all = Vec::new();
    let mut cursor = Some(first);
    while let Some(start) = cursor.filter(|_| all.len() < ROWS_MAX) {
        let (rows, next) = page(client, start)?;
        all.extend(rows);
        cursor = next;
    }
    all.truncate(ROWS_MAX);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::IpAddr;
    use std::os::unix::net::UnixListener;

    use spillway_api::{EventKind, EventPage, Request, Response, Tuple};
    use tempfile::TempDir;

    use super::*;

    fn event(number: u64) -> Event {
        let nobody = IpAddr::from([0; 4]);
        let original =
            Tuple { source: nobody, source_port: 0, destination: nobody, destination_port: 0 };
        Event {
            number,
            time_us: number,
            worker: 0,
            kind: EventKind::Begin,
            protocol: "tcp".to_owned(),
            original,
            reply: None,
            pod: None,
            policy: None,
            peer: None,
            reason: None,
            total: None,
            last_port: None,
        }
    }

    #[test]
    fn of_many_events_the_last_are_taken() {
        const LAST: u64 = 3 * ROWS_MAX as u64;
        let directory = TempDir::new().unwrap();
        let socket = directory.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            for line in BufReader::new(&stream).lines() {
                let Request::Events { cursor, limit } =
                    serde_json::from_str(&line.unwrap()).unwrap()
                else {
                    panic!("only events were to be asked for");
                };
                let from = cursor.clamp(1, LAST + 1);
                let next = (from + u64::from(limit)).min(LAST + 1);
                let events = (from..next).map(event).collect();
                let page = EventPage { events, first: 1, next, ..EventPage::default() };
                let line = serde_json::to_string(&Response::Events(page)).unwrap() + "\n";
                (&stream).write_all(line.as_bytes()).unwrap();
            }
        });
        let events = last_events(&mut Client::connect(&socket).unwrap()).unwrap();
        let numbers = |event: Option<&Event>| event.map(|event| event.number);
        assert_eq!(numbers(events.first()), Some(LAST + 1 - ROWS_MAX as u64));
        assert_eq!((numbers(events.last()), events.len()), (Some(LAST), ROWS_MAX));
    }
}
