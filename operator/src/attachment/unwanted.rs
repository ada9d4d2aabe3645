//! RdsAttachments that nobody wants any more, and nobody will ask to end: csi-attacher asks for a detach as long as there is a
//! VolumeAttachment, and somebody has taken its finalizer off, or an object store came back without it. Its node would hold the volume for
//! ever: no other node gets it, and a dead one is never lost, as nothing is being detached.
//!
//! Their deletion is the ordinary detach: the node has to say that it is disconnected, or to be proven off, or to be cut (I4). It comes late,
//! as attach-detach controllers make a VolumeAttachment again for a pod that runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::ResourceExt;
use rds_crds::RdsAttachment;
use rds_crds::names::{LABEL_MADE_BY, MADE_BY_CSI};
use tokio::time::Instant;

/// For so long no list may show that it is wanted. kube-controller-manager looks after its VolumeAttachments every minute.
const PATIENCE: Duration = Duration::from_secs(600);

/// An RdsAttachment that ControllerPublishVolume has made. One that a person wrote ends when that person says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) volume: String,
    pub(super) node: String,
}

/// Those that were made for csi-attacher and that nobody ends.
pub(super) fn asked_by_csi(all: impl Iterator<Item = RdsAttachment>) -> Vec<Asked> {
    let ours = all.filter(|a| {
        a.metadata.deletion_timestamp.is_none() && a.labels().get(LABEL_MADE_BY).is_some_and(|by| by == MADE_BY_CSI)
    });
    ours.filter_map(|a| {
        Some(Asked {
            name: a.name_any(),
            uid: a.uid()?,
            volume: a.spec.volume,
            node: a.spec.node,
        })
    })
    .collect()
}

/// Since when each was seen to be wanted by nobody, by UID.
#[derive(Debug, Default)]
pub(crate) struct Unwanted(Mutex<BTreeMap<String, Instant>>);

impl Unwanted {
    /// Those of `asked` that no list has wanted for [`PATIENCE`]. The lists are live and younger than `asked`.
    pub(super) fn ripe(
        &self,
        driver: &str,
        asked: Vec<Asked>,
        wishes: &[VolumeAttachment],
        volumes: &[PersistentVolume],
    ) -> Vec<Asked> {
        let now = Instant::now();
        let unwanted: Vec<Asked> = unwanted(driver, asked, wishes, volumes);
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.retain(|uid, _| unwanted.iter().any(|a| a.uid == *uid));
        unwanted
            .into_iter()
            .filter(|a| now.duration_since(*since.entry(a.uid.clone()).or_insert(now)) >= PATIENCE)
            .collect()
    }
}

/// Where it cannot be told which volume a VolumeAttachment means, nothing is said of its node.
fn unwanted(driver: &str, asked: Vec<Asked>, wishes: &[VolumeAttachment], volumes: &[PersistentVolume]) -> Vec<Asked> {
    let handles: BTreeMap<&str, &str> = volumes
        .iter()
        .filter_map(|pv| {
            let source = pv.spec.as_ref()?.csi.as_ref()?;
            Some((pv.metadata.name.as_deref()?, source.volume_handle.as_str()))
        })
        .collect();
    let (mut wanted, mut unclear) = (BTreeSet::new(), BTreeSet::new());
    for va in wishes.iter().filter(|w| w.spec.attacher == driver) {
        let node = va.spec.node_name.as_str();
        let volume = va.spec.source.persistent_volume_name.as_deref();
        match volume.and_then(|name| handles.get(name)) {
            Some(handle) => wanted.insert((*handle, node)),
            None => unclear.insert(node),
        };
    }
    let mut asked = asked;
    asked.retain(|a| !wanted.contains(&(a.volume.as_str(), a.node.as_str())) && !unclear.contains(a.node.as_str()));
    asked
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(volume: &str, node: &str) -> Asked {
        Asked {
            name: format!("{volume}.{node}"),
            uid: format!("{volume}.{node}"),
            volume: volume.into(),
            node: node.into(),
        }
    }

    fn va(driver: &str, pv: &str, node: &str) -> VolumeAttachment {
        serde_json::from_value(
            json!({"metadata": {"name": "w", "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"attacher": driver, "nodeName": node, "source": {"persistentVolumeName": pv}}}),
        )
        .unwrap()
    }

    fn pv(name: &str, handle: &str) -> PersistentVolume {
        serde_json::from_value(
            json!({"metadata": {"name": name}, "spec": {"csi": {"driver": "d", "volumeHandle": handle}}}),
        )
        .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_wants_for_ten_minutes_is_ended_and_nothing_else() {
        let volumes = [pv("pv-1", "by-hand"), pv("pv-2", "pv-2")];
        let wishes = [
            va("d", "pv-1", "n1"),     // wanted, under another name than that of the volume; even while it goes
            va("other", "pv-2", "n1"), // by another driver
            va("d", "gone", "n3"),     // nobody knows which volume
        ];
        let all = || {
            vec![
                asked("by-hand", "n1"),
                asked("pv-2", "n1"),
                asked("pv-2", "n2"),
                asked("pv-2", "n3"),
            ]
        };
        let seen = Unwanted::default();
        let ripe = |wishes: &[VolumeAttachment]| seen.ripe("d", all(), wishes, &volumes);
        assert!(ripe(&wishes).is_empty());
        tokio::time::advance(PATIENCE / 2).await;
        // Wanted once in between: its time begins anew.
        assert!(ripe(&[&wishes[..], &[va("d", "pv-2", "n2")]].concat()).is_empty());
        tokio::time::advance(PATIENCE / 2).await;
        assert_eq!(ripe(&wishes), [asked("pv-2", "n1")]);
        tokio::time::advance(PATIENCE).await;
        assert_eq!(ripe(&wishes), [asked("pv-2", "n1"), asked("pv-2", "n2")]);
    }

    #[test]
    fn what_a_person_wrote_or_ended_is_left_alone() {
        let made = |labels: serde_json::Value, deleted: Option<&str>| -> RdsAttachment {
            serde_json::from_value(
                json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsAttachment",
                "metadata": {"name": "a", "uid": "u", "labels": labels, "deletionTimestamp": deleted},
                "spec": {"volume": "v", "node": "n", "accessMode": "ReadWriteOnce"}}),
            )
            .unwrap()
        };
        let csi = json!({"rds.csi.srvlab.io/made-by": "csi"});
        let of = |a: RdsAttachment| asked_by_csi([a].into_iter()).len();
        assert_eq!(of(made(csi.clone(), None)), 1);
        assert_eq!(of(made(csi, Some("2026-01-01T00:00:00Z"))), 0);
        assert_eq!(of(made(json!({}), None)), 0);
        assert_eq!(of(made(json!({"rds.csi.srvlab.io/made-by": "self-test"}), None)), 0);
    }
}
