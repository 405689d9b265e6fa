//! Follows the file that holds the state document.
//!
//! Directories are watched, not the file: so a file that is replaced by a rename is followed, and a
//! Kubernetes ConfigMap, whose files are symlinks through a symlink that is swapped. Every link on
//! the way is watched where it stands; while a directory is missing, the nearest one that exists.
//! What is read is decided by comparing contents, never by the kind of event.

use std::collections::HashSet;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use inotify::{Inotify, WatchDescriptor, WatchMask};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::config::read_text;

/// Symlinks that are followed to the file, at most: as many as Linux does.
const LINKS_MAX: usize = 40;

/// Room for the events of one read; what does not fit comes with the next.
const EVENT_BYTES: usize = 16 * 1024;

/// The file with the state document.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    inotify: Inotify,
    watches: HashSet<WatchDescriptor>,
    /// What was last read: the text, or why there is none.
    seen: Option<Result<String, String>>,
}

impl StateFile {
    /// Begins to follow the file. It need not exist yet.
    ///
    /// # Errors
    ///
    /// The kernel's, when it has no more inotify instances (`fs.inotify.max_user_instances`).
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let mut file =
            Self { path, inotify: Inotify::init()?, watches: HashSet::new(), seen: None };
        file.watch();
        Ok(file)
    }

    /// The file, as an absolute path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Has `token` reported whenever [`StateFile::changed`] should be asked.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(crate) fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.inotify.as_raw_fd()), token, Interest::READABLE)
    }

    /// The file's text if it is another than the last time; at first, as it is. When the file has
    /// gone or cannot be read, once, why: the running state is not touched by that.
    pub(crate) fn changed(&mut self) -> Option<Result<String, String>> {
        self.drain();
        // Watched first and read afterwards: a change in between is one more event.
        self.watch();
        let read = read_text(&self.path).map_err(|error| error.to_string());
        if self.seen.as_ref() == Some(&read) {
            return None;
        }
        self.seen = Some(read.clone());
        Some(read)
    }

    fn drain(&mut self) {
        let mut buffer = [0; EVENT_BYTES];
        loop {
            match self.inotify.read_events(&mut buffer) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// Watches the directories that the file's name leads through now, and no others.
    fn watch(&mut self) {
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        let mut watches = HashSet::new();
        for directory in directories(&self.path) {
            // A missing one will be created in, or renamed into, one above it.
            let nearest =
                directory.ancestors().find_map(|d| self.inotify.watches().add(d, mask).ok());
            watches.extend(nearest);
        }
        for gone in self.watches.difference(&watches) {
            // An error means that the kernel has removed it already, with its directory.
            let _ = self.inotify.watches().remove(gone.clone());
        }
        self.watches = watches;
    }
}

/// The directories in which a change can make `path` another file: those of the file and of each
/// link that its name leads through.
fn directories(path: &Path) -> Vec<PathBuf> {
    let mut directories = Vec::new();
    let mut waiting = vec![path.to_owned()];
    let mut links = 0;
    while let Some(path) = waiting.pop() {
        // The file, and each directory above it, may be a link.
        for part in path.ancestors() {
            let Some(parent) = part.parent() else { continue };
            if part == path && !directories.contains(&parent.to_owned()) {
                directories.push(parent.to_owned());
            }
            let Ok(target) = std::fs::read_link(part) else { continue };
            links += 1;
            if links > LINKS_MAX {
                return directories;
            }
            if !directories.contains(&parent.to_owned()) {
                directories.push(parent.to_owned());
            }
            waiting.push(parent.join(target));
        }
    }
    directories
}

#[cfg(test)]
#[path = "state_file_tests.rs"]
mod tests;
