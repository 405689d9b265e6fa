//! Watches Kubernetes: every kind's objects as changes of the cluster, for ever. A watch that
//! breaks is taken up again, with growing pauses; what was known stays until the API server says
//! otherwise.

use std::fmt::Debug;
use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1 as core;
use kube::api::{Api, DynamicObject, PartialObjectMeta};
use kube::runtime::utils::{Backoff, ResetTimerBackoff};
use kube::runtime::watcher::ExponentialBackoff;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch_objects};
use kube::{Client, Resource};
use tokio::sync::mpsc::Sender;

use crate::cluster::{Change, Cluster, Labels, Node, Pod, PodKey, PolicyObject};
use crate::errors::chain;
use crate::objects;

/// How long to wait until Cilium's kinds are looked for again, when the API server is away.
const RETRY: Duration = Duration::from_secs(2);

/// The first pause after a watch has broken; each next one is twice as long …
const PAUSE_MIN: Duration = Duration::from_millis(200);

/// … up to this, plus as much again by chance, so that gateways do not come back all at once.
///
/// kube's own choice is 30 s, as long as a pod waits for its egress address after the API server
/// has come back. Gateways are few: a cluster's API server does not feel them.
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// How long a watch must have been well until its pauses start anew.
const WELL: Duration = Duration::from_secs(15);

/// The kinds that are watched.
const KINDS: [&str; 7] = [
    "ciliumegressgatewaypolicies",
    "pods",
    "namespaces",
    "nodes",
    "services",
    "endpoints",
    "ciliumendpoints",
];

/// A change of one kind's objects.
#[derive(Debug)]
pub enum Update {
    /// Of policies.
    Policies(Change<String, PolicyObject>),
    /// Of pods.
    Pods(Change<PodKey, Pod>),
    /// Of namespaces.
    Namespaces(Change<String, Labels>),
    /// Of nodes.
    Nodes(Change<String, Node>),
    /// Of services.
    Services(Change<PodKey, Vec<IpAddr>>),
    /// Of the API server's endpoints.
    ApiServers(Change<PodKey, Vec<IpAddr>>),
    /// Of Cilium's endpoints.
    Endpoints(Change<PodKey, String>),
}

/// Which kinds have been listed whole.
#[derive(Debug, Default)]
pub struct Synced {
    kinds: [bool; KINDS.len()],
}

impl Synced {
    /// Whether all kinds have been.
    #[must_use]
    pub fn all(&self) -> bool {
        self.kinds.iter().all(|synced| *synced)
    }

    /// Those that have not been.
    pub fn missing(&self) -> impl Iterator<Item = &'static str> {
        KINDS.into_iter().zip(self.kinds).filter(|(_, synced)| !synced).map(|(name, _)| name)
    }
}

impl Update {
    /// Brings the change into the cluster.
    pub fn apply(self, cluster: &mut Cluster, synced: &mut Synced) {
        fn whole<K, V>(change: &Change<K, V>) -> bool {
            matches!(change, Change::All(_))
        }
        let (kind, is_whole) = match &self {
            Self::Policies(change) => (0, whole(change)),
            Self::Pods(change) => (1, whole(change)),
            Self::Namespaces(change) => (2, whole(change)),
            Self::Nodes(change) => (3, whole(change)),
            Self::Services(change) => (4, whole(change)),
            Self::ApiServers(change) => (5, whole(change)),
            Self::Endpoints(change) => (6, whole(change)),
        };
        synced.kinds[kind] |= is_whole;
        match self {
            Self::Policies(change) => cluster.change_policies(change),
            Self::Pods(change) => cluster.change_pods(change),
            Self::Namespaces(change) => cluster.change_namespaces(change),
            Self::Nodes(change) => cluster.change_nodes(change),
            Self::Services(change) => cluster.change_services(change),
            Self::ApiServers(change) => cluster.change_api_servers(change),
            Self::Endpoints(change) => cluster.change_endpoints(change),
        }
    }
}

/// Watches everything that planning needs; ends when nobody takes the updates anymore.
pub async fn watch(client: Client, updates: Sender<Update>) {
    let policies = Api::all_with(client.clone(), &objects::policy_resource());
    tokio::join!(
        follow(
            "ciliumegressgatewaypolicies",
            watch_objects(policies, watcher::Config::default()),
            objects::policy,
            |change| updates.send(Update::Policies(change)),
        ),
        follow(
            "pods",
            watch_objects(Api::<core::Pod>::all(client.clone()), watcher::Config::default()),
            objects::pod,
            |change| updates.send(Update::Pods(change)),
        ),
        follow(
            "namespaces",
            watch_objects(Api::<core::Namespace>::all(client.clone()), watcher::Config::default()),
            objects::namespace,
            |change| updates.send(Update::Namespaces(change)),
        ),
        follow(
            "nodes",
            watch_objects(Api::<core::Node>::all(client.clone()), watcher::Config::default()),
            objects::node,
            |change| updates.send(Update::Nodes(change)),
        ),
        follow(
            "services",
            watch_objects(Api::<core::Service>::all(client.clone()), watcher::Config::default()),
            objects::service,
            |change| updates.send(Update::Services(change)),
        ),
        follow(
            "endpoints",
            watch_objects(
                Api::<core::Endpoints>::namespaced(client.clone(), objects::API_SERVER.0),
                watcher::Config::default().fields(objects::API_SERVER.1),
            ),
            objects::api_server,
            |change| updates.send(Update::ApiServers(change)),
        ),
        watch_endpoints(client, &updates),
    );
}

/// Cilium's endpoints, if Cilium is there when we start.
async fn watch_endpoints(client: Client, updates: &Sender<Update>) {
    loop {
        match has_endpoints(&client).await {
            Ok(true) => break,
            Ok(false) => {
                tracing::info!("no Cilium here: gateways are told by the pods' own identifiers");
                let _ = updates.send(Update::Endpoints(Change::All(Vec::new()))).await;
                return;
            }
            Err(error) => {
                tracing::warn!(
                    "cannot ask the API server for its kinds, trying on: {}",
                    chain(&error)
                );
                tokio::time::sleep(RETRY).await;
            }
        }
    }
    let endpoints: Api<PartialObjectMeta<DynamicObject>> =
        Api::all_with(client, &objects::endpoint_resource());
    follow(
        "ciliumendpoints",
        watch_objects(endpoints, watcher::Config::default()),
        objects::endpoint,
        |change| updates.send(Update::Endpoints(change)),
    )
    .await;
}

/// Whether the API server knows Cilium's endpoints.
///
/// # Errors
///
/// When it cannot be asked.
pub async fn has_endpoints(client: &Client) -> Result<bool, kube::Error> {
    match client.list_api_group_resources("cilium.io/v2").await {
        Ok(list) => Ok(list.resources.iter().any(|kind| kind.name == "ciliumendpoints")),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

fn pauses() -> impl Backoff {
    let pauses = backon::ExponentialBuilder::default()
        .with_min_delay(PAUSE_MIN)
        .with_max_delay(PAUSE_MAX)
        .without_max_times()
        .with_jitter();
    ResetTimerBackoff::new(ExponentialBackoff::from(pauses), WELL)
}

/// Turns the events of one watch into changes. A list is taken as a whole when it is complete.
async fn follow<O, K, V, F, E>(
    kind: &'static str,
    events: impl futures::Stream<Item = Result<Event<O>, watcher::Error>> + Send,
    read: impl Fn(O) -> (K, V),
    send: impl Fn(Change<K, V>) -> F,
) where
    O: Resource + Clone + Debug,
    F: Future<Output = Result<(), E>>,
{
    let events = events.backoff(pauses());
    pin_mut!(events);
    let mut list = Vec::new();
    let mut said = String::new();
    while let Some(event) = events.next().await {
        let change = match event {
            Ok(Event::Init) => {
                list.clear();
                continue;
            }
            Ok(Event::InitApply(object)) => {
                list.push(read(object));
                continue;
            }
            Ok(Event::InitDone) => {
                said.clear();
                Change::All(std::mem::take(&mut list))
            }
            Ok(Event::Apply(object)) => {
                said.clear();
                let (key, value) = read(object);
                Change::Set(key, value)
            }
            Ok(Event::Delete(object)) => Change::Gone(read(object).0),
            Err(error) => {
                // The same fault again and again is one line in the log.
                let text = chain(&error);
                if text != said {
                    tracing::warn!("the watch of {kind} is broken, trying on: {text}");
                    said = text;
                }
                continue;
            }
        };
        if send(change).await.is_err() {
            return;
        }
    }
}
