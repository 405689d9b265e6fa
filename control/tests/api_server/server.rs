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

/// Makes an authority, the server's certificate and the key of service account tokens; the admin's
/// token is `admin`.
const CERTIFICATES: &str = r#"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test-ca -keyout ca.key -out ca.crt
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=kube-apiserver -keyout server.key -out server.csr
printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n' > server.ext
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile server.ext -out server.crt
openssl ecparam -name prime256v1 -genkey -noout -out sa.key
echo 'admin,admin,admin-uid,"system:masters"' > tokens.csv
"#;

/// Runs `$0` with its output in the file `$1`.
const QUIETLY: &str = r#"log=$1; shift; exec "$0" "$@" >>"$log" 2>&1"#;

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
        let made = Command::new("sh")
            .args(["-ec", CERTIFICATES])
            .current_dir(directory.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let namespace = Namespace::new(name);
        let etcd = namespace.spawn([
            "sh",
            "-c",
            QUIETLY,
            assets.join("etcd").to_str().unwrap(),
            &format!("{}/etcd.log", directory.path().display()),
            &format!("--data-dir={}/etcd", directory.path().display()),
            "--unsafe-no-fsync",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--log-level=error",
        ]);
        let this = Self { namespace, server: RefCell::default(), _etcd: etcd, directory, assets };
        this.write_kubeconfig("admin", "admin");
        this.resume();
        this
    }

    /// Starts the API server, again after [`Self::stop`], and waits until it serves.
    pub(crate) fn resume(&self) {
        let file = |name: &str| self.directory.path().join(name).display().to_string();
        let mut server = self.namespace.spawn([
            "sh".into(),
            "-c".into(),
            QUIETLY.into(),
            self.assets.join("kube-apiserver").display().to_string(),
            file("kube-apiserver.log"),
            "--etcd-servers=http://127.0.0.1:2379".into(),
            "--bind-address=127.0.0.1".into(),
            "--advertise-address=127.0.0.1".into(),
            "--secure-port=6443".into(),
            format!("--cert-dir={}", file("certificates")),
            format!("--tls-cert-file={}", file("server.crt")),
            format!("--tls-private-key-file={}", file("server.key")),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--token-auth-file={}", file("tokens.csv")),
            format!("--service-account-key-file={}", file("sa.key")),
            format!("--service-account-signing-key-file={}", file("sa.key")),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            "--authorization-mode=RBAC".into(),
            "--disable-admission-plugins=ServiceAccount".into(),
            "--service-cluster-ip-range=10.96.0.0/16".into(),
            "--allow-privileged=true".into(),
            "--v=0".into(),
        ]);
        wait_until("the API server is ready", STARTS_WITHIN, || {
            if !server.is_running() {
                let log = std::fs::read_to_string(file("kube-apiserver.log")).unwrap();
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

    /// The path of a user's kubeconfig.
    pub(crate) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.directory.path().join(format!("{user}.kubeconfig"))
    }

    /// Writes a kubeconfig for a user with a token.
    pub(crate) fn write_kubeconfig(&self, user: &str, token: &str) {
        let authority = self.directory.path().join("ca.crt");
        let text = format!(
            "apiVersion: v1
kind: Config
current-context: test
contexts: [{{name: test, context: {{cluster: test, user: test}}}}]
clusters: [{{name: test, cluster: {{server: 'https://127.0.0.1:6443', certificate-authority: {}}}}}]
users: [{{name: test, user: {{token: '{token}'}}}}]
",
            authority.display()
        );
        std::fs::write(self.kubeconfig(user), text).unwrap();
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
    pub(crate) fn run_pod(&self, name: &str, app: &str, node: &str, address: &str) {
        self.apply(&serde_json::json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": app}},
            "spec": {"nodeName": node, "containers": [{"name": "main", "image": "none"}]},
        }));
        let path = format!("/api/v1/namespaces/default/pods/{name}/status");
        let pod = self.kubectl(&["get", "--raw", &path], "");
        let mut pod: Value = serde_json::from_str(&pod).unwrap();
        pod["status"] = serde_json::json!({
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
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
