//! Every habit of the appliance that is unknown or differs between versions: the client works with each.

use std::time::Duration;

use rds_operator::routeros::*;
use routeros_sim::knobs::{JsonBools, JsonNumbers, TooLong};

use crate::rig::{GIB, Rig, Volume};

/// Puts something in the way.
type Prepare = fn(&mut routeros_sim::State, &Volume);

/// The whole life of one disk, and how many execs each step took.
async fn life(rig: &Rig, volume: &Volume) {
    let c = &rig.client;
    let absent = c.look(&volume.id()).await.unwrap();
    assert!(absent.is_absent());
    assert!(absent.pool.as_ref().and_then(|p| p.free).is_some());

    rig.forget();
    let row = c.create(&volume.create(GIB)).await.unwrap();
    assert_eq!(rig.execs(), 1, "create is one exec");
    assert_eq!(row.size, Some(Bytes(GIB)));
    assert_eq!((row.nqn.as_deref(), row.port), (Some(volume.nqn.as_str()), Some(4420)));
    assert_eq!(row.mount_filesystem, Some(false));

    // Again: taken by our own token, with enough to resume; nothing changed.
    let again = c.create(&volume.create(GIB)).await.unwrap_err();
    assert!(matches!(&again, RdsError::Taken { by, .. } if by.tag().is_some_and(|t| t.same_token(&volume.tag(1)))));
    assert_eq!(again.look().unwrap().row(), Some(&row));

    rig.forget();
    let to = Bytes(3 * GIB / 2);
    assert_eq!(c.grow(&volume.guard(1), to).await.unwrap().size, Some(to));
    assert_eq!(rig.execs(), 1, "grow is one exec");
    let smaller = c.grow(&volume.guard(1), Bytes(GIB)).await.unwrap_err();
    assert!(matches!(smaller, RdsError::Precondition { .. }), "{smaller}");

    rig.forget();
    let inventory = c.inventory(Duration::ZERO).await.unwrap();
    assert_eq!(rig.execs(), 1, "a listing is one exec");
    let listed: Vec<_> = inventory.disks.iter().filter(|d| d.carries(&volume.tag(1))).collect();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].size, Some(to));
    assert!(inventory.files.iter().any(|f| volume.path.is(&f.path)));
    assert!(inventory.version.is_supported() && inventory.pool.is_some() && inventory.has_storage_package());

    let look = c.look(&volume.id()).await.unwrap();
    assert!(look.row_of(&volume.tag(1)).is_some() && look.file.is_some() && look.nqn_rows().count() == 1);
    let wrong = c.retire(&volume.guard(7), Generation(8)).await.unwrap_err();
    assert!(matches!(wrong, RdsError::Precondition { .. }), "{wrong}");
    assert_eq!(
        c.look(&volume.id()).await.unwrap(),
        look,
        "a guard that does not match changes nothing"
    );

    rig.forget();
    assert!(!c.retire(&volume.guard(1), Generation(2)).await.unwrap().exported);
    c.remove(&volume.guard(2)).await.unwrap();
    assert_eq!(rig.execs(), 2, "a deletion is two execs");
    assert!(c.look(&volume.id()).await.unwrap().is_absent());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_print_habit_reads_the_same() {
    let rig = Rig::start().await;
    let before = rig.snapshot();
    let mut n = 0;
    for slot_limit in [32, 40] {
        for (width, inside) in [(0, false), (80, false), (80, true)] {
            for version in ["7.21", "7.24.4"] {
                for numbers in [JsonNumbers::Int, JsonNumbers::Float, JsonNumbers::String] {
                    for path_slash in [true, false] {
                        let bools = [JsonBools::Native, JsonBools::TrueFalse, JsonBools::YesNo][n % 3];
                        rig.knobs(|k| {
                            k.slot_limit = slot_limit;
                            k.width = width;
                            k.break_inside_tokens = inside;
                            k.pad_lines = inside;
                            k.version = serde_json::from_value(version.into()).unwrap();
                            k.json_numbers = numbers;
                            k.json_bools = bools;
                            k.path_slash = path_slash;
                            k.false_flags = n % 2 == 0;
                            k.error_location = n % 2 == 1;
                            k.legend_without_match = n % 4 == 1;
                        });
                        n += 1;
                        life(&rig, &Volume::new(n)).await;
                    }
                }
            }
        }
    }
    assert_eq!(n, 72);
    assert_eq!(rig.snapshot(), before, "nothing is left of 72 lives");
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_may_be_wrapped_padded_and_littered() {
    use routeros_sim::{Fault, FaultKind};
    let rig = Rig::start().await;
    let before = rig.snapshot();
    let kinds = [
        FaultKind::Wrap { width: 80 },
        FaultKind::Wrap { width: 33 },
        FaultKind::Padding { blanks: 9 },
        FaultKind::ControlCharacters,
        FaultKind::Garbage {
            text: "failure: somebody else's words".into(),
        },
        FaultKind::ExitStatus { code: Some(1) },
        FaultKind::ExitStatus { code: Some(127) },
        FaultKind::ExitStatus { code: Some(255) },
        FaultKind::ExitStatus { code: None },
        FaultKind::Slow { ms: 30 },
        FaultKind::SlowReply { ms: 30 },
    ];
    for (n, kind) in kinds.into_iter().enumerate() {
        println!("{kind:?}");
        rig.fault(Fault::always("", kind));
        life(&rig, &Volume::new(n)).await;
        rig.clear_faults();
    }
    assert_eq!(rig.snapshot(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_appliance_cuts_is_detected_and_leaves_nothing() {
    let rig = Rig::start().await;
    let before = rig.snapshot();
    for (slot_limit, comment_limit, policy) in [
        (20, 0, TooLong::Truncate),
        (20, 0, TooLong::Reject),
        (32, 60, TooLong::Truncate),
        (32, 60, TooLong::Reject),
    ] {
        rig.knobs(|k| {
            k.slot_limit = slot_limit;
            k.slot_too_long = policy;
            k.comment_limit = comment_limit;
            k.comment_too_long = policy;
        });
        let error = rig.client.create(&Volume::new(1).create(GIB)).await.unwrap_err();
        assert!(
            matches!(error, RdsError::Rejected { .. }),
            "{slot_limit} {comment_limit} {policy:?}: {error}"
        );
        assert_eq!(rig.snapshot(), before, "{slot_limit} {comment_limit} {policy:?}");
    }
    // Only the part for people is cut: fine.
    rig.knobs(|k| {
        k.slot_limit = 32;
        k.comment_limit = OwnerTag::FIXED + 3;
        k.comment_too_long = TooLong::Truncate;
    });
    life(&rig, &Volume::new(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_export_comes_back_and_a_good_one_is_not_touched() {
    let rig = Rig::start().await;
    let (c, v) = (&rig.client, Volume::new(1));
    c.create(&v.create(GIB)).await.unwrap();
    let times = || rig.disk(&v).unwrap().export.times;
    let at_first = times();
    c.export(&v.guard(1), &v.nqn, 4420).await.unwrap();
    assert_eq!(times(), at_first, "D4: not switched off and on");
    rig.edit(&v, |d| {
        d.export.on = false;
        d.mount_filesystem = true;
        d.extra.insert("smb-sharing".into(), "yes".into());
    });
    let row = c.export(&v.guard(1), &v.nqn, 4420).await.unwrap();
    assert!(row.exported && !row.shared && row.mount_filesystem == Some(false));
    // Toggled: once, under the next token.
    c.toggle_export(&v.guard(1), Generation(2), &v.nqn, 4420).await.unwrap();
    assert!(matches!(
        c.toggle_export(&v.guard(1), Generation(2), &v.nqn, 4420).await,
        Err(RdsError::Precondition { .. })
    ));
    // An NQN that somebody else exports is not taken over.
    let w = Volume::new(2);
    c.create(&w.create(GIB)).await.unwrap();
    let error = c.export(&w.guard(1), &v.nqn, 4420).await.unwrap_err();
    assert!(
        matches!(
            error,
            RdsError::Taken {
                what: Occupied::Nqn,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn i11_what_is_somebody_elses_is_refused_and_not_touched() {
    let rig = Rig::start().await;
    let (c, v) = (&rig.client, Volume::new(1));
    let cases: [(&str, Occupied, Prepare); 4] = [
        ("slot", Occupied::Slot, |s, v| {
            s.add_file_disk(v.slot.as_str(), "raid10/csi/elsewhere.img", GIB, "golden image");
        }),
        ("path", Occupied::Path, |s, v| {
            s.add_file_disk("somebody", v.path.as_str(), GIB, "");
        }),
        ("file", Occupied::File, |s, v| {
            s.add_file(v.path.as_str(), ".img file", GIB, GIB, "");
        }),
        ("nqn", Occupied::Nqn, |s, v| {
            let id = s.add_file_disk("somebody", "raid10/csi/elsewhere.img", GIB, "x");
            s.disks.update(id, |d| {
                d.export.on = true;
                d.export.nqn = v.nqn.to_string();
            });
        }),
    ];
    for (name, part, prepare) in cases {
        let clean = rig.state(|s| s.clone());
        rig.state(|s| prepare(s, &v));
        let before = rig.snapshot();
        let error = c.create(&v.create(GIB)).await.unwrap_err();
        assert!(
            matches!(&error, RdsError::Taken { what, .. } if *what == part),
            "{name}: {error}"
        );
        for error in [
            c.grow(&v.guard(1), Bytes(2 * GIB)).await.unwrap_err(),
            c.export(&v.guard(1), &v.nqn, 4420).await.unwrap_err(),
            c.retire(&v.guard(1), Generation(2)).await.unwrap_err(),
            c.remove(&v.guard(1)).await.unwrap_err(),
            c.release(&v.guard(1)).await.unwrap_err(),
        ] {
            assert!(matches!(error, RdsError::Precondition { .. }), "{name}: {error}");
        }
        if part == Occupied::Path {
            let error = c.remove_file(&v.slot, &v.path).await.unwrap_err();
            assert!(matches!(error, RdsError::Precondition { .. }), "{error}");
        }
        assert_eq!(rig.snapshot(), before, "{name}");
        rig.state(|s| *s = clean);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn adopt_takes_exactly_what_was_named_and_release_gives_it_back() {
    let rig = Rig::start().await;
    let (c, v) = (&rig.client, Volume::new(1));
    let adopt = |size| Adopt {
        id: v.id(),
        size: Bytes(size),
        port: 4420,
        tag: v.tag(1),
    };
    let refused = |e: RdsError, why: &str| {
        assert!(
            matches!(&e, RdsError::Precondition { .. }) && e.to_string().contains(why),
            "{why}: {e}"
        );
    };
    refused(c.adopt(&adopt(GIB)).await.unwrap_err(), "no disk");
    rig.state(|s| s.add_file_disk(v.slot.as_str(), v.path.as_str(), GIB, "by hand"));
    refused(c.adopt(&adopt(2 * GIB)).await.unwrap_err(), "size");
    rig.edit(&v, |d| {
        d.export.on = true;
        d.export.nqn = "nqn.2000-02.com.mikrotik:old".into();
    });
    refused(c.adopt(&adopt(GIB)).await.unwrap_err(), "another NQN");
    rig.edit(&v, |d| {
        d.export.nqn = v.nqn.to_string();
        d.export.port = 4421;
    });
    refused(c.adopt(&adopt(GIB)).await.unwrap_err(), "port 4421");
    rig.edit(&v, |d| d.export.port = 4420);
    let times = rig.disk(&v).unwrap().export.times;
    let row = c.adopt(&adopt(GIB)).await.unwrap();
    assert!(row.carries(&v.tag(1)) && row.exported);
    assert_eq!(
        rig.disk(&v).unwrap().export.times,
        times,
        "D4: a running export is left alone"
    );
    refused(c.adopt(&adopt(GIB)).await.unwrap_err(), "owned already");
    let row = c.release(&v.guard(1)).await.unwrap();
    assert!(row.owner.tag().is_none() && row.exported);
    refused(c.release(&v.guard(1)).await.unwrap_err(), "it is");
    rig.state(|s| s.add_file_disk("alias", v.path.as_str(), GIB, ""));
    refused(c.adopt(&adopt(GIB)).await.unwrap_err(), "another disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn i17_a_file_is_not_gone_because_its_pool_is_not_mounted_yet() {
    let rig = Rig::start().await;
    let before = rig.snapshot();
    let (c, v) = (&rig.client, Volume::new(1));
    c.create(&v.create(GIB)).await.unwrap();
    c.retire(&v.guard(1), Generation(2)).await.unwrap();
    rig.knobs(|k| k.pool_mounted = false);
    assert!(
        c.inventory(Duration::ZERO).await.unwrap().disks.len() == 1,
        "rows are configuration"
    );
    let removed = c.remove(&v.guard(2)).await.unwrap_err();
    assert!(removed.is_unknown(), "{removed}");
    assert!(rig.disk(&v).is_none(), "the row goes all the same");
    for error in [
        c.look(&v.id()).await.unwrap_err(),
        c.remove_file(&v.slot, &v.path).await.unwrap_err(),
    ] {
        assert!(
            error.is_unknown() && error.to_string().contains("not mounted"),
            "{error}"
        );
    }
    rig.knobs(|k| k.pool_mounted = true);
    let seen = c.look(&v.id()).await.unwrap();
    assert!(seen.file.is_some() && seen.row().is_none(), "{seen:?}");
    c.remove_file(&v.slot, &v.path).await.unwrap();
    assert_eq!(rig.snapshot(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_is_told_from_other_refusals() {
    let rig = Rig::start().await;
    let (c, v) = (&rig.client, Volume::new(1));
    let before = rig.snapshot();
    let error = c.create(&v.create(1 << 50)).await.unwrap_err();
    assert!(matches!(error, RdsError::PoolFull { .. }), "{error}");
    assert_eq!(rig.snapshot(), before);
    c.create(&v.create(GIB)).await.unwrap();
    let error = c.grow(&v.guard(1), Bytes(1 << 50)).await.unwrap_err();
    assert!(matches!(error, RdsError::PoolFull { .. }), "{error}");
    assert_eq!(c.look(&v.id()).await.unwrap().row().unwrap().size, Some(Bytes(GIB)));
    // A failed expansion taken back.
    assert!(c.grow(&v.guard(1), Bytes(GIB + 4096)).await.is_ok());
    // A folder that does not exist.
    let mut lost = Volume::new(2);
    lost.path = "/raid10/nowhere/x.img".parse().unwrap();
    let error = c.create(&lost.create(GIB)).await.unwrap_err();
    assert!(matches!(error, RdsError::Rejected { .. }), "{error}");
}
