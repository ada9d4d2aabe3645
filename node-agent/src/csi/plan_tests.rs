use super::*;

const UID: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";

fn ledger(state: FormatState, attachment: Option<&str>, fs: Option<&str>) -> FormatLedger {
    FormatLedger {
        state,
        attachment_uid: attachment.map(Into::into),
        node: None,
        fs_type: fs.map(Into::into),
        fs_uuid: (state == FormatState::Formatted).then(|| UID.to_owned()),
    }
}

fn fs(kind: &str, uuid: &str) -> Found {
    Found::Filesystem {
        fs: kind.into(),
        uuid: uuid.into(),
    }
}

fn seen<'a>(ledger: Option<&'a FormatLedger>, found: Option<&'a Found>) -> Seen<'a> {
    Seen {
        volume: "v",
        uid: UID,
        attachment: "a",
        wanted: "ext4",
        read_only: false,
        ledger,
        asked: None,
        reported: None,
        found,
        made: false,
        checked: None,
    }
}

/// The step, or `refused CODE`.
fn word(step: &Step) -> String {
    match step {
        Step::Refuse(failure) => format!("refused {:?}", failure.code()),
        step @ (Step::Probe
        | Step::Ask
        | Step::AwaitIntent
        | Step::Format
        | Step::Report
        | Step::AwaitFormatted
        | Step::Check
        | Step::Mount) => format!("{step:?}"),
    }
}

fn all_found() -> Vec<Found> {
    vec![
        Found::Blank,
        Found::Unfinished,
        fs("ext4", UID),
        fs("ext4", "other"),
        fs("xfs", UID),
        Found::Foreign("a LUKS header".into()),
    ]
}

fn row(ledger: Option<&FormatLedger>) -> Vec<String> {
    all_found()
        .iter()
        .map(|f| word(&next(&seen(ledger, Some(f)))))
        .collect()
}

#[test]
fn i1_d6_table_of_ledger_and_disk() {
    const NO: &str = "refused FailedPrecondition";
    //                                                blank unfinished ours other xfs foreign
    assert_eq!(row(None), [NO, NO, "Report", NO, NO, NO], "Unknown");
    let blank = ledger(FormatState::Blank, None, None);
    assert_eq!(row(Some(&blank)), ["Ask", NO, NO, NO, NO, NO]);
    let mine = ledger(FormatState::Intent, Some("a"), Some("ext4"));
    assert_eq!(row(Some(&mine)), ["Format", "Format", "Report", NO, NO, NO]);
    let theirs = ledger(FormatState::Intent, Some("b"), Some("ext4"));
    assert_eq!(row(Some(&theirs)), ["Ask", "Ask", "Ask", NO, NO, NO]);
    let formatted = ledger(FormatState::Formatted, None, Some("ext4"));
    assert_eq!(row(Some(&formatted)), [NO, NO, "Check", NO, NO, NO]);
    let foreign = ledger(FormatState::Foreign, None, None);
    assert_eq!(
        row(Some(&foreign)),
        [NO, NO, "Check", "Check", "refused InvalidArgument", NO]
    );
    let block = ledger(FormatState::UsedAsBlock, None, None);
    assert_eq!(row(Some(&block)), [NO; 6]);
}

#[test]
fn nothing_is_decided_before_the_disk_was_read() {
    for state in [
        FormatState::Blank,
        FormatState::Intent,
        FormatState::Formatted,
        FormatState::Foreign,
    ] {
        let ledger = ledger(state, Some("a"), Some("ext4"));
        assert_eq!(next(&seen(Some(&ledger), None)), Step::Probe, "{state:?}");
    }
    assert_eq!(next(&seen(None, None)), Step::Probe);
}

#[test]
fn the_handshake_goes_on_where_it_was() {
    let (blank, ours) = (Found::Blank, fs("ext4", UID));
    let entry = ledger(FormatState::Blank, None, None);
    let asked = Seen {
        asked: Some("ext4"),
        ..seen(Some(&entry), Some(&blank))
    };
    assert_eq!(next(&asked), Step::AwaitIntent);
    let other = Seen {
        asked: Some("xfs"),
        ..seen(Some(&entry), Some(&blank))
    };
    assert_eq!(next(&other), Step::Ask, "the wish is renewed");
    let mine = ledger(FormatState::Intent, Some("a"), Some("ext4"));
    let made = Seen {
        asked: Some("ext4"),
        made: true,
        ..seen(Some(&mine), Some(&ours))
    };
    assert_eq!(next(&made), Step::Report);
    let reported = Seen {
        reported: Some(UID),
        ..made.clone()
    };
    assert_eq!(next(&reported), Step::AwaitFormatted);
    let found_after_a_crash = Seen {
        made: false,
        ..reported.clone()
    };
    assert_eq!(
        next(&found_after_a_crash),
        Step::AwaitFormatted,
        "reported means made whole"
    );
    let done = ledger(FormatState::Formatted, None, Some("ext4"));
    let end = Seen {
        ledger: Some(&done),
        ..reported
    };
    assert_eq!(next(&end), Step::Mount, "a new filesystem is not checked (R40)");
    let theirs = ledger(FormatState::Intent, Some("gone"), Some("ext4"));
    let taking_over = Seen {
        asked: Some("ext4"),
        ..seen(Some(&theirs), Some(&blank))
    };
    assert_eq!(next(&taking_over), Step::AwaitIntent);
}

#[test]
fn d6_no_mount_unless_the_ledger_says_formatted_or_foreign() {
    // Every combination of the inputs.
    let states = [
        None,
        Some(ledger(FormatState::Unknown, None, None)),
        Some(ledger(FormatState::Blank, None, None)),
        Some(ledger(FormatState::Intent, Some("a"), Some("ext4"))),
        Some(ledger(FormatState::Intent, Some("b"), Some("ext4"))),
        Some(ledger(FormatState::Intent, Some("a"), Some("xfs"))),
        Some(ledger(FormatState::Formatted, None, Some("ext4"))),
        Some(ledger(FormatState::Formatted, None, Some("xfs"))),
        Some(ledger(FormatState::UsedAsBlock, None, None)),
        Some(ledger(FormatState::Foreign, None, None)),
    ];
    let verdicts = [None, Some(Verdict::Good), Some(Verdict::Damaged("x".into()))];
    let mut found: Vec<Option<Found>> = all_found().into_iter().map(Some).collect();
    found.push(None);
    for state in &states {
        for found in &found {
            for checked in &verdicts {
                for bits in 0..16 {
                    let case = Seen {
                        read_only: bits & 1 != 0,
                        made: bits & 2 != 0,
                        asked: (bits & 4 != 0).then_some("ext4"),
                        reported: (bits & 8 != 0).then_some(UID),
                        checked: checked.as_ref(),
                        ..seen(state.as_ref(), found.as_ref())
                    };
                    let entry = state.as_ref().map(|l| l.state);
                    let step = next(&case);
                    if step == Step::Mount {
                        assert!(
                            matches!(entry, Some(FormatState::Formatted | FormatState::Foreign)),
                            "{case:?}"
                        );
                        assert!(
                            matches!(found, Some(Found::Filesystem { fs, .. }) if fs == "ext4"),
                            "{case:?}"
                        );
                    }
                    if step == Step::Format {
                        let mine = state.as_ref().and_then(|l| l.attachment_uid.as_deref()) == Some("a");
                        assert!(
                            entry == Some(FormatState::Intent) && mine && !case.read_only,
                            "{case:?}"
                        );
                        assert!(!matches!(found, None | Some(Found::Foreign(_))), "{case:?}");
                    }
                    if case.read_only {
                        assert!(!matches!(step, Step::Ask | Step::Format), "{case:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn i9_what_a_check_says() {
    let (formatted, ours) = (ledger(FormatState::Formatted, None, Some("ext4")), fs("ext4", UID));
    for (verdict, want) in [
        (Verdict::Good, "Mount"),
        (Verdict::Repaired, "Mount"),
        (Verdict::Skipped("no tool".into()), "Mount"),
        (Verdict::Damaged("bad".into()), "refused Internal"),
    ] {
        let case = Seen {
            checked: Some(&verdict),
            ..seen(Some(&formatted), Some(&ours))
        };
        assert_eq!(word(&next(&case)), want);
    }
    let (clean, dirty) = (Verdict::Good, Verdict::Dirty);
    let reader = |checked| Seen {
        read_only: true,
        checked,
        ..seen(Some(&formatted), Some(&ours))
    };
    assert_eq!(next(&reader(None)), Step::Check);
    assert_eq!(next(&reader(Some(&clean))), Step::Mount);
    let Step::Refuse(failure) = next(&reader(Some(&dirty))) else {
        panic!("a reader would see an old state");
    };
    assert!(
        !failure.counts() && failure.to_string().contains("once read-write"),
        "{failure}"
    );
}

#[test]
fn another_type_is_the_requests_fault_and_counts_nothing() {
    let formatted = ledger(FormatState::Formatted, None, Some("xfs"));
    let Step::Refuse(failure) = next(&seen(Some(&formatted), None)) else {
        panic!("an xfs is not mounted as ext4");
    };
    assert!(!failure.counts());
    assert!(failure.to_string().contains("to xfs"), "{failure}");
}

#[test]
fn table_of_block_steps() {
    let step = |state, said| match block("v", Some(&ledger(state, None, None)), said) {
        BlockStep::Refuse(_) => "no",
        BlockStep::Say => "say",
        BlockStep::AwaitRecord => "wait",
        BlockStep::Use => "use",
    };
    for (state, before, after) in [
        (FormatState::Blank, "say", "wait"),
        (FormatState::Unknown, "say", "wait"),
        (FormatState::UsedAsBlock, "use", "use"),
        (FormatState::Foreign, "use", "use"),
        (FormatState::Intent, "no", "no"),
        (FormatState::Formatted, "no", "no"),
    ] {
        assert_eq!((step(state, false), step(state, true)), (before, after), "{state:?}");
    }
    assert_eq!(block("v", None, false), BlockStep::Say);
}
