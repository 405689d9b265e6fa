//! The custom resource definitions: printed, or brought to a cluster.

use anyhow::{Context as _, Result};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};

/// Cilium's policy, for clusters without Cilium.
pub const POLICY: &str = include_str!("../../k8s/crds/ciliumegressgatewaypolicies.yaml");

/// Ours.
pub const STATUS: &str = include_str!("../../k8s/crds/spillwaypolicystatuses.yaml");

/// Brings ours up to date, and Cilium's only where there is none: where Cilium is, it is Cilium's.
///
/// # Errors
///
/// When the API server refuses one.
pub async fn install(client: Client) -> Result<Vec<String>> {
    let api: Api<CustomResourceDefinition> = Api::all(client);
    let mut done = Vec::new();
    let policy: CustomResourceDefinition = serde_saphyr::from_str(POLICY)?;
    let name = policy.metadata.name.clone().unwrap_or_default();
    done.push(match api.create(&PostParams::default(), &policy).await {
        Ok(_) => format!("{name}: created"),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            format!("{name}: is there, left alone")
        }
        Err(error) => return Err(error).with_context(|| format!("cannot create {name}")),
    });
    let status: CustomResourceDefinition = serde_saphyr::from_str(STATUS)?;
    let name = status.metadata.name.clone().unwrap_or_default();
    let parameters = PatchParams::apply("spillway-control").force();
    api.patch(&name, &parameters, &Patch::Apply(&status))
        .await
        .with_context(|| format!("cannot apply {name}"))?;
    done.push(format!("{name}: applied"));
    Ok(done)
}
