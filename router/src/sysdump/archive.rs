//! The archive: a directory in a tar file, gzip around it.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::SystemTime;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, Header};

use super::Entry;

/// The entry that lists all others.
const CONTENTS: &str = "CONTENTS.txt";

/// Writes the archive; all entries are in a directory of this name.
pub(crate) fn write(
    output: impl Write,
    directory: &str,
    entries: &[Entry],
    now: SystemTime,
) -> io::Result<()> {
    let mtime = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut archive = Builder::new(GzEncoder::new(output, Compression::default()));
    let contents = contents(entries);
    let texts = entries.iter().filter_map(|Entry { name, contents }| {
        contents.as_ref().ok().map(|text| (name.as_str(), text.as_str()))
    });
    for (name, text) in std::iter::once((CONTENTS, contents.as_str())).chain(texts) {
        let mut header = Header::new_gnu();
        header.set_mode(0o600);
        header.set_mtime(mtime);
        header.set_size(text.len() as u64);
        archive.append_data(&mut header, format!("{directory}/{name}"), text.as_bytes())?;
    }
    archive.into_inner()?.finish()?.flush()
}

/// What is there and how long it is, and what is not and why.
fn contents(entries: &[Entry]) -> String {
    let mut text = String::new();
    for Entry { name, contents } in entries {
        // Writing to a string does not fail.
        let _ = match contents {
            Ok(contents) => writeln!(text, "{name}: {} bytes", contents.len()),
            Err(why) => writeln!(text, "{name}: MISSING: {}", why.replace('\n', " ")),
        };
    }
    text
}

/// A time, in UTC, as `20260131T235959Z`.
pub(crate) fn date(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01: the day that is sometimes there is the year's last one then.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::time::Duration;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (951_868_800, "20000301T000000Z"),
            (1_798_761_599, "20261231T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn the_archive_has_what_there_is_and_says_what_is_not() {
        let entries = [
            Entry { name: "host/proc/version".to_owned(), contents: Ok("Linux\n".to_owned()) },
            Entry { name: "tools/x.txt".to_owned(), contents: Err("no\nx".to_owned()) },
        ];
        let mut file = Vec::new();
        write(&mut file, "dump", &entries, SystemTime::now()).unwrap();
        let mut archive = tar::Archive::new(GzDecoder::new(file.as_slice()));
        let mut read = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            read.push((entry.path().unwrap().display().to_string(), text));
        }
        let contents = "host/proc/version: 6 bytes\ntools/x.txt: MISSING: no x\n";
        let expected = [("dump/CONTENTS.txt", contents), ("dump/host/proc/version", "Linux\n")];
        assert_eq!(read, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
    }
}
