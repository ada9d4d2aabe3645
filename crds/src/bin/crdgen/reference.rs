//! The reference page for people who have no cluster at hand to ask `kubectl explain`.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};

/// The page, as Markdown.
pub(crate) fn page(definitions: &[CustomResourceDefinition]) -> String {
    let mut out = String::from(
        "<!-- Generated from crds/src by `make generate`. Do not edit. -->\n# Custom resources\n\nGroup `rds.csi.srvlab.io`, \
         version `v1alpha1`, all of cluster scope and of the category `rds` (`kubectl get rds`). `kubectl explain rdsvolume.spec` \
         says the same. A field marked * is required. `spec` is what is asked; `status` is what was seen or decided, and only \
         the operator and the node agents write it.\n",
    );
    for crd in definitions {
        let names = &crd.spec.names;
        let short = names
            .short_names
            .iter()
            .flatten()
            .cloned()
            .collect::<Vec<_>>()
            .join(", ");
        out.push_str(&format!("\n## {} (`{}`, short `{short}`)\n", names.kind, names.plural));
        for version in &crd.spec.versions {
            let Some(root) = version.schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref()) else {
                continue;
            };
            out.push_str(&format!("\n{}\n", root.description.clone().unwrap_or_default()));
            rules(&mut out, "the object", root);
            for part in ["spec", "status"] {
                if let Some(schema) = root.properties.as_ref().and_then(|all| all.get(part)) {
                    out.push_str(&format!(
                        "\n### {}.{part}\n\n| field | type | meaning |\n|---|---|---|\n",
                        names.kind
                    ));
                    rows(&mut out, "", schema);
                    rules(&mut out, part, schema);
                }
            }
        }
    }
    out
}

fn rows(out: &mut String, prefix: &str, schema: &JSONSchemaProps) {
    for (name, field) in schema.properties.iter().flatten() {
        let required = schema.required.iter().flatten().any(|r| r == name);
        let star = if required { "*" } else { "" };
        let (kind, below) = kind(field);
        let says = field.description.as_deref().unwrap_or_default();
        out.push_str(&format!("| `{prefix}{name}`{star} | {kind} | {} |\n", cell(says)));
        // Conditions are known from Kubernetes itself.
        if let Some((mark, below)) = below.filter(|_| name != "conditions") {
            rows(out, &format!("{prefix}{name}{mark}."), below);
        }
    }
}

fn kind(field: &JSONSchemaProps) -> (String, Option<(&'static str, &JSONSchemaProps)>) {
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &field.items {
        let of = items.type_.as_deref().unwrap_or("any");
        return (format!("list of {of}"), Some(("[]", items)));
    }
    if field.x_kubernetes_int_or_string == Some(true) {
        return ("quantity".to_owned(), None);
    }
    let mut kind = field.type_.clone().unwrap_or_else(|| "any".to_owned());
    match (field.minimum, field.maximum) {
        (Some(least), Some(most)) => kind.push_str(&format!(" {least} to {most}")),
        (Some(least), None) if least != 0.0 => kind.push_str(&format!(" from {least}")),
        _ => {}
    }
    (kind, field.properties.is_some().then_some(("", field)))
}

fn rules(out: &mut String, part: &str, schema: &JSONSchemaProps) {
    let mut found = Vec::new();
    collect(&mut found, schema);
    if !found.is_empty() {
        out.push_str(&format!("\nThe API server refuses what breaks a rule of {part}:\n\n"));
        found.iter().for_each(|rule| out.push_str(&format!("- {rule}\n")));
    }
}

fn collect(found: &mut Vec<String>, schema: &JSONSchemaProps) {
    for rule in schema.x_kubernetes_validations.iter().flatten() {
        found.extend(rule.message.clone());
    }
    // The rules of the whole object stand alone; those of spec and status take their fields with them.
    for (name, field) in schema.properties.iter().flatten() {
        if name != "spec" && name != "status" && name != "metadata" {
            collect(found, field);
        }
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
        .replace('\n', "<br>")
        .replace("<br><br>", "<br>")
}
