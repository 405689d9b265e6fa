//! Frames as a kernel sees them on the wire: captured by tcpdump, through AF_PACKET.

use std::path::PathBuf;
use std::time::Duration;

use spillway_testing::{Namespace, Process, wait_until};
use tempfile::TempDir;

/// How long a step may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Headers of a pcap file and of each packet in it, in bytes.
const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;

/// A capture that ends after a number of IPv4 frames.
pub(crate) struct Capture {
    tcpdump: Process,
    file: PathBuf,
    _directory: TempDir,
}

impl Capture {
    /// Returns when it sees every frame.
    pub(crate) fn start(namespace: &Namespace, device: &str, count: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("frames.pcap");
        let count = count.to_string();
        let path = file.to_str().unwrap();
        let tcpdump = namespace.spawn([
            "tcpdump", "-Z", "root", "-n", "-q", "-U", "-i", device, "-c", &count, "-w", path, "ip",
        ]);
        wait_until("tcpdump listens", LIMIT, || {
            std::fs::metadata(&file).is_ok_and(|file| file.len() >= FILE_HEADER as u64)
        });
        Self { tcpdump, file, _directory: directory }
    }

    /// The frames, when all have come.
    pub(crate) fn frames(mut self) -> Vec<Vec<u8>> {
        wait_until("all frames are captured", LIMIT, || !self.tcpdump.is_running());
        let bytes = std::fs::read(&self.file).unwrap();
        let mut rest = &bytes[FILE_HEADER..];
        let mut frames = Vec::new();
        while let Some((header, behind)) = rest.split_at_checked(PACKET_HEADER) {
            let field = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
            let (captured, length) = (field(8) as usize, field(12) as usize);
            assert_eq!(captured, length, "a frame was cut");
            frames.push(behind[..captured].to_vec());
            rest = &behind[captured..];
        }
        frames
    }
}
