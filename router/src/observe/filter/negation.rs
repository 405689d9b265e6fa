//! `--not`, which negates the filter that follows it, as `hubble observe` has it.

use std::collections::{BTreeMap, BTreeSet};

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches};

const NOT: &str = "not";

/// The option, for a command that has filters.
pub(super) fn argument() -> Arg {
    // Each one counts, by where it stands.
    Arg::new(NOT)
        .long(NOT)
        .action(ArgAction::Append)
        .num_args(0)
        .default_missing_value("true")
        .value_parser(clap::value_parser!(bool))
        .help_heading("Filters")
        .help("Only events that the filter which follows does not match: --not --port 53")
}

/// Which values of the filters stand behind a `--not`.
#[derive(Clone, Debug, Default)]
pub(super) struct Negated {
    /// For each filter that has such values, of each of its values, in order, whether it is one.
    by_filter: BTreeMap<String, Vec<bool>>,
}

impl Negated {
    /// Of what a person has written, where `filters` are the names of the options that can be negated.
    ///
    /// # Errors
    ///
    /// When a `--not` has no filter behind it.
    pub(super) fn of(matches: &ArgMatches, filters: &[String]) -> Result<Self, clap::Error> {
        let places = |name: &str| matches.indices_of(name).into_iter().flatten();
        let nots: BTreeSet<usize> = places(NOT).collect();
        let values = filters.iter().flat_map(|name| places(name).map(move |at| (at, name)));
        let values: BTreeMap<usize, &String> = values.collect();
        let mut by_filter: BTreeMap<String, Vec<bool>> = BTreeMap::new();
        let mut behind = 0;
        for (at, name) in values {
            let between = nots.range(behind..at).count();
            if between > 1 {
                return Err(misplaced("--not stands before another --not"));
            }
            by_filter.entry(name.clone()).or_default().push(between == 1);
            behind = at;
        }
        if nots.range(behind..).next().is_some() {
            return Err(misplaced("no filter follows --not"));
        }
        by_filter.retain(|_, negated| negated.contains(&true));
        Ok(Self { by_filter })
    }

    /// Whether any of a filter's values is met, or none is given, and none is met of those that must not be.
    pub(super) fn met<T>(&self, filter: &str, values: &[T], is_met: impl Fn(&T) -> bool) -> bool {
        let Some(negated) = self.by_filter.get(filter) else {
            return values.is_empty() || values.iter().any(is_met);
        };
        let of = |kind| move |(value, negated): (_, &bool)| (*negated == kind).then_some(value);
        let mut wanted = values.iter().zip(negated).filter_map(of(false)).peekable();
        let mut unwanted = values.iter().zip(negated).filter_map(of(true));
        (wanted.peek().is_none() || wanted.any(&is_met)) && !unwanted.any(is_met)
    }
}

fn misplaced(what: &str) -> clap::Error {
    let text = format!("{what}: it negates the filter that comes next, such as --not --port 53\n");
    clap::Error::raw(ErrorKind::ArgumentConflict, text)
}
