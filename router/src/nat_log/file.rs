//! The log's file and the rotated ones beside it: `FILE`, then `FILE.1`, `FILE.2` and so on, the
//! oldest last. What a file holds is never changed, only appended to, by one process at a time.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use jiff::{SignedDuration, Timestamp};

use super::record::Record;

/// Bytes of a line that are read at most.
pub(crate) const LINE_BYTES_MAX: u64 = 64 * 1024;

/// When a file is rotated, and how many rotated ones are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rotation {
    /// Bytes of a file, at most.
    pub(crate) bytes_max: u64,
    /// Time from a file's first record to its last, at most.
    pub(crate) age_max: SignedDuration,
    /// Rotated files that are kept; beyond that the oldest goes.
    pub(crate) keep: u32,
}

/// The log's file.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    rotation: Rotation,
    file: File,
    bytes: u64,
    /// The time of the first record; none in an empty file.
    begin: Option<Timestamp>,
    /// What is not written yet.
    waiting: Vec<u8>,
    /// Whether something was written that may not survive the machine yet.
    is_dirty: bool,
    /// How many files were begun since all flows that lived were written last.
    begun: u32,
}

impl LogFile {
    /// Opens the file, or makes it; what it holds stays.
    pub(crate) fn open(path: &Path, rotation: Rotation) -> anyhow::Result<Self> {
        let (file, mut bytes) = append(path)?;
        let begin = if bytes == 0 { None } else { first_time(path)? };
        let mut waiting = Vec::new();
        if bytes > 0 && last_byte(path)? != b'\n' {
            // A line was cut off: the next one must not be lost with it.
            waiting.push(b'\n');
            bytes += 1;
        }
        let path = path.to_owned();
        Ok(Self { path, rotation, file, bytes, begin, waiting, is_dirty: false, begun: 0 })
    }

    /// Whether all flows that live should be written again: a flow may live longer than the file is kept
    /// that its begin is in.
    pub(crate) fn wants_all_flows(&self) -> bool {
        self.begun >= (self.rotation.keep / 2).max(1)
    }

    /// They are.
    pub(crate) fn has_all_flows(&mut self) {
        self.begun = 0;
    }

    /// Goes on with a new file where somebody else has moved or removed this one. Whether it does: nobody
    /// knows how long that one is kept.
    pub(crate) fn follow_name(&mut self) -> anyhow::Result<bool> {
        let ours = self.file.metadata().with_context(|| cannot("look at", &self.path))?;
        match std::fs::metadata(&self.path) {
            Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => {
                // It may have been cut.
                self.bytes = self.bytes.min(named.len() + self.waiting.len() as u64);
                return Ok(false);
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| cannot("look at", &self.path)),
        }
        self.sync()?;
        self.start_anew().map(|()| true)
    }

    /// Appends a record, to a new file if it is time for one.
    pub(crate) fn append(&mut self, record: &Record) -> anyhow::Result<()> {
        let (line, time) = (record.line()?, record.time());
        let length = line.len() as u64;
        let is_old =
            self.begin.is_some_and(|begin| time.duration_since(begin) >= self.rotation.age_max);
        if self.bytes > 0 && (is_old || self.bytes + length > self.rotation.bytes_max) {
            self.rotate()?;
        }
        self.begin.get_or_insert(time);
        self.waiting.extend_from_slice(&line);
        self.bytes += length;
        if self.waiting.len() >= 64 * 1024 {
            self.write()?;
        }
        Ok(())
    }

    /// Hands what was appended to the kernel.
    pub(crate) fn write(&mut self) -> anyhow::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.file.write_all(&self.waiting).with_context(|| cannot("write to", &self.path))?;
        self.waiting.clear();
        self.is_dirty = true;
        Ok(())
    }

    /// Makes what was appended survive the machine.
    pub(crate) fn sync(&mut self) -> anyhow::Result<()> {
        self.write()?;
        if self.is_dirty {
            self.file.sync_data().with_context(|| cannot("sync", &self.path))?;
            self.is_dirty = false;
        }
        Ok(())
    }

    fn rotate(&mut self) -> anyhow::Result<()> {
        self.sync()?;
        let rename = |from: &Path, to: &Path| match std::fs::rename(from, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.with_context(|| cannot("rotate", from)),
        };
        for number in (1..self.rotation.keep).rev() {
            rename(&rotated(&self.path, number), &rotated(&self.path, number + 1))?;
        }
        rename(&self.path, &rotated(&self.path, 1))?;
        self.start_anew()
    }

    fn start_anew(&mut self) -> anyhow::Result<()> {
        (self.file, self.bytes) = append(&self.path)?;
        self.begin = None;
        self.begun = self.begun.saturating_add(1);
        Ok(())
    }
}

/// The name of a rotated file.
pub(crate) fn rotated(path: &Path, number: u32) -> PathBuf {
    beside(path, &format!(".{number}"))
}

/// A file's name with something behind it.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn cannot(what: &str, path: &Path) -> String {
    format!("cannot {what} the NAT log {}", path.display())
}

/// The file to append to, and how many bytes it has. It tells who talked to whom: nobody but its
/// owner and group reads it.
fn append(path: &Path) -> anyhow::Result<(File, u64)> {
    let opened = OpenOptions::new().append(true).create(true).mode(0o640).open(path);
    let file = opened.with_context(|| cannot("open", path))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => bail!(
            "another process writes the NAT log {}: end it, or name another file",
            path.display()
        ),
        // Not every file system knows locks.
        Ok(()) | Err(TryLockError::Error(_)) => {}
    }
    let bytes = file.metadata().with_context(|| cannot("look at", path))?.len();
    Ok((file, bytes))
}

/// The time of a file's first record; none if its first line is none.
fn first_time(path: &Path) -> anyhow::Result<Option<Timestamp>> {
    let file = File::open(path).with_context(|| cannot("read", path))?;
    let mut line = Vec::new();
    let mut start = BufReader::new(file).take(LINE_BYTES_MAX);
    start.read_until(b'\n', &mut line).with_context(|| cannot("read", path))?;
    Ok(serde_json::from_slice::<Record>(&line).ok().map(|record| record.time()))
}

fn last_byte(path: &Path) -> anyhow::Result<u8> {
    let read = || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(-1))?;
        let mut byte = [0];
        file.read_exact(&mut byte).map(|()| byte[0])
    };
    read().with_context(|| cannot("read", path))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::super::record::At;
    use super::super::record::tests::at;
    use super::*;

    fn mark(time: &str) -> Record {
        Record::Mark(At { time: at(time) })
    }

    fn rotation(bytes_max: u64) -> Rotation {
        Rotation { bytes_max, age_max: SignedDuration::from_hours(1), keep: 2 }
    }

    /// The times in a file.
    fn times(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        let records = text.lines().map(|line| serde_json::from_str::<Record>(line).unwrap());
        records.map(|record| record.time().to_string()).collect()
    }

    #[test]
    fn a_full_file_makes_room_and_the_oldest_goes() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("nat.log");
        let length = mark("2026-11-22T14:00:00Z").line().unwrap().len() as u64;
        let mut log = LogFile::open(&path, rotation(2 * length)).unwrap();
        for second in 10..19 {
            log.append(&mark(&format!("2026-11-22T14:00:{second}Z"))).unwrap();
        }
        log.sync().unwrap();
        assert_eq!(times(&path), ["2026-11-22T14:00:18Z"]);
        let older = ["2026-11-22T14:00:16Z", "2026-11-22T14:00:17Z"];
        assert_eq!(times(&rotated(&path, 1)), older);
        let oldest = ["2026-11-22T14:00:14Z", "2026-11-22T14:00:15Z"];
        assert_eq!(times(&rotated(&path, 2)), oldest);
        assert!(!rotated(&path, 3).exists());
    }

    #[test]
    fn an_old_file_makes_room_also_when_it_was_opened_again() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("nat.log");
        let mut log = LogFile::open(&path, rotation(1 << 20)).unwrap();
        log.append(&mark("2026-11-22T14:00:00Z")).unwrap();
        log.sync().unwrap();
        drop(log);
        let mut log = LogFile::open(&path, rotation(1 << 20)).unwrap();
        for time in ["2026-11-22T14:59:59Z", "2026-11-22T15:00:00Z"] {
            log.append(&mark(time)).unwrap();
        }
        log.sync().unwrap();
        assert_eq!(times(&path), ["2026-11-22T15:00:00Z"]);
        assert_eq!(times(&rotated(&path, 1)).len(), 2);
    }

    #[test]
    fn a_line_that_was_cut_off_does_not_take_the_next_one_with_it() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("nat.log");
        std::fs::write(&path, r#"{"event":"mark","ti"#).unwrap();
        let mut log = LogFile::open(&path, rotation(1 << 20)).unwrap();
        log.append(&mark("2026-11-22T14:00:00Z")).unwrap();
        log.sync().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("\n{\"event\":\"mark\",\"time\":\"2026-11-22T14:00:00Z\"}\n"));
    }

    #[test]
    fn a_file_that_somebody_has_moved_is_left_and_one_that_was_cut_is_not() {
        let directory = TempDir::new().unwrap();
        let (path, moved) = (directory.path().join("nat.log"), directory.path().join("moved"));
        let mut log = LogFile::open(&path, rotation(1 << 20)).unwrap();
        log.append(&mark("2026-11-22T14:00:00Z")).unwrap();
        log.sync().unwrap();
        assert!(!log.follow_name().unwrap());
        std::fs::rename(&path, &moved).unwrap();
        log.append(&mark("2026-11-22T14:00:01Z")).unwrap();
        assert!(log.follow_name().unwrap());
        log.append(&mark("2026-11-22T14:00:02Z")).unwrap();
        log.sync().unwrap();
        assert_eq!(times(&moved), ["2026-11-22T14:00:00Z", "2026-11-22T14:00:01Z"]);
        assert_eq!(times(&path), ["2026-11-22T14:00:02Z"]);
        // As `copytruncate` of logrotate does.
        File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        assert!(!log.follow_name().unwrap());
        assert_eq!(log.bytes, 0);
    }

    #[test]
    fn all_flows_are_wanted_before_the_files_go_that_have_them() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("nat.log");
        let length = mark("2026-11-22T14:00:00Z").line().unwrap().len() as u64;
        let mut log = LogFile::open(&path, Rotation { keep: 4, ..rotation(length) }).unwrap();
        let mut wanted = |second: i32| {
            log.append(&mark(&format!("2026-11-22T14:00:{second}Z"))).unwrap();
            log.wants_all_flows()
        };
        assert_eq!([10, 11, 12].map(&mut wanted), [false, false, true]);
        log.has_all_flows();
        assert!(!log.wants_all_flows());
    }

    #[test]
    fn a_file_is_written_by_one_process_at_a_time() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("nat.log");
        let log = LogFile::open(&path, rotation(1 << 20)).unwrap();
        let error = LogFile::open(&path, rotation(1 << 20)).unwrap_err().to_string();
        assert!(error.starts_with("another process writes the NAT log /"), "{error}");
        drop(log);
        LogFile::open(&path, rotation(1 << 20)).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let error = LogFile::open(Path::new("/nowhere/nat.log"), rotation(1)).unwrap_err();
        let said = format!("{error:#}");
        assert!(said.starts_with("cannot open the NAT log /nowhere/nat.log: No such"), "{said}");
    }
}
