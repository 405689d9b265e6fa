//! The events of the router that listens at a socket, page by page. The connection is made anew when
//! it has broken.

use std::path::{Path, PathBuf};

use spillway_api::{Client, ClientError, Event, EventPage, FlowPage, PortBlockPage};

use super::follow::{Follower, Gap, Position, Taken, Why, now};

/// What happened since the last page.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// What is missing before these events, or among them.
    pub(crate) gaps: Vec<Gap>,
    /// By number; none when nothing has happened since.
    pub(crate) events: Vec<Event>,
    /// Whether pods have whole blocks of ports.
    pub(crate) port_blocks: bool,
}

/// A router's events.
#[derive(Debug)]
pub(crate) struct Source {
    socket: PathBuf,
    client: Option<Client>,
    follower: Follower,
    /// Routers that have ended, whose gap nobody was told of yet.
    restarted: Option<Gap>,
}

impl Source {
    /// Those of the router that listens at `socket`.
    pub(crate) fn new(socket: &Path, follower: Follower) -> Self {
        Self { socket: socket.to_owned(), client: None, follower, restarted: None }
    }

    /// How far events are read.
    pub(crate) fn position(&self) -> Option<&Position> {
        self.follower.position()
    }

    /// The next page.
    ///
    /// # Errors
    ///
    /// When nobody listens, the connection has broken, or the router keeps no events. The next call
    /// makes a new connection, and goes on behind the last page.
    pub(crate) fn poll(&mut self) -> Result<Batch, ClientError> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => Client::connect(&self.socket)?,
        };
        loop {
            let asked = now();
            let page = client.events(self.follower.cursor())?;
            match self.follower.take(&page, asked) {
                // A connection is to one router: this comes once. That one may end, too, before it has
                // told anything.
                Taken::Restarted(gap) => {
                    let from = self.restarted.take().map_or(gap.from, |before| before.from);
                    self.restarted = Some(Gap { from, ..gap });
                }
                Taken::Whole(mut missing) => {
                    // What the router has lost may have been lost while it answered.
                    let busy = missing.iter_mut().filter(|gap| gap.why == Why::RouterBusy);
                    busy.for_each(|gap| gap.to = gap.to.max(now()));
                    let gaps = self.restarted.take().into_iter().chain(missing).collect();
                    self.client = Some(client);
                    let EventPage { events, port_blocks, .. } = page;
                    return Ok(Batch { gaps, events, port_blocks });
                }
            }
        }
    }

    /// A page of the live flows, by the connection of the events.
    ///
    /// # Errors
    ///
    /// As [`Self::poll`]. Without a connection there is none made: only `poll` can tell what was
    /// lost before it.
    pub(crate) fn flows(&mut self, cursor: u64) -> Result<FlowPage, ClientError> {
        let Some(mut client) = self.client.take() else {
            return Ok(FlowPage { rows: Vec::new(), next: Some(cursor) });
        };
        let page = client.flows(cursor)?;
        self.client = Some(client);
        Ok(page)
    }

    /// The same of the blocks of ports that pods have.
    ///
    /// # Errors
    ///
    /// As [`Self::flows`].
    pub(crate) fn port_blocks(&mut self, cursor: u64) -> Result<PortBlockPage, ClientError> {
        let Some(mut client) = self.client.take() else {
            return Ok(PortBlockPage { rows: Vec::new(), next: Some(cursor) });
        };
        let page = client.port_blocks(cursor)?;
        self.client = Some(client);
        Ok(page)
    }
}

/// Whether it may be another time as one asks again: the router is being restarted.
pub(crate) fn may_pass(error: &ClientError) -> bool {
    matches!(error, ClientError::Unreachable { .. } | ClientError::Exchange { .. })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;

    use spillway_api::{EventPage, Response};
    use tempfile::TempDir;

    use super::*;

    /// Answers a connection for each of these routers, which ends when it has told as many empty pages.
    fn play(listener: UnixListener, pages: &'static [usize]) {
        std::thread::spawn(move || {
            for pages in pages {
                let (stream, _) = listener.accept().unwrap();
                let since_us = u64::try_from(now().as_microsecond()).unwrap();
                let mut requests = BufReader::new(&stream).lines();
                for _ in 0..*pages {
                    requests.next().unwrap().unwrap();
                    let page = EventPage { first: 1, next: 1, since_us, ..EventPage::default() };
                    let line = serde_json::to_string(&Response::Events(page)).unwrap() + "\n";
                    (&stream).write_all(line.as_bytes()).unwrap();
                }
            }
        });
    }

    #[test]
    fn a_gap_is_told_also_when_the_connection_breaks_before_it_could_be() {
        let directory = TempDir::new().unwrap();
        let socket = directory.path().join("socket");
        // The second router and the third end when they have said since when they are there.
        play(UnixListener::bind(&socket).unwrap(), &[1, 1, 1, 2]);
        let mut source = Source::new(&socket, Follower::whole());
        assert!(source.poll().unwrap().gaps.is_empty());
        let known_until = source.position().unwrap().until;
        // The first one has ended its connection.
        let ended: Vec<bool> = (0..3).map(|_| source.poll().is_err()).collect();
        assert_eq!(ended, [true; 3]);
        let gaps = source.poll().unwrap().gaps;
        let told: Vec<_> = gaps.iter().map(|gap| (gap.from, gap.lost, gap.why)).collect();
        assert_eq!(told, [(known_until, None, Why::RouterRestarted)]);
    }
}
