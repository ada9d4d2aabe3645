//! What a GitOps tool does all day: apply the same again, client-side and server-side, and find nothing to do. Samples included,
//! as people copy them. No operator runs here.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use e2e::kubectl::Kubectl;
use e2e::{Cluster, lab};
use serde_json::Value;
use tokio::sync::OnceCell;

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

const FOLDERS: [&str; 3] = ["config/default", "config/samples/server", "config/samples"];

async fn kubectl() -> Result<&'static Kubectl> {
    let start = || async {
        let cluster = Cluster::start("gitops").await?;
        lab::install(cluster.kubectl()).await?;
        anyhow::Ok(cluster)
    };
    Ok(CLUSTER.get_or_try_init(start).await?.kubectl())
}

/// Every object of the folders by its resourceVersion; of those whose status somebody else writes, by its generation.
async fn versions(kubectl: &Kubectl) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for folder in FOLDERS {
        let listed: Value = serde_json::from_str(&kubectl.run(&["get", "-k", folder, "-o", "json"]).await?)?;
        // A folder with one object is answered with that object.
        let items = listed["items"]
            .as_array()
            .cloned()
            .unwrap_or_else(|| vec![listed.clone()]);
        for object in &items {
            let (kind, meta) = (object["kind"].as_str().unwrap_or_default(), &object["metadata"]);
            let written = [
                "Deployment",
                "Namespace",
                "PersistentVolumeClaim",
                "CustomResourceDefinition",
            ]
            .contains(&kind);
            let version = if written {
                &meta["generation"]
            } else {
                &meta["resourceVersion"]
            };
            all.insert(format!("{kind} {}", meta["name"]), version.to_string());
        }
    }
    ensure!(all.len() > 25, "only {} objects", all.len());
    Ok(all)
}

#[test]
fn r18_applying_the_same_again_changes_nothing_either_way() -> Result<()> {
    e2e::run(async {
        let kubectl = kubectl().await?;
        for way in [&["apply", "-k"][..], &["apply", "--server-side", "-k"]] {
            let apply = async || -> Result<()> {
                for folder in FOLDERS {
                    let printed = kubectl.try_run(&[way, &[folder]].concat(), None).await?;
                    ensure!(printed.success, "{way:?} {folder}: {}", printed.stderr);
                    ensure!(
                        !printed.stderr.contains("Warning"),
                        "{way:?} {folder} warns: {}",
                        printed.stderr
                    );
                }
                Ok(())
            };
            apply().await?;
            let before = versions(kubectl).await?;
            apply().await?;
            let after = versions(kubectl).await?;
            let changed: Vec<_> = after
                .iter()
                .filter(|(name, version)| before.get(*name) != Some(version))
                .collect();
            ensure!(changed.is_empty(), "{way:?} again changed {changed:?}");
            for folder in FOLDERS {
                let difference = kubectl.try_run(&["diff", "-k", folder], None).await?;
                ensure!(
                    difference.success && difference.stdout.is_empty(),
                    "{folder}: {}{}",
                    difference.stdout,
                    difference.stderr
                );
            }
        }
        Ok(())
    })
}

/// The RdsServer of the samples is what the keys of the ConfigMap say (K14, R15).
#[test]
fn k14_the_sample_server_is_made_of_the_configmap() -> Result<()> {
    e2e::run(async {
        let kubectl = kubectl().await?;
        let manifests = e2e::manifest::Manifests::render(kubectl, "config/samples/server").await?;
        let shipped = e2e::manifest::Manifests::render(kubectl, "config/default").await?;
        let map = shipped.of_kind("ConfigMap").next().context("a ConfigMap")?;
        ensure!(
            manifests.of_kind("ConfigMap").next().is_none(),
            "the sample would put the ConfigMap back as it ships"
        );
        let server = manifests.of_kind("RdsServer").next().context("an RdsServer")?;
        for (key, field) in [
            ("rds-address", "/spec/management/address"),
            ("rds-port", "/spec/management/port"),
            ("rds-user", "/spec/management/user"),
            ("rds-storage-address", "/spec/storage/address"),
            ("rds-volume-base-path", "/spec/basePath"),
            ("nqn-prefix", "/spec/nqnPrefix"),
        ] {
            let said = map["data"][key].as_str().with_context(|| format!("no key {key}"))?;
            let made = server.pointer(field).with_context(|| format!("no {field}"))?;
            let made = made.as_str().map_or_else(|| made.to_string(), str::to_owned);
            ensure!(said == made, "{key} is {said}, but {field} is {made}");
        }
        rds_crds::identity::check_prefix(map["data"]["nqn-prefix"].as_str().unwrap_or_default())?;
        Ok(())
    })
}
