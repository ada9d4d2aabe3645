//! The CustomResourceDefinitions as they are installed.
//!
//! The derive of kube gives most of them; three things are mended here, each for those who read or apply the result:
//! - `nullable` goes: an absent field is left out, and CEL's `has()` would take a null for a value;
//! - formats that Kubernetes does not know (`uint16`, ..) go, with its warnings;
//! - a field whose type has words of its own gets back its own words, which say unit and default, and the words of
//!   each value of an enumeration: `kubectl explain` is the documentation.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;
use schemars::JsonSchema;
use serde_json::Value;

use crate::{
    RdsAttachment, RdsAttachmentSpec, RdsAttachmentStatus, RdsServer, RdsServerSpec, RdsServerStatus, RdsVolume,
    RdsVolumeSpec, RdsVolumeStatus,
};

/// Formats that the API server knows; it warns about any other.
const FORMATS: [&str; 3] = ["int32", "int64", "date-time"];

/// All our definitions, in the order in which they are documented.
#[must_use]
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![
        mended::<RdsServerSpec, RdsServerStatus>(RdsServer::crd()),
        mended::<RdsVolumeSpec, RdsVolumeStatus>(RdsVolume::crd()),
        mended::<RdsAttachmentSpec, RdsAttachmentStatus>(RdsAttachment::crd()),
    ]
}

fn mended<Spec: JsonSchema, Status: JsonSchema>(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let Some(root) = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) else {
            continue;
        };
        root.title = None;
        for (field, raw) in [
            ("spec", schemars::schema_for!(Spec).to_value()),
            ("status", schemars::schema_for!(Status).to_value()),
        ] {
            if let Some(part) = root.properties.as_mut().and_then(|all| all.get_mut(field)) {
                document(part, &raw, &raw["$defs"]);
            }
        }
        tidy(root);
    }
    crd
}

/// Takes the descriptions from what schemars wrote before kube folded it.
fn document(field: &mut JSONSchemaProps, raw: &Value, definitions: &Value) {
    let kind = resolve(raw, definitions);
    let own = raw["description"].as_str().or_else(|| kind["description"].as_str());
    if let Some(own) = own {
        field.description = Some(prose(own, kind));
    }
    for (name, child) in field.properties.iter_mut().flatten() {
        document(child, &kind["properties"][name], definitions);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut field.items {
        document(items, &kind["items"], definitions);
    }
}

/// Follows references, also those of optional fields (`anyOf: [reference, null]`).
fn resolve<'a>(raw: &'a Value, definitions: &'a Value) -> &'a Value {
    if let Some(name) = raw["$ref"].as_str().and_then(|r| r.strip_prefix("#/$defs/")) {
        return &definitions[name];
    }
    match raw["anyOf"]
        .as_array()
        .and_then(|any| any.iter().find(|s| s["type"] != "null"))
    {
        Some(some) if raw.get("properties").is_none() => resolve(some, definitions),
        _ => raw,
    }
}

/// One line a paragraph, then one for each value of an enumeration.
fn prose(text: &str, kind: &Value) -> String {
    let mut out = text
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join("\n\n");
    for value in kind["oneOf"].as_array().into_iter().flatten() {
        if let (Some(word), Some(says)) = (value["const"].as_str(), value["description"].as_str()) {
            let says = says.split_whitespace().collect::<Vec<_>>().join(" ");
            out.push_str(&format!("\n- {word}: {says}"));
        }
    }
    out
}

fn tidy(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if schema
        .format
        .as_deref()
        .is_some_and(|format| !FORMATS.contains(&format))
    {
        schema.format = None;
    }
    schema
        .properties
        .iter_mut()
        .flatten()
        .for_each(|(_, child)| tidy(child));
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        tidy(items);
    }
}
