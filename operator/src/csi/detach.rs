//! ControllerUnpublishVolume: delete the RdsAttachment by UID, wait until it is gone. OK means gone (I4).
//!
//! The operator removes its finalizer only after the node let go, has rebooted, or was cut at the target; only OK from here
//! lets Kubernetes attach the volume elsewhere.

use std::time::Duration;

use futures::future::join_all;
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use rds_crds::condition::{find_condition, kind};
use rds_crds::identity::attachment_name;
use rds_crds::{RdsAttachment, RdsVolume};
use tokio::time::{Instant, sleep, timeout_at};

use super::attach::closing;
use super::failure::Failure;
use super::{Csi, LAG, STEPS, could_be_a_name, is_code, rpc};
use crate::attachment::DISCONNECTED;
use crate::crash;
use crate::world::WaitEnded;

/// How long a call waits for a fence: it may need a person, and one of few workers of csi-attacher waits with it.
const FENCE_PATIENCE: Duration = Duration::from_secs(10);

/// Whether other nodes have the volume still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    Nobody,
    Others,
}

/// Pure: whether a lost node has to be cut before this volume changes hands, in the operator's words.
fn owed(volume: &RdsVolume) -> Option<String> {
    let status = volume.status.as_ref()?;
    let said = find_condition(&status.conditions, kind::FENCE_PENDING).filter(|c| c.status == "True");
    match (said, &status.fence) {
        (Some(said), _) => Some(said.message.clone()),
        (None, Some(fence)) => Some(format!("node {} is being cut at the target", fence.node)),
        (None, None) => None,
    }
}

/// Pure: what to answer while the attachment is still there.
fn not_yet(volume: &str, node: &str, attachment: Option<&RdsAttachment>, owed: Option<String>) -> Failure {
    let agent = attachment
        .and_then(|a| a.status.as_ref())
        .and_then(|s| s.agent.as_ref());
    let said = agent.and_then(|a| {
        find_condition(&a.conditions, DISCONNECTED).or_else(|| find_condition(&a.conditions, "Connected"))
    });
    let waits = owed.unwrap_or_else(|| match said {
        Some(c) => format!("node {node} said {} {}: {}", c.type_, c.status, c.message),
        None => format!("node {node} has not said that it is disconnected; check rds-node-agent there"),
    });
    Failure::Busy(format!(
        "volume {volume} is not detached from node {node} yet ({waits}): call again, and see `kubectl describe rdsvolume \
         {volume}`"
    ))
}

impl Csi {
    pub(super) async fn detach(&self, volume: &str, node: &str, deadline: Instant) -> Result<Left, Failure> {
        rpc::about(volume);
        if volume.is_empty() {
            return Err(Failure::Invalid(
                "volume_id is empty: say which volume to detach".into(),
            ));
        }
        if !could_be_a_name(volume) {
            // Nothing of that name can be attached.
            return Ok(Left::Nobody);
        }
        if node.is_empty() {
            // From all nodes (B27). All are asked at once; each is waited for.
            let what = format!("list the RdsAttachments of volume {volume}");
            let api: Api<RdsAttachment> = Api::all(self.world.client.clone());
            let all = api
                .list(&ListParams::default())
                .await
                .map_err(|e| Failure::api(&what, &e))?;
            let of_it = all.items.iter().filter(|a| a.spec.volume == volume);
            let ended = of_it.map(|a| self.detach_one(volume, &a.spec.node, deadline));
            join_all(ended).await.into_iter().collect::<Result<Vec<()>, _>>()?;
            return Ok(Left::Nobody);
        }
        self.detach_one(volume, node, deadline).await?;
        let attachments = self.world.attachments.of_volume(volume);
        let others = attachments.iter().any(|a| a.spec.node != node);
        Ok(if others { Left::Others } else { Left::Nobody })
    }

    async fn detach_one(&self, volume: &str, node: &str, deadline: Instant) -> Result<(), Failure> {
        let _guard = self.in_flight.enter(&format!("{volume} on node {node}"))?;
        let name = attachment_name(volume, node);
        let started = Instant::now();
        let mut looked = false;
        loop {
            // Only a fresh read proves absence.
            let Some(found) = self.live_attachment(&name).await? else {
                return self.nobody_holds(volume, node).await;
            };
            if found.spec.volume != volume || found.spec.node != node {
                // A name is a hash of the node: this one belongs to another, ours does not exist.
                return Ok(());
            }
            // The cache is behind, or it is another one: not at once again.
            if looked && timeout_at(deadline, sleep(LAG)).await.is_err() {
                return Err(self.attached_still(volume, node, &name));
            }
            let uid = found.uid().unwrap_or_default();
            if found.meta().deletion_timestamp.is_none() {
                self.end(&name, &uid).await?;
            }
            match self.gone(volume, &name, &uid, started, deadline).await {
                Ok(()) => {}
                Err(WaitEnded::Closing) => return Err(closing(volume, node, "detached from")),
                Err(WaitEnded::Deadline) => return Err(self.attached_still(volume, node, &name)),
            }
            looked = true;
        }
    }

    /// Without its RdsAttachment a node can still be a holder: somebody has removed the object by force. One whose fence is deferred is
    /// a holder too, and its detach is done. The cache tells when to ask; its word alone is too old.
    async fn nobody_holds(&self, volume: &str, node: &str) -> Result<(), Failure> {
        let holds = |v: &RdsVolume| {
            let status = v.status.as_ref();
            status.is_some_and(|s| s.holders.iter().any(|h| h.node == node && h.deferred.is_none()))
        };
        if !self.world.volumes.get(volume).is_some_and(|v| holds(&v))
            || !self.live(volume).await?.is_some_and(|v| holds(&v))
        {
            return Ok(());
        }
        Err(Failure::Busy(format!(
            "volume {volume} is not detached from node {node} yet: its RdsAttachment was removed by force, and the RdsVolume still \
             records the node. Call again, and see `kubectl describe rdsvolume {volume}`"
        )))
    }

    fn attached_still(&self, volume: &str, node: &str, name: &str) -> Failure {
        let owed = self.world.volumes.get(volume).as_deref().and_then(owed);
        not_yet(volume, node, self.world.attachments.get(name).as_deref(), owed)
    }

    /// Deletes that object, if it is still that one.
    async fn end(&self, name: &str, uid: &str) -> Result<(), Failure> {
        let api: Api<RdsAttachment> = Api::all(self.world.client.clone());
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match api.delete(name, &parameters).await {
            Ok(_) => {
                crash::after(STEPS[1]);
                Ok(())
            }
            // Gone, or another one: the next look tells.
            Err(e) if is_code(&e, 404) || is_code(&e, 409) => Ok(()),
            Err(e) => Err(Failure::api(&format!("delete RdsAttachment {name}"), &e)),
        }
    }

    /// Waits until the cache has that object no longer; not longer than [`FENCE_PATIENCE`] while a fence is owed.
    async fn gone(
        &self,
        volume: &str,
        name: &str,
        uid: &str,
        started: Instant,
        deadline: Instant,
    ) -> Result<(), WaitEnded> {
        let (attachments, closing) = (&self.world.attachments, &self.world.closing);
        let gone = |seen: Option<&RdsAttachment>| {
            seen.is_none_or(|a| a.metadata.uid.as_deref() != Some(uid))
                .then_some(())
        };
        let patience = deadline.min(started + FENCE_PATIENCE);
        match attachments.wait(name, patience, closing, gone).await {
            Err(WaitEnded::Deadline) if patience < deadline => {}
            ended => return ended,
        }
        tokio::select! {
            ended = attachments.wait(name, deadline, closing, gone) => ended,
            owing = self.world.volumes.wait(volume, deadline, closing, |v| v.and_then(owed)) => {
                Err(owing.err().unwrap_or(WaitEnded::Deadline))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tonic::Code;

    use super::*;
    use crate::csi::Settings;
    use crate::csi::tests::fake::Bench;

    fn condition(kind: &str, status: &str) -> Value {
        json!({"type": kind, "status": status, "reason": "Some", "message": "because of the test",
               "lastTransitionTime": "2026-01-01T00:00:00Z"})
    }

    #[test]
    fn r75_an_unfinished_detach_says_what_it_waits_for() {
        let attachment = |conditions: Value| -> RdsAttachment {
            serde_json::from_value(json!({
                "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsAttachment", "metadata": {"name": "a"},
                "spec": {"volume": "pvc-1", "node": "n1", "accessMode": "ReadWriteOnce"},
                "status": {"agent": {"conditions": conditions}},
            }))
            .unwrap()
        };
        let busy = attachment(json!([condition("Connected", "True")]));
        let silent = attachment(json!([]));
        for (seen, owed, wanted) in [
            (Some(&busy), None, "node n1 said Connected True: because of the test"),
            (Some(&silent), None, "check rds-node-agent there"),
            (None, None, "check rds-node-agent there"),
            (Some(&busy), Some("node n1 is lost".to_owned()), "node n1 is lost"),
        ] {
            let failure = not_yet("pvc-1", "n1", seen, owed);
            let text = failure.to_string();
            assert_eq!(failure.code(), Code::Aborted);
            assert!(text.contains(wanted) && text.contains("call again"), "{text}");
            assert!(text.contains("volume pvc-1 is not detached from node n1"), "{text}");
        }
    }

    fn volume(status: Value) -> RdsVolume {
        serde_json::from_value(json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume", "metadata": {"name": "pvc-1"},
            "spec": {"server": "default", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"]}, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_fence_is_owed_when_the_operator_says_so() {
        assert_eq!(owed(&volume(json!({}))), None);
        assert_eq!(
            owed(&volume(json!({"conditions": [condition("FencePending", "False")]}))),
            None
        );
        let said = owed(&volume(json!({"conditions": [condition("FencePending", "True")]})));
        assert_eq!(said.as_deref(), Some("because of the test"));
        let fence = json!({"node": "n1", "attachmentUID": "u", "phase": "Cutting", "nqn": "q", "startedAt": "2026-01-01T00:00:00Z"});
        assert!(owed(&volume(json!({"fence": fence}))).unwrap().contains("n1"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_fence_is_waited_for_ten_seconds_and_a_node_until_the_deadline() {
        let bench = Bench::with_nodes(Some).await;
        let attachment = json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsAttachment", "metadata": {"name": "a", "uid": "u"},
            "spec": {"volume": "pvc-1", "node": "n1", "accessMode": "ReadWriteOnce"},
        });
        bench.put(attachment);
        let settings = Settings {
            driver_name: String::new(),
            call_timeout: Duration::ZERO,
        };
        let csi = Csi::new(bench.world.clone(), settings, bench.telemetry.clone());
        let took = async || {
            let started = Instant::now();
            let ended = csi
                .gone("pvc-1", "a", "u", started, started + Duration::from_secs(60))
                .await;
            assert_eq!(ended, Err(WaitEnded::Deadline));
            started.elapsed().as_secs()
        };
        assert_eq!(took().await, 60);
        let owing = || {
            let mut object =
                serde_json::to_value(volume(json!({"conditions": [condition("FencePending", "True")]}))).unwrap();
            object["kind"] = json!("RdsVolume");
            bench.put(object);
        };
        let later = async {
            sleep(Duration::from_secs(30)).await;
            owing();
        };
        assert_eq!(tokio::join!(took(), later).0, 30);
        assert_eq!(took().await, 10);
        let gone = async {
            sleep(Duration::from_secs(5)).await;
            bench.take("a");
        };
        let started = Instant::now();
        let (ended, ()) = tokio::join!(
            csi.gone("pvc-1", "a", "u", started, started + Duration::from_secs(60)),
            gone
        );
        assert_eq!((ended, started.elapsed().as_secs()), (Ok(()), 5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deferred_fence_lets_its_detach_end_and_a_removed_object_does_not() {
        let bench = Bench::with_nodes(Some).await;
        let settings = Settings {
            driver_name: String::new(),
            call_timeout: Duration::ZERO,
        };
        let csi = Csi::new(bench.world.clone(), settings, bench.telemetry.clone());
        let detach = async |deferred: Value| {
            let mut object = serde_json::to_value(volume(json!({"holders": [
                {"node": "n1", "attachmentUID": "u1", "role": "Primary", "since": "2026-01-01T00:00:00Z", "deferred": deferred},
                {"node": "n2", "attachmentUID": "u2", "role": "MigrationTarget", "since": "2026-01-01T00:00:00Z"}]})))
            .unwrap();
            object["kind"] = json!("RdsVolume");
            bench.put(object);
            csi.detach("pvc-1", "n1", Instant::now() + Duration::from_secs(20))
                .await
        };
        let forced = detach(Value::Null).await.unwrap_err();
        assert_eq!(forced.code(), Code::Aborted);
        assert!(forced.to_string().contains("removed by force"), "{forced}");
        assert_eq!(
            detach(json!({"at": "2026-01-01T00:00:00Z"})).await.unwrap(),
            Left::Nobody
        );
    }
}
