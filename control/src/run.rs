//! `spillway-control run`: the parts, joined. Nothing here is about packets: when this process
//! ends, forwarding goes on with the last document.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::Client;
use spillway_api::Document;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::cluster::{Cluster, Network};
use crate::plan::{Finding, Here, Report, plan};
use crate::publish::{Outcome, publish};
use crate::status::Told;
use crate::watch::{Synced, Update};
use crate::{host, status};

/// After a change, others are waited for so long …
const QUIET: Duration = Duration::from_millis(20);

/// … but no longer than this after the first.
const LATEST: Duration = Duration::from_millis(200);

/// How often the host's addresses are looked at: an egress address may come and go.
const HOST_PERIOD: Duration = Duration::from_millis(500);

/// How long the first lists may take before it is said which are missing.
const SYNC_PATIENCE: Duration = Duration::from_secs(10);

/// Updates that wait while a plan is made.
const UPDATES: usize = 1024;

/// When a plan is due: soon after the last change, not long after the first.
#[derive(Debug, Default)]
struct Due {
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Due {
    fn changed(&mut self, now: Instant) {
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    fn at(&self) -> Option<Instant> {
        self.first.zip(self.last).map(|(first, last)| (last + QUIET).min(first + LATEST))
    }
}

/// What has been planned last.
struct Planned {
    document: Arc<Document>,
    told: Told,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
///
/// When the host's addresses cannot be read at the start, or a part has ended.
pub async fn run(client: Client, socket: PathBuf, network: Network, mut here: Here) -> Result<()> {
    let (update_sender, mut updates) = mpsc::channel(UPDATES);
    let (documents, document_receiver) = watch::channel(None);
    let (outcome_sender, mut outcomes) = watch::channel(None);
    let (told, told_receiver) = watch::channel(None);
    tokio::spawn(crate::watch::watch(client.clone(), update_sender));
    tokio::spawn(publish(socket, document_receiver, outcome_sender));
    tokio::spawn(status::write(client, here.node.clone(), told_receiver));

    here.host = host::read()?;
    let (mut cluster, mut synced) = (Cluster::new(network), Synced::default());
    let (mut due, mut planned) = (Due::default(), None);
    let mut host_timer = tokio::time::interval(HOST_PERIOD);
    let patience = tokio::time::sleep(SYNC_PATIENCE);
    tokio::pin!(patience);
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    loop {
        let at = due.at().filter(|_| synced.all());
        tokio::select! {
            update = updates.recv() => {
                let update: Update = update.context("the watches have ended")?;
                update.apply(&mut cluster, &mut synced);
                due.changed(Instant::now());
            }
            () = tokio::time::sleep_until(at.unwrap_or_else(Instant::now)), if at.is_some() => {
                due = Due::default();
                planned = Some(plan_anew(&cluster, &here, planned, &documents));
                say(planned.as_ref(), &outcomes, &told);
            }
            changed = outcomes.changed() => {
                changed.context("the publisher has ended")?;
                say(planned.as_ref(), &outcomes, &told);
            }
            _ = host_timer.tick() => match host::read() {
                Ok(host) if host != here.host => {
                    here.host = host;
                    due.changed(Instant::now());
                }
                Ok(_) => {}
                Err(error) => tracing::warn!("{error:#}; going on with those known"),
            },
            () = &mut patience, if !patience.is_elapsed() => if !synced.all() {
                let missing: Vec<_> = synced.missing().collect();
                tracing::warn!(
                    "still waiting for the first list of {}: nothing is published before. Are the \
                     custom resource definitions there (`spillway-control crds install`), and may \
                     this service account list them?",
                    missing.join(", ")
                );
            },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    tracing::info!("ending; the router goes on with what it has");
    Ok(())
}

/// Plans; a document that says the same as the last one is not sent again.
fn plan_anew(
    cluster: &Cluster,
    here: &Here,
    last: Option<Planned>,
    documents: &watch::Sender<Option<Arc<Document>>>,
) -> Planned {
    if cluster.node(&here.node).is_none() {
        tracing::warn!(
            "the cluster has no node {}: is --node right? Nothing is carried",
            here.node
        );
    }
    let plan = plan(cluster, here);
    let same = last.map(|last| last.document).filter(|document| **document == plan.document);
    let document = same.unwrap_or_else(|| {
        let document = Arc::new(plan.document);
        documents.send_replace(Some(document.clone()));
        document
    });
    Planned { document, told: Told { reports: plan.reports, gateways: plan.gateways } }
}

/// Passes the reports on when the router's answer to their document is there.
fn say(
    planned: Option<&Planned>,
    outcomes: &watch::Receiver<Option<Outcome>>,
    told: &watch::Sender<Option<Told>>,
) {
    let Some(planned) = planned else { return };
    let outcome = outcomes.borrow();
    let Some(outcome) = outcome.as_ref().filter(|o| Arc::ptr_eq(&o.document, &planned.document))
    else {
        return;
    };
    let mut current = planned.told.clone();
    if let Err(failure) = &outcome.result {
        // One of which only a family is refused is carried too.
        let carried = |report: &&mut Report| !report.egress_addresses.is_empty();
        for report in current.reports.iter_mut().filter(carried) {
            report.carried = Finding::no(failure.reason, failure.message.clone());
        }
    }
    told.send_if_modified(|last| {
        let is_new = last.as_ref() != Some(&current);
        if is_new {
            *last = Some(current);
        }
        is_new
    });
}
