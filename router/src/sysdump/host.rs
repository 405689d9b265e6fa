//! What the host says of itself: files of the kernel, and what the tools print that are installed. The image
//! of the gateway's pod has none of them; the files are there all the same.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{ENTRY_BYTES_MAX, Entry};

/// How long a tool may take.
const WITHIN: Duration = Duration::from_secs(10);

/// Files of the kernel.
const FILES: [&str; 32] = [
    "/etc/os-release",
    "/proc/cpuinfo",
    "/proc/interrupts",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/arp",
    "/proc/net/dev",
    "/proc/net/if_inet6",
    "/proc/net/ipv6_route",
    "/proc/net/netstat",
    "/proc/net/route",
    "/proc/net/snmp",
    "/proc/net/snmp6",
    "/proc/net/sockstat",
    "/proc/net/sockstat6",
    "/proc/net/softnet_stat",
    "/proc/net/xfrm_stat",
    "/proc/pressure/cpu",
    "/proc/pressure/memory",
    "/proc/softirqs",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/unprivileged_bpf_disabled",
    "/proc/sys/net/core/bpf_jit_enable",
    "/proc/sys/net/core/netdev_budget",
    "/proc/sys/net/core/netdev_max_backlog",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv4/ip_local_port_range",
    "/proc/sys/net/ipv4/ip_local_reserved_ports",
    "/proc/sys/net/ipv6/conf/all/forwarding",
    "/proc/uptime",
    "/proc/version",
    "/proc/vmstat",
];

/// Files of the router's process.
const OF_PROCESS: [&str; 4] = ["cgroup", "limits", "sched", "status"];

/// Files of its control group.
const OF_CGROUP: [&str; 7] = [
    "cpu.max",
    "cpu.stat",
    "cpuset.cpus.effective",
    "memory.current",
    "memory.events",
    "memory.max",
    "memory.swap.max",
];

/// What the tools are asked. The keys of IPsec's states are left out by `nokeys`; where iproute2 does not know
/// it, there is no list.
const TOOLS: [&str; 18] = [
    "uname -a",
    "ip -details -statistics -json -pretty link show",
    "ip -json -pretty address show",
    "ip -json -pretty rule show",
    "ip -6 -json -pretty rule show",
    "ip -json -pretty route show table all",
    "ip -6 -json -pretty route show table all",
    "ip -json -pretty neigh show",
    "ip -json -pretty nexthop show",
    "ip -statistics xfrm state list nokeys",
    "ip xfrm policy list",
    "bpftool -json -pretty prog show",
    "bpftool -json -pretty map show",
    "bpftool -json -pretty link show",
    "bpftool -json -pretty net show",
    "tc -statistics qdisc show",
    "nft list ruleset",
    "ss --summary",
];

/// What is asked of each device.
const OF_DEVICE: [&str; 7] = ["-i", "-l", "-g", "-k", "-c", "-S", ""];

/// Everything; `pid` is the router's process, `devices` are those that it drives.
pub(super) fn collect(pid: Option<u32>, devices: &[String]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = FILES.into_iter().map(file).collect();
    if let Some(pid) = pid {
        entries.extend(OF_PROCESS.map(|name| file(&format!("/proc/{pid}/{name}"))));
        let group = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let directory = cgroup(&group);
        entries.extend(OF_CGROUP.map(|name| file(&format!("{directory}/{name}"))));
    }
    entries.extend(TOOLS.map(|line| tool(&line.split(' ').collect::<Vec<_>>())));
    for device in devices {
        for option in OF_DEVICE {
            let words = ["ethtool", option, device];
            let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
            entries.push(tool(&words));
        }
    }
    entries
}

/// Where the files of a control group are (cgroups(7), version 2), by what `/proc/PID/cgroup` says.
fn cgroup(text: &str) -> String {
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    format!("/sys/fs/cgroup{}", path.trim_end_matches('/'))
}

/// A file, under its own path.
fn file(path: &str) -> Entry {
    let read = || -> anyhow::Result<String> {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path)?;
        file.take(ENTRY_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    Entry::new(format!("host{path}"), read().with_context(|| format!("cannot read {path}")))
}

/// What a tool prints, under its words.
fn tool(words: &[&str]) -> Entry {
    let name: String = words
        .join("_")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' })
        .collect();
    Entry::new(format!("tools/{name}.txt"), run(words, WITHIN))
}

/// Runs a tool for so long at most; gives what it prints.
///
/// # Errors
/// When it is not there, fails, or takes longer.
fn run(words: &[&str], within: Duration) -> anyhow::Result<String> {
    let line = words.join(" ");
    let (program, arguments) = words.split_first().context("no tool")?;
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("`{line}`: {program} cannot be run here"))?;
    let pid = Pid::from_child(&child);
    let (done, output) = mpsc::channel();
    let reader = thread::spawn(move || {
        let _ = done.send(Child::wait_with_output(child));
    });
    let Ok(output) = output.recv_timeout(within) else {
        // It is still this process's child: nobody else can have its number.
        let _ = kill_process(pid, Signal::KILL);
        let _ = reader.join();
        bail!("`{line}` took longer than {} s", within.as_secs());
    };
    let output = output.with_context(|| format!("`{line}`"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("`{line}` has failed, {}: {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_is_missing_fails_or_hangs_says_so() {
        let error = |words: &[&str], within| format!("{:#}", run(words, within).unwrap_err());
        let text = error(&["no-such-tool", "-x"], WITHIN);
        assert!(text.starts_with("`no-such-tool -x`: no-such-tool cannot be run here"), "{text}");
        let text = error(&["sh", "-c", "echo no >&2; exit 3"], WITHIN);
        assert!(text.contains("exit status: 3: no"), "{text}");
        let text = error(&["sleep", "60"], Duration::from_millis(50));
        assert!(text.contains("`sleep 60` took longer"), "{text}");
        assert_eq!(run(&["echo", "yes"], WITHIN).unwrap(), "yes\n");
    }

    #[test]
    fn entries_are_named_after_what_they_are_of() {
        let entry = file("/proc/version");
        assert_eq!(entry.name, "host/proc/version");
        assert!(entry.contents.unwrap().starts_with("Linux"));
        let entry = file("/proc/no-such-file");
        assert!(entry.contents.unwrap_err().starts_with("cannot read /proc/no-such-file: No such"));
        assert_eq!(tool(&["echo", "../../x", "y z"]).name, "tools/echo_.._.._x_y_z.txt");
    }

    #[test]
    fn a_control_group_is_found_by_its_path() {
        assert_eq!(cgroup("0::/system.slice/x.service\n"), "/sys/fs/cgroup/system.slice/x.service");
        assert_eq!(cgroup("12:cpu:/x\n0::/\n"), "/sys/fs/cgroup");
        assert_eq!(cgroup(""), "/sys/fs/cgroup");
    }
}
