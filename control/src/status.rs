//! Says what became of each policy: an object for every policy and gateway, and events when
//! something turns.
//!
//! Cilium's policy has no status of its own. Each gateway writes its own objects, so that no two
//! writers meet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::errors::chain;
use crate::objects::{policy_resource, status_resource};
use crate::plan::{Finding, Report};

/// Pause between two rounds: numbers of pods may change many times a second.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest pause while the API server does not take our objects.
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// How often the API server's objects are looked at: somebody may have deleted or changed them.
const RESYNC: Duration = Duration::from_secs(60);

/// Writer of our objects' fields.
const FIELD_MANAGER: &str = "spillway-control";

/// What is to be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Of each policy.
    pub reports: Vec<Report>,
    /// The names of all gateways, if this one removes the objects of others.
    pub gateways: Option<BTreeSet<String>>,
}

/// Writes the objects for the reports of this gateway, again and again as they change.
pub async fn write(client: Client, node: String, mut told: watch::Receiver<Option<Told>>) {
    let reporter = Reporter { controller: FIELD_MANAGER.into(), instance: Some(node.clone()) };
    let recorder = Recorder::new(client.clone(), reporter);
    let api = Api::all_with(client, &status_resource());
    let mut writer = Writer { api, recorder, node, written: None, gateways: None };
    let (mut pause, mut said) = (PAUSE, String::new());
    loop {
        let current = told.borrow_and_update().clone();
        let mut result = Ok(());
        if let Some(current) = current {
            result = writer.round(&current).await;
        }
        if let Err(error) = result {
            let text = chain(&error);
            if text != said {
                tracing::warn!("cannot write the policies' status, trying on: {text}");
                said = text;
            }
            pause = (pause * 2).min(PAUSE_MAX);
            tokio::time::sleep(pause).await;
            continue;
        }
        (pause, said) = (PAUSE, String::new());
        tokio::time::sleep(PAUSE).await;
        match tokio::time::timeout(RESYNC, told.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => writer.written = None,
        }
    }
}

struct Writer {
    api: Api<DynamicObject>,
    recorder: Recorder,
    node: String,
    /// What the API server has, by the objects' names; `None` until it was asked.
    written: Option<BTreeMap<String, Written>>,
    /// The gateways whose objects were kept when it was asked.
    gateways: Option<BTreeSet<String>>,
}

/// An object that the API server has.
struct Written {
    /// Of its policy. One that was deleted and made again is another, whatever its name.
    uid: String,
    status: Value,
}

impl Writer {
    /// Makes the API server's objects those of the reports.
    async fn round(&mut self, told: &Told) -> Result<(), kube::Error> {
        let written = self.written.take().filter(|_| self.gateways == told.gateways);
        let mut written = match written {
            Some(written) => written,
            None => self.existing(told.gateways.as_ref()).await?,
        };
        self.gateways.clone_from(&told.gateways);
        let result = self.write_all(&told.reports, &mut written).await;
        // After an error nobody knows what was written: the next round asks.
        self.written = result.is_ok().then_some(written);
        result
    }

    async fn write_all(
        &self,
        reports: &[Report],
        written: &mut BTreeMap<String, Written>,
    ) -> Result<(), kube::Error> {
        let wanted: BTreeSet<String> =
            reports.iter().map(|report| object_name(&report.policy, &self.node)).collect();
        for report in reports {
            let name = object_name(&report.policy, &self.node);
            let before = written.get(&name).filter(|object| object.uid == report.uid);
            let before = before.map_or(&Value::Null, |object| &object.status);
            let status = status(report, before, &Timestamp::now().to_string());
            if status == *before {
                continue;
            }
            let parameters = PatchParams::apply(FIELD_MANAGER).force();
            let object = object(&name, &self.node, report, &status);
            self.api.patch(&name, &parameters, &Patch::Apply(object)).await?;
            // The object says it too: an event that is lost is no reason to write it again.
            if let Err(error) = self.tell(report, before).await {
                tracing::warn!("cannot tell of policy {}: {}", report.policy, chain(&error));
            }
            written.insert(name, Written { uid: report.uid.clone(), status });
        }
        let stale: Vec<String> =
            written.keys().filter(|name| !wanted.contains(*name)).cloned().collect();
        for name in stale {
            self.delete(&name).await?;
            written.remove(&name);
        }
        Ok(())
    }

    async fn delete(&self, name: &str) -> Result<(), kube::Error> {
        match self.api.delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            result => result.map(drop),
        }
    }

    /// The status of this gateway's objects that are there. Those of nodes that are not among
    /// `gateways` are deleted.
    async fn existing(
        &self,
        gateways: Option<&BTreeSet<String>>,
    ) -> Result<BTreeMap<String, Written>, kube::Error> {
        let mut ours = BTreeMap::new();
        for object in self.api.list(&ListParams::default()).await?.items {
            let name = object.metadata.name.unwrap_or_default();
            let gateway = object.data["spec"]["gateway"].as_str().unwrap_or_default();
            if gateway == self.node {
                let owners = object.metadata.owner_references.unwrap_or_default();
                let uid = owners.into_iter().next().map(|owner| owner.uid).unwrap_or_default();
                ours.insert(name, Written { uid, status: object.data["status"].clone() });
            } else if gateways.is_some_and(|gateways| !gateways.contains(gateway)) {
                self.delete(&name).await?;
            }
        }
        Ok(ours)
    }

    /// Events for what has turned since `before`.
    async fn tell(&self, report: &Report, before: &Value) -> Result<(), kube::Error> {
        let resource = policy_resource();
        let about = ObjectReference {
            api_version: Some(resource.api_version),
            kind: Some(resource.kind),
            name: Some(report.policy.clone()),
            // Where events about objects without a namespace are kept.
            namespace: Some("default".into()),
            uid: Some(report.uid.clone()),
            ..ObjectReference::default()
        };
        for (kind, finding, wanted) in findings(report) {
            let now = (condition_text(finding.holds), finding.reason);
            let old = condition(before, kind);
            let old_reason = old["reason"].as_str();
            let is_news = old_reason
                .map_or(finding.holds != wanted || kind == "Programmed", |old| {
                    old != finding.reason
                });
            if !is_news {
                continue;
            }
            let well = finding.holds == wanted;
            let event = Event {
                type_: if well { EventType::Normal } else { EventType::Warning },
                reason: finding.reason.into(),
                note: Some(format!("{kind} is {}: {}", now.0, note(finding, &self.node))),
                action: kind.into(),
                secondary: None,
            };
            self.recorder.publish(&event, &about).await?;
        }
        Ok(())
    }
}

fn note(finding: &Finding, node: &str) -> String {
    // The API server takes 1 kB.
    let text: String = finding.message.chars().take(900).collect();
    format!("{text} (gateway {node})")
}

/// The conditions of a report, and how each should be.
fn findings(report: &Report) -> [(&'static str, &Finding, bool); 3] {
    [
        ("Accepted", &report.accepted, true),
        ("Programmed", &report.carried, true),
        ("Conflicted", &report.conflicted, false),
    ]
}

fn condition_text(holds: bool) -> &'static str {
    if holds { "True" } else { "False" }
}

/// The condition of that type in a status.
fn condition(status: &Value, kind: &str) -> Value {
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    conditions.find(|one| one["type"] == kind).cloned().unwrap_or(Value::Null)
}

/// The status of a report at `now`; a condition that has not turned keeps its time.
fn status(report: &Report, before: &Value, now: &str) -> Value {
    let conditions = findings(report).map(|(kind, finding, _)| {
        let old = condition(before, kind);
        let turned = old["status"] != condition_text(finding.holds);
        let since = if turned { Value::from(now) } else { old["lastTransitionTime"].clone() };
        json!({
            "type": kind,
            "status": condition_text(finding.holds),
            "reason": finding.reason,
            "message": finding.message,
            "lastTransitionTime": since,
            "observedGeneration": report.generation,
        })
    });
    let mut status = json!({
        "observedGeneration": report.generation,
        "matchedPods": report.pods,
        "podsSentHere": report.pods_sent_here,
        "conditions": conditions,
    });
    if let Some(first) = report.egress_addresses.first() {
        status["egressAddress"] = first.to_string().into();
        status["egressAddresses"] = json!(report.egress_addresses);
    }
    status
}

fn object(name: &str, node: &str, report: &Report, status: &Value) -> Value {
    let (ours, of) = (status_resource(), policy_resource());
    json!({
        "apiVersion": ours.api_version,
        "kind": ours.kind,
        "metadata": {
            "name": name,
            "ownerReferences": [{
                "apiVersion": of.api_version,
                "kind": of.kind,
                "name": report.policy,
                "uid": report.uid,
            }],
        },
        "spec": {"policy": report.policy, "gateway": node},
        "status": status,
    })
}

/// `<policy>.<node>`, as long as a name may be; a longer one ends in a hash of all of it.
fn object_name(policy: &str, node: &str) -> String {
    const LENGTH_MAX: usize = 253;
    let name = format!("{policy}.{node}");
    if name.len() <= LENGTH_MAX {
        return name;
    }
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{}-{hash:016x}", name[..LENGTH_MAX - 17].trim_end_matches(['.', '-']))
}
