//! Every way in which people and machines replace a file, with real files and real events.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use mio::{Events, Poll};
use tempfile::TempDir;

use super::*;

/// How long a change may take to be seen.
const SEEN_MAX: Duration = Duration::from_secs(10);

/// How long nothing must be seen to hold that nothing comes.
const QUIET: Duration = Duration::from_millis(50);

struct Followed {
    directory: TempDir,
    poll: Poll,
    file: StateFile,
}

impl Followed {
    /// Follows `name` in a new directory that `prepare` fills.
    fn new(name: &str, prepare: impl FnOnce(&Path)) -> Self {
        let directory = TempDir::new().unwrap();
        prepare(directory.path());
        let file = StateFile::open(&directory.path().join(name)).unwrap();
        let poll = Poll::new().unwrap();
        file.register(poll.registry(), Token(7)).unwrap();
        Self { directory, poll, file }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The next change that an event announces.
    fn next(&mut self) -> Result<String, String> {
        let deadline = Instant::now() + SEEN_MAX;
        self.next_until(deadline).expect("the change is seen")
    }

    fn next_until(&mut self, deadline: Instant) -> Option<Result<String, String>> {
        let mut events = Events::with_capacity(4);
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            self.poll.poll(&mut events, Some(left)).unwrap();
            if events.iter().any(|event| event.token() == Token(7))
                && let Some(change) = self.file.changed()
            {
                return Some(change);
            }
        }
        None
    }

    fn nothing_comes(&mut self) -> bool {
        self.next_until(Instant::now() + QUIET).is_none()
    }
}

fn plain_file(text: &'static str) -> Followed {
    let mut followed = Followed::new("state.yaml", |directory| {
        fs::write(directory.join("state.yaml"), text).unwrap();
    });
    assert_eq!(followed.file.changed(), Some(Ok(text.to_owned())));
    followed
}

#[test]
fn a_file_written_in_place_is_read_again() {
    let mut followed = plain_file("one");
    fs::write(followed.path("state.yaml"), "two").unwrap();
    // Opening for writing empties the file, and that may be seen; the end is what counts.
    let mut seen = followed.next();
    while seen != Ok("two".to_owned()) {
        seen = followed.next();
    }
    assert!(followed.nothing_comes());
}

#[test]
fn a_writer_is_waited_for_until_it_closes_the_file() {
    use std::io::Write as _;
    let mut followed = plain_file("one");
    let mut writer = fs::OpenOptions::new().append(true).open(followed.path("state.yaml")).unwrap();
    writer.write_all(b" half").unwrap();
    assert!(followed.nothing_comes());
    writer.write_all(b" whole").unwrap();
    drop(writer);
    assert_eq!(followed.next(), Ok("one half whole".to_owned()));
}

#[test]
fn a_file_replaced_by_a_rename_is_read_again() {
    let mut followed = plain_file("one");
    for text in ["two", "three"] {
        fs::write(followed.path("new"), text).unwrap();
        fs::rename(followed.path("new"), followed.path("state.yaml")).unwrap();
        assert_eq!(followed.next(), Ok(text.to_owned()));
    }
}

#[test]
fn a_config_map_whose_data_link_is_swapped_is_read_again() {
    let mut followed = Followed::new("state.yaml", |directory| {
        fs::create_dir(directory.join("..1")).unwrap();
        fs::write(directory.join("..1/state.yaml"), "one").unwrap();
        symlink("..1", directory.join("..data")).unwrap();
        symlink("..data/state.yaml", directory.join("state.yaml")).unwrap();
    });
    assert_eq!(followed.file.changed(), Some(Ok("one".to_owned())));
    for (old, new, text) in [("..1", "..2", "two"), ("..2", "..3", "three")] {
        fs::create_dir(followed.path(new)).unwrap();
        fs::write(followed.path(new).join("state.yaml"), text).unwrap();
        symlink(new, followed.path("..data_tmp")).unwrap();
        fs::rename(followed.path("..data_tmp"), followed.path("..data")).unwrap();
        fs::remove_dir_all(followed.path(old)).unwrap();
        assert_eq!(followed.next(), Ok(text.to_owned()));
    }
    assert!(followed.nothing_comes());
}

#[test]
fn the_target_of_a_link_is_followed_in_its_own_directory() {
    let elsewhere = TempDir::new().unwrap();
    let target = elsewhere.path().join("target.yaml");
    fs::write(&target, "one").unwrap();
    let mut followed = Followed::new("state.yaml", |directory| {
        symlink(&target, directory.join("state.yaml")).unwrap();
    });
    assert_eq!(followed.file.changed(), Some(Ok("one".to_owned())));
    fs::write(elsewhere.path().join("new"), "two").unwrap();
    fs::rename(elsewhere.path().join("new"), &target).unwrap();
    assert_eq!(followed.next(), Ok("two".to_owned()));
}

#[test]
fn a_directory_that_is_a_link_is_followed() {
    let mut followed = Followed::new("current/state.yaml", |directory| {
        for (name, text) in [("a", "one"), ("b", "two")] {
            fs::create_dir(directory.join(name)).unwrap();
            fs::write(directory.join(name).join("state.yaml"), text).unwrap();
        }
        symlink("a", directory.join("current")).unwrap();
    });
    assert_eq!(followed.file.changed(), Some(Ok("one".to_owned())));
    symlink("b", followed.path("new")).unwrap();
    fs::rename(followed.path("new"), followed.path("current")).unwrap();
    assert_eq!(followed.next(), Ok("two".to_owned()));
}

#[test]
fn a_file_that_vanishes_is_reported_once_and_followed_when_it_comes_back() {
    let mut followed = plain_file("one");
    let path = followed.path("state.yaml");
    fs::remove_file(&path).unwrap();
    let gone = format!("cannot read {}: No such file or directory", path.display());
    assert_eq!(followed.next(), Err(gone));
    fs::write(followed.path("other"), "").unwrap();
    assert!(followed.nothing_comes());
    fs::write(followed.path("new"), "one").unwrap();
    fs::rename(followed.path("new"), &path).unwrap();
    assert_eq!(followed.next(), Ok("one".to_owned()));
}

#[test]
fn a_directory_that_does_not_exist_yet_is_waited_for() {
    let mut followed = Followed::new("etc/spillway/state.yaml", |_| {});
    assert!(followed.file.changed().unwrap().is_err());
    fs::create_dir_all(followed.path("etc/spillway")).unwrap();
    // Whatever of the two directories exists is watched from here on.
    assert!(followed.nothing_comes());
    fs::write(followed.path("new"), "one").unwrap();
    fs::rename(followed.path("new"), followed.path("etc/spillway/state.yaml")).unwrap();
    assert_eq!(followed.next(), Ok("one".to_owned()));
    fs::remove_dir_all(followed.path("etc")).unwrap();
    assert!(followed.next().is_err());
}

#[test]
fn a_file_that_is_no_text_or_too_long_is_reported() {
    let mut followed = plain_file("one");
    fs::write(followed.path("new"), [0xff, 0xfe]).unwrap();
    fs::rename(followed.path("new"), followed.path("state.yaml")).unwrap();
    assert!(followed.next().unwrap_err().ends_with("it is not UTF-8 text"));
    let sparse = fs::File::create(followed.path("new")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    fs::rename(followed.path("new"), followed.path("state.yaml")).unwrap();
    assert!(followed.next().unwrap_err().ends_with("it has more than 67108864 bytes"));
}

#[test]
fn links_that_lead_in_a_circle_are_an_error_and_no_endless_loop() {
    let mut followed = Followed::new("a", |directory| {
        symlink("b", directory.join("a")).unwrap();
        symlink("a", directory.join("b")).unwrap();
    });
    assert!(followed.file.changed().unwrap().is_err());
}
