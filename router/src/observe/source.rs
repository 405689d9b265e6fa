//! The events of the router that listens at a socket, page by page. The connection is made anew when
//! it has broken.

use std::path::{Path, PathBuf};

use spillway_api::{Client, ClientError, Event, FlowPage};

use super::follow::{Follower, Gap, Position, Taken, now};

/// What happened since the last page.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// What is missing before these events, or among them.
    pub(crate) gaps: Vec<Gap>,
    /// By number; none when nothing has happened since.
    pub(crate) events: Vec<Event>,
}

/// A router's events.
#[derive(Debug)]
pub(crate) struct Source {
    socket: PathBuf,
    client: Option<Client>,
    follower: Follower,
}

impl Source {
    /// Those of the router that listens at `socket`.
    pub(crate) fn new(socket: &Path, follower: Follower) -> Self {
        Self { socket: socket.to_owned(), client: None, follower }
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
        let mut gaps = Vec::new();
        loop {
            let asked = now();
            let page = client.events(self.follower.cursor())?;
            match self.follower.take(&page, asked) {
                // A connection is to one router: this comes once.
                Taken::Restarted(gap) => gaps.push(gap),
                Taken::Whole(missing) => {
                    gaps.extend(missing);
                    self.client = Some(client);
                    return Ok(Batch { gaps, events: page.events });
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
}

/// Whether it may be another time as one asks again: the router is being restarted.
pub(crate) fn may_pass(error: &ClientError) -> bool {
    matches!(error, ClientError::Unreachable { .. } | ClientError::Exchange { .. })
}
