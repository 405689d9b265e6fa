//! `spillway log-level`: what the router logs, and from now on.

use clap::Args;
use spillway_api::LogLevel;

use super::duration;

/// What is to be logged.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// A level (error, warn, info, debug, trace or off), or a list with commas of levels and
    /// TARGET=LEVEL, such as `info,spillway::kernel=debug`. Without it: show the one in force.
    pub(super) filter: Option<String>,
    /// For so many seconds; then the one of the start is in force again.
    #[arg(long = "for", value_name = "SECONDS", requires = "filter")]
    pub(super) for_s: Option<u64>,
}

/// The filter for people.
pub(super) fn table(level: &LogLevel) -> String {
    let LogLevel { filter, started_with, left_s } = level;
    match left_s {
        Some(left) => format!("{filter}\nin {}: {started_with}\n", duration(*left)),
        None if filter == started_with => format!("{filter}\n"),
        None => format!("{filter}\nafter a restart: {started_with}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_what_comes_after_a_filter() {
        let level = |filter: &str, left_s| LogLevel {
            filter: filter.to_owned(),
            started_with: "info".to_owned(),
            left_s,
        };
        assert_eq!(table(&level("info", None)), "info\n");
        assert_eq!(table(&level("debug", Some(90))), "debug\nin 1m30s: info\n");
        assert_eq!(table(&level("debug", None)), "debug\nafter a restart: info\n");
    }
}
