//! Pods come and go, and their data stays.

use anyhow::{Context, Result, ensure};
use e2e::vm::pods::{STAY, Volume, Work};
use e2e::wait_until;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;

use crate::world::{HOME, LONG, World};

/// The pod of a StatefulSet is deleted, and its successor on the same node finds what it left.
pub(crate) async fn statefulset(world: &World) -> Result<()> {
    let lab = &world.lab;
    let [_, node] = world.nodes();
    world.home().await?;
    let line = "[ -e /data/diary ] || head -c 1048576 /dev/urandom >/data/diary; \
                sha256sum </data/diary >>/data/starts; sync; touch /tmp/done";
    let work = Work {
        name: "photos",
        node: &node.name,
        claim: HOME,
        volume: Volume::Mounted,
        line: &format!("{line}; {STAY}"),
    };
    let mut pod = work.manifest()["spec"].take();
    pod["restartPolicy"] = json!("Always");
    // There is no template of claims: the claim with the name that the controller would give it is there.
    let spec = pod.as_object_mut().context("a spec")?;
    spec.remove("volumes");
    let labels = json!({"app": "photos"});
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "photos", "namespace": "default"}, "spec": {
        "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}],
    }});
    lab.kubectl().apply(&set).await?;
    let starts = async || {
        lab.running("photos-0").await?;
        let what = "the pod of the StatefulSet to have done its work";
        let waited = wait_until(what, LONG, async || {
            node.exec("photos", "cat /tmp/done /data/starts").await
        });
        lab.explained_pod(waited.await, "photos-0").await
    };
    let first = starts().await?;
    let uid = lab.pods().get("photos-0").await?.uid();
    lab.pods().delete("photos-0", &DeleteParams::default()).await?;
    let what = "the StatefulSet to make its pod again";
    wait_until(what, LONG, async || {
        let now = lab.pods().get("photos-0").await?.uid();
        ensure!(now != uid, "the old one is there");
        Ok(())
    })
    .await?;
    let second = starts().await?;
    ensure!(
        second == format!("{first}\n{first}"),
        "the first pod had\n{first}\nand then there was\n{second}"
    );
    let away = [
        "delete",
        "statefulset",
        "photos",
        "--cascade=foreground",
        "--timeout=240s",
    ];
    lab.kubectl().run(&away).await.map(drop)
}
