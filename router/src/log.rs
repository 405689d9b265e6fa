//! The log: to standard error, through a filter that can be changed while the router runs.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use spillway_api::LogLevel;
use spillway_api::limits::LOG_LEVEL_S_MAX;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

/// What is logged unless `RUST_LOG` says otherwise: what an operator should know.
const DEFAULT: &str = "info";

/// Puts another filter in the place of the one in force.
type Reload = Box<dyn Fn(EnvFilter) -> anyhow::Result<()> + Send>;

/// The log's filter: the one that was started with, and the one in force.
pub(crate) struct Log {
    reload: Reload,
    started_with: String,
    filter: String,
    /// When the first is in force again.
    until: Option<Instant>,
}

impl Log {
    /// Starts to log.
    pub(crate) fn start() -> Self {
        // One that `RUST_LOG` has wrong is no reason not to forward.
        let asked = std::env::var("RUST_LOG").ok();
        let asked = asked.and_then(|text| Some((parse(&text).ok()?, text)));
        let (filter, started_with) =
            asked.unwrap_or_else(|| (EnvFilter::new(DEFAULT), DEFAULT.to_owned()));
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(io::stderr().is_terminal())
            .with_writer(io::stderr)
            .with_filter_reloading();
        let handle = log.reload_handle();
        // It fails only when a log was started before, which is then used.
        let _ = log.try_init();
        let reload = move |filter| handle.reload(filter).context("the log's filter stays");
        Self::new(Box::new(reload), started_with)
    }

    fn new(reload: Reload, started_with: String) -> Self {
        Self { reload, filter: started_with.clone(), started_with, until: None }
    }

    /// What is in force.
    pub(crate) fn level(&self, now: Instant) -> LogLevel {
        LogLevel {
            filter: self.filter.clone(),
            started_with: self.started_with.clone(),
            left_s: self.until.map(|until| until.saturating_duration_since(now).as_secs()),
        }
    }

    /// Puts another filter in force, for so many seconds or until it is changed again.
    ///
    /// # Errors
    /// When it is wrong; the message says what is.
    pub(crate) fn set(
        &mut self,
        filter: &str,
        for_s: Option<u64>,
        now: Instant,
    ) -> anyhow::Result<()> {
        let filter = filter.trim();
        let parsed = parse(filter)?;
        ensure!(
            for_s.is_none_or(|seconds| (1..=LOG_LEVEL_S_MAX).contains(&seconds)),
            "expected 1 to {LOG_LEVEL_S_MAX} seconds for a log filter, found {}",
            for_s.unwrap_or_default()
        );
        (self.reload)(parsed)?;
        filter.clone_into(&mut self.filter);
        self.until = for_s.map(|seconds| now + Duration::from_secs(seconds));
        // At a level that most filters let through.
        match for_s {
            Some(seconds) => tracing::info!("the log's filter is {filter} for {seconds} s"),
            None => tracing::info!("the log's filter is {filter}"),
        }
        Ok(())
    }

    /// When [`Log::expire`] must be called at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.until
    }

    /// Puts the filter of the start in force again, when the time of another one is over.
    pub(crate) fn expire(&mut self, now: Instant) {
        if self.until.is_none_or(|until| until > now) {
            return;
        }
        self.until = None;
        let started_with = self.started_with.clone();
        if let Err(error) = self.set(&started_with, None, now) {
            tracing::error!("{error:#}");
        }
    }
}

/// A filter as `EnvFilter` reads it. That takes any single word for the name of a target, and so a level
/// with a typing error, and then logs nothing: such a word is refused.
///
/// # Errors
/// When it is wrong; the message says what is.
fn parse(filter: &str) -> anyhow::Result<EnvFilter> {
    ensure!(!filter.trim().is_empty(), "expected a log filter, such as `info`, found none");
    let words = filter.split(',').map(str::trim).filter(|word| !word.is_empty());
    for word in words.filter(|_| !filter.contains('[')) {
        let level = word.rsplit_once('=').map_or(word, |(_, level)| level);
        if level.parse::<LevelFilter>().is_err() {
            bail!(
                "expected a log level (error, warn, info, debug, trace or off) or TARGET=LEVEL, found \
                 \"{word}\""
            );
        }
    }
    EnvFilter::try_new(filter).with_context(|| format!("\"{filter}\" is no log filter"))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A log, and what became of its filter.
    fn log() -> (Log, Arc<Mutex<Vec<String>>>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&seen);
        let reload = move |filter: EnvFilter| {
            told.lock().unwrap().push(filter.to_string());
            Ok(())
        };
        (Log::new(Box::new(reload), "info".to_owned()), seen)
    }

    #[test]
    fn a_filter_is_put_in_force_for_its_time() {
        let (mut log, seen) = log();
        let start = Instant::now();
        assert_eq!(log.level(start).filter, "info");
        log.set(" info,spillway::kernel=debug ", Some(60), start).unwrap();
        let level = log.level(start + Duration::from_secs(20));
        assert_eq!(level.filter, "info,spillway::kernel=debug");
        assert_eq!((level.started_with.as_str(), level.left_s), ("info", Some(40)));
        assert_eq!(log.deadline(), Some(start + Duration::from_secs(60)));
        log.expire(start + Duration::from_secs(59));
        assert_eq!(seen.lock().unwrap().len(), 1);
        log.expire(start + Duration::from_secs(60));
        let level = log.level(start + Duration::from_secs(60));
        assert_eq!((level.filter.as_str(), level.left_s), ("info", None));
        assert_eq!(seen.lock().unwrap().last().unwrap(), "info");
        assert_eq!(log.deadline(), None);
    }

    #[test]
    fn a_filter_without_a_time_stays() {
        let (mut log, _) = log();
        let start = Instant::now();
        log.set("warn", Some(60), start).unwrap();
        log.set("debug", None, start).unwrap();
        log.expire(start + Duration::from_secs(1000));
        assert_eq!(log.level(start).filter, "debug");
    }

    #[test]
    fn a_wrong_filter_is_refused_with_what_is_wrong_and_changes_nothing() {
        let (mut log, seen) = log();
        for (filter, for_s, expected) in [
            ("debgu", None, "found \"debgu\""),
            ("info,spillway::kernel", None, "found \"spillway::kernel\""),
            ("spillway=loud", None, "found \"spillway=loud\""),
            (" ", None, "found none"),
            ("[span{field=\"]=info", None, "no log filter"),
            ("debug", Some(0), "found 0"),
            ("debug", Some(LOG_LEVEL_S_MAX + 1), "604800 seconds"),
        ] {
            let error = log.set(filter, for_s, Instant::now()).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{filter}: {error:#}");
        }
        assert!(seen.lock().unwrap().is_empty());
        assert_eq!(log.level(Instant::now()).filter, "info");
        for filter in ["off", "WARN", "info,spillway_xdp=trace", "[worker]=debug", "3"] {
            log.set(filter, None, Instant::now()).unwrap();
        }
    }
}
