//! Writes what is generated from our types: `config/crd/*.yaml` and `docs/crd-reference.md`.
//!
//! `crdgen` writes, `crdgen --check` compares and fails if a file is not as it would be written.

mod reference;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rds_crds::definitions::definitions;
use serde_json::Value;

const HEADER: &str = "# Generated from crds/src by `make generate`. Do not edit.\n";

fn main() -> Result<()> {
    // Cargo says where the crate is now; where it was compiled may be another checkout.
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    let root = Path::new(&here).parent().context("the crate is not in a workspace")?;
    let check = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--check") => true,
        Some(other) => bail!("crdgen knows no `{other}`: run it without arguments, or with --check"),
    };
    let files = files()?;
    let mut stale = Vec::new();
    for (path, text) in &files {
        let full = root.join(path);
        if std::fs::read_to_string(&full).is_ok_and(|old| &old == text) {
            continue;
        }
        if check {
            stale.push(path.display().to_string());
        } else {
            std::fs::create_dir_all(full.parent().context("a file has a folder")?)?;
            std::fs::write(&full, text).with_context(|| format!("write {}", full.display()))?;
            println!("wrote {}", path.display());
        }
    }
    ensure!(
        stale.is_empty(),
        "not as generated from crds/src: {}. Run `make generate` and commit the result",
        stale.join(", ")
    );
    Ok(())
}

fn files() -> Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    let mut names = Vec::new();
    for crd in definitions() {
        let name = format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural);
        let mut value = serde_json::to_value(&crd)?;
        whole_numbers(&mut value);
        files.push((
            Path::new("config/crd").join(&name),
            format!("{HEADER}{}", serde_yaml::to_string(&value)?),
        ));
        names.push(name);
    }
    let list: String = names.iter().map(|name| format!("  - {name}\n")).collect();
    let kustomization =
        format!("{HEADER}apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{list}");
    files.push(("config/crd/kustomization.yaml".into(), kustomization));
    files.push(("docs/crd-reference.md".into(), reference::page(&definitions())));
    Ok(files)
}

/// Limits are floats in the type, and `1.0` beside the server's `1` would be a change at every apply.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(float) = number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9e15) {
                // Exact: below 2^53 and without a fraction.
                #[allow(clippy::cast_possible_truncation)]
                let whole = float as i64;
                *number = whole.into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}
