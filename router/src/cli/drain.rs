//! `spillway drain`: no new flow begins, and those that there are end.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use spillway_api::Client;

use super::print;
use crate::observe::source::may_pass;

/// How often the router is asked how many flows are left: it tells nobody by itself.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long who only watches waits for another to begin.
const BEGINS_WITHIN: Duration = Duration::from_secs(5);

/// What draining waits for.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// How many seconds to wait for the last flow to end; 0 does not wait.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
    /// Let new flows begin again, and wait for nothing.
    #[arg(long, conflicts_with = "timeout")]
    undo: bool,
    /// Change nothing, and wait as long as another drains; the read-only socket will do. Ends when
    /// nobody does, and when the router has ended.
    #[arg(long, conflicts_with_all = ["timeout", "undo"])]
    watch: bool,
}

/// Has the router that listens at `socket` drained, and shows how many flows are left.
pub(super) fn drain(options: &Options, socket: &Path) -> anyhow::Result<()> {
    let result = Client::connect(socket).map_err(Into::into);
    match result.and_then(|mut client| ask(options, &mut client)) {
        // Whoever drains wants to know of it; whoever watches knows now that it is over.
        Err(error) if options.watch && error.downcast_ref().is_some_and(may_pass) => {
            print("no router answers\n")
        }
        result => result,
    }
}

fn ask(options: &Options, client: &mut Client) -> anyhow::Result<()> {
    if !options.watch {
        client.drain(!options.undo)?;
    } else if !begins(client)? {
        return print("the router is not being drained\n");
    }
    if options.undo {
        return print("new flows begin again\n");
    }
    print("no new flow begins\n")?;
    let timeout = if options.watch { Duration::MAX } else { Duration::from_secs(options.timeout) };
    wait(client, timeout)
}

/// Whether another has begun to drain the router, or does so soon.
fn begins(client: &mut Client) -> anyhow::Result<bool> {
    let started = Instant::now();
    while client.status()?.draining_s.is_none() {
        if started.elapsed() >= BEGINS_WITHIN {
            return Ok(false);
        }
        std::thread::sleep(INTERVAL / 10);
    }
    Ok(true)
}

/// Waits for the last flow to end.
fn wait(client: &mut Client, timeout: Duration) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut shown = None;
    loop {
        let status = client.status()?;
        anyhow::ensure!(
            status.draining_s.is_some(),
            "not drained: somebody has let new flows begin again, by `spillway drain --undo`"
        );
        let left: u64 = status.workers.iter().map(|worker| worker.flows).sum();
        if shown != Some(left) {
            print(&format!("flows left: {left}\n"))?;
            shown = Some(left);
        }
        let remaining = timeout.saturating_sub(started.elapsed());
        if left == 0 || timeout.is_zero() {
            return Ok(());
        }
        anyhow::ensure!(
            !remaining.is_zero(),
            "flows left after {} s: {left}. They go on, and no new one begins: `spillway flows` \
             shows them, `spillway drain` waits for them again, `spillway drain --undo` ends it",
            timeout.as_secs()
        );
        std::thread::sleep(INTERVAL.min(remaining));
    }
}
