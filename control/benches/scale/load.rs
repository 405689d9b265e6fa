//! The cluster: its objects, and what changes in it.

use std::future::Future;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use spillway_control::objects::policy_resource;
use tokio::runtime::{Builder, Runtime};

/// Pods of the cluster.
pub(crate) const PODS: usize = 10_000;
/// Policies, of ten destinations each.
pub(crate) const POLICIES: usize = 100;
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 44, 128);
pub(crate) const EGRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 44, 129);
pub(crate) const GATEWAY_NAME: &str = "node-0";

const NODES: usize = 100;
/// Requests under way at once.
const AT_ONCE: usize = 32;

/// A client of the API server, in the network namespace of the thread that made it.
pub(crate) struct Load {
    runtime: Runtime,
    client: Client,
    kubeconfig: PathBuf,
}

impl Load {
    pub(crate) fn new(kubeconfig: &Path) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let file = Kubeconfig::read_from(kubeconfig).unwrap();
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(file, &options).await.unwrap();
            Client::try_from(config).unwrap()
        });
        Self { runtime, client, kubeconfig: kubeconfig.to_owned() }
    }

    /// Makes nodes and pods where they are missing, and the policies anew: each pod has the label
    /// of one, or all select all.
    pub(crate) fn fill(&self, selected_by: usize) {
        let policies = Api::<DynamicObject>::all_with(self.client.clone(), &policy_resource());
        self.runtime.block_on(async {
            all(NODES, |index| self.add_node(index)).await;
            all(PODS, |index| self.add_pod(index)).await;
            all(POLICIES, |index| {
                let policies = policies.clone();
                async move {
                    let name = format!("policy-{index}");
                    // None to delete the first time.
                    let _ = policies.delete(&name, &DeleteParams::default()).await;
                    let policy = serde_json::from_value(policy(index, selected_by)).unwrap();
                    policies.create(&PostParams::default(), &policy).await.map(drop)
                }
            })
            .await;
        });
    }

    async fn add_node(&self, index: usize) -> Result<(), kube::Error> {
        let name = format!("node-{index}");
        let label = if index == 0 { json!({"egress-node": "true"}) } else { json!({}) };
        let address = Ipv4Addr::from_bits(GATEWAY.to_bits() + (u32::try_from(index).unwrap() << 8));
        let node = json!({"metadata": {"name": name, "labels": label}});
        let status = json!({"addresses": [{"type": "InternalIP", "address": address}]});
        self.add(&Api::<Node>::all(self.client.clone()), &name, node, status).await
    }

    async fn add_pod(&self, index: usize) -> Result<(), kube::Error> {
        let name = pod_name(index);
        let address = Ipv4Addr::from_bits(0x0a64_6400 + u32::try_from(index).unwrap());
        let container = json!({"name": "main", "image": "registry.example/shop/web:1.2.3",
            "env": [{"name": "DATABASE", "value": "db.shop.svc.cluster.local:5432"}],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}});
        let pod = json!({
            "metadata": {"name": name, "labels": {
                "app": format!("app-{}", index % POLICIES), "tier": "web", "version": "1.2.3",
                "pod-template-hash": "7d4b9c6f5d",
            }},
            "spec": {"nodeName": format!("node-{}", 1 + index % (NODES - 1)),
                "containers": [container]},
        });
        let status = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]});
        self.add(&Api::<Pod>::default_namespaced(self.client.clone()), &name, pod, status).await
    }

    async fn add<K>(
        &self,
        api: &Api<K>,
        name: &str,
        object: Value,
        status: Value,
    ) -> Result<(), kube::Error>
    where
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + serde::Serialize,
    {
        let object = serde_json::from_value(object).unwrap();
        match api.create(&PostParams::default(), &object).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => return Ok(()),
            Err(error) => return Err(error),
        }
        let patch = Patch::Merge(json!({"status": status}));
        api.patch_status(name, &PatchParams::default(), &patch).await.map(drop)
    }

    /// A pod ceases to be selected, or, every other time, is selected again.
    pub(crate) fn turn(&self, change: usize) {
        let is_back = !change.is_multiple_of(2);
        let labels = json!({"app": is_back.then_some("app-0"), "tier": is_back.then_some("web")});
        let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
        let pods = Api::<Pod>::default_namespaced(self.client.clone());
        let (name, parameters) = (pod_name(change / 2 * POLICIES % PODS), PatchParams::default());
        self.runtime.block_on(pods.patch(&name, &parameters, &patch)).unwrap();
    }

    /// Changes annotations of pods so many times a second until what it returns is dropped.
    pub(crate) fn churn(&self, per_second: u32) -> Churn {
        let (sender, stopped) = mpsc::channel::<()>();
        let kubeconfig = self.kubeconfig.clone();
        // Threads of this one are in its network namespace.
        let thread = (per_second > 0).then(|| {
            thread::spawn(move || {
                let load = Self::new(&kubeconfig);
                let pods = Api::<Pod>::default_namespaced(load.client.clone());
                let mut count: usize = 0;
                let pause = Duration::from_secs(1) / per_second;
                while stopped.recv_timeout(pause) == Err(mpsc::RecvTimeoutError::Timeout) {
                    count += 1;
                    let note = json!({"metadata": {"annotations": {"seen": count.to_string()}}});
                    let (name, patch) = (pod_name(count * 7919 % PODS), Patch::Merge(note));
                    let parameters = PatchParams::default();
                    load.runtime.block_on(pods.patch(&name, &parameters, &patch)).unwrap();
                }
            })
        });
        Churn { stop: Some(sender), thread }
    }
}

/// Changes that go on until this is dropped.
pub(crate) struct Churn {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn pod_name(index: usize) -> String {
    format!("web-7d4b9c6f5d-{index:05}")
}

fn policy(index: usize, selected_by: usize) -> Value {
    let labels = if selected_by == 1 {
        json!({"app": format!("app-{index}")})
    } else {
        json!({"tier": "web"})
    };
    // Ten /24 of each policy's own.
    let destinations: Vec<String> = (0..10)
        .map(|cidr| format!("198.{}.{}.0/24", 51 + index / 25, index % 25 * 10 + cidr))
        .collect();
    json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumEgressGatewayPolicy",
        "metadata": {"name": format!("policy-{index}")},
        "spec": {
            "selectors": [{"podSelector": {"matchLabels": labels}}],
            "destinationCIDRs": destinations,
            "egressGateway": {"nodeSelector": {"matchLabels": {"egress-node": "true"}},
                "egressIP": EGRESS},
        },
    })
}

/// Does `work` so many times, some at once; all must succeed.
async fn all<F: Future<Output = Result<(), kube::Error>>>(count: usize, work: impl Fn(usize) -> F) {
    let work = stream::iter(0..count).map(work).buffer_unordered(AT_ONCE);
    work.try_collect::<()>().await.unwrap();
}
