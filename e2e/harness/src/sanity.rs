//! What csi-sanity, the conformance suite of the CSI project, says of its own run.

use std::process::Output;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// How often it may miss a connection.
pub const TRIES: usize = 3;

/// All that it printed.
pub fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// Whether it waited for a connection that it had.
///
/// Its `utils.Connect` (csi-test 5.4) reads the state of the connection twice, once to see whether it is ready and once to wait
/// for a change. A connection that gets ready between the two changes no more, and is called timed out after a minute. Such a
/// run says nothing about the driver.
pub fn missed_its_connection(printed: &str) -> bool {
    printed.contains("s: \"Connection timed out\"")
}

/// The line that counts its specs, when all that ran have passed.
pub fn verdict(printed: &str) -> Result<&str> {
    let ran = printed
        .lines()
        .find(|line| line.starts_with("Ran "))
        .unwrap_or_default();
    let failed: Vec<&str> = printed.lines().filter(|line| line.contains("[FAIL]")).collect();
    ensure!(
        printed.contains("SUCCESS!") && !printed.contains("-- 0 Passed"),
        "{ran}: {}",
        failed.join("; ")
    );
    Ok(ran)
}

/// What no service of ours advertises, in the words in which specs skip themselves (csi-test 5.4, `pkg/sanity`).
const NOT_ADVERTISED: [&str; 11] = [
    "Snapshot not supported",
    "CreateSnapshot not supported",
    "DeleteSnapshot not supported",
    "ListSnapshots not supported",
    "Volume Cloning not supported",
    "ControllerModifyVolume not supported",
    "Modify Volume not supported",
    "Modify volume not supported",
    "GroupControllerService not supported",
    "VolumeGroupSnapshots not supported",
    // It fills a node to its limit, where a flag asks for it.
    "testnodevolumeattachlimit not enabled",
];

/// How many specs skipped themselves, when each did for something that is not advertised. `report` is what
/// `-ginkgo.json-report` wrote.
pub fn skipped(report: &str) -> Result<usize> {
    let suites: Value = serde_json::from_str(report).context("read the report of csi-sanity")?;
    let specs = suites[0]["SpecReports"].as_array().context("no specs in the report")?;
    let (mut skipped, mut missed) = (0, Vec::new());
    for spec in specs.iter().filter(|spec| spec["State"] == "skipped") {
        let why = spec["Failure"]["Message"].as_str().unwrap_or_default();
        let spec = spec["LeafNodeText"].as_str().unwrap_or_default();
        if !NOT_ADVERTISED.contains(&why) {
            missed.push(format!("`{spec}`: {why}"));
        }
        skipped += 1;
    }
    ensure!(missed.is_empty(), "csi-sanity skipped {}", missed.join("; "));
    Ok(skipped)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_run_without_a_passed_spec_is_no_success() {
        let good = "Ran 57 of 92 Specs in 40.2 seconds\nSUCCESS! -- 57 Passed | 0 Failed | 1 Pending | 34 Skipped\n";
        assert_eq!(verdict(good).ok(), Some("Ran 57 of 92 Specs in 40.2 seconds"));
        let round = "Ran 60 of 92 Specs\nSUCCESS! -- 60 Passed | 0 Failed | 1 Pending | 31 Skipped\n";
        assert!(verdict(round).is_ok(), "sixty are not none");
        assert!(verdict("Ran 0 of 92 Specs\nSUCCESS! -- 0 Passed | 0 Failed").is_err());
        let bad = "[FAIL] Node Service\nRan 57 of 92 Specs\nFAIL! -- 56 Passed | 1 Failed";
        assert!(verdict(bad).is_err_and(|error| error.to_string().contains("Node Service")));
    }

    #[test]
    fn only_what_is_not_advertised_may_be_skipped() {
        let report = |why: &str| {
            let spec = |state, why| json!({"State": state, "LeafNodeText": "should", "Failure": {"Message": why}});
            json!([{"SpecReports": [spec("passed", ""), spec("skipped", why)]}]).to_string()
        };
        assert_eq!(skipped(&report("CreateSnapshot not supported")).ok(), Some(1));
        let said = skipped(&report("NodeStageVolume not supported"))
            .unwrap_err()
            .to_string();
        assert!(said.contains("`should`: NodeStageVolume not supported"), "{said}");
        assert!(skipped("[]").is_err());
    }

    #[test]
    fn only_its_own_words_tell_that_it_missed_a_connection() {
        assert!(missed_its_connection("{\n  s: \"Connection timed out\",\n}"));
        assert!(!missed_its_connection("code = Unavailable desc = Connection timed out"));
    }
}
