//! The writes of the protocol to the API server, one function each, with the field manager that owns the fields.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use rds_crds::condition::{Saying, clear_condition, find_condition, kind, set_condition};
use rds_crds::names::{DOMAIN, FINALIZER, manager};
use rds_crds::{RdsAttachment, RdsVolume, Reason};
use serde_json::json;

use crate::crash;
use crate::events::Announcer;
pub(crate) use crate::volume::ApiError;
use crate::volume::{applied_part, explain_use, tell_holders};

use super::admit::overdue;
use super::decide::{Owed, Seen};
use super::model::Refusal;
use super::observe::{ADMITTED, NODE_OFF, Outside, WITHDRAWN};

/// Crash points behind the writes.
pub(crate) const WRITES: [&str; 7] = [
    "withdraw",
    "grant",
    "deny",
    "forget-attachment",
    "drop-word",
    "say-use",
    "say-node-off",
];

/// The API server, for the protocol.
pub(crate) struct Store {
    volumes: crate::volume::Store,
    raw: Api<RdsVolume>,
    attachments: Api<RdsAttachment>,
    wrote: AtomicBool,
}

impl Store {
    pub(crate) fn new(client: &Client) -> Self {
        Self {
            volumes: crate::volume::Store::new(client),
            raw: Api::all(client.clone()),
            attachments: Api::all(client.clone()),
            wrote: AtomicBool::new(false),
        }
    }

    /// Whether an attachment was written: the cache is behind then.
    pub(crate) fn wrote(&self) -> bool {
        self.wrote.load(Ordering::Relaxed)
    }

    /// Compare-and-swap of the volume's status.
    pub(crate) async fn swap_status(&self, next: &RdsVolume) -> Result<RdsVolume, ApiError> {
        self.volumes.swap_status(next).await
    }

    /// Permission is withdrawn before anything else happens to a leaving holder.
    pub(crate) async fn withdraw(&self, outside: &Outside<'_>, uid: &str) -> Result<(), ApiError> {
        self.say(outside, uid, Some(false), WITHDRAWN, "it is being detached", None)
            .await?;
        crash::after(WRITES[0]);
        Ok(())
    }

    /// A person vouches that its node is off: that is said on the object before its holder goes, and nobody believes its agent's
    /// last word any more.
    pub(crate) async fn say_node_off(&self, outside: &Outside<'_>, uid: &str) -> Result<(), ApiError> {
        let message = "a person vouches that the node is off";
        self.say(outside, uid, Some(false), NODE_OFF, message, None).await?;
        crash::after(WRITES[6]);
        Ok(())
    }

    /// Says that the attachment is admitted, and with what to connect.
    pub(crate) async fn grant(&self, volume: &RdsVolume, outside: &Outside<'_>, uid: &str) -> Result<(), ApiError> {
        self.say(outside, uid, Some(true), ADMITTED, "the node may connect", Some(volume))
            .await?;
        crash::after(WRITES[1]);
        Ok(())
    }

    /// Says why it is not.
    pub(crate) async fn deny(
        &self,
        outside: &Outside<'_>,
        uid: &str,
        why: Refusal,
        text: &str,
    ) -> Result<(), ApiError> {
        self.say(outside, uid, Some(false), why.word(), text, None).await?;
        crash::after(WRITES[2]);
        Ok(())
    }

    async fn say(
        &self,
        outside: &Outside<'_>,
        uid: &str,
        status: Option<bool>,
        reason: &str,
        message: &str,
        granted: Option<&RdsVolume>,
    ) -> Result<(), ApiError> {
        let Some(attachment) = by_uid(outside, uid) else {
            return Ok(());
        };
        let mut conditions = attachment
            .status
            .as_ref()
            .map(|s| s.conditions.clone())
            .unwrap_or_default();
        let saying = Saying {
            kind: ADMITTED,
            status,
            reason,
            message: message.to_owned(),
        };
        set_condition(
            &mut conditions,
            saying,
            attachment.metadata.generation,
            Timestamp::now(),
        );
        let mut said = json!({"observedGeneration": attachment.metadata.generation, "conditions": conditions});
        let of = granted.and_then(|v| v.status.as_ref());
        if let (Some(status), Some(fields)) = (of, said.as_object_mut()) {
            let role = status.holders.iter().find(|h| h.attachment_uid == uid).map(|h| h.role);
            fields.insert("role".into(), json!(role));
            fields.insert("nqn".into(), json!(status.nqn));
            fields.insert("address".into(), json!(status.address));
            fields.insert("port".into(), json!(status.port));
            fields.insert("exportGeneration".into(), json!(status.export_generation));
        }
        let patch = json!({
            "apiVersion": format!("{DOMAIN}/v1alpha1"), "kind": "RdsAttachment",
            "metadata": {"name": attachment.name_any(), "uid": uid},
            "status": said,
        });
        self.wrote.store(true, Ordering::Relaxed);
        let params = PatchParams::apply(manager::OPERATOR).force();
        match self
            .attachments
            .patch_status(&attachment.name_any(), &params, &Patch::Apply(&patch))
            .await
        {
            Ok(_) => Ok(()),
            Err(error) => Err(ApiError::named(attachment.name_any(), error)),
        }
    }

    /// Lets the object go.
    pub(crate) async fn forget(&self, outside: &Outside<'_>, uid: &str) -> Result<(), ApiError> {
        let Some(attachment) = by_uid(outside, uid) else {
            return Ok(());
        };
        self.release_object(&attachment).await
    }

    /// Puts our finalizer back: without it the object would be gone before its node has let go.
    pub(crate) async fn protect(&self, attachment: &RdsAttachment) -> Result<(), ApiError> {
        let all: Vec<&str> = attachment
            .finalizers()
            .iter()
            .map(String::as_str)
            .chain([FINALIZER])
            .collect();
        let patch = json!({"metadata": {
            "uid": attachment.metadata.uid, "resourceVersion": attachment.metadata.resource_version, "finalizers": all,
        }});
        let params = PatchParams {
            field_manager: Some(manager::OPERATOR.to_owned()),
            ..PatchParams::default()
        };
        let name = attachment.name_any();
        match self.attachments.patch(&name, &params, &Patch::Merge(&patch)).await {
            // It has changed since, or is gone: whoever looks next sees what it is now.
            Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(()),
            Err(error) => Err(ApiError::named(name, error)),
            Ok(_) => Ok(()),
        }
    }

    /// Drops our finalizer from the object as it was read; gone already is no error.
    pub(crate) async fn release_object(&self, attachment: &RdsAttachment) -> Result<(), ApiError> {
        let rest: Vec<&String> = attachment.finalizers().iter().filter(|f| *f != FINALIZER).collect();
        let patch = json!({"metadata": {
            "uid": attachment.metadata.uid, "resourceVersion": attachment.metadata.resource_version, "finalizers": rest,
        }});
        self.wrote.store(true, Ordering::Relaxed);
        let params = PatchParams {
            field_manager: Some(manager::OPERATOR.to_owned()),
            ..PatchParams::default()
        };
        let done = self
            .attachments
            .patch(&attachment.name_any(), &params, &Patch::Merge(&patch))
            .await;
        crash::after(WRITES[3]);
        match done {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(ApiError::named(attachment.name_any(), error)),
            Ok(_) => Ok(()),
        }
    }

    /// A person's word was acted upon.
    pub(crate) async fn drop_annotation(&self, volume: &mut RdsVolume, name: &str) -> Result<(), ApiError> {
        let patch = json!({"metadata": {"uid": volume.metadata.uid, "annotations": {name: null}}});
        let params = PatchParams {
            field_manager: Some(manager::OPERATOR.to_owned()),
            ..PatchParams::default()
        };
        *volume = self
            .raw
            .patch(&volume.name_any(), &params, &Patch::Merge(&patch))
            .await
            .map_err(|e| ApiError::of(volume, e))?;
        crash::after(WRITES[4]);
        Ok(())
    }

    /// Says on the volume what fence is owed and why it waits; and who holds it.
    pub(crate) async fn say_fence(
        &self,
        volume: &mut RdsVolume,
        owed: Option<&Owed>,
        line: Option<String>,
        seen: &Seen,
        announcer: &Announcer,
    ) -> Result<(), ApiError> {
        let mut next = applied_part(volume);
        tell_holders(volume, &mut next);
        explain_use(&mut next, line);
        let overdue = overdue(&seen.volume, seen.now);
        let was = find_condition(&next.conditions, kind::MIGRATION_OVERDUE).is_some_and(|c| c.status == "True");
        match &overdue {
            Some(text) if !was => {
                let saying = Saying {
                    kind: kind::MIGRATION_OVERDUE,
                    status: Some(true),
                    reason: Reason::TimeIsOver.as_str(),
                    message: text.clone(),
                };
                set_condition(&mut next.conditions, saying, volume.metadata.generation, seen.now);
            }
            Some(_) => {}
            None => {
                clear_condition(&mut next.conditions, kind::MIGRATION_OVERDUE);
            }
        }
        match owed.filter(|owed| !owed.harmless) {
            Some(owed) => {
                let saying = Saying {
                    kind: kind::FENCE_PENDING,
                    status: Some(true),
                    reason: fence_reason(seen.volume.fence.is_some(), owed.deferred),
                    message: match owed.node.as_str() {
                        "" => owed.why.clone(),
                        node => format!("node {node}: {}", owed.why),
                    },
                };
                set_condition(
                    &mut next.conditions,
                    saying,
                    volume.metadata.generation,
                    Timestamp::now(),
                );
            }
            None => {
                clear_condition(&mut next.conditions, kind::FENCE_PENDING);
            }
        }
        if applied_part(volume) == next {
            return Ok(());
        }
        let new = find_condition(&next.conditions, kind::FENCE_PENDING).filter(|c| {
            let old = volume
                .status
                .as_ref()
                .and_then(|s| find_condition(&s.conditions, kind::FENCE_PENDING));
            old.is_none_or(|o| o.reason != c.reason)
        });
        if let Some(c) = new {
            announcer.fence_pending(volume, &c.message);
        }
        if let Some(text) = overdue.filter(|_| !was) {
            announcer.migration_overdue(volume, &text);
        }
        *volume = self.volumes.apply_status(volume, &next).await?;
        crash::after(WRITES[5]);
        Ok(())
    }
}

/// One that was begun keeps the word that the volume's own pass has said of it: it is no other one, and no news, each time.
fn fence_reason(begun: bool, deferred: bool) -> &'static str {
    match (begun, deferred) {
        (true, _) => Reason::Cutting.as_str(),
        (false, true) => Reason::Deferred.as_str(),
        (false, false) => Reason::Waiting.as_str(),
    }
}

fn by_uid(outside: &Outside<'_>, uid: &str) -> Option<Arc<RdsAttachment>> {
    outside.world.attachments.of_uid(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_that_was_begun_keeps_its_word() {
        for deferred in [false, true] {
            assert_eq!(fence_reason(true, deferred), Reason::Cutting.as_str());
            assert_ne!(fence_reason(false, deferred), Reason::Cutting.as_str());
        }
    }
}
