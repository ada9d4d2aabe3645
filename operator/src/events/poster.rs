//! Posts events, one after the other.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::cut;
use crate::attachment::AttachmentMetrics;
use crate::volume::persistent_volumes_of;

/// Posts events; one that cannot be posted is logged and forgotten.
pub(crate) struct Poster {
    client: Client,
    reporter: Reporter,
    said: HashMap<About, (String, Recorder)>,
    attachments: AttachmentMetrics,
    queue: mpsc::Receiver<(Event, ObjectReference)>,
}

/// UID of the object, reason, and name of the second object: what a recorder tells events apart by.
type About = (Option<String>, String, Option<String>);

/// Notes that are remembered.
const NOTES: usize = 4096;

/// What is posted on the claim too beside all warnings: rare, and nothing else in Kubernetes says it (K18).
const FOR_CLAIMS: [&str; 3] = ["StaleAttachmentCleared", "MigrationStarted", "MigrationCompleted"];

impl Poster {
    pub(super) fn new(
        client: Client,
        instance: &str,
        attachments: AttachmentMetrics,
        queue: mpsc::Receiver<(Event, ObjectReference)>,
    ) -> Self {
        let reporter = Reporter {
            controller: rds_crds::names::DOMAIN.to_owned(),
            instance: Some(instance.to_owned()),
        };
        Self {
            client,
            reporter,
            said: HashMap::new(),
            attachments,
            queue,
        }
    }

    /// A recorder counts up what differs in its note only, under the first note: whoever is refused a second time for another
    /// reason would read the first one. So each note begins anew.
    fn recorder(&mut self, event: &Event, about: &ObjectReference) -> Recorder {
        if self.said.len() >= NOTES {
            self.said.clear();
        }
        let second = event.secondary.as_ref().and_then(|s| s.name.clone());
        let note = event.note.clone().unwrap_or_default();
        match self.said.entry((about.uid.clone(), event.reason.clone(), second)) {
            Entry::Occupied(known) if known.get().0 == note => known.get().1.clone(),
            entry @ (Entry::Occupied(_) | Entry::Vacant(_)) => {
                let fresh = Recorder::new(self.client.clone(), self.reporter.clone());
                entry.insert_entry((note, fresh.clone()));
                fresh
            }
        }
    }

    /// Runs until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while let Some(Some((event, about))) = stop.run_until_cancelled(self.queue.recv()).await {
            self.publish(&event, &about).await;
            if let Some(claim) = self.claim(&event, &about).await {
                let volume = about.name.as_deref().unwrap_or_default();
                let note = event.note.as_deref().unwrap_or_default();
                let told = Event {
                    note: Some(cut(format!("[{volume}] {note}"))),
                    ..event
                };
                self.publish(&told, &claim).await;
            }
        }
    }

    async fn publish(&mut self, event: &Event, about: &ObjectReference) {
        match self.recorder(event, about).publish(event, about).await {
            Ok(()) => self.attachments.posted(&event.reason),
            Err(error) => debug!(%error, reason = event.reason, "an event could not be posted"),
        }
    }

    /// The claim that this event concerns too. Users look at their claim, and may not see what is of cluster scope. It is found
    /// through the PersistentVolume; what has none concerns no claim (B84).
    async fn claim(&self, event: &Event, about: &ObjectReference) -> Option<ObjectReference> {
        if about.kind.as_deref() != Some("RdsVolume") || !for_claims(event) {
            return None;
        }
        let volumes = match persistent_volumes_of(about.name.as_deref()?, &self.client).await {
            Ok(volumes) => volumes,
            Err(error) => {
                debug!(%error, reason = event.reason, "an event could not be posted on the claim");
                return None;
            }
        };
        let claim = volumes.into_iter().find_map(|volume| volume.spec?.claim_ref)?;
        Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("PersistentVolumeClaim".to_owned()),
            namespace: claim.namespace,
            name: claim.name,
            uid: claim.uid,
            ..ObjectReference::default()
        })
    }
}

fn for_claims(event: &Event) -> bool {
    matches!(event.type_, EventType::Warning) || FOR_CLAIMS.contains(&event.reason.as_str())
}
