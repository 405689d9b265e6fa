//! Who runs on which processor.
//!
//! On a veth the receiver's work is done where the sender runs: the gateway would work on the
//! generator's time, the kernel's NAT wholly so, Spillway in part. Therefore the gateway's device
//! has a thread of its own for receiving (threaded NAPI), which comes before all else on its
//! processor, as a network card's interrupts do. What the kernel forwards is forwarded by that
//! thread: it has the gateway's processor. Spillway's workers have that one, and the thread, which
//! only hands them frames, comes beside the generator; or all is put on the gateway's.
//!
//! The router's end has none: what receiving costs there is part of every system's sending.

use std::fs;
use std::io;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, setpriority_process};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::host::{self, UPLINK};
use super::processor::Threads;

/// The highest that there is.
const PRIORITY: i32 = -20;

/// Processors of generator and gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) generator: usize,
    pub(crate) gateway: Vec<usize>,
    /// Whether receiving for workers has the gateway's processors too.
    pub(crate) receive_there: bool,
}

impl Placement {
    /// The generator on the first processor, the gateway on as many as it has workers, or on those
    /// that there are.
    pub(crate) fn of(processors: usize, workers: u8, receive_there: bool) -> Result<Self> {
        ensure!(
            processors >= 2,
            "the lab needs two processors, for generator and gateway; there is {processors}"
        );
        let last = usize::from(workers).min(processors - 1);
        Ok(Self { generator: 0, gateway: (1..=last).collect(), receive_there })
    }

    /// Puts the gateway's devices and these processes where they belong. Returns the gateway's
    /// threads.
    pub(crate) fn place(&self, processes: &[u32]) -> Result<Threads> {
        let path = format!("/sys/class/net/{UPLINK}/threaded");
        host::run("worker2", &["sh", "-c", &format!("echo 1 >{path}")])
            .context("the kernel has no threaded NAPI (Linux 5.12)")?;
        let mut names = vec![format!("napi/{UPLINK}-")];
        let receivers = Threads::find(&names, &[])?;
        ensure!(!receivers.processes().is_empty(), "the gateway's device has no thread of its own");
        let beside = [self.generator];
        let there = self.receive_there || processes.is_empty();
        for process in receivers.processes() {
            pin(*process, if there { &self.gateway } else { &beside })?;
            real_time(*process)?;
        }
        for process in processes {
            pin(*process, &self.gateway)?;
            prefer(*process)?;
        }
        names.extend(self.gateway.iter().map(|processor| format!("ksoftirqd/{processor}")));
        Threads::find(&names, processes)
    }
}

/// Lets all threads of a process run on these processors only.
fn pin(process: u32, processors: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for processor in processors {
        set.set(*processor);
    }
    let tasks = format!("/proc/{process}/task");
    for entry in fs::read_dir(&tasks).with_context(|| format!("process {process} has ended"))? {
        let name = entry?.file_name();
        let thread = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        sched_setaffinity(Some(thread.context("/proc lists no thread")?), &set)
            .with_context(|| format!("cannot pin process {process} to {processors:?}"))?;
    }
    Ok(())
}

/// Gives a process's session nearly all of the time that it wants, and what this process starts from
/// now on too if it is this process's own: what else runs on the machine shall not be measured.
pub(crate) fn prefer(process: u32) -> Result<()> {
    let priority = Pid::from_raw(process.cast_signed());
    setpriority_process(priority, PRIORITY).context("cannot raise a process's priority")?;
    // Priorities only count within a session where the kernel groups tasks by session.
    match fs::write(format!("/proc/{process}/autogroup"), PRIORITY.to_string()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.context("cannot raise a session's priority"),
    }
}

/// Lets a thread run before all that are not of this kind on its processor.
fn real_time(process: u32) -> Result<()> {
    let mut command = std::process::Command::new("chrt");
    command.args(["--fifo", "--pid", "1", &process.to_string()]);
    host::output(&mut command).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generator_and_gateway_never_share_a_processor() {
        assert!(Placement::of(1, 1, false).is_err());
        for (processors, workers, gateway) in
            [(2, 1, vec![1]), (2, 2, vec![1]), (4, 2, vec![1, 2]), (3, 8, vec![1, 2])]
        {
            let placement = Placement::of(processors, workers, false).unwrap();
            assert_eq!(placement.gateway, gateway, "{processors} processors, {workers} workers");
            assert!(!placement.gateway.contains(&placement.generator));
        }
    }

    #[test]
    fn a_process_that_has_ended_cannot_be_placed() {
        assert!(pin(u32::MAX, &[0]).is_err());
    }
}
