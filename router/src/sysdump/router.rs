//! What the router says of itself.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use spillway_api::{Client, ClientError, Status};

use super::Entry;

/// Rows of flows, policies and events, at most.
const ROWS_MAX: usize = 20_000;

/// What lies between the two times that counters are asked for, at least.
const BETWEEN: Duration = Duration::from_secs(2);

/// The router, as far as it has answered.
pub(super) struct Router {
    client: Result<Client, String>,
    status: Option<Status>,
    asked: Instant,
    entries: Vec<Entry>,
}

impl Router {
    /// Asks it everything once.
    pub(super) fn ask(socket: &Path) -> Self {
        let client = Client::connect(socket).map_err(|error| error.to_string());
        let mut router = Self { client, status: None, asked: Instant::now(), entries: Vec::new() };
        router.status = router.add("status.json", Client::status);
        router.add("drops-first.json", Client::drops);
        router.add("usage.json", Client::usage);
        router.add("log-level.json", |client| client.log_level(None, None));
        router.add("policies.json", |client| {
            rows(client, |client, cursor| {
                client.policies(cursor).map(|page| (page.rows, page.next))
            })
        });
        router.add("flows.json", |client| {
            rows(client, |client, cursor| client.flows(cursor).map(|page| (page.rows, page.next)))
        });
        router.add("events.json", |client| {
            rows(client, |client, cursor| {
                let page = client.events(cursor)?;
                let next = (!page.events.is_empty()).then_some(page.next);
                Ok((page.events, next))
            })
        });
        router.add("state.json", Client::state);
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
            Ok(answer) => serde_json::to_string_pretty(answer).map_err(|error| error.to_string()),
            Err(error) => Err(error.clone()),
        };
        self.entries.push(Entry::new(format!("router/{name}"), text));
        answer.ok()
    }
}

/// The rows of all pages, up to [`ROWS_MAX`].
fn rows<T>(
    client: &mut Client,
    page: impl Fn(&mut Client, u64) -> Result<(Vec<T>, Option<u64>), ClientError>,
) -> Result<Vec<T>, ClientError> {
    let mut all = Vec::new();
    let mut cursor = Some(0);
    while let Some(start) = cursor.filter(|_| all.len() < ROWS_MAX) {
        let (rows, next) = page(client, start)?;
        all.extend(rows);
        cursor = next;
    }
    all.truncate(ROWS_MAX);
    Ok(all)
}
