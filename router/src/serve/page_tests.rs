//! The page and its JSON over real connections. The router is played by a listener.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use spillway_api::{PolicyPage, PolicyRow, Request as Asked, Response as Answer, Usage};

use super::*;
use crate::serve::http::tests::{Running, assert_is};
use crate::serve::sample;

/// Flows of each page that the played router has, and pages.
const PAGE: u16 = 100;
const PAGES: u16 = 20;

fn flow(port: u16) -> Flow {
    sample::flow(port, 1_000)
}

/// The flows from one on, and where the next page begins.
fn flows(cursor: u64) -> FlowPage {
    let first = u16::try_from(cursor).unwrap();
    let next = first + PAGE;
    let rows = (first..next).map(|number| flow(10_000 + number)).collect();
    FlowPage { rows, next: (next < PAGE * PAGES).then_some(next.into()) }
}

fn policies() -> PolicyPage {
    let row = PolicyRow {
        source_ip: "10.0.1.40".parse().unwrap(),
        destination_cidr: "203.0.113.0/24".parse().unwrap(),
        egress_ip: "192.0.2.1".parse().unwrap(),
        gateway_ip: "192.168.44.128".to_owned(),
        policy: "team/App1".to_owned(),
    };
    PolicyPage { rows: vec![row], next: None }
}

fn answer(asked: &Asked) -> Answer {
    match asked {
        Asked::Status { .. } => Answer::Status(sample::status()),
        Asked::Drops => Answer::Drops(sample::drops()),
        Asked::Usage => Answer::Usage(sample::usage()),
        Asked::Policies { .. } => Answer::Policies(policies()),
        Asked::Flows { cursor, .. } => Answer::Flows(flows(*cursor)),
        other => panic!("not expected: {other:?}"),
    }
}

/// A server with a page whose router answers so.
fn running(answer: impl Fn(&Asked) -> Answer + Clone + Send + 'static) -> Running {
    Running::start(true).and_router(move |mut stream: &UnixStream| {
        for line in BufReader::new(stream).lines() {
            let answer = answer(&serde_json::from_str(&line.unwrap()).unwrap());
            stream.write_all((serde_json::to_string(&answer).unwrap() + "\n").as_bytes()).unwrap();
        }
    })
}

fn body(response: &str) -> &str {
    response.split_once("\r\n\r\n").unwrap().1
}

#[test]
fn the_page_needs_nothing_from_elsewhere_and_browsers_are_told_so() {
    let running = running(answer);
    for (path, kind) in
        [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")]
    {
        let response = running.get(path);
        assert_is(&response, "200", "");
        assert!(response.contains(&format!("content-type: {kind}; charset=utf-8")), "{response}");
        assert!(
            response.contains("content-security-policy: default-src 'none'; script-src 'self'")
        );
        assert!(response.contains("x-content-type-options: nosniff"), "{response}");
        assert!(!body(&response).contains("//cdn") && !body(&response).contains("https:"));
    }
    // What sets markup, and what Content-Security-Policy forbids, is not there to be tried.
    for word in ["innerHTML", "insertAdjacentHTML", "document.write", "eval("] {
        assert!(!SCRIPT.contains(word), "{word}");
    }
    assert!(!HTML.contains("style=") && !HTML.contains(" on"), "inline styles and handlers");
}

#[test]
fn answers_are_the_routers_own() {
    let running = running(answer);
    let json = |path: &str| -> String {
        let response = running.get(path);
        assert_is(&response, "200", "");
        assert!(response.contains("content-type: application/json"), "{response}");
        assert!(response.contains("cache-control: no-store"), "{response}");
        assert!(response.contains("spillway-answered-ms: "), "{response}");
        body(&response).to_owned()
    };
    let status: spillway_api::Status = serde_json::from_str(&json("/api/v1/status")).unwrap();
    assert_eq!(status, sample::status());
    let drops: spillway_api::Drops = serde_json::from_str(&json("/api/v1/drops")).unwrap();
    assert_eq!(drops, sample::drops());
    let usage: Usage = serde_json::from_str(&json("/api/v1/usage")).unwrap();
    assert_eq!(usage, sample::usage());
    let rows: PolicyPage = serde_json::from_str(&json("/api/v1/policies?cursor=0")).unwrap();
    assert_eq!(rows, policies());
    let page: FlowPage = serde_json::from_str(&json("/api/v1/flows")).unwrap();
    assert_eq!((page.rows.len(), page.next), (300, Some(300)));
    assert_eq!(page.rows[299], flow(10_299));
    let searched = "/api/v1/flows?search=app1+:10250";
    let page: FlowPage = serde_json::from_str(&json(searched)).unwrap();
    assert_eq!((page.rows, page.next), (vec![flow(10_250)], Some(800)));
}

#[test]
fn however_many_look_the_router_is_asked_once_a_second() {
    let questions = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&questions);
    let running = running(move |question| {
        asked.fetch_add(1, SeqCst);
        answer(question)
    });
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope
                .spawn(|| (0..5).for_each(|_| assert_is(&running.get("/api/v1/drops"), "200", "")));
        }
    });
    let times = start.elapsed().as_millis() / FRESH.as_millis() + 1;
    assert!(questions.load(SeqCst) as u128 <= times, "{questions:?} in {:?}", start.elapsed());
}

#[test]
fn only_a_page_that_was_opened_by_an_address_is_answered() {
    let running = running(answer);
    let from = |host: &str| running.ask(&format!("GET /api/v1/flows HTTP/1.1\r\nHost: {host}"));
    for host in ["localhost:9602", "LOCALHOST", "127.0.0.1:9602", "192.0.2.1", "[2001:db8::1]:9602"]
    {
        assert_is(&from(host), "200", "");
    }
    for host in ["evil.example:9602", "127.0.0.1.evil.example", "localhost.evil.example", "[evil]"]
    {
        let response = from(host);
        assert_is(&response, "403", "by the server's IP address or as localhost");
        assert!(response.contains("content-security-policy: "), "{response}");
    }
    // What Prometheus and the kubelet ask for has nothing to hide behind a name.
    assert_is(&running.ask("GET /livez HTTP/1.1\r\nHost: node.example"), "200", "ok\n");
}

#[test]
fn a_router_that_is_away_is_told_in_words() {
    let running = Running::start(true);
    for path in ["/api/v1/status", "/api/v1/flows?cursor=7"] {
        let response = running.get(path);
        assert_is(&response, "503", "{\"error\":\"cannot reach Spillway at ");
        assert!(response.contains("content-type: application/json"), "{response}");
    }
    assert_is(&running.get("/"), "200", "<title>Spillway</title>");
}

#[test]
fn a_question_that_an_older_router_refuses_does_not_keep_others_from_being_answered() {
    let running = running(|asked| match asked {
        Asked::Usage => Answer::refused("what is usage?"),
        other => answer(other),
    });
    assert_is(&running.get("/api/v1/usage"), "503", "{\"error\":\"what is usage?\"}");
    assert_is(&running.get("/api/v1/status"), "200", "\"version\":\"0.1.0\"");
}

#[test]
fn a_question_that_makes_no_sense_is_refused() {
    let running = running(answer);
    for path in ["/api/v1/flows?cursor=-1", "/api/v1/policies?cursor=x"] {
        assert_is(&running.get(path), "400", "");
    }
    let long = "x".repeat(SEARCH_BYTES_MAX + 1);
    let response = running.get(&format!("/api/v1/flows?search={long}"));
    assert_is(&response, "400", "a search has 200 bytes at most");
    assert_is(&running.get("/api/v1/events"), "404", "");
}

#[test]
fn a_search_looks_through_so_many_pages_and_says_where_it_stopped() {
    let mut asked = Vec::new();
    let nothing = found("no-such-flow", 100, |cursor| {
        asked.push(cursor);
        Ok(flows(cursor))
    });
    assert_eq!(asked, (1..=8).map(|page| page * 100).collect::<Vec<u64>>());
    assert_eq!(nothing.unwrap(), FlowPage { rows: Vec::new(), next: Some(900) });
    let last = found("  TCP team/APP1 10.0.1.40:11999 ", 1_800, |cursor| Ok(flows(cursor)));
    assert_eq!(last.unwrap(), FlowPage { rows: vec![flow(11_999)], next: None });
}
