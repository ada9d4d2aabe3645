//! Documents name what the code names.

use rds_crds::names;
use rds_crds::volume::CAS_STATUS_FIELDS;

#[test]
fn every_name_that_we_write_is_documented() {
    let page = include_str!("../../docs/labels-annotations.md");
    for name in [
        names::FINALIZER,
        names::ANNOTATION_CONFIRM_DELETE,
        names::ANNOTATION_DELETE_REQUESTED,
        names::ANNOTATION_RESET_BREAKER,
        names::ANNOTATION_FENCE_NOW,
        names::ANNOTATION_NODE_IS_OFF,
        names::LABEL_MADE_BY,
        names::TOPOLOGY_ZONE,
        names::manager::CSI,
        names::manager::ADMISSION,
        names::manager::OPERATOR,
        names::manager::AGENT,
    ] {
        assert!(
            page.contains(&format!("`{name}`")),
            "docs/labels-annotations.md lacks {name}"
        );
    }
    for field in CAS_STATUS_FIELDS {
        assert!(
            page.contains(&format!("`{field}`")) || page.contains(&format!("`status.{field}`")),
            "docs/labels-annotations.md lacks status.{field}"
        );
    }
}

/// A name that stands in a policy stands there as the code has it.
#[test]
fn policies_and_code_agree_on_names() {
    let policies = concat!(
        include_str!("../../config/policy/definitions.yaml"),
        include_str!("../../config/policy/objects.yaml"),
        include_str!("../../config/policy/servers.yaml"),
        include_str!("../../config/policy/secrets.yaml"),
    );
    for (at, _) in policies.match_indices("rds.csi.srvlab.io/") {
        let rest = &policies[at..];
        let end = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && !"./-".contains(c))
            .unwrap_or(rest.len());
        let known = [
            names::ANNOTATION_CONFIRM_DELETE,
            names::LABEL_MADE_BY,
            "rds.csi.srvlab.io/v1alpha1",
        ];
        assert!(
            known.contains(&&rest[..end]),
            "a policy names {}, which the code does not",
            &rest[..end]
        );
    }
    assert!(policies.contains(&format!("['{}'] == '{}'", names::LABEL_MADE_BY, names::MADE_BY_CSI)));
}
