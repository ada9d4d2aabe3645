//! What the schemas promise, read from the definitions as they are installed.

use std::collections::BTreeSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use rds_crds::definitions::definitions;
use rds_crds::volume::{APPLIED_STATUS_FIELDS, CAS_STATUS_FIELDS};

fn root(crd: &CustomResourceDefinition) -> &JSONSchemaProps {
    let schema = crd.spec.versions[0].schema.as_ref();
    let Some(root) = schema.and_then(|s| s.open_api_v3_schema.as_ref()) else {
        panic!("{} has no schema", crd.spec.names.kind);
    };
    root
}

fn walk(path: &str, schema: &JSONSchemaProps, see: &mut impl FnMut(&str, &JSONSchemaProps)) {
    see(path, schema);
    for (name, child) in schema.properties.iter().flatten() {
        walk(&format!("{path}.{name}"), child, see);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        walk(&format!("{path}[]"), items, see);
    }
}

#[test]
fn every_field_is_documented() {
    for crd in definitions() {
        walk(&crd.spec.names.kind, root(&crd), &mut |path, schema| {
            let said = schema.description.as_deref().unwrap_or_default();
            let item_or_given = path.ends_with("[]") || path.ends_with(".metadata");
            assert!(item_or_given || !said.is_empty(), "{path} has no description");
            assert!(!said.contains("[`"), "{path} links to code: {said}");
        });
    }
}

/// `kubectl explain` says what happens when a field is left out.
#[test]
fn every_optional_field_of_a_spec_says_its_default() {
    // What they are, not what they are set to, is the point of these.
    let without = [
        "claim",
        "requestName",
        "source",
        "limits",
        "connection",
        "circuitBreaker",
        "resetToken",
        "snapshot",
        "volume",
    ];
    for crd in definitions() {
        walk(
            "spec",
            &root(&crd).properties.as_ref().expect("properties")["spec"],
            &mut |path, schema| {
                for (name, field) in schema.properties.iter().flatten() {
                    let required = schema.required.iter().flatten().any(|r| r == name);
                    let said = field.description.as_deref().unwrap_or_default();
                    assert!(
                        required || without.contains(&name.as_str()) || said.contains("Default: "),
                        "{}.{path}.{name} does not say its default: {said}",
                        crd.spec.names.kind
                    );
                }
            },
        );
    }
}

/// GitOps tools show what the server fills in as a difference.
#[test]
fn no_defaults_no_nulls_no_unknown_formats() {
    for crd in definitions() {
        walk(&crd.spec.names.kind, root(&crd), &mut |path, schema| {
            assert!(schema.default.is_none(), "{path} has a default");
            assert!(schema.nullable.is_none(), "{path} is nullable");
            let format = schema.format.as_deref().unwrap_or("int32");
            assert!(
                ["int32", "int64", "date-time"].contains(&format),
                "{path} has format {format}"
            );
        });
    }
}

#[test]
fn each_status_field_of_a_volume_has_one_writer() {
    let crds = definitions();
    let volume = crds
        .iter()
        .find(|crd| crd.spec.names.kind == "RdsVolume")
        .expect("RdsVolume");
    let status = &root(volume).properties.as_ref().expect("properties")["status"];
    let all: BTreeSet<&str> = status
        .properties
        .iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .collect();
    let swapped = BTreeSet::from(CAS_STATUS_FIELDS);
    let applied = BTreeSet::from(APPLIED_STATUS_FIELDS);
    assert!(
        swapped.is_disjoint(&applied),
        "two writers: {:?}",
        swapped.intersection(&applied)
    );
    let both: BTreeSet<&str> = swapped.union(&applied).copied().collect();
    assert_eq!(
        both, all,
        "a status field without a writer, or a writer without a field"
    );
    for field in CAS_STATUS_FIELDS {
        let said = status.properties.as_ref().expect("properties")[field]
            .description
            .as_deref();
        assert!(
            said.is_some_and(|s| s.contains("Compare-and-swap.")),
            "{field} does not say how it is written"
        );
    }
}

#[test]
fn conditions_merge_by_type() {
    for crd in definitions() {
        walk(&crd.spec.names.kind, root(&crd), &mut |path, schema| {
            if path.ends_with(".conditions") {
                assert_eq!(schema.x_kubernetes_list_type.as_deref(), Some("map"), "{path}");
                assert_eq!(
                    schema.x_kubernetes_list_map_keys,
                    Some(vec!["type".to_owned()]),
                    "{path}"
                );
            }
        });
    }
}

#[test]
fn names_that_users_type() {
    let seen: Vec<_> = definitions()
        .iter()
        .map(|crd| {
            let names = &crd.spec.names;
            assert_eq!(crd.spec.scope, "Cluster");
            assert_eq!(names.categories, Some(vec!["rds".to_owned()]));
            assert!(
                crd.spec.versions[0]
                    .subresources
                    .as_ref()
                    .is_some_and(|s| s.status.is_some())
            );
            (
                names.plural.clone(),
                names.short_names.clone().unwrap_or_default().join(","),
            )
        })
        .collect();
    let want = [
        ("rdsservers", "rdssrv"),
        ("rdsvolumes", "rdsvol"),
        ("rdsattachments", "rdsatt"),
    ];
    assert_eq!(seen, want.map(|(plural, short)| (plural.to_owned(), short.to_owned())));
    let crds = definitions();
    let selectable = crds[2].spec.versions[0]
        .selectable_fields
        .as_ref()
        .expect("selectable fields");
    assert_eq!(selectable[0].json_path, ".spec.node");
}
