//! One TCP connection of a pod to a server outside, through the gateway: iperf3, with the kernels of
//! four hosts at work. With segmentation offloads a kernel moves 64 kB at a time; what goes through
//! AF_XDP are frames as on a wire.

use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::host;
use super::system::{Lab, System};

/// Not the port of anything in the lab.
const PORT: &str = "5201";

/// How long the server may take to listen.
const LISTENS_WITHIN: Duration = Duration::from_secs(5);

/// How often it is asked for.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// The server, which ends with this value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What of iperf3's answer is used.
#[derive(Deserialize)]
struct Answer {
    end: End,
}

#[derive(Deserialize)]
struct End {
    sum_received: Sum,
}

#[derive(Deserialize)]
struct Sum {
    bits_per_second: f64,
}

/// Bits per second that a pod uploads.
pub(crate) fn upload(lab: &Lab, system: System, offloads: bool, seconds: u32) -> Result<f64> {
    let _up = lab.up(system, offloads)?;
    let serve = ["iperf3", "--server", "--one-off", "--bind", host::SERVER, "--port", PORT];
    let mut server = host::command("outside", &serve);
    let server = server.stdout(Stdio::null()).spawn().context("cannot start iperf3")?;
    let _server = Server(server);
    await_listener()?;
    let seconds = seconds.to_string();
    let ask = ["iperf3", "--json", "--client", host::SERVER, "--port", PORT, "--time", &seconds];
    let answer = host::run("app1-a", &ask)?;
    let answer: Answer = serde_json::from_str(&answer).context("cannot understand iperf3")?;
    Ok(answer.end.sum_received.bits_per_second)
}

/// Waits until the server listens: there is no event for that in another process.
fn await_listener() -> Result<()> {
    let deadline = Instant::now() + LISTENS_WITHIN;
    let ask = ["ss", "--no-header", "--listening", "--tcp", "sport", "=", PORT];
    while host::run("outside", &ask)?.is_empty() {
        if Instant::now() > deadline {
            bail!("iperf3 does not listen within {LISTENS_WITHIN:?}");
        }
        thread::sleep(ASK_EVERY);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receivers_rate_counts() {
        let json = r#"{"start":{},"end":{"sum_sent":{"bits_per_second":9e9},
            "sum_received":{"seconds":3.0,"bits_per_second":8.5e9}}}"#;
        let answer: Answer = serde_json::from_str(json).unwrap();
        assert_eq!(answer.end.sum_received.bits_per_second, 8.5e9);
    }
}
