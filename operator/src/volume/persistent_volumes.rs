//! Which PersistentVolumes stand behind a volume, read live: data is removed on this word (D2), so never from a cache.
//!
//! The handle is no field that the API server selects by, and a PersistentVolume may have any name: a claim that was moved has another
//! one than the volume. So all of them are listed, in pages; whoever asks while a list is under way shares the next one, which makes two
//! lists of a thousand deletions at once.

use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use rds_crds::Reason;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::model::{Backing, Fact, PersistentVolumeSeen, Problem};

/// PersistentVolumes in one answer of the API server.
const PAGE: u32 = 500;

/// Reads the PersistentVolumes for whoever asks.
pub(crate) struct PersistentVolumes {
    volumes: Api<PersistentVolume>,
    last: Mutex<Option<List>>,
}

/// All PersistentVolumes with a handle, as they were at some moment after `began`.
struct List {
    began: Instant,
    all: Vec<(String, PersistentVolumeSeen)>,
}

impl PersistentVolumes {
    pub(crate) fn new(client: &Client) -> Self {
        Self {
            volumes: Api::all(client.clone()),
            last: Mutex::default(),
        }
    }

    /// The PersistentVolumes with this handle, from a list that began after this call.
    pub(crate) async fn of(&self, handle: &str) -> Fact<Backing> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        let list = match last.take().filter(|list| list.began >= asked) {
            Some(list) => list,
            None => match self.list().await {
                Ok(list) => list,
                Err(error) => {
                    return Fact::Unknown(Problem {
                        reason: Reason::InternalError,
                        message: format!("cannot read the PersistentVolumes: {error}"),
                        unknown: false,
                        incomplete: false,
                    });
                }
            },
        };
        let ours = list.all.iter().filter(|(of, _)| of == handle);
        let backing = Backing {
            volumes: ours.map(|(_, seen)| seen.clone()).collect(),
        };
        *last = Some(list);
        Fact::Known(backing)
    }

    async fn list(&self) -> Result<List, kube::Error> {
        let began = Instant::now();
        let mut all = Vec::new();
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let list = self.volumes.list(&page).await?;
            all.extend(list.items.iter().filter_map(seen));
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(List { began, all }),
            }
        }
    }
}

/// The PersistentVolumes with this handle, for what removes nothing: that of a claim bears the volume's name (K1), others may have any.
pub(crate) async fn persistent_volumes_of(volume: &str, client: &Client) -> Result<Vec<PersistentVolume>, kube::Error> {
    let handle = |pv: &PersistentVolume| {
        let csi = pv.spec.as_ref().and_then(|s| s.csi.as_ref());
        csi.is_some_and(|csi| csi.volume_handle == volume)
    };
    let api: Api<PersistentVolume> = Api::all(client.clone());
    match api.get_opt(volume).await?.filter(handle) {
        Some(pv) => Ok(vec![pv]),
        None => Ok(api
            .list(&ListParams::default())
            .await?
            .items
            .into_iter()
            .filter(handle)
            .collect()),
    }
}

fn seen(pv: &PersistentVolume) -> Option<(String, PersistentVolumeSeen)> {
    let spec = pv.spec.as_ref()?;
    let handle = spec.csi.as_ref()?.volume_handle.clone();
    let seen = PersistentVolumeSeen {
        name: pv.name_any(),
        bound: pv.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound"),
        retain: spec.persistent_volume_reclaim_policy.as_deref() == Some("Retain"),
    };
    Some((handle, seen))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;
    use kube::client::Body;
    use serde_json::{Value, json};
    use tonic::codegen::http::{Request, Response};

    use super::*;

    fn pv(name: &str, handle: &str, phase: &str, policy: &str) -> Value {
        json!({"metadata": {"name": name}, "status": {"phase": phase}, "spec": {
            "persistentVolumeReclaimPolicy": policy, "csi": {"driver": "d", "volumeHandle": handle}}})
    }

    /// An API server with two pages of PersistentVolumes, and how many requests it got.
    fn server() -> (Client, Arc<AtomicUsize>) {
        let requests = Arc::new(AtomicUsize::new(0));
        let count = requests.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                let second = request.uri().query().is_some_and(|q| q.contains("continue=more"));
                let (items, next) = match second {
                    false => (
                        vec![
                            pv("pvc-1", "pvc-1", "Released", "Delete"),
                            json!({"metadata": {"name": "local"}}),
                        ],
                        "more",
                    ),
                    true => (
                        vec![
                            pv("moved", "pvc-1", "Bound", "Retain"),
                            pv("b", "pvc-2", "Bound", "Delete"),
                        ],
                        "",
                    ),
                };
                // As long as a real one takes: who asks meanwhile has to wait for the next list.
                tokio::task::yield_now().await;
                let list = json!({"apiVersion": "v1", "kind": "PersistentVolumeList", "metadata": {"continue": next}, "items": items});
                Ok::<_, Infallible>(Response::new(Body::from(serde_json::to_vec(&list).unwrap())))
            }
        });
        (Client::new(service, "default"), requests)
    }

    fn names(backing: Fact<Backing>) -> Vec<(String, bool, bool)> {
        let Fact::Known(backing) = backing else {
            panic!("{backing:?}")
        };
        backing
            .volumes
            .into_iter()
            .map(|v| (v.name, v.bound, v.retain))
            .collect()
    }

    #[tokio::test]
    async fn d2_every_persistentvolume_with_the_handle_counts_whatever_its_name() {
        let (client, _) = server();
        let seen = names(PersistentVolumes::new(&client).of("pvc-1").await);
        assert_eq!(
            seen,
            [("pvc-1".to_owned(), false, false), ("moved".to_owned(), true, true)]
        );
    }

    #[tokio::test]
    async fn many_deletions_share_a_list_and_no_deletion_an_older_one() {
        let (client, requests) = server();
        let persistent_volumes = PersistentVolumes::new(&client);
        let all = join_all((0..100).map(|_| persistent_volumes.of("pvc-2"))).await;
        assert!(all.into_iter().all(|backing| names(backing).len() == 1));
        let burst = requests.swap(0, Ordering::Relaxed);
        assert!(burst <= 4, "{burst} requests for two pages, twice at most");
        names(persistent_volumes.of("pvc-2").await);
        assert_eq!(
            requests.load(Ordering::Relaxed),
            2,
            "what was listed before it asked says nothing"
        );
    }
}
