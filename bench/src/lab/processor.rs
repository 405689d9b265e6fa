//! Processor time of the gateway, told apart from that of generator, sink and everybody else.
//!
//! The lab gives the gateway's devices threads of their own for receiving (threaded NAPI), so what
//! a packet costs there is the scheduler's count for these threads and for Spillway's. It includes
//! system calls and the softirqs that run in them. What does not fit into the end of a system call
//! runs in `ksoftirqd` of the gateway's processor, which is counted too.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::io::Errno;

/// The threads whose time counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Threads {
    /// Numbers of processes, each with all its threads.
    processes: Vec<u32>,
}

impl Threads {
    /// The kernel's threads with these names, and these processes.
    pub(crate) fn find(kernel_threads: &[String], processes: &[u32]) -> Result<Self> {
        let mut found = processes.to_vec();
        for (process, name) in kernel_thread_names()? {
            if kernel_threads.iter().any(|wanted| name.starts_with(wanted.as_str())) {
                found.push(process);
            }
        }
        Ok(Self { processes: found })
    }

    /// Their numbers.
    pub(crate) fn processes(&self) -> &[u32] {
        &self.processes
    }

    /// What they have used until now, in nanoseconds. Threads that have ended are not counted.
    pub(crate) fn used_ns(&self) -> Result<u64> {
        let mut used = 0;
        for process in &self.processes {
            let tasks = format!("/proc/{process}/task");
            let entries = fs::read_dir(&tasks).with_context(|| format!("{process} has ended"))?;
            for entry in entries {
                let path = entry?.path().join("schedstat");
                used += match fs::read_to_string(&path) {
                    Ok(text) => run_time_ns(&text)
                        .with_context(|| format!("cannot understand {}", path.display()))?,
                    // It has ended meanwhile, before or after the file was opened.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                    Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => 0,
                    Err(error) => {
                        return Err(error)
                            .with_context(|| format!("cannot read {}", path.display()));
                    }
                };
            }
        }
        Ok(used)
    }
}

/// The first number of a `schedstat` file: time on a processor, in nanoseconds.
fn run_time_ns(schedstat: &str) -> Option<u64> {
    schedstat.split_ascii_whitespace().next()?.parse().ok()
}

/// Number and name of every thread of the kernel.
fn kernel_thread_names() -> Result<Vec<(u32, String)>> {
    let mut names = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        let Some(number) = number else { continue };
        // Only the kernel's threads have no command line. One may end at any moment.
        if fs::read(path.join("cmdline")).is_ok_and(|line| line.is_empty())
            && let Ok(name) = fs::read_to_string(path.join("comm"))
        {
            names.push((number, name.trim_end().to_owned()));
        }
    }
    Ok(names)
}

/// Ticks of a processor: those that were used, and all, with what the host took away.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Ticks {
    busy: f64,
    all: f64,
}

impl Ticks {
    /// Those of one processor until now.
    pub(crate) fn read(processor: usize) -> Result<Self> {
        let path = Path::new("/proc/stat");
        let text = fs::read_to_string(path).context("cannot read /proc/stat")?;
        Self::parse(&text, processor)
            .with_context(|| format!("/proc/stat says nothing of processor {processor}"))
    }

    fn parse(stat: &str, processor: usize) -> Option<Self> {
        let name = format!("cpu{processor}");
        let line = stat.lines().find(|line| line.split(' ').next() == Some(&name))?;
        let ticks: Vec<f64> =
            line.split_ascii_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal; guest is in user already.
        let &[user, nice, system, idle, iowait, irq, softirq, stolen, ..] = ticks.as_slice() else {
            return None;
        };
        let busy = user + nice + system + irq + softirq;
        Some(Self { busy, all: busy + idle + iowait + stolen })
    }

    /// Which share of the time since `earlier` it was busy.
    pub(crate) fn busy_since(&self, earlier: &Self) -> f64 {
        (self.busy - earlier.busy) / (self.all - earlier.all).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_process_is_seen_to_be_busy() {
        let threads = Threads::find(&[], &[std::process::id()]).unwrap();
        let before = threads.used_ns().unwrap();
        let mut sum = 0_u64;
        while threads.used_ns().unwrap() < before + 5_000_000 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(Threads::find(&[], &[u32::MAX]).unwrap().used_ns().is_err());
    }

    #[test]
    fn threads_of_the_kernel_are_found_by_name() {
        let found = Threads::find(&["ksoftirqd/".to_owned()], &[]).unwrap();
        assert!(!found.processes().is_empty());
        assert!(!found.processes().contains(&std::process::id()));
        assert_eq!(Threads::find(&["no such thread".to_owned()], &[7]).unwrap().processes(), [7]);
    }

    #[test]
    fn schedstat_begins_with_the_time() {
        assert_eq!(run_time_ns("123456 789 3\n"), Some(123_456));
        assert_eq!(run_time_ns("\n"), None);
    }

    #[test]
    fn a_share_is_of_the_time_between_and_the_hosts_is_not_busy() {
        let stat = |line: &str| Ticks::parse(&format!("cpu  9 9 9\n{line}\nintr 1\n"), 1).unwrap();
        let earlier = stat("cpu1 100 0 100 700 50 0 50 0 0 0");
        let later = stat("cpu1 110 5 120 730 60 5 60 10 0 0");
        let busy = later.busy_since(&earlier);
        assert!((busy - 0.5).abs() < 1e-9, "{busy}");
        assert_eq!(Ticks::parse("cpu10 1 2 3 4 5 6 7 8 9 0\n", 1), None);
        assert_eq!(Ticks::parse("cpu1 1 2\n", 1), None);
    }
}
