//! What control sees of a router: a socket that takes documents and remembers them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use spillway_api::{
    Applied, Document, EventCounts, Frames, Programmed, Programming, Request, Response, Status,
};
use tempfile::TempDir;

/// The router's side of the socket, for as long as the test runs.
pub(crate) struct Router {
    socket: PathBuf,
    documents: Arc<Mutex<Vec<Document>>>,
    _directory: TempDir,
}

impl Router {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("spillway.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let documents = Arc::default();
        let shared = Arc::clone(&documents);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(&stream, &shared);
            }
        });
        Self { socket, documents, _directory: directory }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The document that runs.
    pub(crate) fn document(&self) -> Option<Document> {
        self.documents.lock().unwrap().last().cloned()
    }

    /// How many documents have been put.
    pub(crate) fn count(&self) -> usize {
        self.documents.lock().unwrap().len()
    }

    /// Forgets everything, as a router that has been started anew.
    pub(crate) fn forget(&self) {
        self.documents.lock().unwrap().clear();
    }
}

fn serve(stream: &UnixStream, documents: &Mutex<Vec<Document>>) {
    let mut writer = stream;
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        let response = match serde_json::from_str(&line).unwrap() {
            Request::Status { .. } => Response::Status(Status {
                draining_s: None,
                version: "test".into(),
                api_version: spillway_api::API_VERSION,
                pid: std::process::id(),
                uptime_s: 0,
                generation: documents.lock().unwrap().last().map(|last| last.generation),
                state_source: "socket".into(),
                refused: None,
                author_age_s: None,
                programmed: Programmed::default(),
                programming: Programming::default(),
                flows_max: 0,
                devices: Vec::new(),
                workers: Vec::new(),
                frames: Frames::default(),
                events: EventCounts::default(),
                reports: Vec::new(),
            }),
            Request::PutState { document } => {
                let document = Document::parse(&document).unwrap();
                let generation = document.generation;
                documents.lock().unwrap().push(document);
                Response::Applied(Applied { generation })
            }
            other => Response::refused(format!("not expected: {other:?}")),
        };
        let text = serde_json::to_string(&response).unwrap() + "\n";
        // Who has asked may be gone.
        let _ = writer.write_all(text.as_bytes());
    }
}
