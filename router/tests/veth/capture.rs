//! `spillway capture` beside a running router: each point, filters, ends, and what does not fit.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, SocketAddrV4};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use rustix::net::{SendFlags, sendto};
use spillway_api::{CapturePage, CapturePoint, CaptureRequest, ClientError, IpFamily};
use spillway_testing::{bind_udp, wait_until};

use crate::drain::exchange;
use crate::packets::{
    egress, family, first_flow, frame, pod, port, server, server_port, tunnelled,
};
use crate::{GATEWAY, NODE, Rig, dropped, raw_socket};

const WITHIN: Duration = Duration::from_secs(15);

/// No flow has it.
const NOBODYS_PORT: u16 = 9_999;

fn command(rig: &Rig, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spillway"));
    command.arg("capture").args(options).arg("--socket");
    command.arg(rig.directory.path().join("spillway.sock"));
    command
}

/// A capture that goes on; killed when the test fails.
struct Running {
    child: Child,
    errors: BufReader<ChildStderr>,
}

impl Running {
    /// Starts one, and waits until the router captures.
    fn start(rig: &Rig, options: &[&str]) -> Self {
        let mut command = command(rig, options);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        errors.read_line(&mut said).unwrap();
        assert!(said.starts_with("capturing what is "), "{said}");
        Self { child, errors }
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Waits for its end; what it printed, and what it said on standard error.
    fn ended(mut self) -> (String, String) {
        let [mut printed, mut said] = [String::new(), String::new()];
        self.child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
        self.errors.read_to_string(&mut said).unwrap();
        assert!(self.child.wait().unwrap().success(), "{said}");
        (printed, said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The fields of every packet in a file, as Wireshark reads them.
fn read(file: &Path, fields: &[&str]) -> Vec<Vec<String>> {
    let output = Command::new("tshark")
        .args(["-n", "-r", file.as_os_str().to_str().unwrap()])
        .args(["-d", "udp.port==8472,vxlan", "-T", "fields", "-E", "separator=|"])
        .args(["-E", "aggregator=;"])
        .args(fields.iter().flat_map(|field| ["-e", field]))
        .output()
        .expect("tshark is installed: run `make test`");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
}

/// Where, from whom, to whom, and what else is known; without the worker.
fn rows(file: &Path) -> Vec<[String; 4]> {
    let fields =
        ["frame.interface_name", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "frame.comment"];
    let rows = read(file, &fields).into_iter().map(|fields| {
        let [point, v4, v4_to, v6, v6_to, comment] = fields.try_into().expect("six fields");
        let join = |outer: String, inner: String| match (outer.is_empty(), inner.is_empty()) {
            (true, _) => inner,
            (_, true) => outer,
            _ => format!("{outer};{inner}"),
        };
        let about = comment.rsplit_once("worker ").map(|(about, _)| about.to_owned());
        let about = about.expect("each packet names its worker");
        [point, join(v4, v6), join(v4_to, v6_to), about.trim_end_matches(", ").to_owned()]
    });
    rows.collect()
}

/// What a packet of this flow and its answer are at each point.
fn conversation(flow: u16) -> Vec<[String; 4]> {
    let (of_pod, to) = (pod(flow).to_string(), server(family(flow)).to_string());
    let as_whom = egress(family(flow)).to_string();
    let row = |point: &str, from: &str, to: &str, about: &str| {
        [point, from, to, about].map(str::to_owned)
    };
    let node = NODE.to_string();
    vec![
        row("received", &of_pod, &to, &format!("VNI 40000 from {node}")),
        row("translated", &as_whom, &to, ""),
        row("sent", &as_whom, &to, "out of out"),
        row("received", &to, &as_whom, "from outside"),
        row("translated", &to, &of_pod, ""),
        row("sent", &format!("{GATEWAY};{to}"), &format!("{node};{of_pod}"), "out of node"),
    ]
}

/// Somebody outside sends what belongs to no flow; waits until it is dropped, so many times in all.
fn knock(rig: &Rig, times: u64) {
    let at = server(IpFamily::V4);
    let outside = rig.outside.enter(|| bind_udp((at, 0)));
    outside.send_to(b"?", (egress(IpFamily::V4), NOBODYS_PORT)).unwrap();
    wait_until("it is dropped", WITHIN, || dropped(rig).get("no-flow") == Some(&times));
}

fn request(points: &[CapturePoint]) -> CaptureRequest {
    CaptureRequest {
        points: points.to_vec(),
        host: None,
        pod: None,
        port: None,
        protocol: None,
        drop_reason: None,
        snaplen: 65_535,
    }
}

#[test]
fn wireshark_reads_what_became_of_each_packet_at_each_point() {
    let rig = Rig::new("capture", true);
    let file = rig.directory.path().join("all.pcapng");
    let path = file.to_str().unwrap();
    let flows = IpFamily::ALL.map(first_flow);
    // What waits for a neighbour has another number from then on.
    flows.iter().for_each(|flow| exchange(&rig, *flow, 0));
    let running = Running::start(&rig, &["-w", path, "--at", "received,translated,sent,dropped"]);
    flows.iter().for_each(|flow| exchange(&rig, *flow, 1));
    knock(&rig, 1);
    running.signal("INT");
    let (printed, said) = running.ended();
    assert_eq!((printed.as_str(), said.as_str()), ("", "packets captured: 14, lost: 0\n"));

    let rows = rows(&file);
    for flow in flows {
        let ends = [pod(flow), server(family(flow))].map(|address| address.to_string());
        let is_of_flow = |row: &&[String; 4]| {
            row[3] != "dropped: no-flow, from outside"
                && ends.iter().any(|end| row[1].ends_with(end) || row[2].ends_with(end))
                && IpFamily::of(row[1].split(';').next_back().unwrap().parse::<IpAddr>().unwrap())
                    == family(flow)
        };
        let of_flow: Vec<_> = rows.iter().filter(is_of_flow).take(6).cloned().collect();
        assert_eq!(of_flow, conversation(flow));
    }
    let last = rows.last().unwrap();
    assert_eq!((last[0].as_str(), last[3].as_str()), ("dropped", "dropped: no-flow, from outside"));

    // Replies leave through the tunnel, with Cilium's VNI; the points of a packet have one number, and
    // every checksum is right.
    let fields = ["frame.interface_name", "vxlan.vni", "frame.packet_id", "udp.dstport"];
    let details = read(&file, &fields);
    let vnis: Vec<_> = details.iter().map(|row| row[1].as_str()).collect();
    assert_eq!(vnis.iter().filter(|vni| **vni == "2").count(), 2, "{vnis:?}");
    let of_number = |number: &str| details.iter().filter(|row| row[2] == number).count();
    assert!(details.iter().take(12).all(|row| of_number(&row[2]) == 3), "{details:?}");
    let wrong = Command::new("tshark")
        .args(["-n", "-r", path, "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"])
        .args(["-Y", "ip.checksum.status == 0 || udp.checksum.status == 0 || _ws.malformed"])
        .output()
        .unwrap();
    assert!(wrong.stdout.is_empty(), "{}", String::from_utf8_lossy(&wrong.stdout));
}

#[test]
fn only_what_is_asked_for_is_captured() {
    let rig = Rig::new("filter", true);
    let flow = first_flow(IpFamily::V4);
    let other = flow + 1;
    let of_pod = pod(flow).to_string();
    let of_server = port(flow).to_string();
    let all = conversation(flow);
    let without_translated: Vec<_> =
        all.iter().filter(|row| row[0] != "translated").cloned().collect();
    let refused = ["dropped", "203.0.113.10", "192.168.2.3", "dropped: no-flow, from outside"];
    let came = ["received", "203.0.113.10", "192.168.2.3", "from outside"];
    let (refused, came) = (refused.map(str::to_owned), came.map(str::to_owned));
    let cases: [(&[&str], Vec<[String; 4]>); 6] = [
        (&["--pod", &of_pod], without_translated.clone()),
        (&["--host", &of_pod, "--at", "translated"], vec![all[1].clone(), all[4].clone()]),
        (&["--port", &of_server, "--host", &of_pod, "--protocol", "udp"], without_translated),
        (&["--protocol", "tcp"], vec![]),
        (&["--drop-reason", "no-flow"], vec![refused.clone()]),
        (&["--port", "9999"], vec![came, refused]),
    ];
    for ((options, expected), times) in cases.into_iter().zip(1..) {
        let file = rig.directory.path().join("some.pcapng");
        let options: Vec<&str> =
            ["--write", file.to_str().unwrap()].iter().chain(options).copied().collect();
        let running = Running::start(&rig, &options);
        exchange(&rig, flow, 0);
        exchange(&rig, other, 0);
        knock(&rig, times);
        running.signal("TERM");
        let (_, said) = running.ended();
        assert_eq!(rows(&file), expected, "{options:?}: {said}");
    }
}

#[test]
fn without_a_file_each_packet_is_a_line() {
    let rig = Rig::new("lines", true);
    let running = Running::start(&rig, &["--count", "3"]);
    let flow = first_flow(IpFamily::V4);
    exchange(&rig, flow, 0);
    let (printed, said) = running.ended();
    print!("{printed}");
    assert_eq!(said, "packets captured: 3, lost: 0\n");
    let lines: Vec<&str> = printed.lines().collect();
    let between = |from: &str, to: &str| format!("  {from} > {to} udp, ");
    let at = format!("203.0.113.10:{}", server_port(flow));
    let (from, egress) = (port(flow), egress(IpFamily::V4));
    assert_eq!(lines.len(), 3, "{printed}");
    assert!(lines[0].contains(" received ") && lines[1].contains(" sent "), "{printed}");
    assert!(lines[0].contains(&between(&format!("{}:{from}", pod(flow)), &at)), "{printed}");
    assert!(lines[0].ends_with(" bytes, VNI 40000 from 192.168.1.2"), "{printed}");
    assert!(lines[1].contains(&between(&format!("{egress}:{from}"), &at)), "{printed}");
    assert!(lines[2].contains(&between(&at, &format!("{egress}:{from}"))), "{printed}");

    // Of a pipe's reader that has seen enough nobody hears; a terminal cannot show a file.
    let output = command(&rig, &["--write", "-", "--duration", "1"]).output().unwrap();
    assert!(output.status.success() && output.stdout.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]));
    let socket = rig.directory.path().join("spillway.sock");
    let line = format!(
        "{} capture --write - --socket {}",
        env!("CARGO_BIN_EXE_spillway"),
        socket.display()
    );
    let output = Command::new("script").args(["-qec", &line, "/dev/null"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("standard output is a terminal"), "{said}");
}

#[test]
fn there_is_one_capture_and_it_ends_with_its_client() {
    let rig = Rig::new("onecapture", true);
    let mut client = rig.client();
    let sent = request(&[CapturePoint::Sent]);
    let running = Running::start(&rig, &["--write", "/dev/null"]);
    let refused = |client: &mut spillway_api::Client| match client.capture(sent.clone()) {
        Err(ClientError::Refused(refusal)) => Some(refusal.message),
        other => panic!("{other:?}"),
    };
    let message = refused(&mut client).unwrap();
    assert!(message.starts_with("another capture goes on, since "), "{message}");
    running.signal("KILL");
    drop(running);
    // Nobody says that it is gone.
    assert!(refused(&mut client).is_some());
    let mut id = None;
    wait_until("the capture ends without its client", WITHIN, || {
        id = client.capture(sent.clone()).ok();
        id.is_some()
    });
    let id = id.unwrap();
    client.take_captured(id, false).unwrap();
    assert!(!client.take_captured(id, true).unwrap().more);
    let error = client.take_captured(id, true).unwrap_err().to_string();
    assert!(error.contains(&format!("there is no capture {id} any more")), "{error}");
    let wrong = CaptureRequest { drop_reason: Some("bad-luck".to_owned()), ..sent.clone() };
    let error = client.capture(wrong).unwrap_err().to_string();
    assert!(error.contains("\"bad-luck\""), "{error}");
    assert!(client.capture(sent).is_ok(), "what was refused has begun nothing");
}

/// Takes all pages until the last; how many packets they had, and the last one.
fn take_all(client: &mut spillway_api::Client, id: u64) -> (u64, CapturePage) {
    let mut packets = 0;
    loop {
        let page = client.take_captured(id, true).unwrap();
        packets += page.packets.len() as u64;
        if !page.more {
            return (packets, page);
        }
    }
}

#[test]
fn what_does_not_fit_is_counted_and_forwarding_goes_on() {
    /// More than wait for a client, at two points each.
    const PACKETS: u64 = 8_000;
    /// As many at a time as every buffer on the way holds.
    const AT_ONCE: u64 = 50;
    let rig = Rig::new("overflow", true);
    let flow = first_flow(IpFamily::V4);
    exchange(&rig, flow, 0);
    // Nobody reads it; without it the router would also receive that nobody is there.
    let at = server(IpFamily::V4);
    let unread = rig.outside.enter(|| bind_udp((at, server_port(flow))));
    let mut client = rig.client();
    let id = client.capture(request(&[CapturePoint::Received, CapturePoint::Sent])).unwrap();
    let received = |client: &mut spillway_api::Client| -> u64 {
        client.status().unwrap().workers.iter().map(|worker| worker.received).sum()
    };
    let before = received(&mut client);
    let outer = rig.node.enter(|| raw_socket(IpFamily::V4));
    let packet = tunnelled(40_000, &frame(flow, 1));
    for sent in (AT_ONCE..=PACKETS).step_by(AT_ONCE as usize) {
        for _ in 0..AT_ONCE {
            let gateway = SocketAddrV4::new(GATEWAY, 0);
            sendto(&outer, &packet, SendFlags::empty(), &gateway).unwrap();
        }
        wait_until("they have come", WITHIN, || received(&mut client) == before + sent);
    }
    let (taken, page) = take_all(&mut client, id);
    let counts: Vec<_> = page.points.iter().map(|count| (count.point, count.captured)).collect();
    let lost: u64 = page.points.iter().map(|count| count.lost).sum();
    assert_eq!(counts.iter().map(|(_, captured)| captured).sum::<u64>(), taken);
    assert_eq!(taken + lost, 2 * PACKETS, "each at both points: {:?}", page.points);
    assert!(lost > 0 && taken > 0, "{:?}", page.points);
    drop(unread);
    exchange(&rig, flow, 2);
}
