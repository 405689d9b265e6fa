//! `spillway man`: the manual's pages, for those who make packages.

use std::path::Path;

use anyhow::Context as _;
use clap::Command;

/// Writes a page for the program and one for each of its commands, in section 1; says how many.
///
/// # Errors
///
/// When the directory is not there, or cannot be written to.
pub(super) fn write(directory: &Path, command: Command) -> anyhow::Result<String> {
    let count = 1 + command.get_subcommands().filter(|command| !command.is_hide_set()).count();
    clap_mangen::generate_to(command, directory)
        .with_context(|| format!("cannot write the manual to {}", directory.display()))?;
    Ok(format!("{count} pages in {}\n", directory.display()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use tempfile::TempDir;

    use super::super::CommandLine;
    use super::*;

    #[test]
    fn every_command_has_its_page() {
        let directory = TempDir::new().unwrap();
        let said = write(directory.path(), CommandLine::command()).unwrap();
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        let whole = read("spillway.1");
        let mut pages = 1;
        for command in CommandLine::command().get_subcommands().filter(|c| !c.is_hide_set()) {
            let (name, about) = (command.get_name(), command.get_about().unwrap().to_string());
            let in_roff = name.replace('-', "\\-");
            assert!(whole.contains(&format!("spillway\\-{in_roff}")), "{whole}");
            let first = about.split([',', ';', '-', '\'']).next().unwrap();
            assert!(read(&format!("spillway-{name}.1")).contains(first), "{name}");
            pages += 1;
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), pages);
        assert_eq!(said, format!("{pages} pages in {}\n", directory.path().display()));
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let error = write("/nonexistent".as_ref(), CommandLine::command()).unwrap_err();
        assert_eq!(error.to_string(), "cannot write the manual to /nonexistent");
    }
}
