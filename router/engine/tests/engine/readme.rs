//! The README names the tests that show what it says: they exist.

use std::path::Path;

/// The names in the last column of the tables of packets.
fn named(readme: &str) -> Vec<&str> {
    let mut is_table = false;
    let mut rows = Vec::new();
    for line in readme.lines() {
        is_table = line.starts_with('|') && (is_table || line.ends_with("| shown by |"));
        if is_table {
            rows.push(line);
        }
    }
    let last = rows.into_iter().map(|row| row.trim_end_matches('|').rsplit('|').next().unwrap());
    last.flat_map(|tests| tests.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn every_test_that_the_readme_names_exists() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(here.join("README.md")).unwrap();
    let sources = std::fs::read_dir(here.join("tests/engine")).unwrap();
    let sources: String =
        sources.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect();
    let names = named(&readme);
    assert!(names.len() > 50, "{names:?}");
    for name in names {
        let test = format!("#[test]\nfn {name}() {{");
        assert!(sources.contains(&test), "the README names the test {name}");
    }
}
