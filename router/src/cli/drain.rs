//! `spillway drain`: no new flow begins, and those that there are end.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use spillway_api::Client;

use super::print;

/// How often the router is asked how many flows are left: it tells nobody by itself.
const INTERVAL: Duration = Duration::from_secs(1);

/// What draining waits for.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// How many seconds to wait for the last flow to end; 0 does not wait.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
    /// Let new flows begin again, and wait for nothing.
    #[arg(long, conflicts_with = "timeout")]
    undo: bool,
}

/// Has the router that listens at `socket` drained, and shows how many flows are left.
pub(super) fn drain(options: &Options, socket: &Path) -> anyhow::Result<()> {
    let mut client = Client::connect(socket)?;
    client.drain(!options.undo)?;
    if options.undo {
        return print("new flows begin again\n");
    }
    print("no new flow begins\n")?;
    let started = Instant::now();
    let timeout = Duration::from_secs(options.timeout);
    let mut shown = None;
    loop {
        let left: u64 = client.status()?.workers.iter().map(|worker| worker.flows).sum();
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
            options.timeout
        );
        std::thread::sleep(INTERVAL.min(remaining));
    }
}
