//! The machine that was measured on, as it describes itself.

use std::fs::read_to_string;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use rustix::system::uname;

use super::markdown::table;

/// What a reader has to know to compare numbers: a name and a text each.
pub(super) struct Machine {
    facts: Vec<(&'static str, String)>,
}

impl Machine {
    /// This machine, now. `stat_before` is a copy of /proc/stat from when the measuring began.
    pub(super) fn here(stat_before: Option<&Path>) -> Result<Self> {
        let read = |path: &str| read_to_string(path).with_context(|| format!("cannot read {path}"));
        let (cpu, memory) = (read("/proc/cpuinfo")?, read("/proc/meminfo")?);
        let before = stat_before
            .map(|path| {
                read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
            })
            .transpose()?;
        let since = if before.is_some() { "since the measuring began" } else { "since boot" };
        let steal = steal_percent(before.as_deref().unwrap_or_default(), &read("/proc/stat")?);
        let steal = steal.map_or("not known".to_owned(), |share| format!("{share:.2} % {since}"));
        let names = uname();
        let kernel = [names.sysname(), names.release(), names.machine()]
            .map(std::ffi::CStr::to_string_lossy)
            .join(" ");
        let facts = vec![
            ("date", said("date", &["--utc", "+%F"])),
            ("Spillway", said("git", &["describe", "--always", "--dirty"])),
            ("processor", processor(&cpu)),
            ("memory", gigabytes(&memory).unwrap_or_else(unknown)),
            ("hypervisor", hypervisor(&cpu)),
            ("kernel", kernel),
            ("compiler", said("rustc", &["--version"])),
            (
                "load at the end",
                read("/proc/loadavg")?.split(' ').take(3).collect::<Vec<_>>().join(", ")
                    + " in the last 1, 5, 15 minutes",
            ),
            ("time stolen by other machines", steal),
        ];
        Ok(Self { facts })
    }

    pub(super) fn section(&self) -> String {
        let rows: Vec<_> =
            self.facts.iter().map(|(name, fact)| vec![(*name).to_owned(), fact.clone()]).collect();
        format!("\n## The machine\n{}", table(&["", ""], &rows))
    }
}

fn unknown() -> String {
    "not known".to_owned()
}

/// What a program says in one line, if it can be asked.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().ok();
    let output = output.filter(|output| output.status.success());
    output.map_or_else(unknown, |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The first value of a field of /proc/cpuinfo or /proc/meminfo.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields
        .map(|(key, value)| (key.trim(), value.trim()))
        .find(|(key, _)| *key == name)
        .map(|it| it.1)
}

fn processor(cpuinfo: &str) -> String {
    let get = |name| field(cpuinfo, name).unwrap_or("not known");
    let count = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    format!(
        "{count} of {}, family {} model {}, {} MHz, {} cache",
        get("model name"),
        get("cpu family"),
        get("model"),
        get("cpu MHz"),
        get("cache size"),
    )
}

fn gigabytes(meminfo: &str) -> Option<String> {
    let kilobytes: f64 = field(meminfo, "MemTotal")?.strip_suffix(" kB")?.parse().ok()?;
    let huge = field(meminfo, "HugePages_Total")?;
    Some(format!("{:.1} GB, {huge} huge pages reserved", kilobytes * 1024.0 / 1e9))
}

fn hypervisor(cpuinfo: &str) -> String {
    let flags = field(cpuinfo, "flags").unwrap_or_default();
    if !flags.split(' ').any(|flag| flag == "hypervisor") {
        return "none that the processor tells of".to_owned();
    }
    let read = |path| read_to_string(path).map(|text| text.trim().to_owned()).ok();
    let names =
        ["/sys/hypervisor/type", "/sys/class/dmi/id/sys_vendor", "/sys/class/dmi/id/product_name"];
    let names: Vec<_> = names.into_iter().filter_map(read).collect();
    if names.is_empty() {
        return "one that does not say its name".to_owned();
    }
    names.join(", ")
}

/// How much of the processors' time others had between two readings of /proc/stat.
fn steal_percent(before: &str, after: &str) -> Option<f64> {
    let total = |text: &str| -> Option<[f64; 2]> {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        // User, nice, system, idle, iowait, irq, softirq, steal; guests are in user already.
        let times: Vec<f64> = line.split_whitespace().take(8).flat_map(str::parse).collect();
        Some([*times.get(7)?, times.iter().sum()])
    };
    let [stolen, all] = total(after)?;
    let [stolen_before, all_before] = total(before).unwrap_or_default();
    (all > all_before).then(|| 100.0 * (stolen - stolen_before) / (all - all_before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_that_since_before() {
        let before = "cpu  50 0 50 0 0 0 0 100 0 0\ncpu0 1 1 1 1 1 1 1 1\n";
        let after = "cpu  100 0 100 180 0 0 0 120 70 0\n";
        assert_eq!(steal_percent(before, after), Some(20.0 / 300.0 * 100.0));
        assert_eq!(steal_percent("", after), Some(24.0));
        assert_eq!(steal_percent(after, after), None);
    }

    #[test]
    fn a_processor_is_described() {
        let one = "processor\t: 0\ncpu family\t: 6\nmodel\t\t: 85\nmodel name\t: Fast\n\
                   cpu MHz\t\t: 2500.008\ncache size\t: 36608 KB\nflags\t\t: fpu hypervisor\n";
        let text = processor(&one.repeat(2));
        assert_eq!(text, "2 of Fast, family 6 model 85, 2500.008 MHz, 36608 KB cache");
        assert!(hypervisor("flags : fpu\n").starts_with("none"));
        assert!(!hypervisor(one).starts_with("none"));
    }

    #[test]
    fn memory_is_in_gigabytes() {
        let text = gigabytes("MemTotal:       24000000 kB\nHugePages_Total:       3\n");
        assert_eq!(text.as_deref(), Some("24.6 GB, 3 huge pages reserved"));
    }
}
