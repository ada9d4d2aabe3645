//! The admission policies and the rights that are shipped, on a real API server: what may not be deleted by mistake, what the
//! refusal says, the way through; and what the controller's account may not do. No operator runs here.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::kubectl::Kubectl;
use e2e::{Cluster, lab, wait_until};
use kube::api::{Api, DeleteParams, ListParams};
use rds_crds::{RdsVolume, names};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

const OPERATOR: &str = "system:serviceaccount:rds-csi:rds-csi-controller";
const DRY: &str = "--dry-run=server";

async fn cluster() -> Result<&'static Cluster> {
    CLUSTER.get_or_try_init(|| ready("policy")).await
}

/// A cluster in which every policy is in force, which takes a second or two after it was accepted.
async fn ready(name: &str) -> Result<Cluster> {
    let cluster = Cluster::start(name).await?;
    let kubectl = cluster.kubectl();
    lab::install(kubectl).await?;
    apply(
        kubectl,
        &[
            server("probe"),
            secret("probe", "rds-csi"),
            volume("probe", true),
            attachment("probe"),
        ],
    )
    .await?;
    counted(kubectl, "probe", 1).await?;
    for target in [
        ["rdsserver", "probe"],
        ["rdsvolume", "probe"],
        ["rdsattachment", "probe"],
        ["secret", "probe"],
        ["namespace", "rds-csi"],
        ["crd", "rdsvolumes.rds.csi.srvlab.io"],
    ] {
        let [kind, object] = target;
        wait_until(&format!("the policy on {kind}"), Duration::from_secs(60), async || {
            kubectl
                .refused(&["delete", kind, object, "-n", "rds-csi", DRY], None)
                .await
        })
        .await?;
    }
    Ok(cluster)
}

async fn apply(kubectl: &Kubectl, objects: &[Value]) -> Result<String> {
    kubectl
        .apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}))
        .await
}

fn server(name: &str) -> Value {
    json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsServer", "metadata": {"name": name}, "spec": {
        "management": {"address": "192.0.2.1", "user": "csi"},
        "secretRef": {"name": name},
        "storage": {"address": "192.0.2.2"},
        "basePath": "/storage-pool/metal-csi",
    }})
}

fn volume(name: &str, by_csi: bool) -> Value {
    let labels = if by_csi {
        json!({names::LABEL_MADE_BY: names::MADE_BY_CSI})
    } else {
        json!({})
    };
    json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume", "metadata": {"name": name, "labels": labels}, "spec": {
        "server": "probe", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"],
    }})
}

fn attachment(name: &str) -> Value {
    json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsAttachment", "metadata": {"name": name}, "spec": {
        "volume": "probe", "node": "node-1", "accessMode": "ReadWriteOnce",
    }})
}

fn secret(name: &str, namespace: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}})
}

async fn counted(kubectl: &Kubectl, server: &str, volumes: u32) -> Result<String> {
    let status = json!({"status": {"volumes": volumes}}).to_string();
    kubectl
        .run(&[
            "patch",
            "rdsserver",
            server,
            "--subresource=status",
            "--type=merge",
            "-p",
            &status,
        ])
        .await
}

/// Deletion is refused with all of these words.
async fn refused(kubectl: &Kubectl, arguments: &[&str], words: &[&str]) -> Result<()> {
    let said = kubectl.refused(&[&["delete"], arguments].concat(), None).await?;
    for word in words {
        ensure!(
            said.contains(word),
            "`kubectl delete {}` was refused without `{word}`:\n{said}",
            arguments.join(" ")
        );
    }
    Ok(())
}

/// The annotation with another name changes nothing; with the right one the deletion passes.
async fn passes_when_confirmed(kubectl: &Kubectl, kind: &str, name: &str) -> Result<()> {
    let annotate = async |value: &str| {
        let annotation = format!("{}={value}", names::ANNOTATION_CONFIRM_DELETE);
        kubectl
            .run(&["annotate", kind, name, "-n", "rds-csi", "--overwrite", &annotation])
            .await
    };
    let delete = ["delete", kind, name, "-n", "rds-csi", DRY];
    annotate("another").await?;
    kubectl
        .refused(&delete, None)
        .await
        .context("confirmed for another object")?;
    annotate(name).await?;
    kubectl.run(&delete).await.context("confirmed")?;
    Ok(())
}

#[test]
fn d2_a_definition_goes_only_when_confirmed() -> Result<()> {
    e2e::run(async {
        let kubectl = cluster().await?.kubectl();
        for (crd, kind) in [
            ("rdsservers.rds.csi.srvlab.io", "RdsServer"),
            ("rdsvolumes.rds.csi.srvlab.io", "RdsVolume"),
            ("rdsattachments.rds.csi.srvlab.io", "RdsAttachment"),
        ] {
            let confirm = format!("kubectl annotate crd {crd} rds.csi.srvlab.io/confirm-delete={crd}");
            refused(kubectl, &["crd", crd, DRY], &[kind, "To uninstall", &confirm]).await?;
        }
        passes_when_confirmed(kubectl, "crd", "rdsattachments.rds.csi.srvlab.io").await?;
        // Left as it was for the other tests.
        let off = format!("{}-", names::ANNOTATION_CONFIRM_DELETE);
        kubectl
            .run(&["annotate", "crd", "rdsattachments.rds.csi.srvlab.io", &off])
            .await?;
        Ok(())
    })
}

#[test]
fn d2_a_volume_made_by_csi_goes_with_its_claim() -> Result<()> {
    e2e::run(async {
        let cluster = cluster().await?;
        let kubectl = cluster.kubectl();
        apply(
            kubectl,
            &[
                volume("claimed", true),
                volume("claimed-2", true),
                volume("by-hand", false),
            ],
        )
        .await?;
        let words = [
            "Forbidden",
            "delete the PersistentVolumeClaim",
            "persistentVolumeReclaimPolicy: Delete",
            "confirm-delete=claimed",
        ];
        refused(kubectl, &["rdsvolume", "claimed"], &words).await?;
        // A prune or a cascade is no better than a person.
        let collector = "--as=system:serviceaccount:kube-system:generic-garbage-collector";
        refused(
            kubectl,
            &["rdsvolume", "claimed", "--as-group=system:masters", collector],
            &words,
        )
        .await?;
        // A collection is asked object by object.
        let volumes: Api<RdsVolume> = Api::all(cluster.client());
        let all = ListParams::default().labels("rds.csi.srvlab.io/made-by=csi");
        let said = volumes.delete_collection(&DeleteParams::default(), &all).await;
        let said = said.err().map(|error| error.to_string()).unwrap_or_default();
        ensure!(
            said.contains("delete the PersistentVolumeClaim"),
            "a collection was deleted: {said}"
        );

        passes_when_confirmed(kubectl, "rdsvolume", "claimed").await?;
        kubectl
            .run(&["delete", "rdsvolume", "by-hand"])
            .await
            .context("written by hand")?;
        let operator = cluster.kubeconfig("rds-csi", "rds-csi-controller", None).await?;
        let volumes: Api<RdsVolume> = Api::all(e2e::cluster::client(&operator).await?);
        volumes
            .delete("claimed-2", &DeleteParams::default())
            .await
            .context("the operator, for DeleteVolume")?;
        Ok(())
    })
}

#[test]
fn d2_the_label_that_keeps_the_data_of_a_claim_is_not_lost_by_the_way() -> Result<()> {
    e2e::run(async {
        let kubectl = cluster().await?.kubectl();
        apply(kubectl, &[volume("labelled", true)]).await?;
        let off = format!("{}-", names::LABEL_MADE_BY);
        let unlabel = ["label", "rdsvolume", "labelled", &off];
        let dry = [&unlabel[..], &[DRY]].concat();
        let said = wait_until("the policy on labels", Duration::from_secs(60), async || {
            kubectl.refused(&dry, None).await
        })
        .await?;
        ensure!(said.contains("was made for a PersistentVolumeClaim"), "{said}");
        let bare = volume("labelled", false).to_string();
        kubectl
            .refused(&["replace", "-f", "-"], Some(&bare))
            .await
            .context("a replacement without the label")?;
        // All else stays free.
        kubectl.run(&["label", "rdsvolume", "labelled", "team=shop"]).await?;
        let confirm = format!("{}=labelled", names::ANNOTATION_CONFIRM_DELETE);
        kubectl.run(&["annotate", "rdsvolume", "labelled", &confirm]).await?;
        kubectl.run(&unlabel).await.map(drop)
    })
}

#[test]
fn an_attachment_is_ended_by_the_operator_only() -> Result<()> {
    e2e::run(async {
        let kubectl = cluster().await?.kubectl();
        apply(kubectl, &[attachment("held")]).await?;
        refused(
            kubectl,
            &["rdsattachment", "held", DRY],
            &[
                "node node-1 may use volume probe",
                "delete the pod",
                "confirm-delete=held",
            ],
        )
        .await?;
        kubectl
            .run(&["delete", "rdsattachment", "held", DRY, "--as", OPERATOR])
            .await?;
        passes_when_confirmed(kubectl, "rdsattachment", "held").await
    })
}

#[test]
fn a_server_with_volumes_stays() -> Result<()> {
    e2e::run(async {
        let kubectl = cluster().await?.kubectl();
        apply(kubectl, &[server("full")]).await?;
        let delete = ["delete", "rdsserver", "full", DRY];
        kubectl.run(&delete).await.context("never counted")?;
        counted(kubectl, "full", 2).await?;
        refused(
            kubectl,
            &["rdsserver", "full"],
            &["has 2 volume(s)", "kubectl get rdsvolumes", "confirm-delete=full"],
        )
        .await?;
        passes_when_confirmed(kubectl, "rdsserver", "full").await?;
        kubectl
            .run(&["annotate", "rdsserver", "full", "rds.csi.srvlab.io/confirm-delete-"])
            .await?;
        counted(kubectl, "full", 0).await?;
        kubectl.run(&delete).await.context("no volumes left")?;
        Ok(())
    })
}

#[test]
fn the_keys_of_an_appliance_stay_while_a_server_names_them() -> Result<()> {
    e2e::run(async {
        let kubectl = cluster().await?.kubectl();
        apply(
            kubectl,
            &[
                server("keyed"),
                secret("keyed", "rds-csi"),
                secret("unnamed", "rds-csi"),
                secret("keyed", "default"),
            ],
        )
        .await?;
        let target = ["secret", "keyed", "-n", "rds-csi"];
        let words = [
            "RdsServer keyed",
            "To rotate keys",
            "-n rds-csi annotate secret keyed",
            "confirm-delete=keyed",
        ];
        // The API server's own cache of RdsServers lags a moment.
        wait_until("the new RdsServer to count", Duration::from_secs(60), async || {
            refused(kubectl, &[&target[..], &[DRY]].concat(), &words).await
        })
        .await?;
        kubectl
            .run(&["delete", "secret", "unnamed", "-n", "rds-csi"])
            .await
            .context("named by no server")?;
        kubectl
            .run(&["delete", "secret", "keyed", "-n", "default"])
            .await
            .context("of another namespace")?;
        passes_when_confirmed(kubectl, "secret", "keyed").await?;
        let words = [
            "needs the operator and the Secret in this namespace",
            "confirm-delete=rds-csi",
        ];
        refused(kubectl, &["namespace", "rds-csi", DRY], &words).await?;
        Ok(())
    })
}

/// The documented order ends with nothing left, and nothing hangs.
#[test]
fn an_uninstallation_in_order_leaves_nothing() -> Result<()> {
    e2e::run(async {
        let cluster = ready("uninstall").await?;
        let kubectl = cluster.kubectl();
        counted(kubectl, "probe", 0).await?;
        // The operator would end these two.
        for kind in ["rdsvolume", "rdsattachment"] {
            kubectl.run(&["delete", kind, "probe", "--as", OPERATOR]).await?;
        }
        kubectl.run(&["delete", "rdsserver", "probe"]).await?;
        for kind in ["rdsservers", "rdsvolumes", "rdsattachments"] {
            let crd = format!("{kind}.rds.csi.srvlab.io");
            let confirm = format!("{}={crd}", names::ANNOTATION_CONFIRM_DELETE);
            kubectl.run(&["annotate", "crd", &crd, &confirm]).await?;
        }
        kubectl
            .run(&["delete", "-k", "config/default", "--timeout=60s"])
            .await?;
        let left = kubectl
            .run(&[
                "get",
                "crd,validatingadmissionpolicies,clusterroles,csidrivers,namespaces",
                "-o",
                "name",
            ])
            .await?;
        let ours: Vec<&str> = left.lines().filter(|line| line.contains("rds")).collect();
        ensure!(ours.is_empty(), "left: {ours:?}");
        Ok(())
    })
}

#[test]
fn i16_the_controller_has_the_rights_it_needs_and_no_more() -> Result<()> {
    e2e::run(async {
        let kubectl = cluster().await?.kubectl();
        let own = ["-n", "rds-csi"];
        let other = ["-n", "default"];
        for (may, what, namespace) in [
            ("yes", "patch rdsvolumes.rds.csi.srvlab.io/status", own),
            ("yes", "update rdsvolumes.rds.csi.srvlab.io/status", own),
            ("yes", "delete rdsvolumes.rds.csi.srvlab.io", own),
            ("yes", "patch rdsservers.rds.csi.srvlab.io", own),
            ("yes", "get secrets/rds-csi-secret", own),
            ("yes", "get namespaces/kube-system", own),
            ("yes", "patch leases.coordination.k8s.io", own),
            ("yes", "create events", other),
            ("yes", "patch persistentvolumeclaims/status", other),
            ("no", "list secrets", own),
            ("no", "watch secrets", own),
            ("no", "delete secrets", own),
            ("no", "get secrets/rds-csi-secret", other),
            ("no", "get secrets", ["-n", "kube-system"]),
            ("no", "get namespaces/default", own),
            ("no", "delete rdsservers.rds.csi.srvlab.io", own),
            ("no", "create rdsservers.rds.csi.srvlab.io", own),
            ("no", "delete persistentvolumeclaims", other),
            ("no", "update persistentvolumes", own),
            ("no", "deletecollection persistentvolumes", own),
            ("no", "deletecollection rdsvolumes.rds.csi.srvlab.io", own),
            ("no", "patch nodes", own),
            ("no", "delete nodes", own),
            ("yes", "patch volumeattachments.storage.k8s.io", own),
            ("yes", "patch volumeattachments.storage.k8s.io/status", own),
            ("no", "delete volumeattachments.storage.k8s.io", own),
            ("yes", "list pods", other),
            ("no", "get pods", other),
            ("no", "create pods", own),
            ("no", "get leases.coordination.k8s.io", other),
            ("no", "create csistoragecapacities.storage.k8s.io", other),
            ("no", "delete customresourcedefinitions.apiextensions.k8s.io", own),
            (
                "no",
                "update validatingadmissionpolicies.admissionregistration.k8s.io",
                own,
            ),
            ("no", "create serviceaccounts/token", own),
            ("no", "impersonate users", own),
            ("no", "escalate clusterroles.rbac.authorization.k8s.io", own),
        ] {
            let (verb, resource) = what.split_once(' ').context("a verb and a resource")?;
            // `name.group/sub`, `name/sub` of a subresource, `name/object` of one object.
            let (resource, sub) = match resource.split_once('/') {
                Some((resource, sub @ ("status" | "token"))) => {
                    (resource.to_owned(), Some(format!("--subresource={sub}")))
                }
                _ => (resource.to_owned(), None),
            };
            let mut arguments = vec!["auth", "can-i", verb, &resource, "--as", OPERATOR];
            arguments.extend(namespace);
            arguments.extend(sub.as_deref());
            let answer = kubectl.try_run(&arguments, None).await?;
            ensure!(
                answer.stdout.trim() == may,
                "may the controller {what} in {}: {} (wanted {may}) {}",
                namespace[1],
                answer.stdout,
                answer.stderr
            );
        }
        Ok(())
    })
}
