//! Reads the cluster once, for commands that answer and end.

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1 as core;
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams};

use crate::cluster::{Change, Cluster, Network};
use crate::{objects, watch};

/// Lists everything that planning needs.
///
/// # Errors
///
/// When the API server does not give one of the kinds.
pub async fn read(client: Client, network: Network) -> Result<Cluster> {
    let all = ListParams::default();
    let mut cluster = Cluster::new(network);
    let nodes = Api::<core::Node>::all(client.clone()).list(&all).await;
    let nodes = nodes.context("cannot list the nodes")?.items;
    cluster.change_nodes(Change::All(nodes.into_iter().map(objects::node).collect()));
    let namespaces = Api::<core::Namespace>::all(client.clone()).list(&all).await;
    let namespaces = namespaces.context("cannot list the namespaces")?.items;
    cluster
        .change_namespaces(Change::All(namespaces.into_iter().map(objects::namespace).collect()));
    let pods = Api::<core::Pod>::all(client.clone()).list(&all).await;
    let pods = pods.context("cannot list the pods")?.items;
    cluster.change_pods(Change::All(pods.into_iter().map(objects::pod).collect()));
    let services = Api::<core::Service>::all(client.clone()).list(&all).await;
    let services = services.context("cannot list the services")?.items;
    cluster.change_services(Change::All(services.into_iter().map(objects::service).collect()));
    let (namespace, which) = objects::API_SERVER;
    let servers = Api::<core::Endpoints>::namespaced(client.clone(), namespace);
    let servers = servers.list(&ListParams::default().fields(which)).await;
    let servers = servers.context("cannot list the endpoints of the API server")?.items;
    cluster.change_api_servers(Change::All(servers.into_iter().map(objects::api_server).collect()));
    if watch::has_endpoints(&client).await.context("cannot ask for Cilium's kinds")? {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &objects::endpoint_resource());
        let endpoints = api.list_metadata(&all).await.context("cannot list Cilium's endpoints")?;
        let endpoints = endpoints.items.into_iter().map(objects::endpoint).collect();
        cluster.change_endpoints(Change::All(endpoints));
    }
    let api: Api<DynamicObject> = Api::all_with(client, &objects::policy_resource());
    let policies = api.list(&all).await.context("cannot list the policies")?.items;
    cluster.change_policies(Change::All(policies.into_iter().map(objects::policy).collect()));
    Ok(cluster)
}
