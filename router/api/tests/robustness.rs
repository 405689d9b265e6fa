//! Any bytes whatever as a state document: the fuzzer's corpus again, and mutations of it.

// Only the bodies of `#[test]` functions are exempt by themselves.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngSeed, TestRunner};

/// How many mutated documents are tried.
const MUTATED: u32 = 20_000;

/// The files of the corpus: name and content.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/document");
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read(&path).unwrap())
        })
        .collect();
    // The same in each run.
    files.sort();
    files
}

/// Files whose names begin with `good-` hold documents, those of `bad-` none.
#[test]
fn the_fuzzers_corpus_breaks_nothing() {
    let corpus = corpus();
    for (name, content) in &corpus {
        assert_eq!(common::check(content), name.starts_with("good-"), "{name}");
    }
    assert!(corpus.len() >= 20, "only {} files in the corpus", corpus.len());
}

/// A change of a document, at a place in it.
#[derive(Clone, Debug)]
enum Change {
    FlipBit(u8),
    /// The next digit becomes this one: what is still a document is another.
    Digit(u8),
    Cut,
    RemoveLine,
    RepeatLine,
    /// So many bytes give way to these.
    Replace(u8, &'static str),
    /// The rest is another document's.
    GoOnWith(Index),
}

impl Change {
    fn apply(&self, at: Index, text: &mut Vec<u8>, corpus: &[(String, Vec<u8>)]) {
        let at = at.index(text.len() + 1);
        let lines = || text.split_inclusive(|byte| *byte == b'\n');
        let line = text[..at].iter().filter(|byte| **byte == b'\n').count();
        match self {
            Self::FlipBit(bit) => {
                if let Some(byte) = text.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            Self::Digit(digit) => {
                if let Some(byte) = text[at..].iter_mut().find(|byte| byte.is_ascii_digit()) {
                    *byte = b'0' + digit;
                }
            }
            Self::Cut => text.truncate(at),
            Self::RemoveLine => {
                *text = [lines().take(line).collect::<Vec<_>>(), lines().skip(line + 1).collect()]
                    .concat()
                    .concat();
            }
            Self::RepeatLine => {
                *text = [lines().take(line + 1).collect::<Vec<_>>(), lines().skip(line).collect()]
                    .concat()
                    .concat();
            }
            Self::Replace(length, with) => {
                let end = text.len().min(at + usize::from(*length));
                text.splice(at..end, with.bytes());
            }
            Self::GoOnWith(other) => {
                let (_, other) = &corpus[other.index(corpus.len())];
                text.truncate(at);
                text.extend(other.iter().skip(at));
            }
        }
    }
}

/// What YAML, or the document, gives a meaning.
const PIECES: &[&str] = &[
    "",
    " ",
    "  ",
    "\n",
    "\n  ",
    "- ",
    ": ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "#",
    "&a ",
    "*a",
    "!!str ",
    "| ",
    "> ",
    "'",
    "\"",
    "%",
    "\\",
    "\t",
    "~",
    "null",
    "true",
    "0",
    "-1",
    "65535",
    "4294967296",
    "18446744073709551616",
    "1e3",
    "0x10",
    "10.0.1.40",
    "0.0.0.0",
    "255.255.255.255",
    "/0",
    "/33",
    "224.0.0.1",
    "fd00::1",
    "::",
    "::/0",
    "::ffff:",
    "fe80",
    "/128",
    "generation",
    "tunnels",
    "peers",
    "policies",
    "pods",
    "pod_groups",
    "own",
    "shared",
    "flow",
    "---\n",
    "...\n",
    "<<: ",
    "\u{feff}",
    "\u{85}",
    "\u{2028}",
    "é",
];

fn change() -> impl Strategy<Value = (Index, Change)> {
    let change = prop_oneof![
        1 => (0..8_u8).prop_map(Change::FlipBit),
        4 => (0..10_u8).prop_map(Change::Digit),
        1 => Just(Change::Cut),
        1 => Just(Change::RemoveLine),
        1 => Just(Change::RepeatLine),
        2 => (0..20_u8, prop::sample::select(PIECES))
            .prop_map(|(length, with)| Change::Replace(length, with)),
        1 => any::<Index>().prop_map(Change::GoOnWith),
    ];
    (any::<Index>(), change)
}

#[test]
fn mutated_documents_break_nothing() {
    let corpus = corpus();
    let config = Config {
        cases: MUTATED,
        rng_seed: RngSeed::Fixed(20_250_131),
        failure_persistence: None,
        ..Config::default()
    };
    let good = corpus.iter().filter(|(name, _)| name.starts_with("good-")).cloned().collect();
    // Most mutants of what is no document are none either.
    let bases = prop_oneof![4 => Just::<Vec<_>>(good), 1 => Just(corpus.clone())];
    let base = (bases, any::<Index>()).prop_map(|(of, which)| of[which.index(of.len())].1.clone());
    let strategy = (base, prop::collection::vec(change(), 1..4));
    let accepted = std::cell::Cell::new(0);
    let outcome = TestRunner::new(config).run(&strategy, |(mut text, changes)| {
        for (at, change) in changes {
            change.apply(at, &mut text, &corpus);
        }
        accepted.set(accepted.get() + u32::from(common::check(&text)));
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    // Both sides of the parser were reached.
    let accepted = accepted.get();
    assert!((MUTATED / 20..MUTATED / 2).contains(&accepted), "{accepted} were accepted");
}
