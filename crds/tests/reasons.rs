//! Every reason has an entry in docs/troubleshooting.md, and no entry is left of one that is gone.

use rds_crds::Reason;

#[test]
fn every_reason_has_a_troubleshooting_entry() {
    let text = include_str!("../../docs/troubleshooting.md");
    let headings: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("## ")).collect();
    let reasons: Vec<&str> = Reason::ALL.iter().map(|r| r.as_str()).collect();
    assert_eq!(
        headings, reasons,
        "docs/troubleshooting.md has a `## <Reason>` for each, in the order of the enum"
    );
    assert!(Reason::ALL.iter().all(|r| Reason::from_word(r.as_str()) == Some(*r)));
}
