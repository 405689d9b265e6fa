//! A real browser, driven by WebDriver (W3C) over plain HTTP, in a network namespace of a test.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use spillway_testing::{Namespace, Process, wait_until};
use tempfile::TempDir;

const PORT: u16 = 9515;

/// How long the browser may take for one command, and for what a page does by itself.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);
const WITHIN: Duration = Duration::from_secs(30);

/// Chromium without a window, and its driver; both end with this value, and with the test.
pub(crate) struct Browser<'a> {
    namespace: &'a Namespace,
    session: String,
    _driver: Process,
    _profile: TempDir,
}

impl<'a> Browser<'a> {
    /// Starts it, as wide as a desktop's window.
    pub(crate) fn start(namespace: &'a Namespace) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let port = format!("--port={PORT}");
        // What the driver starts ends with it: it is the first process of a namespace of its own.
        let own_processes = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let mut driver = namespace.spawn(own_processes.into_iter().chain([
            "chromedriver",
            &port,
            "--log-level=SEVERE",
        ]));
        wait_until("chromedriver is there", COMMAND_WITHIN, || {
            assert!(driver.is_running(), "chromedriver has ended: `make browser` installs it");
            command(namespace, "GET", "/status", None)
                .is_some_and(|answer| answer["ready"] == json!(true))
        });
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1280,900",
            &format!("--user-data-dir={}", profile.path().display()),
        ];
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let made = command(namespace, "POST", "/session", Some(&capabilities)).expect("an answer");
        let session = made["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {made}"));
        let session = format!("/session/{session}");
        Self { namespace, session, _driver: driver, _profile: profile }
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let path = format!("{}{path}", self.session);
        let answer = command(self.namespace, "POST", &path, Some(body));
        let answer = answer.unwrap_or_else(|| panic!("the browser did not answer {path}"));
        assert!(answer["error"].is_null(), "{path}: {answer}");
        answer
    }

    pub(crate) fn open(&self, address: &str) {
        self.post("/url", &json!({ "url": address }));
    }

    /// What a JavaScript function's body returns.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({"script": script, "args": []}))
    }

    /// The text of what a CSS selector finds first; nothing when it finds nothing.
    pub(crate) fn text(&self, selector: &str) -> String {
        let script = format!("return document.querySelector({selector:?})?.textContent ?? ''");
        self.run(&script).as_str().unwrap().to_owned()
    }

    /// The cells' texts of a table's rows.
    pub(crate) fn rows(&self, table: &str) -> Vec<Vec<String>> {
        let script = format!(
            "return [...document.querySelectorAll('{table} tbody tr')]
               .map((row) => [...row.cells].map((cell) => cell.textContent))"
        );
        serde_json::from_value(self.run(&script)).unwrap()
    }

    /// Waits until the text of what a selector finds is as wanted.
    pub(crate) fn wait_for_text(&self, selector: &str, wanted: impl Fn(&str) -> bool) {
        wait_until(selector, WITHIN, || wanted(&self.text(selector)));
    }

    /// Clicks on an element, and types.
    pub(crate) fn type_into(&self, selector: &str, text: &str) {
        let found = self.post("/element", &json!({"using": "css selector", "value": selector}));
        let id = found.as_object().unwrap().values().next().unwrap().as_str().unwrap();
        self.post(&format!("/element/{id}/value"), &json!({ "text": text }));
    }

    /// Makes the page as large as on a device.
    pub(crate) fn resize(&self, width: u32, height: u32, is_phone: bool) {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 2, "mobile": is_phone,
        });
        let cmd = "Emulation.setDeviceMetricsOverride";
        self.post("/goog/cdp/execute", &json!({"cmd": cmd, "params": metrics}));
    }

    /// What the browser's console was told since this was asked last.
    pub(crate) fn console(&self) -> Vec<String> {
        let entries = self.post("/se/log", &json!({"type": "browser"}));
        let entries = entries.as_array().unwrap();
        entries.iter().map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Browser<'_> {
    fn drop(&mut self) {
        // Whatever it answers: its processes end with the driver.
        let _ = command(self.namespace, "DELETE", &self.session, None);
    }
}

/// The value that the driver answers with; nothing when it cannot be reached.
fn command(namespace: &Namespace, method: &str, path: &str, body: Option<&Value>) -> Option<Value> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{PORT}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let answer = namespace.enter(|| {
        let mut stream = TcpStream::connect(("127.0.0.1", PORT)).ok()?;
        stream.set_read_timeout(Some(COMMAND_WITHIN)).ok()?;
        stream.write_all((head + &body).as_bytes()).ok()?;
        let mut stream = BufReader::new(stream);
        let (mut length, mut line) = (0, String::new());
        while stream.read_line(&mut line).ok()? > 2 {
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().ok()?;
            }
            line.clear();
        }
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer).ok()?;
        Some(answer)
    })?;
    let answer: Value = serde_json::from_slice(&answer).ok()?;
    Some(answer["value"].clone())
}
