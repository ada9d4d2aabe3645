//! The shipped manifests, as `kubectl kustomize` renders them, read back for the parts that a harness without kubelet has to
//! play: container arguments and environment. Flags of sidecars are part of the product, so they are taken from here, and only
//! what differs outside of a pod (socket, kubeconfig, ports) is put in their place.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::kubectl::Kubectl;

/// All objects of a kustomization.
#[derive(Clone, Debug)]
pub struct Manifests {
    objects: Vec<Value>,
}

/// One container of a Deployment or DaemonSet, ready to be run as a process.
#[derive(Clone, Debug)]
pub struct Container {
    /// Name in the manifest.
    pub name: String,
    /// Namespace of the workload.
    pub namespace: String,
    /// ServiceAccount of its pod.
    pub account: String,
    /// Arguments, with `$(VAR)` still in them.
    pub args: Vec<String>,
    /// Environment, references resolved.
    pub env: BTreeMap<String, String>,
}

impl Manifests {
    /// Renders a kustomization of the checkout, for example `config/default`.
    pub async fn render(kubectl: &Kubectl, path: &str) -> Result<Self> {
        let text = kubectl.run(&["kustomize", path]).await?;
        let mut objects = Vec::new();
        for document in serde_yaml::Deserializer::from_str(&text) {
            let object = Value::deserialize(document).with_context(|| format!("read what kustomize made of {path}"))?;
            if !object.is_null() {
                objects.push(object);
            }
        }
        Ok(Self { objects })
    }

    /// The objects of a kind.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// The container with this name, wherever it is, as it would run in a pod called `pod`.
    pub fn container(&self, name: &str, pod: &str) -> Result<Container> {
        for workload in self.of_kind("Deployment").chain(self.of_kind("DaemonSet")) {
            let spec = &workload["spec"]["template"]["spec"];
            for container in list(&spec["containers"]) {
                if container["name"] == name {
                    return self.read(workload, spec, container, pod);
                }
            }
        }
        anyhow::bail!("no container called {name} in the manifests")
    }

    fn read(&self, workload: &Value, spec: &Value, container: &Value, pod: &str) -> Result<Container> {
        let namespace = text(&workload["metadata"]["namespace"]);
        let mut env = BTreeMap::new();
        for source in list(&container["envFrom"]) {
            let map = self.config_map(&text(&source["configMapRef"]["name"]))?;
            env.extend(map.into_iter().map(|(key, value)| (key, text(&value))));
        }
        for variable in list(&container["env"]) {
            let from = &variable["valueFrom"];
            let value = if let Some(field) = from["fieldRef"]["fieldPath"].as_str() {
                match field {
                    "metadata.name" => pod.into(),
                    "metadata.namespace" => namespace.clone(),
                    "status.podIP" | "status.hostIP" => "127.0.0.1".into(),
                    other => anyhow::bail!("the harness cannot give the field {other} to {}", container["name"]),
                }
            } else if from["configMapKeyRef"].is_object() {
                let reference = &from["configMapKeyRef"];
                let map = self.config_map(&text(&reference["name"]))?;
                let key = text(&reference["key"]);
                match map.get(&key) {
                    Some(value) => text(value),
                    None if reference["optional"] == true => continue,
                    None => anyhow::bail!("ConfigMap {} has no key {key}", reference["name"]),
                }
            } else {
                text(&variable["value"])
            };
            env.insert(text(&variable["name"]), value);
        }
        Ok(Container {
            name: text(&container["name"]),
            account: text(&spec["serviceAccountName"]),
            args: list(&container["command"])
                .iter()
                .skip(1)
                .chain(list(&container["args"]))
                .map(text)
                .collect(),
            namespace,
            env,
        })
    }

    fn config_map(&self, name: &str) -> Result<serde_json::Map<String, Value>> {
        let map = self.of_kind("ConfigMap").find(|map| map["metadata"]["name"] == name);
        let map = map.with_context(|| format!("no ConfigMap {name} in the manifests"))?;
        Ok(map["data"].as_object().cloned().unwrap_or_default())
    }
}

impl Container {
    /// Arguments with `$(VAR)` replaced, and `--flag=value` put in the place of each flag that is named in `instead`; those that
    /// the manifest does not have are appended.
    pub fn arguments(&self, instead: &[(&str, String)]) -> Vec<String> {
        let mut left: Vec<&(&str, String)> = instead.iter().collect();
        let mut arguments = Vec::new();
        for argument in &self.args {
            let flag = argument.split('=').next().unwrap_or_default();
            if let Some(found) = left.iter().position(|(name, _)| *name == flag) {
                let (name, value) = left.remove(found);
                arguments.push(format!("{name}={value}"));
            } else if !instead.iter().any(|(name, _)| *name == flag) {
                let known = self.env.iter();
                arguments.push(known.fold(argument.clone(), |all, (name, value)| {
                    all.replace(&format!("$({name})"), value)
                }));
            }
        }
        arguments.extend(left.into_iter().map(|(name, value)| format!("{name}={value}")));
        arguments
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(
        || {
            if value.is_null() {
                String::new()
            } else {
                value.to_string()
            }
        },
        str::to_owned,
    )
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn manifests() -> Manifests {
        Manifests {
            objects: vec![
                json!({"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"prefix": "nqn.x:"}}),
                json!({"kind": "Deployment", "metadata": {"namespace": "n"}, "spec": {"template": {"spec": {
                    "serviceAccountName": "s",
                    "containers": [{"name": "sidecar", "args": ["--csi-address=$(ADDRESS)", "--v=2", "--http-endpoint=:8080"], "env": [
                        {"name": "ADDRESS", "value": "/csi/csi.sock"},
                        {"name": "PREFIX", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "prefix"}}},
                        {"name": "NONE", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "none", "optional": true}}},
                        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    ]}],
                }}}}),
            ],
        }
    }

    #[test]
    fn a_container_comes_with_its_environment_resolved() {
        let container = manifests().container("sidecar", "pod-0").unwrap();
        let env: Vec<_> = container
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(env, ["ADDRESS=/csi/csi.sock", "POD=pod-0", "PREFIX=nqn.x:"]);
        assert_eq!((container.namespace.as_str(), container.account.as_str()), ("n", "s"));
    }

    #[test]
    fn only_named_flags_are_replaced_and_the_rest_stays_as_shipped() {
        let container = manifests().container("sidecar", "pod-0").unwrap();
        let arguments = container.arguments(&[("--http-endpoint", "127.0.0.1:1".into()), ("--kubeconfig", "k".into())]);
        assert_eq!(
            arguments,
            [
                "--csi-address=/csi/csi.sock",
                "--v=2",
                "--http-endpoint=127.0.0.1:1",
                "--kubeconfig=k"
            ]
        );
    }
}
