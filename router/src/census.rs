//! Counts what flows use of egress addresses and policies: all that live, page by page, when somebody asks.
//! Where there are many it goes on a little at a time, between everything else that the main thread does,
//! and who asks meanwhile gets what was counted the last time.

use std::time::{Duration, Instant};

use spillway_api::Usage;

use crate::accounts::Sums;
use crate::gateway::Gateway;
use crate::usage::Count;

/// Flows that a worker gives at once.
const PAGE: usize = 256;

/// How much is done at a time. The main thread does nothing else meanwhile, and the workers lend it their tables.
#[derive(Clone, Copy)]
struct Slice {
    /// Flows that are counted; up to a page more.
    flows: usize,
    /// How long it may take: an empty table is looked through, too.
    time: Duration,
}

/// So many that who asks gets an answer at once, and has hardly waited.
const FIRST: Slice = Slice { flows: 32_768, time: Duration::from_millis(250) };

/// Afterwards, and how long everything else has its turn then.
const LATER: Slice = Slice { flows: usize::MAX, time: Duration::from_millis(2) };
const PAUSE: Duration = Duration::from_millis(20);

/// How long an answer is given again before flows are counted anew.
const AGAIN: Duration = Duration::from_secs(5);

/// How long an answer is given again while they are: as long as Prometheus takes a sample for what is.
const OLD: Duration = Duration::from_secs(300);

/// The last count, and the one that goes on.
#[derive(Debug, Default)]
pub(crate) struct Census {
    /// What was counted, and when all of it was.
    counted: Option<(Instant, Usage)>,
    counting: Option<Counting>,
}

#[derive(Debug)]
struct Counting {
    began: Instant,
    /// When it goes on.
    next: Instant,
    /// The worker, and the cursor of its next page of flows.
    at: (usize, u32),
    count: Count,
}

impl Census {
    /// When [`go_on`] has something to do.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.counting.as_ref().map(|counting| counting.next)
    }

    /// What was counted last, if that was not so long ago.
    fn counted_within(&self, age: Duration, now: Instant) -> Option<&Usage> {
        let (at, usage) = self.counted.as_ref()?;
        (now.saturating_duration_since(*at) < age).then_some(usage)
    }

    fn answer(&self, now: Instant) -> Usage {
        let counting = self.counting.is_some();
        let counted = self.counted_within(OLD, now).cloned().unwrap_or_default();
        Usage { counting, ..counted }
    }
}

/// What flows use: what was counted last, if that is young, else anew as far as there is time.
///
/// # Errors
///
/// When a worker does not answer.
pub(crate) fn usage(gateway: &mut Gateway, now: Instant) -> anyhow::Result<Usage> {
    let Census { counting, .. } = &gateway.census;
    let is_young = gateway.census.counted_within(AGAIN, now).is_some();
    if counting.is_none() && !is_young && gateway.programmed.is_some() {
        let ended = gateway.workers.carried(gateway.book.count())?;
        let count = Count::new(Sums::begin(&gateway.book, ended));
        gateway.census.counting = Some(Counting { began: now, next: now, at: (0, 0), count });
        count_some(gateway, FIRST, now)?;
    }
    Ok(gateway.census.answer(now))
}

/// Goes on with a count whose time it is.
pub(crate) fn go_on(gateway: &mut Gateway, now: Instant) {
    if gateway.census.next().is_some_and(|next| next <= now)
        && let Err(error) = count_some(gateway, LATER, now)
    {
        // Who asks next is told, if it is still so.
        tracing::warn!("what flows use is not known: {error:#}");
    }
}

/// Counts a slice; keeps what was counted when that was all of it, else goes on later. An error ends it.
fn count_some(gateway: &mut Gateway, slice: Slice, began: Instant) -> anyhow::Result<()> {
    let Some(mut counting) = gateway.census.counting.take() else { return Ok(()) };
    let mut counted = 0;
    loop {
        let (worker, cursor) = counting.at;
        let Some(page) = gateway.workers.flows(worker, cursor, PAGE)? else {
            return complete(gateway, counting);
        };
        for flow in &page.flows {
            let policy = gateway.policy_names.name_now(flow.epoch, flow.policy);
            counting.count.add(flow, policy);
            counting.count.add_traffic(flow, &gateway.accounts);
        }
        counting.at = page.next.map_or((worker + 1, 0), |next| (worker, next));
        counted += page.flows.len();
        let now = Instant::now();
        if counted >= slice.flows || now.saturating_duration_since(began) >= slice.time {
            counting.next = now + PAUSE;
            gateway.census.counting = Some(counting);
            return Ok(());
        }
    }
}

/// Keeps what was counted of all workers' flows.
fn complete(gateway: &mut Gateway, mut counting: Counting) -> anyhow::Result<()> {
    let Some(programmed) = &gateway.programmed else { return Ok(()) };
    counting.count.sums.end(gateway.workers.carried(gateway.book.count())?);
    let usage = counting.count.of(&programmed.document, &mut gateway.book);
    let at = counting.began.saturating_duration_since(gateway.started).as_millis();
    let counted_at_ms = u64::try_from(at).unwrap_or(u64::MAX);
    gateway.census.counted = Some((Instant::now(), Usage { counted_at_ms, ..usage }));
    Ok(())
}
