//! The shipped manifests against a real API server: all of it is accepted, applied twice it changes nothing, and what is wrong
//! is refused with a message that says what to do. No operator runs here.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::kubectl::Kubectl;
use e2e::{Cluster, lab, wait_until};
use rds_crds::Size;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

async fn kubectl() -> Result<&'static Kubectl> {
    let start = || async {
        let cluster = Cluster::start("crd").await?;
        lab::install(cluster.kubectl()).await?;
        anyhow::Ok(cluster)
    };
    Ok(CLUSTER.get_or_try_init(start).await?.kubectl())
}

fn server(name: &str) -> Value {
    json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsServer", "metadata": {"name": name}, "spec": {
        "management": {"address": "192.0.2.1", "user": "csi"},
        "secretRef": {"name": "rds-csi-secret"},
        "storage": {"address": "192.0.2.2"},
        "basePath": "/storage-pool/metal-csi",
    }})
}

fn volume(name: &str) -> Value {
    json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume", "metadata": {"name": name}, "spec": {
        "server": "default", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"],
    }})
}

/// The object with one field set (`Value::Null` removes it).
#[expect(clippy::unwrap_used, reason = "the pointers stand in this file")]
fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = object.pointer_mut(parent).and_then(Value::as_object_mut).unwrap();
    if value.is_null() {
        parent.remove(key);
    } else {
        parent.insert(key.into(), value);
    }
    object
}

async fn refusal(kubectl: &Kubectl, object: &Value) -> Result<String> {
    kubectl
        .refused(&["apply", "--dry-run=server", "-f", "-"], Some(&object.to_string()))
        .await
}

#[test]
fn all_kinds_are_served_with_their_columns_short_names_and_documentation() -> Result<()> {
    e2e::run(async {
        let kubectl = kubectl().await?;
        let kinds = kubectl.run(&["api-resources", "--api-group=rds.csi.srvlab.io"]).await?;
        for word in [
            "rdsservers",
            "rdssrv",
            "rdsvolumes",
            "rdsvol",
            "rdsattachments",
            "rdsatt",
        ] {
            ensure!(kinds.contains(word), "no {word} among\n{kinds}");
        }
        kubectl.run(&["get", "rds"]).await.context("the category rds")?;
        // The OpenAPI document follows a CRD with some delay.
        let explained = wait_until("kubectl explain rdsvolume.spec", Duration::from_secs(60), async || {
            kubectl.run(&["explain", "rdsvolume.spec"]).await
        })
        .await?;
        for field in ["capacity", "deletionPolicy", "accessModes", "server"] {
            let at = explained
                .find(&format!("  {field}\t"))
                .with_context(|| format!("no {field} in\n{explained}"))?;
            let said = explained[at..].lines().nth(1).unwrap_or_default();
            ensure!(
                !said.contains("<no description>"),
                "kubectl explain rdsvolume.spec.{field} teaches nothing"
            );
        }
        kubectl
            .run(&["get", "rdsattachments", "--field-selector", "spec.node=node-1"])
            .await
            .context("selectable spec.node")?;
        Ok(())
    })
}

#[test]
fn applying_the_same_again_changes_nothing() -> Result<()> {
    e2e::run(async {
        let kubectl = kubectl().await?;
        // Not by what kubectl prints: it says "configured" of lists that the server completes, though nothing changes.
        let all = ["get", "-k", "config/default", "-o"];
        let columns = "custom-columns=KIND:.kind,NAME:.metadata.name,GENERATION:.metadata.generation";
        let generations = [&all[..], &[columns]].concat();
        let before = kubectl.run(&generations).await?;
        kubectl.run(&["apply", "-k", "config/default"]).await?;
        let after = kubectl.run(&generations).await?;
        ensure!(before == after, "a second apply is no no-op:\n{before}\n{after}");
        let difference = kubectl.try_run(&["diff", "-k", "config/default"], None).await?;
        ensure!(
            difference.success && difference.stdout.is_empty(),
            "kubectl diff:\n{}",
            difference.stdout
        );

        // The Flux way: server-side apply.
        let object = volume("twice").to_string();
        let apply = ["apply", "--server-side", "-f", "-"];
        kubectl.try_run(&apply, Some(&object)).await?;
        let version = [
            "get",
            "rdsvolume",
            "twice",
            "-o",
            "jsonpath={.metadata.resourceVersion}",
        ];
        let before = kubectl.run(&version).await?;
        kubectl.try_run(&apply, Some(&object)).await?;
        ensure!(
            before == kubectl.run(&version).await?,
            "applying an RdsVolume again changed it"
        );
        Ok(())
    })
}

#[test]
fn good_objects_are_accepted_as_written() -> Result<()> {
    e2e::run(async {
        let kubectl = kubectl().await?;
        for object in [
            server("good"),
            with(
                server("good"),
                "/spec/limits",
                json!({"commandsInFlight": 2, "reserved": "10Gi"}),
            ),
            volume("good"),
            with(volume("good"), "/spec/capacity", json!(1_073_741_824)),
            with(volume("good"), "/spec/capacity", json!("1.5Ti")),
        ] {
            let dry = ["apply", "--dry-run=server", "-o", "json", "-f", "-"];
            let printed = kubectl.try_run(&dry, Some(&object.to_string())).await?;
            ensure!(printed.success, "{object} was refused: {}", printed.stderr);
            let stored: Value = serde_json::from_str(&printed.stdout)?;
            ensure!(
                stored["spec"] == object["spec"],
                "defaults were put into {}, which GitOps shows as drift",
                stored["spec"]
            );
        }
        Ok(())
    })
}

#[test]
fn bad_volumes_are_refused_with_words_that_help() -> Result<()> {
    e2e::run(async {
        let kubectl = kubectl().await?;
        let long = "v".repeat(64);
        let many = json!(["ReadWriteMany"]);
        for (object, words) in [
            (with(volume("bad"), "/spec/server", Value::Null), "spec.server"),
            (with(volume("bad"), "/spec/server", json!("")), "spec.server"),
            (
                with(volume("bad"), "/spec/capacity", json!("0")),
                "capacity must be between 1Mi and 16Ti",
            ),
            (
                with(volume("bad"), "/spec/capacity", json!(1)),
                "capacity must be between 1Mi and 16Ti",
            ),
            (
                with(volume("bad"), "/spec/capacity", json!(17_592_186_044_417_u64)),
                "capacity must be between 1Mi and 16Ti",
            ),
            (with(volume("bad"), "/spec/capacity", json!("-1Gi")), "capacity"),
            (
                with(volume("bad"), "/spec/capacity", json!("ten gigabytes")),
                "capacity",
            ),
            // Quantities of Kubernetes that the operator does not read.
            (
                with(volume("bad"), "/spec/capacity", json!("1.0000000000000000000Gi")),
                "capacity must be a number of bytes or a quantity",
            ),
            (
                with(volume("bad"), "/spec/capacity", json!("0.00000001e20")),
                "capacity must be a number of bytes or a quantity",
            ),
            // No appliance that is served takes more.
            (with(volume("bad"), "/spec/slot", json!("a".repeat(33))), "slot"),
            (
                with(volume("bad"), "/spec/accessModes", many.clone()),
                "ReadWriteMany needs volumeMode: Block",
            ),
            (with(volume("bad"), "/spec/accessModes", json!([])), "accessModes"),
            (
                with(volume("bad"), "/spec/accessModes", json!(["Sometimes"])),
                "Unsupported value",
            ),
            (with(volume("bad"), "/spec/fsType", json!("ntfs")), "Unsupported value"),
            (
                with(
                    with(volume("bad"), "/spec/fsType", json!("xfs")),
                    "/spec/volumeMode",
                    json!("Block"),
                ),
                "fsType goes with",
            ),
            (
                with(volume("bad"), "/spec/path", json!("/pool/../etc/x.img")),
                "spec.path",
            ),
            (with(volume("bad"), "/spec/path", json!("pool/x.img")), "spec.path"),
            (with(volume("bad"), "/spec/slot", json!("a b")), "spec.slot"),
            (
                with(volume("bad"), "/spec/slot", json!("a;/disk remove [find]")),
                "spec.slot",
            ),
            (with(volume("bad"), "/spec/slot", json!("$x")), "spec.slot"),
            (with(volume("bad"), "/spec/slot", json!("volumé")), "spec.slot"),
            (
                with(volume("bad"), "/spec/nqn", json!("nqn.2000-02.com.mikrotik")),
                "spec.nqn",
            ),
            (
                with(
                    volume("bad"),
                    "/spec/nqn",
                    json!(format!("nqn.2000-02.com.mikrotik:{}", "x".repeat(200))),
                ),
                "spec.nqn",
            ),
            (
                with(volume("bad"), "/spec/adopt", json!(true)),
                "adopt needs slot and path",
            ),
            (volume(&long), "at most 63 characters"),
        ] {
            let refused = refusal(kubectl, &object).await.with_context(|| object.to_string())?;
            ensure!(
                refused.contains(words),
                "{object}\nwas refused without `{words}`:\n{refused}"
            );
        }
        Ok(())
    })
}

#[test]
fn bad_servers_are_refused_with_words_that_help() -> Result<()> {
    e2e::run(async {
        let kubectl = kubectl().await?;
        for (pointer, value, words) in [
            ("/spec/management/user", json!("a b"), "spec.management.user"),
            ("/spec/management/address", json!("x; rm"), "spec.management.address"),
            ("/spec/management/port", json!(70_000), "spec.management.port"),
            (
                "/spec/storage/address",
                json!("not-an-address.example"),
                "spec.storage.address",
            ),
            ("/spec/basePath", json!("relative/path"), "spec.basePath"),
            ("/spec/basePath", json!("/pool/../etc"), "spec.basePath"),
            ("/spec/basePath", json!("/pool/a\nb"), "spec.basePath"),
            ("/spec/nqnPrefix", json!("pvc-"), "spec.nqnPrefix"),
            (
                "/spec/nqnPrefix",
                json!(format!("nqn.2000-02.com.mikrotik:{}", "x".repeat(200))),
                "spec.nqnPrefix",
            ),
            ("/spec/secretRef", Value::Null, "spec.secretRef"),
            ("/spec/fencing", json!("Maybe"), "Unsupported value"),
            ("/spec/limits", json!({"commandsInFlight": 0}), "commandsInFlight"),
            (
                "/spec/limits",
                json!({"reserved": "10GB"}),
                "such as 10Gi or 10G, without a B",
            ),
            ("/spec/limits", json!({"reserved": -1}), "at least 0 and at most 1Ei"),
            ("/spec/limits", json!({"reserved": 1.5}), "spec.limits.reserved"),
        ] {
            let refused = refusal(kubectl, &with(server("bad"), pointer, value.clone())).await;
            let refused = refused.with_context(|| format!("{pointer} = {value}"))?;
            ensure!(
                refused.contains(words),
                "{pointer} = {value} was refused without `{words}`:\n{refused}"
            );
        }
        Ok(())
    })
}

/// What the API server lets through the operator can read: otherwise the whole RdsServer is lost to it.
#[test]
fn a_reserve_is_accepted_only_if_it_can_be_read() -> Result<()> {
    e2e::run(async {
        let kubectl = kubectl().await?;
        let good = "0 1 +1 1. .5 1.5Ti 0.1 500m 3u 9n 1k 1M 1G 1T 1P 1E 1Ki 1Mi 1Pi 1Ei 1e9 1E3 1e+3 1e-18 1e18 0.123456789012345678";
        let bad = "-1 -0 lots 10GB 1gi 1.2.3 . Gi 8Ei 1e19 1e-19 0x10 ١Gi 0.1234567890123456789 99999999999999999999";
        let good: Vec<&str> = good.split(' ').collect();
        let bad: Vec<&str> = bad.split(' ').chain(["", "1 Gi", "1Gi\n"]).collect();
        for (texts, readable) in [(good, true), (bad, false)] {
            let one = |text: &&str| with(server("reserve"), "/spec/limits", json!({"reserved": text}));
            let named = texts
                .iter()
                .enumerate()
                .map(|(index, text)| with(one(text), "/metadata/name", json!(format!("reserve-{index}"))));
            let list = json!({"apiVersion": "v1", "kind": "List", "items": named.collect::<Vec<_>>()}).to_string();
            let printed = kubectl
                .try_run(&["apply", "--dry-run=server", "-f", "-"], Some(&list))
                .await?;
            for (index, text) in texts.iter().enumerate() {
                ensure!(text.parse::<Size>().is_ok() == readable, "{text:?}");
                let accepted = printed.stdout.contains(&format!("/reserve-{index} "));
                let name = format!("\"reserve-{index}\"");
                let mut lines = printed.stderr.lines();
                let helped = lines.any(|l| l.contains(&name) && l.contains("limits.reserved must be a number"));
                ensure!(
                    (accepted, helped) == (readable, !readable),
                    "{text:?}: {}{}",
                    printed.stdout,
                    printed.stderr
                );
            }
        }
        Ok(())
    })
}

#[test]
fn identity_stays_and_a_size_never_falls_below_what_was_measured() -> Result<()> {
    e2e::run(async {
        let kubectl = kubectl().await?;
        let mut stored = volume("identity");
        for (field, value) in [
            ("slot", "identity"),
            ("path", "/pool/identity.img"),
            ("nqn", "nqn.2000-02.com.mikrotik:pvc-x"),
        ] {
            stored = with(stored, &format!("/spec/{field}"), json!(value));
        }
        kubectl.apply(&stored).await?;
        let measured = r#"{"status":{"capacity":"2147483648"}}"#;
        kubectl
            .run(&[
                "patch",
                "rdsvolume",
                "identity",
                "--subresource=status",
                "--type=merge",
                "-p",
                measured,
            ])
            .await?;
        for (field, value, words) in [
            ("slot", json!("other"), "slot cannot change"),
            ("slot", Value::Null, "slot cannot change"),
            ("path", json!("/pool/other.img"), "path cannot change"),
            ("path", Value::Null, "path cannot change"),
            ("nqn", json!("nqn.2000-02.com.mikrotik:pvc-y"), "nqn cannot change"),
            ("nqn", Value::Null, "nqn cannot change"),
            ("server", json!("other"), "server of a volume cannot change"),
            ("volumeMode", json!("Block"), "volumeMode cannot change"),
            ("accessModes", json!(["ReadOnlyMany"]), "accessModes cannot change"),
            ("capacity", json!("2047Mi"), "a volume never shrinks"),
        ] {
            let patch = json!({"spec": {field: value}}).to_string();
            let arguments = ["patch", "rdsvolume", "identity", "--type=merge", "-p", &patch];
            let refused = kubectl.refused(&arguments, None).await?;
            ensure!(
                refused.contains(words),
                "{patch} was refused without `{words}`:\n{refused}"
            );
        }
        // What failed to grow may be taken back, down to what was measured.
        for capacity in ["3Gi", "2Gi", "5Gi", "2500Mi"] {
            let patch = json!({"spec": {"capacity": capacity}}).to_string();
            kubectl
                .run(&["patch", "rdsvolume", "identity", "--type=merge", "-p", &patch])
                .await?;
        }
        Ok(())
    })
}

#[test]
fn d2_deletions_that_would_strand_a_volume_are_refused_with_the_right_way() -> Result<()> {
    e2e::run(async {
        let kubectl = kubectl().await?;
        let by_csi = with(
            volume("by-csi"),
            "/metadata/labels",
            json!({"rds.csi.srvlab.io/made-by": "csi"}),
        );
        kubectl.apply(&by_csi).await?;
        for target in [
            ["rdsvolume", "by-csi"],
            ["crd", "rdsvolumes.rds.csi.srvlab.io"],
            ["crd", "rdsservers.rds.csi.srvlab.io"],
        ] {
            let [kind, name] = target;
            // A new policy takes a second or two to be in force.
            let refused = wait_until(
                &format!("the deletion of {kind} {name} to be refused"),
                Duration::from_secs(60),
                async || kubectl.refused(&["delete", kind, name, "--dry-run=server"], None).await,
            )
            .await?;
            ensure!(
                refused.contains("rds.csi.srvlab.io/confirm-delete"),
                "the refusal does not say the way out:\n{refused}"
            );
        }
        let confirm = "rds.csi.srvlab.io/confirm-delete=by-csi";
        kubectl.run(&["annotate", "rdsvolume", "by-csi", confirm]).await?;
        kubectl
            .run(&["delete", "rdsvolume", "by-csi", "--dry-run=server"])
            .await?;
        Ok(())
    })
}
