//! Documents name what the code names.
#![allow(clippy::expect_used)]

use std::path::PathBuf;

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
        include_str!("../../config/policy/node.yaml"),
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
            names::ANNOTATION_NODE_IS_OFF,
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
    assert!(policies.contains(&format!("== '{}')", names::manager::OPERATOR)));
}

/// The checkout that is tested, wherever it was compiled.
fn root() -> PathBuf {
    let here = std::env::var("CARGO_MANIFEST_DIR").expect("cargo says where the crate is");
    PathBuf::from(here).parent().expect("a workspace").to_owned()
}

/// All Rust and YAML of the project, and where it stands.
fn sources() -> Vec<(PathBuf, String)> {
    let mut folders: Vec<_> = ["crds", "operator", "node-agent", "proto", "e2e", "config"]
        .map(|f| root().join(f))
        .into();
    let mut all = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs" || e == "yaml") {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                all.push((path, text));
            }
        }
    }
    all
}

/// A test that does not run proves nothing (R78). The programs that a plain `cargo test` leaves out are named by `make test`.
#[test]
fn b90_no_test_is_switched_off() {
    let switch = concat!("#[", "ignore");
    for (path, text) in sources() {
        assert!(!text.contains(switch), "{} switches a test off", path.display());
    }
    let manifest = include_str!("../../e2e/harness/Cargo.toml");
    let script = include_str!("../../e2e/test.sh");
    let words: Vec<&str> = script.split(|c: char| c.is_whitespace() || c == '"').collect();
    let mut left_out = 0;
    for target in manifest
        .split("[[test]]")
        .filter(|target| target.contains("test = false"))
    {
        let name = target.split('"').nth(1).expect("a name");
        assert!(
            words.windows(2).any(|pair| pair == ["--test", name]),
            "e2e/test.sh leaves {name} out"
        );
        left_out += 1;
    }
    assert!(left_out > 0, "the search is broken");
}

/// Whoever reads `B42` in a test finds out what it means.
#[test]
fn every_number_that_is_cited_is_explained() {
    let page = include_str!("../../docs/requirements.md");
    let mut seen = 0;
    for (path, text) in sources() {
        for number in numbers(&text) {
            seen += 1;
            let start = format!("| {number} | ");
            let line = page.lines().find(|line| line.starts_with(&start));
            let line =
                line.unwrap_or_else(|| panic!("{} cites {number}: add it to docs/requirements.md", path.display()));
            assert!(
                !line.ends_with("|  |"),
                "{} cites {number}: say so in docs/requirements.md",
                path.display()
            );
        }
    }
    assert!(seen > 50, "only {seen} citations found: the search is broken");
}

/// A document that points nowhere is worse than none.
#[test]
fn what_the_requirements_point_to_exists() {
    let page = include_str!("../../docs/requirements.md");
    for pointer in page
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|p| p.contains('/') && p.contains(".rs"))
    {
        let (file, test) = pointer.split_once(": ").unwrap_or((pointer, ""));
        let text = std::fs::read_to_string(root().join(file)).unwrap_or_default();
        assert!(
            !text.is_empty(),
            "docs/requirements.md points to {file}, which is not there"
        );
        assert!(
            test.is_empty() || text.contains(&format!("fn {test}(")),
            "docs/requirements.md points to the test {test}, which is not in {file}"
        );
    }
}

/// `(R8)`, `B42:`, `fn i18_..`; not the `B8` of a hash or the `I1` within a word.
fn numbers(text: &str) -> Vec<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c: char| !word(c))
        .filter_map(|word| {
            let number = word
                .split('_')
                .next()
                .filter(|head| *head == word || word.len() > head.len() + 1)?;
            let digits = number
                .strip_prefix(['R', 'B', 'I', 'D', 'K'])
                .filter(|_| number == word)
                .or_else(|| {
                    number
                        .strip_prefix(['r', 'b', 'i', 'd', 'k'])
                        .filter(|_| number != word)
                })?;
            let known = (1..=2).contains(&digits.len()) && digits.chars().all(|c| c.is_ascii_digit());
            known.then(|| number.to_ascii_uppercase())
        })
        .collect()
}
