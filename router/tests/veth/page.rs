//! The page of `spillway serve --page` in a real browser, beside a real router.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use spillway_api::IpFamily;
use spillway_testing::{bind_udp, wait_until};

use crate::browser::Browser;
use crate::metrics::{SERVE_PORT, serve};
use crate::packets::{egress, first_flow, frame};
use crate::{FLOWS, GATEWAY, NODE, Rig, converse, dropped, launch, state};

/// The name of a policy that would like to be more than a name.
const HOSTILE: &str =
    "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>&lt;";

const WITHIN: Duration = Duration::from_secs(30);

/// A router that has forwarded a thousand flows under a policy of that name, and has dropped a packet.
fn rig(name: &str) -> Rig {
    let rig = Rig::new(name, true);
    let quoted = serde_json::to_string(HOSTILE).unwrap();
    let document = state(2, &[], IpFamily::ALL.map(egress));
    let document = document.replace("name: all", &format!("name: {quoted}"));
    rig.client().put_state(document).unwrap();
    converse(&rig);
    rig.client().drain(true).unwrap();
    let node = rig.node.enter(|| bind_udp((NODE, 8472)));
    node.send_to(&frame(FLOWS, 0), (GATEWAY, 8472)).unwrap();
    wait_until("a packet is dropped", WITHIN, || dropped(&rig).contains_key("draining"));
    rig.client().drain(false).unwrap();
    rig
}

/// What the command line says, as JSON.
fn said(rig: &Rig, command: &str) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_spillway"))
        .args([command, "-o", "json", "--socket"])
        .arg(rig.directory.path().join("spillway.sock"))
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

fn open<'a>(rig: &'a Rig) -> Browser<'a> {
    let browser = Browser::start(&rig.gateway);
    browser.open(&format!("http://127.0.0.1:{SERVE_PORT}/"));
    browser.wait_for_text("#flows", |text| text == "1,000");
    browser
}

fn number(text: &str) -> u64 {
    text.replace(',', "").parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
}

#[test]
fn the_page_shows_what_the_command_line_says() {
    let rig = rig("page");
    let _server = serve(&rig, &["--page"]);
    let browser = open(&rig);
    let status = said(&rig, "status");

    let workers = browser.rows("#workers");
    let expected: Vec<u64> = status["workers"].as_array().unwrap().iter().map(flows_of).collect();
    let shown: Vec<u64> = workers.iter().map(|row| number(&row[1])).collect();
    assert_eq!(shown, expected);
    assert_eq!(expected.iter().sum::<u64>(), u64::from(FLOWS));
    let devices: Vec<String> =
        browser.rows("#devices").into_iter().map(|row| row[0].clone()).collect();
    assert_eq!(devices, ["node", "out"]);
    let summary = browser.text("#summary");
    assert!(summary.contains("forwarding: generation 2, from socket"), "{summary}");

    let why = said(&rig, "drops")["engine"]
        .as_array()
        .unwrap()
        .iter()
        .find(|drop| drop["reason"] == "draining")
        .unwrap()["description"]
        .as_str()
        .unwrap()
        .to_owned();
    let drops = browser.rows("#drops");
    let row = drops.iter().find(|row| row[0] == "draining").unwrap();
    assert_eq!((row[2].as_str(), &row[3]), ("1", &why));

    browser.wait_for_text("#egress tbody", |text| !text.is_empty());
    let usage = said(&rig, "usage");
    for (row, egress) in
        browser.rows("#egress").iter().zip(usage["egress_addresses"].as_array().unwrap())
    {
        assert_eq!(row[0], egress["address"].as_str().unwrap());
        assert_eq!(number(&row[1]), egress["flows"].as_u64().unwrap());
    }
    // The name of a policy is text, whatever it says.
    let policies = browser.rows("#policies");
    assert_eq!(policies.len(), 1);
    assert_eq!(policies[0][..2], [HOSTILE, "1,000"]);
    watch_rates(&rig, &browser);
    assert_eq!(
        browser.run("return [document.title, document.images.length]"),
        serde_json::json!(["Spillway", 0])
    );

    browser.type_into("#search", ":2061");
    let matching = |row: &Vec<String>| row[1..4].iter().any(|endpoint| endpoint.contains(":2061"));
    let all = said(&rig, "flows");
    let expected = all.as_array().unwrap().iter().filter(|flow| has_port(flow, "2061")).count();
    assert!((1..256).contains(&expected), "{expected}: the search is no test");
    wait_until("the search is answered", WITHIN, || {
        let rows = browser.rows("#live");
        rows.len() == expected && rows.iter().all(matching)
    });
    browser.run("document.querySelector('#selected summary').click()");
    browser.wait_for_text("#rows tbody", |text| text.contains("203.0.113.0/24"));

    let chart = "return Number(document.querySelector('#chart').dataset.points)";
    wait_until("the chart has a line", WITHIN, || browser.run(chart).as_u64() > Some(2));
    for width in [360, 768, 1280] {
        browser.resize(width, 780, width == 360);
        let scrolls = "const { scrollWidth, clientWidth } = document.documentElement;
                       return [window.innerWidth, scrollWidth > clientWidth]";
        assert_eq!(browser.run(scrolls), serde_json::json!([width, false]), "it scrolls sideways");
    }
    assert_eq!(browser.console(), [""; 0]);
}

/// The rates of what one flow of IPv4 sends, which are shown beside its policy and its egress address.
fn watch_rates(rig: &Rig, browser: &Browser<'_>) {
    let flow = first_flow(IpFamily::V4);
    let node = rig.node.enter(|| bind_udp((NODE, 8472)));
    let moves = |cell: &str| cell.ends_with(" packets/s") && !cell.ends_with(" 0 packets/s");
    let [used, unused] = IpFamily::ALL.map(|family| egress(family).to_string());
    wait_until("rates are shown", WITHIN, || {
        node.send_to(&frame(flow, 0), (GATEWAY, 8472)).unwrap();
        let of_address = |address: &str| {
            let row = browser.rows("#egress").into_iter().find(|row| row[0] == address);
            row.unwrap()[2].clone()
        };
        moves(&browser.rows("#policies")[0][2])
            && moves(&of_address(&used))
            && of_address(&unused) == "0 bit/s 0 packets/s"
    });
    // From two counts as the router might give them.
    let rates = browser.run(
        "const usage = (ms, packets, more) => ({ pid: 1, answer: {
           counted: true, counted_at_ms: ms, egress_addresses: [], policies: [{ name: 'a', traffic: {
             original_packets: packets, original_bytes: 100 * packets,
             reply_packets: 2 * packets, reply_bytes: 3000 * packets,
           } }], ...more,
         } });
         const first = usage(1000, 10);
         const none = [first, null, { ...first, pid: 2 }, usage(0, 0, { counted: false })];
         return [
           carriedRates(first, usage(6000, 60)).policies.get('a'),
           carriedRates(usage(1000, 0, { policies: [] }), usage(6000, 60)).policies.size,
           ...none.map((before) => carriedRates(before, first)),
         ]",
    );
    let of_a = serde_json::json!({
        "out": {"packets": 10, "bits": 8_000}, "in": {"packets": 20, "bits": 240_000},
    });
    assert_eq!(rates, serde_json::json!([of_a, 0, null, null, null, null]));
}

fn flows_of(worker: &Value) -> u64 {
    worker["flows"].as_u64().unwrap()
}

/// Whether one of a flow's three ports that are shown begins so.
fn has_port(flow: &Value, port: &str) -> bool {
    let ports = [
        &flow["original"]["source_port"],
        &flow["original"]["destination_port"],
        &flow["reply"]["destination_port"],
    ];
    ports.iter().any(|found| found.to_string().starts_with(port))
}

#[test]
fn a_router_or_server_that_goes_away_is_told_and_comes_back() {
    let mut rig = rig("pageaway");
    let server = serve(&rig, &["--page"]);
    rig.spillway.signal("KILL");
    wait_until("the router has ended", WITHIN, || !rig.spillway.is_running());
    let browser = Browser::start(&rig.gateway);
    let page = format!("http://127.0.0.1:{SERVE_PORT}/");
    browser.open(&page);
    browser.wait_for_text("#notices", |text| {
        text.starts_with("No answer for ") && text.contains("Nothing is known of it yet.")
    });

    // Of the state file, not of what came by the socket.
    let again = launch(&rig.gateway, rig.directory.path());
    browser.wait_for_text("#summary", |text| text.contains("forwarding: generation 1, from "));
    browser.wait_for_text("#notices", str::is_empty);
    assert_eq!(browser.run("return document.querySelector('main').className"), "");

    again.signal("KILL");
    browser.wait_for_text("#notices", |text| {
        text.contains("cannot reach Spillway at ") && text.contains("What is below is of ")
    });
    assert_eq!(browser.run("return document.querySelector('main').className"), "stale");
    drop(server);
    browser.wait_for_text("#notices", |text| text.contains("`spillway serve`) does not answer"));
}
