//! Sending by an XDP program on live frames: generate.bpf.c.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use libbpf_rs::{MapCore as _, MapFlags, MapHandle, Object};
use spillway_xdp::live::run_on_live_frames;

use super::options::{Protocol, Traffic};
use super::stream::{Sent, Stream};
use crate::bpf;

/// The compiled program.
const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/generate.bpf.o"));

/// How many flows of a schedule are put into the map with one system call.
const BATCH: usize = 1 << 16;

/// How often one system call runs the program at most. It is interrupted before.
const RUNS: u32 = 1 << 30;

/// Bytes of the longest headers, as in generate.bpf.c.
const HEADERS_MAX: usize = 104;

/// A stream's loaded program.
pub(crate) struct Live {
    object: Object,
    program: &'static str,
    /// A frame as long as the longest one.
    frame: Vec<u8>,
    ifindex: u32,
    state: MapHandle,
}

impl Live {
    /// Loads the program for a stream that leaves on the device of that index.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(crate) fn load(stream: &Stream, ifindex: u32) -> Result<Self> {
        let mut open = bpf::open(OBJECT)?;
        let length = u32::try_from(stream.schedule.len())?;
        if let Some(mut map) = open.maps_mut().find(|map| map.name() == "schedule") {
            map.set_max_entries(length.max(1))?;
        }
        let object = open.load().context("the kernel refuses the generator (is this root?)")?;
        fill(&bpf::map(&object, "schedule")?, &stream.schedule)?;
        let config = bpf::map(&object, "config")?;
        let mut bytes = config_bytes(stream);
        let size = config.value_size() as usize;
        ensure!(bytes.len() <= size && size < bytes.len() + 8, "struct config has another length");
        bytes.resize(size, 0);
        config.update(&0u32.to_ne_bytes(), &bytes, MapFlags::ANY)?;
        let program = match (stream.template.traffic, stream.template.protocol) {
            (Traffic::Tunnel, Protocol::Udp) => "tunnel_udp",
            (Traffic::Tunnel, Protocol::TcpSyn) => "tunnel_tcp",
            (Traffic::Replies, Protocol::Udp) => "replies_udp",
            (Traffic::Replies, Protocol::TcpSyn) => "replies_tcp",
        };
        let state = bpf::map(&object, "state")?;
        let frame = vec![0; stream.template.longest()];
        Ok(Self { object, program, frame, ifindex, state })
    }

    /// What says how much was sent, at any time, to any thread.
    pub(crate) fn meter(&self) -> Result<MapHandle> {
        Ok(MapHandle::try_from(&self.state)?)
    }

    /// Sends until it is told to stop, and interrupted. When all is sent it goes on running, idle.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(crate) fn run(&self, stop: &AtomicBool) -> Result<()> {
        let mut programs = self.object.progs_mut();
        let program = programs.find(|program| program.name() == self.program);
        let program = program.context("the object lacks the generator")?;
        while !stop.load(Ordering::Relaxed) {
            run_on_live_frames(&program, self.ifindex, &self.frame, RUNS).context(
                "the kernel does not run XDP programs on live frames here (it needs Linux 5.18, and \
                 a device that can send them): try --backend afxdp",
            )?;
        }
        Ok(())
    }
}

fn fill(map: &MapHandle, schedule: &[u32]) -> Result<()> {
    for (batch, flows) in schedule.chunks(BATCH).enumerate() {
        let first = u32::try_from(batch * BATCH)?;
        let keys: Vec<u8> = (first..).take(flows.len()).flat_map(u32::to_ne_bytes).collect();
        let values: Vec<u8> = flows.iter().copied().flat_map(u32::to_ne_bytes).collect();
        let count = u32::try_from(flows.len())?;
        map.update_batch(&keys, &values, count, MapFlags::ANY, MapFlags::ANY)
            .context("cannot fill the map of the flows' order")?;
    }
    Ok(())
}

/// `struct config` of generate.bpf.c.
fn config_bytes(stream: &Stream) -> Vec<u8> {
    let (template, pace) = (&stream.template, stream.pace);
    let flows = template.flows;
    let duration = stream
        .duration
        .map_or(u64::MAX, |duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    let long = [
        pace.interval,
        pace.peak_interval,
        pace.stall,
        pace.peak_burst,
        duration,
        stream.count.into(),
    ];
    let words = [
        stream.number.into(),
        stream.streams.into(),
        u32::try_from(stream.schedule.len()).unwrap_or_default(),
        template.egress.map_or(0, Ipv4Addr::to_bits),
        flows.pods.first.to_bits(),
        flows.pods.count,
        flows.ports.first.into(),
        flows.ports.count(),
        flows.remotes.first.to_bits(),
        flows.remote_ports.first.into(),
        flows.remote_ports.count(),
        template.outer_source_port.unwrap_or_default().into(),
        template.outer_ip_sum,
        template.ip_sum,
        template.transport_sum,
    ];
    let mut bytes: Vec<u8> = long.into_iter().flat_map(u64::to_ne_bytes).collect();
    bytes.extend(words.into_iter().flat_map(u32::to_ne_bytes));
    bytes.extend(template.sizes.into_iter().flat_map(u16::to_ne_bytes));
    let end = bytes.len() + HEADERS_MAX;
    bytes.extend(&template.headers);
    bytes.resize(end, 0);
    bytes
}

/// What a stream has sent: `struct state` of generate.bpf.c.
///
/// # Errors
///
/// When the map cannot be read.
pub(crate) fn read(state: &MapHandle) -> Result<Sent> {
    let value = state.lookup(&0u32.to_ne_bytes(), MapFlags::ANY)?;
    let value = value.context("the generator's state is gone")?;
    let mut words =
        value.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default()));
    let mut next = || words.next().unwrap_or_default();
    Ok(Sent { frames: next(), bytes: next(), first_ns: next(), last_ns: next(), done: next() != 0 })
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use libbpf_rs::ProgramInput;

    use super::*;
    use crate::pktgen::label::Label;
    use crate::pktgen::options::{Mac, SendOptions};
    use crate::pktgen::template::Template;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        send: SendOptions,
    }

    fn stream(line: &str) -> Stream {
        let line = format!(
            "generator --device lo --target-mac 2:0:0:0:0:8 --tunnel-source 192.168.1.2 \
             --tunnel-target 192.168.2.2 --egress 192.0.2.1 --pods 10.0.1.40+3 --flows 100000 \
             --remotes 203.0.113.10+2 --remote-ports 80-84 --count 20000 {line}"
        );
        let options = Line::try_parse_from(line.split_whitespace()).unwrap().send;
        let (source, target) = (Mac([2, 0, 0, 0, 0, 7]), options.target_mac);
        let template = Template::new(&options.traffic, source, target).unwrap();
        Stream::all(&options, &template).unwrap().pop().unwrap()
    }

    /// One run of the program, on a frame that somebody has left full of something else.
    fn generated(live: &Live) -> Option<Vec<u8>> {
        let program = live.object.progs_mut().find(|p| p.name() == live.program).unwrap();
        let mut used = live.frame.clone();
        let headers = used.len().min(60);
        used[..headers].fill(0xaa);
        let mut out = vec![0; used.len() + 256];
        let input = ProgramInput {
            data_in: Some(&used),
            data_out: Some(&mut out),
            ..ProgramInput::default()
        };
        let output = program.test_run(input).unwrap();
        let sent = output.return_value == 3; // XDP_TX
        sent.then(|| output.data.unwrap().to_vec())
    }

    #[test]
    fn the_program_and_its_twin_write_the_same_bytes() {
        for line in [
            "",
            "--size imix --distribution zipf:1.1 --threads 3",
            "--size 1518 --outer-source-port 9 --distribution new",
            "--protocol tcp-syn --distribution elephant:0.5",
            "--traffic replies --size imix",
            "--traffic replies --protocol tcp-syn --size 777 --threads 2",
        ] {
            let stream = stream(line);
            let live = Live::load(&stream, 1).unwrap();
            let mut next = 0;
            for sequence in 0..100 {
                let found = generated(&live).unwrap();
                // When it was made, only the packet knows.
                let label = stream.template.headers.len();
                let time = found[label + 10..label + 18].try_into().unwrap();
                let label: Label = stream.label(sequence, &mut next, u64::from_be_bytes(time));
                let mut expected = vec![0; 2048];
                let length = stream.template.write(label, &mut expected);
                assert_eq!(found, expected[..length], "packet {sequence} of {line}");
            }
            let sent = read(&live.meter().unwrap()).unwrap();
            assert_eq!((sent.frames, sent.done), (100, false));
        }
    }

    #[test]
    fn the_program_ends_with_its_count_and_with_its_time() {
        let counted = Stream { count: 3, ..stream("") };
        let live = Live::load(&counted, 1).unwrap();
        let sent = (0..5).filter_map(|_| generated(&live)).count();
        assert_eq!(sent, 3);
        assert!(read(&live.meter().unwrap()).unwrap().done);

        let timed = Stream { duration: Some(std::time::Duration::from_nanos(1)), ..stream("") };
        let live = Live::load(&timed, 1).unwrap();
        assert!(generated(&live).is_some());
        assert!(generated(&live).is_none());
        assert!(read(&live.meter().unwrap()).unwrap().done);
    }
}
