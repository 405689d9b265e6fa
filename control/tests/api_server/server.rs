//! etcd and kube-apiserver in a network namespace.

use std::cell::RefCell;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use spillway_testing::{Namespace, Process, wait_until};
use tempfile::TempDir;

const STARTS_WITHIN: Duration = Duration::from_secs(120);

/// Runs `$0` with its output in the file `$1`.
const QUIETLY: &str = r#"log=$1; shift; exec "$0" "$@" >>"$log" 2>&1"#;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testing/api-server.sh");

/// A running API server; its processes end with it.
pub(crate) struct ApiServer {
    pub(crate) namespace: Namespace,
    server: RefCell<Option<Process>>,
    _etcd: Process,
    directory: TempDir,
    assets: PathBuf,
}

impl ApiServer {
    pub(crate) fn start(name: &str) -> Self {
        let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let assets = assets.expect(
            "KUBEBUILDER_ASSETS names a directory with etcd, kube-apiserver and kubectl: run `make \
             test`, or set it to what control/testing/kubernetes.sh DIRECTORY prints",
        );
        let directory = tempfile::tempdir().unwrap();
        let made = Command::new(SCRIPT).arg("files").arg(directory.path()).status().unwrap();
        assert!(made.success(), "{SCRIPT} files has failed");
        let namespace = Namespace::new(name);
        let etcd = spawn(&namespace, "etcd", directory.path());
        let this = Self { namespace, server: RefCell::default(), _etcd: etcd, directory, assets };
        this.resume();
        this
    }

    /// Starts the API server, again after [`Self::stop`], and waits until it serves.
    pub(crate) fn resume(&self) {
        let mut server = spawn(&self.namespace, "server", self.directory.path());
        wait_until("the API server is ready", STARTS_WITHIN, || {
            if !server.is_running() {
                let log =
                    std::fs::read_to_string(self.directory.path().join("server.log")).unwrap();
                panic!("kube-apiserver has ended: {log}");
            }
            self.try_kubectl("admin", &["get", "--raw", "/readyz"], "").is_ok()
        });
        wait_until("the default namespace", STARTS_WITHIN, || {
            self.try_kubectl("admin", &["get", "namespace", "default"], "").is_ok()
        });
        self.server.replace(Some(server));
    }

    /// Ends the API server; etcd keeps the objects.
    pub(crate) fn stop(&self) {
        self.server.replace(None);
    }

    /// Makes etcd forget all history: only the objects as they are now can be read.
    pub(crate) fn compact(&self) {
        let ask = |what: &str, request: &Value| -> Value {
            let url = format!("http://127.0.0.1:2379/v3/kv/{what}");
            let request = request.to_string();
            let answer = self.namespace.run(["curl", "-fsS", "-d", &request, &url]);
            serde_json::from_str(&answer).unwrap()
        };
        // The key is of no matter: the answer has the revision.
        let now = ask("range", &serde_json::json!({"key": "AA=="}));
        let revision = &now["header"]["revision"];
        ask("compaction", &serde_json::json!({"revision": revision, "physical": true}));
    }

    /// The path of a user's kubeconfig.
    pub(crate) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.directory.path().join(format!("{user}.kubeconfig"))
    }

    /// Writes a kubeconfig for a user with a token.
    pub(crate) fn write_kubeconfig(&self, user: &str, token: &str) {
        let made = Command::new(SCRIPT)
            .arg("kubeconfig")
            .arg(self.directory.path())
            .args([user, token])
            .status()
            .unwrap();
        assert!(made.success(), "{SCRIPT} kubeconfig has failed");
    }

    /// Runs kubectl as a user, with `input` to its standard input.
    pub(crate) fn try_kubectl(
        &self,
        user: &str,
        arguments: &[&str],
        input: &str,
    ) -> Result<String, String> {
        let mut child = Command::new("ip")
            .args(["netns", "exec", self.namespace.name()])
            .arg(self.assets.join("kubectl"))
            .arg("--kubeconfig")
            .arg(self.kubeconfig(user))
            .arg(format!("--cache-dir={}/cache", self.directory.path().display()))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // What does not read its input may close it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Runs kubectl as the admin; it must succeed.
    pub(crate) fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        self.try_kubectl("admin", arguments, input)
            .unwrap_or_else(|error| panic!("kubectl {arguments:?}: {error}"))
    }

    /// Applies objects.
    pub(crate) fn apply(&self, objects: &Value) {
        self.kubectl(&["apply", "-f", "-"], &objects.to_string());
    }

    /// Applies a file of the repository.
    pub(crate) fn apply_file(&self, file: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
        self.kubectl(&["apply", "-f", path.to_str().unwrap()], "");
    }

    /// Makes a pod, and gives it an address as its kubelet would.
    pub(crate) fn run_pod(&self, name: &str, app: &str, node: &str, addresses: &[&str]) {
        self.apply(&serde_json::json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": app}},
            "spec": {"nodeName": node, "containers": [{"name": "main", "image": "none"}]},
        }));
        let path = format!("/api/v1/namespaces/default/pods/{name}/status");
        let pod = self.kubectl(&["get", "--raw", &path], "");
        let mut pod: Value = serde_json::from_str(&pod).unwrap();
        let all: Vec<Value> =
            addresses.iter().map(|address| serde_json::json!({ "ip": address })).collect();
        pod["status"] = serde_json::json!({
            "phase": "Running", "podIP": addresses[0], "podIPs": all,
        });
        self.kubectl(&["replace", "--raw", &path, "-f", "-"], &pod.to_string());
    }

    /// Makes a node with an address.
    pub(crate) fn add_node(&self, name: &str, address: &str, labels: &Value) {
        self.apply(&serde_json::json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": labels},
        }));
        let path = format!("/api/v1/nodes/{name}/status");
        let node = self.kubectl(&["get", "--raw", &path], "");
        let mut node: Value = serde_json::from_str(&node).unwrap();
        node["status"]["addresses"] =
            serde_json::json!([{"type": "InternalIP", "address": address}]);
        self.kubectl(&["replace", "--raw", &path, "-f", "-"], &node.to_string());
    }
}

/// Starts one of the two programs, with its output in a file.
fn spawn(namespace: &Namespace, program: &str, directory: &Path) -> Process {
    let directory = directory.display().to_string();
    let log = format!("{directory}/{program}.log");
    namespace.spawn(["sh", "-c", QUIETLY, SCRIPT, &log, program, &directory])
}
