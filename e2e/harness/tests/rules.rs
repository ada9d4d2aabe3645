//! Rules of the API server on what was decided before: they hold against the operator as well, whatever a bug in it or a person
//! with `kubectl edit --subresource=status` may try. No operator runs here.

use anyhow::{Context, Result, ensure};
use e2e::kubectl::Kubectl;
use e2e::{Cluster, lab};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

async fn kubectl() -> Result<&'static Kubectl> {
    let start = || async {
        let cluster = Cluster::start("rules").await?;
        lab::install(cluster.kubectl()).await?;
        anyhow::Ok(cluster)
    };
    Ok(CLUSTER.get_or_try_init(start).await?.kubectl())
}

async fn volume(kubectl: &Kubectl, name: &str, spec: Value) -> Result<()> {
    let mut all = json!({"server": "default", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"]});
    for (key, value) in spec.as_object().into_iter().flatten() {
        all[key] = value.clone();
    }
    let kind = json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume", "metadata": {"name": name}, "spec": all});
    kubectl.apply(&kind).await.map(drop)
}

fn patch<'a>(name: &'a str, text: &'a str, status: bool) -> Vec<&'a str> {
    let mut arguments = vec!["patch", "rdsvolume", name, "--type=merge", "-p", text];
    arguments.extend(status.then_some("--subresource=status"));
    arguments
}

async fn set(kubectl: &Kubectl, name: &str, change: Value) -> Result<()> {
    let status = change.get("status").is_some();
    kubectl.run(&patch(name, &change.to_string(), status)).await.map(drop)
}

async fn refused(kubectl: &Kubectl, name: &str, change: Value, words: &str) -> Result<()> {
    let status = change.get("status").is_some();
    let said = kubectl.refused(&patch(name, &change.to_string(), status), None).await?;
    ensure!(said.contains(words), "{change} was refused without `{words}`:\n{said}");
    Ok(())
}

#[test]
fn d3_a_generation_never_goes_down_and_cannot_be_lost() -> Result<()> {
    e2e::run(async {
        let kubectl = kubectl().await?;
        volume(kubectl, "generation", json!({})).await?;
        let at = |generation: u32| json!({"status": {"exportGeneration": generation}});
        for generation in [1, 2, 2, 7] {
            set(kubectl, "generation", at(generation)).await?;
        }
        refused(kubectl, "generation", at(6), "never goes down").await?;
        refused(
            kubectl,
            "generation",
            json!({"status": {"exportGeneration": null}}),
            "cannot be unset",
        )
        .await?;
        let whole = r#"[{"op":"remove","path":"/status"}]"#;
        let remove = [
            "patch",
            "rdsvolume",
            "generation",
            "--subresource=status",
            "--type=json",
            "-p",
            whole,
        ];
        let said = kubectl.refused(&remove, None).await?;
        ensure!(said.contains("cannot be unset"), "{said}");
        Ok(())
    })
}

#[test]
fn i2_a_disk_with_data_never_becomes_blank() -> Result<()> {
    e2e::run(async {
        let kubectl = kubectl().await?;
        let ledger = |state: &str| json!({"status": {"format": {"state": state}}});
        for (name, last) in [
            ("formatted", "Formatted"),
            ("block", "UsedAsBlock"),
            ("foreign", "Foreign"),
        ] {
            volume(kubectl, name, json!({})).await?;
            for state in ["Blank", "Blank", last] {
                set(kubectl, name, ledger(state)).await?;
            }
            refused(kubectl, name, ledger("Blank"), "cannot become Blank again").await?;
            refused(kubectl, name, ledger("Intent"), "must never be formatted").await?;
            refused(kubectl, name, json!({"status": {"format": null}}), "cannot be unset").await?;
            // All else of the status goes on.
            set(kubectl, name, json!({"status": {"explain": "well"}})).await?;
        }
        volume(kubectl, "unknown", json!({})).await?;
        set(kubectl, "unknown", ledger("Unknown")).await?;
        refused(kubectl, "unknown", ledger("Blank"), "cannot become Blank again").await?;
        refused(kubectl, "unknown", ledger("Intent"), "from Blank only").await?;
        refused(
            kubectl,
            "unknown",
            json!({"status": {"format": null}}),
            "cannot be unset",
        )
        .await?;
        // After a restore from a backup the operator says Unknown, whatever the backup said.
        set(kubectl, "formatted", ledger("Unknown")).await?;
        volume(kubectl, "unfinished", json!({})).await?;
        for state in ["Blank", "Intent", "Intent", "Formatted"] {
            set(kubectl, "unfinished", ledger(state)).await?;
        }
        Ok(())
    })
}

#[test]
fn k1_an_identity_that_is_written_late_must_be_the_one_it_has() -> Result<()> {
    e2e::run(async {
        let kubectl = kubectl().await?;
        volume(kubectl, "late", json!({})).await?;
        set(
            kubectl,
            "late",
            json!({"status": {"slot": "v-1", "path": "/pool/v-1.img", "nqn": "nqn.2000-02.com.mikrotik:late.g2-x7"}}),
        )
        .await?;
        for (field, wrong, right) in [
            ("slot", "v-2", "v-1"),
            ("path", "/pool/v-2.img", "/pool/v-1.img"),
            ("nqn", "nqn.2000-02.com.mikrotik:la", "nqn.2000-02.com.mikrotik:late"),
        ] {
            let differs = format!("spec.{field} differs from status.{field}");
            refused(kubectl, "late", json!({"spec": {field: wrong}}), &differs).await?;
            set(kubectl, "late", json!({"spec": {field: right}}))
                .await
                .context("the one it has")?;
        }
        Ok(())
    })
}

/// The size that was asked for may have been lowered when the measured one arrives: the report must not fail for it.
#[test]
fn i15_a_report_is_never_refused_for_what_was_asked_meanwhile() -> Result<()> {
    e2e::run(async {
        let kubectl = kubectl().await?;
        volume(kubectl, "grown", json!({"capacity": "2Gi"})).await?;
        set(kubectl, "grown", json!({"spec": {"capacity": "1Gi"}})).await?;
        set(kubectl, "grown", json!({"status": {"capacity": "2Gi"}})).await?;
        set(kubectl, "grown", json!({"status": {"explain": "larger than asked"}})).await?;
        refused(
            kubectl,
            "grown",
            json!({"spec": {"capacity": "1500Mi"}}),
            "a volume never shrinks",
        )
        .await?;
        set(kubectl, "grown", json!({"spec": {"fsType": "xfs"}})).await?;
        set(kubectl, "grown", json!({"spec": {"capacity": "2Gi"}})).await
    })
}

#[test]
fn words_that_do_harm_are_refused() -> Result<()> {
    e2e::run(async {
        let kubectl = kubectl().await?;
        for (spec, words) in [
            (json!({"mkfsOptions": ["-F"]}), "never made over data"),
            (json!({"mkfsOptions": ["--force"]}), "never made over data"),
            (json!({"mkfsOptions": ["-m 1"]}), "one list item a word"),
            (json!({"mkfsOptions": ["$(x)"]}), "one list item a word"),
            (
                json!({"adopt": true, "slot": "a", "path": "/p/a.img", "deletionPolicy": "Delete"}),
                "keeps deletionPolicy Retain",
            ),
            (json!({"source": {}}), "exactly one of snapshot and volume"),
            (
                json!({"source": {"snapshot": "a", "volume": "b"}}),
                "exactly one of snapshot and volume",
            ),
            (
                json!({"connection": {"address": "rds.example.org"}}),
                "literal IP address",
            ),
            (json!({"connection": {"ctrlLossTmo": -2}}), "ctrlLossTmo"),
            (json!({"migrationTimeoutSeconds": 29}), "migrationTimeoutSeconds"),
        ] {
            let said = volume(kubectl, "harm", spec.clone())
                .await
                .err()
                .context(format!("{spec} was accepted"))?;
            ensure!(
                format!("{said:#}").contains(words),
                "{spec} was refused without `{words}`:\n{said:#}"
            );
        }
        let good =
            json!({"mkfsOptions": ["-m", "1", "-O", "^has_journal"], "mountOptions": ["noatime"], "fsType": "ext4"});
        volume(kubectl, "harmless", good).await
    })
}

/// What the operator's writes of the status rest on: the name of the export comes from the object that was read, or not at all.
#[test]
fn i3_a_status_is_not_applied_to_an_object_that_has_changed_since() -> Result<()> {
    e2e::run(async {
        let kubectl = kubectl().await?;
        volume(kubectl, "old-leader", json!({})).await?;
        let version = [
            "get",
            "rdsvolume",
            "old-leader",
            "-o",
            "jsonpath={.metadata.resourceVersion}",
        ];
        let read = kubectl.run(&version).await?;
        set(kubectl, "old-leader", json!({"status": {"exportGeneration": 2}})).await?;
        let apply = async |version: &str| {
            let status = json!({
                "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume",
                "metadata": {"name": "old-leader", "resourceVersion": version},
                "status": {"nqn": "nqn.2000-02.com.mikrotik:pvc-old"},
            });
            let manager = format!("--field-manager={}", rds_crds::names::manager::OPERATOR);
            let arguments = [
                "apply",
                "--server-side",
                "--force-conflicts",
                "--subresource=status",
                &manager,
                "-f",
                "-",
            ];
            kubectl.try_run(&arguments, Some(&status.to_string())).await
        };
        let printed = apply(&read).await?;
        ensure!(
            !printed.success && printed.stderr.contains("has been modified"),
            "{}",
            printed.stderr
        );
        let printed = apply(&kubectl.run(&version).await?).await?;
        ensure!(printed.success, "{}", printed.stderr);
        Ok(())
    })
}

#[test]
fn the_columns_of_a_volume_answer_the_daily_questions() -> Result<()> {
    e2e::run(async {
        let kubectl = kubectl().await?;
        volume(kubectl, "columns", json!({})).await?;
        let printed = kubectl.run(&["get", "rdsvol", "columns"]).await?;
        let head: Vec<&str> = printed.lines().next().unwrap_or_default().split_whitespace().collect();
        ensure!(
            head == ["NAME", "READY", "SIZE", "SERVER", "NODE(S)", "BREAKER", "AGE"],
            "{head:?}"
        );
        let wide = kubectl.run(&["get", "rdsvol", "columns", "-o", "wide"]).await?;
        for column in ["CLAIM", "SLOT", "NQN", "REASON"] {
            ensure!(wide.contains(column), "no {column} in\n{wide}");
        }
        let explained = kubectl.run(&["explain", "rdsvolume.spec.deletionPolicy"]).await?;
        ensure!(
            explained.contains("Default: Retain") && explained.contains("- Delete: "),
            "{explained}"
        );
        Ok(())
    })
}

/// Volumes are refused, and with them their attachments and fences, when their NQNs do not begin with the prefix of the server.
#[test]
fn the_prefix_of_a_server_stays_also_where_it_is_not_written() -> Result<()> {
    e2e::run(async {
        let kubectl = kubectl().await?;
        const DEFAULT: &str = rds_crds::identity::DEFAULT_NQN_PREFIX;
        let other = "nqn.2000-02.com.mikrotik:other-";
        for (name, prefix) in [("prefix-unset", None), ("prefix-own", Some(other))] {
            let mut spec = json!({
                "management": {"address": "192.0.2.1", "user": "csi"},
                "secretRef": {"name": "rds-csi-secret"},
                "storage": {"address": "192.0.2.2"},
                "basePath": "/storage-pool/metal-csi",
            });
            if let Some(prefix) = prefix {
                spec["nqnPrefix"] = json!(prefix);
            }
            let server = json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsServer", "metadata": {"name": name}, "spec": spec});
            kubectl.apply(&server).await?;
        }
        let change = async |name: &str, spec: Value| {
            let patch = json!({"spec": spec}).to_string();
            let arguments = ["patch", "rdsserver", name, "--type=merge", "-p", &patch];
            kubectl.try_run(&arguments, None).await
        };
        for (name, prefix) in [
            ("prefix-unset", json!(other)),
            ("prefix-own", Value::Null),
            ("prefix-own", json!(DEFAULT)),
            ("prefix-own", json!("nqn.2000-02.com.mikrotik:other-one-")),
        ] {
            let printed = change(name, json!({"nqnPrefix": prefix})).await?;
            let words = ["spec.nqnPrefix", "nqnPrefix cannot change", "create another one for"];
            ensure!(
                !printed.success && words.iter().all(|word| printed.stderr.contains(word)),
                "{name} to {prefix}: {}",
                printed.stderr
            );
        }
        // The same in other words, and all else.
        for (name, spec) in [
            ("prefix-unset", json!({"nqnPrefix": DEFAULT})),
            ("prefix-unset", json!({"nqnPrefix": null})),
            ("prefix-own", json!({"nqnPrefix": other, "maintenance": true})),
        ] {
            let printed = change(name, spec.clone()).await?;
            ensure!(printed.success, "{name}: {spec}: {}", printed.stderr);
        }
        let moved = change("prefix-own", json!({"basePath": "/storage-pool/other"})).await?;
        ensure!(
            moved.stderr.contains("basePath cannot change"),
            "{}{}",
            moved.stdout,
            moved.stderr
        );
        Ok(())
    })
}
