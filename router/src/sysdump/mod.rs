//! `spillway sysdump`: what a report of a fault needs, in one archive.
//!
//! What is in it is listed here and in [`host`], and nothing else is read: no key, no environment, no memory
//! of a process. What a secret may have slipped into nevertheless is looked through by [`redact`] before it is
//! packed. What could not be had has an entry of its own that says why. Whoever shows an archive to everybody has
//! addresses and names replaced, by [`anonymise`].

mod anonymise;
mod archive;
mod host;
mod redact;
mod router;

use std::hash::BuildHasher;
use std::time::SystemTime;

pub(crate) use archive::{date, write};

use crate::config::Config;
use crate::preflight;

/// Bytes of one entry, at most; what is longer is cut, and says so.
const ENTRY_BYTES_MAX: usize = 8 << 20;

/// One file of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its path in the archive.
    pub(crate) name: String,
    /// What is in it, or why it could not be had.
    pub(crate) contents: Result<String, String>,
}

impl Entry {
    fn new<E: std::fmt::Display>(name: impl Into<String>, contents: Result<String, E>) -> Self {
        let contents = contents.map(cut).map_err(|error| format!("{error:#}"));
        Self { name: name.into(), contents }
    }
}

/// Where things are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sources<'a> {
    /// The router's socket.
    pub(crate) socket: &'a std::path::Path,
    /// The router's configuration.
    pub(crate) config: &'a std::path::Path,
}

/// Collects everything; takes some seconds. With a key nobody can tell addresses and names from what stands in
/// their places.
pub(crate) fn collect(sources: Sources<'_>, key: Option<impl BuildHasher>) -> Vec<Entry> {
    let names = key.is_some().then(anonymise::Names::new);
    let mut router = router::Router::ask(sources.socket, names);
    let mut entries = vec![
        Entry::new("version.txt", Ok::<_, String>(version())),
        Entry::new("config.yaml", crate::config::read_text(sources.config)),
        Entry::new("preflight.json", checks(sources.config)),
    ];
    entries.extend(host::collect(router.pid(), &router.devices()));
    // What is counted meanwhile shows what goes on.
    router.ask_again();
    entries.extend(router.into_entries());
    if let Some(key) = key {
        anonymise::anonymise(&mut entries, &mut anonymise::Addresses::new(key));
    }
    for entry in &mut entries {
        if let Ok(text) = &mut entry.contents {
            *text = redact::redact(text);
        }
    }
    entries
}

fn version() -> String {
    format!("spillway {}\nat {}\n", env!("CARGO_PKG_VERSION"), date(SystemTime::now()))
}

/// Preflight's checks, of the configuration if it is there.
fn checks(config: &std::path::Path) -> anyhow::Result<String> {
    let config = if config.exists() { Config::load(config)? } else { preflight::assumed_config()? };
    Ok(serde_json::to_string_pretty(&preflight::preflight(&config))?)
}

/// The text, or as much of it as an entry may have.
fn cut(mut text: String) -> String {
    if text.len() > ENTRY_BYTES_MAX {
        let end = (0..=ENTRY_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text.push_str("\n(cut here: it is longer)\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_cut_and_says_so() {
        let entry = Entry::new("x", Ok::<_, String>("é".repeat(ENTRY_BYTES_MAX)));
        let text = entry.contents.unwrap();
        assert!(text.ends_with("é\n(cut here: it is longer)\n"));
        assert!(text.len() < ENTRY_BYTES_MAX + 100);
    }
}
