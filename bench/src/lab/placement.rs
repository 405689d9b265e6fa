//! Who runs on which processor.
//!
//! On a veth the receiver's work is done where the sender runs: the gateway would work on the
//! generator's time, the kernel's NAT wholly so, Spillway in part. Therefore both ends of the link
//! have threads of their own for receiving (threaded NAPI), the gateway's beside Spillway's workers,
//! and the router's, which feed the sink, beside the generator. It is what a network card does with
//! its interrupts.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::host::{self, ROUTER_DEVICE, UPLINK};
use super::processor::Threads;

/// Processors of generator and gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) generator: usize,
    pub(crate) gateway: Vec<usize>,
}

impl Placement {
    /// The generator on the first processor, the gateway on as many as it has workers, or on those
    /// that there are.
    pub(crate) fn of(processors: usize, workers: u8) -> Result<Self> {
        ensure!(
            processors >= 2,
            "the lab needs two processors, for generator and gateway; there is {processors}"
        );
        let last = usize::from(workers).min(processors - 1);
        Ok(Self { generator: 0, gateway: (1..=last).collect() })
    }

    /// Puts the gateway's devices and these processes where they belong. Returns the gateway's
    /// threads.
    pub(crate) fn place(&self, processes: &[u32]) -> Result<Threads> {
        for (name, device) in [("worker2", UPLINK), ("router", ROUTER_DEVICE)] {
            let path = format!("/sys/class/net/{device}/threaded");
            host::run(name, &["sh", "-c", &format!("echo 1 >{path}")])
                .context("the kernel has no threaded NAPI (Linux 5.12)")?;
        }
        let sink = Threads::find(&[format!("napi/{ROUTER_DEVICE}-")], &[])?;
        for process in sink.processes() {
            pin(*process, &[self.generator])?;
            // Frames wait in a ring of 256; the generator never sleeps.
            real_time(*process)?;
        }
        let mut names = vec![format!("napi/{UPLINK}-")];
        let receivers = Threads::find(&names, &[])?;
        ensure!(!receivers.processes().is_empty(), "the gateway's device has no thread of its own");
        for process in receivers.processes().iter().chain(processes) {
            pin(*process, &self.gateway)?;
        }
        for process in receivers.processes() {
            // As an interrupt would, it comes before whatever runs there.
            real_time(*process)?;
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

/// Lets a thread run before all others on its processor.
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
        assert!(Placement::of(1, 1).is_err());
        for (processors, workers, gateway) in
            [(2, 1, vec![1]), (2, 2, vec![1]), (4, 2, vec![1, 2]), (3, 8, vec![1, 2])]
        {
            let placement = Placement::of(processors, workers).unwrap();
            assert_eq!(placement.gateway, gateway, "{processors} processors, {workers} workers");
            assert!(!placement.gateway.contains(&placement.generator));
        }
    }

    #[test]
    fn a_process_that_has_ended_cannot_be_placed() {
        assert!(pin(u32::MAX, &[0]).is_err());
    }
}
