//! An archive for everybody's eyes: others stand in the place of addresses and names. Pure.
//!
//! - `addresses.rs`: those of IP and Ethernet, wherever they stand in a text
//! - `names.rs`: those of pods, namespaces, policies and groups, in what the router says
//!
//! The host's name and what people write freely, comments, is looked after here.

mod addresses;
mod names;

use std::hash::BuildHasher;

pub(super) use addresses::Addresses;
pub(super) use names::Names;

use super::Entry;

/// What stands in the host's name's place.
const HOST: &str = "this-host";

/// Where the host says its name.
const HOST_NAME: &str = "host/proc/sys/kernel/hostname";

/// Replaces what is to be replaced in all entries; their names of pods and policies have been before.
pub(super) fn anonymise(entries: &mut [Entry], addresses: &mut Addresses<impl BuildHasher>) {
    let host = entries.iter().find(|entry| entry.name == HOST_NAME);
    let host = host.and_then(|entry| entry.contents.as_deref().ok()).unwrap_or_default();
    let host = host.trim().to_owned();
    for Entry { name, contents } in entries {
        let (Ok(text) | Err(text)) = contents;
        *text = match name.as_str() {
            "config.yaml" => without_comments(text),
            "tools/nft_list_ruleset.txt" => without_quoted_comments(text),
            "host/proc/net/route" => addresses.in_route(text),
            "host/proc/net/if_inet6" | "host/proc/net/ipv6_route" => addresses.in_digits(text),
            _ => addresses.in_text(text),
        };
        if !host.is_empty() {
            *text = with_word(text, &host, HOST);
        }
        if matches!(name.as_str(), "config.yaml" | "tools/nft_list_ruleset.txt") {
            *text = addresses.in_text(text);
        }
    }
}

/// YAML without its comments.
fn without_comments(text: &str) -> String {
    let kept = |line: &str| {
        let starts = line.match_indices('#').map(|(at, _)| at);
        let comment = |at: &usize| *at == 0 || line[..*at].ends_with([' ', '\t']);
        let end = starts.into_iter().find(comment).unwrap_or(line.len());
        format!("{}\n", line[..end].trim_end())
    };
    text.lines().map(kept).filter(|line| line != "\n").collect()
}

/// A rule set without what people, or Kubernetes, have written beside its rules.
fn without_quoted_comments(text: &str) -> String {
    const BEFORE: &str = "comment \"";
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(BEFORE) {
        let (before, comment) = rest.split_at(at + BEFORE.len());
        kept.push_str(before);
        rest = comment.find(['"', '\n']).map_or("", |end| &comment[end..]);
    }
    kept + rest
}

/// The text with another word in place of one, where that stands alone.
fn with_word(text: &str, word: &str, other: &str) -> String {
    let is_part = |c: char| c.is_alphanumeric() || "_-.".contains(c);
    let mut replaced = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let (before, found) = rest.split_at(at);
        let after = &found[word.len()..];
        replaced.push_str(before);
        let alone = !replaced.ends_with(is_part) && !after.starts_with(is_part);
        replaced.push_str(if alone { other } else { word });
        rest = after;
    }
    replaced + rest
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasherDefault, DefaultHasher};

    use super::*;

    #[test]
    fn comments_and_the_hosts_name_go() {
        let entry = |name: &str, text: &str| Entry::new(name, Ok::<_, String>(text.to_owned()));
        let rules = "ip saddr 127.0.0.1 comment \"default/shop\" accept\n\tcomment \"x\n}\n";
        let mut entries = [
            entry(HOST_NAME, "worker2\n"),
            entry("tools/uname_-a.txt", "Linux worker2 6.18 worker2-x worker2.example\n"),
            entry("config.yaml", "# Ann's\nworkers: 2 # as Ben says\n\nidle: 'a#b'\n"),
            entry("tools/nft_list_ruleset.txt", rules),
            Entry::new("x", Err::<String, _>("no worker2 here")),
        ];
        anonymise(&mut entries, &mut Addresses::new(BuildHasherDefault::<DefaultHasher>::new()));
        let texts = entries.map(|entry| entry.contents.unwrap_or_else(|why| why));
        let expected = [
            "this-host\n",
            "Linux this-host 6.18 worker2-x worker2.example\n",
            "workers: 2\nidle: 'a#b'\n",
            "ip saddr 127.0.0.1 comment \"\" accept\n\tcomment \"\n}\n",
            "no this-host here",
        ];
        assert_eq!(texts, expected);
    }
}
