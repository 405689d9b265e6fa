//! `spillway sysdump`.

use std::fs::{OpenOptions, Permissions};
use std::hash::RandomState;
use std::io::{self, IsTerminal as _, Write};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, ensure};
use clap::Args;
use spillway_api::os_error;

use crate::sysdump::{Sources, collect, date, write};

/// What goes where.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The archive to write, or `-` for standard output. Default: spillway-sysdump-TIME.tar.gz here.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The router's configuration, YAML.
    #[arg(long, value_name = "FILE", default_value = "/etc/spillway/config.yaml")]
    config: PathBuf,
    /// Replace addresses, also Ethernet's, and the names of pods, namespaces, policies and this host: by
    /// others, the same always by the same within an archive, and prefixes by prefixes. Well-known ranges stay
    /// (10.0.0.0/8 is still that), and so do ports, names of devices, makers of network cards, paths,
    /// identifiers of pods and containers, and the kernel's own words.
    #[arg(long)]
    anonymise: bool,
}

/// Collects and writes; says on standard error where, and what is missing.
///
/// # Errors
/// When the archive cannot be written. What cannot be had is no error: the archive says so.
pub(super) fn sysdump(options: &Options, socket: &Path) -> anyhow::Result<()> {
    let now = SystemTime::now();
    let directory = format!("spillway-sysdump-{}", date(now));
    let path = options.output.clone().unwrap_or_else(|| format!("{directory}.tar.gz").into());
    let mut output = open(&path)?;
    // Another key each time.
    let key = options.anonymise.then(RandomState::new);
    let entries = collect(Sources { socket, config: &options.config }, key);
    write(&mut output, &directory, &entries, now)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let missing = entries.iter().filter(|entry| entry.contents.is_err()).count();
    let all = entries.len();
    let about = match options.anonymise {
        true => {
            "Others stand in the place of addresses and names: look at it before you publish it"
        }
        false => "Addresses and names of pods and policies are in it, secrets are not",
    };
    // Standard error may be closed: then nobody wants to know.
    let _ = writeln!(
        io::stderr(),
        "{}: {} of {all} entries; CONTENTS.txt says why others are missing. {about}",
        path.display(),
        all - missing
    );
    Ok(())
}

/// The file, which nobody else may read, or standard output.
fn open(path: &Path) -> anyhow::Result<Box<dyn Write>> {
    if path == Path::new("-") {
        ensure!(
            !io::stdout().is_terminal(),
            "standard output is a terminal: send it to a file, as in `spillway sysdump --output - > FILE`"
        );
        return Ok(Box::new(io::stdout()));
    }
    let open = || {
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        // One that was there has a mode of its own; a pipe or a device keeps it.
        if file.metadata()?.is_file() {
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        Ok(file)
    };
    let file = open().map_err(|error: io::Error| {
        anyhow::anyhow!("cannot write {}: {}", path.display(), os_error(&error))
    })?;
    Ok(Box::new(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_may_read_an_archive_also_where_a_file_was_there() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("dump.tar.gz");
        std::fs::write(&path, "an older one").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        open(&path).unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!((metadata.permissions().mode() & 0o777, metadata.len()), (0o600, 0));
    }
}
