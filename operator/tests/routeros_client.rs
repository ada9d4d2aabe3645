//! The client against a scripted transport: what each reply makes of each command.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rds_operator::routeros::*;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// What the appliance says to one exec; `NONCE` in the text becomes the nonce of the line.
type Say = Result<(String, End), NotSent>;

/// Plays its replies in order, and counts.
struct Script {
    replies: Mutex<VecDeque<Say>>,
    lines: Mutex<Vec<String>>,
    running: AtomicUsize,
    most: AtomicUsize,
    /// Replies wait here.
    hold: Semaphore,
}

impl Script {
    fn new(replies: impl IntoIterator<Item = Say>) -> Arc<Self> {
        Arc::new(Self {
            replies: Mutex::new(replies.into_iter().collect()),
            lines: Mutex::default(),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            hold: Semaphore::new(Semaphore::MAX_PERMITS),
        })
    }

    fn execs(&self) -> usize {
        self.lines.lock().unwrap().len()
    }
}

impl Transport for Script {
    fn exec<'a>(&'a self, line: &'a str, _: Instant) -> BoxFuture<'a, Result<Reply, NotSent>> {
        async move {
            self.lines.lock().unwrap().push(line.to_owned());
            let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(running, Ordering::SeqCst);
            let _held = self.hold.acquire().await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.running.fetch_sub(1, Ordering::SeqCst);
            let (text, end) = self.replies.lock().unwrap().pop_front().expect("one reply too few")?;
            let at = line.find("b0-").expect("a section") + 3;
            let text = text.replace("NONCE", &line[at..at + 16]);
            Ok(Reply {
                stdout: text.into_bytes(),
                exit: Some(0),
                end,
            })
        }
        .boxed()
    }
}

fn client(transport: Arc<Script>) -> Client {
    let limits = Limits {
        queue_timeout: Duration::from_secs(5),
        ..Limits::default()
    };
    let target = Target {
        name: "rds-1".into(),
        address: "192.0.2.1".into(),
        port: 22,
        user: "csi".into(),
        private_key: String::new().into(),
        host_keys: vec![],
        base_path: "/raid10/csi".parse().unwrap(),
        limits,
    };
    Client::new(&target, transport, None)
}

fn tag(generation: u32) -> OwnerTag {
    let volume = "0123456789abcdef0123456789abcdef".parse().unwrap();
    OwnerTag::new(
        ClusterId::of("c"),
        volume,
        Generation(generation),
        "00c0ffee".parse().unwrap(),
        "ns/claim",
    )
}

fn guard(generation: u32) -> Guard {
    Guard {
        slot: "pvc-1".parse().unwrap(),
        path: "/raid10/csi/pvc-1.img".parse().unwrap(),
        tag: tag(generation),
    }
}

fn nqn() -> Nqn {
    "nqn.2026-01.io.x:pvc-1".parse().unwrap()
}

fn request() -> CreateDisk {
    let Guard { slot, path, tag } = guard(1);
    CreateDisk {
        slot,
        path,
        tag,
        size: Bytes(8192),
        nqn: nqn(),
        port: 4420,
    }
}

fn id() -> DiskId {
    DiskId {
        slot: guard(1).slot,
        path: guard(1).path,
        nqn: nqn(),
    }
}

/// A row as the appliance prints it.
fn row(comment: &str, size: u64, exported: bool) -> String {
    let export = if exported {
        r#","nvme-tcp-server-nqn":"nqn.2026-01.io.x:pvc-1","nvme-tcp-server-port":4420"#
    } else {
        ""
    };
    format!(
        r#"{{".id":"*20","comment":"{comment}","file-path":"/raid10/csi/pvc-1.img","mount-filesystem":false,"nvme-tcp-export":{exported}{export},"size":{size},"slot":"pvc-1","type":"file"}}"#
    )
}

const POOL: &str = r#"{".id":"*1","free":100000,"fs":"xfs","mount-point":"raid10","mounted":true,"size":200000,"slot":"raid10","type":"raid"}"#;
const FILE: &str = r#"[{".id":"*5","name":"raid10/csi/pvc-1.img","size":8192,"type":".img file"}]"#;

fn sections(disks: &[&str], files: &str) -> String {
    format!(
        "b0-NONCE\r\n[{}]\r\ne0-NONCE\r\nb1-NONCE\r\n{files}\r\ne1-NONCE\r\n",
        disks.join(",")
    )
}

fn done(disks: &[&str], files: &str) -> Say {
    Ok((format!("{}ok-NONCE\r\n\r\n", sections(disks, files)), End::Closed))
}

fn stopped(words: &str, disks: &[&str], files: &str) -> Say {
    Ok((
        format!("err-NONCE {words}\r\n{}end-NONCE\r\n", sections(disks, files)),
        End::Closed,
    ))
}

fn says(text: &str, end: End) -> Say {
    Ok((text.to_owned(), end))
}

#[tokio::test]
async fn create_returns_what_was_read_back() {
    let t = Script::new([done(&[&row(&tag(1).to_string(), 8192, true), POOL], FILE)]);
    let row = client(t.clone()).create(&request()).await.unwrap();
    assert_eq!((row.size, row.exported, t.execs()), (Some(Bytes(8192)), true, 1));
}

#[tokio::test]
async fn create_believes_nothing_that_reads_back_differently() {
    let cut = tag(1).to_string()[..60].to_owned();
    let own = tag(1).to_string();
    let cases = [
        ("export", row(&own, 8192, false)),
        ("4096 bytes", row(&own, 4096, true)),
        ("tag", row(&cut, 8192, true)),
        ("tag", row(&own.replace("k00c0ffee", "k00000000"), 8192, true)),
        (
            "slot",
            row(&own, 8192, true).replace("\"slot\":\"pvc-1\"", "\"slot\":\"pvc\""),
        ),
        ("NQN", row(&own, 8192, true).replace("io.x:pvc-1", "io.x:other")),
        (
            "port none",
            row(&own, 8192, true).replace(r#","nvme-tcp-server-port":4420"#, ""),
        ),
        (
            "mounting",
            row(&own, 8192, true).replace("\"mount-filesystem\":false", "\"mount-filesystem\":\"yes\""),
        ),
    ];
    for (what, row) in cases {
        let error = client(Script::new([done(&[&row, POOL], FILE)]))
            .create(&request())
            .await
            .unwrap_err();
        assert!(matches!(error, RdsError::ReadBack { .. }), "{what}: {error}");
        assert!(
            error.to_string().contains(what) && error.is_partial() && !error.is_unknown(),
            "{what}: {error}"
        );
    }
    // Gone without a trace: ReadBack too, never success.
    let error = client(Script::new([done(&[POOL], "[]")]))
        .create(&request())
        .await
        .unwrap_err();
    assert!(matches!(error, RdsError::ReadBack { .. }), "{error}");
}

#[tokio::test]
async fn create_tells_who_is_in_the_way() {
    let own = row(&tag(1).to_string(), 8192, true);
    let foreign = row("golden image", 8192, false).replace("\"slot\":\"pvc-1\"", "\"slot\":\"other\"");
    let cases = [
        (
            stopped("rds-slot", &[&own, POOL], FILE),
            Occupied::Slot,
            "0123456789abcdef",
        ),
        (
            stopped("rds-path (/disk; line 1)", &[&foreign, POOL], FILE),
            Occupied::Path,
            "golden image",
        ),
        (
            stopped("failure: rds-file", &[POOL], FILE),
            Occupied::File,
            "without owner tag",
        ),
        (stopped("rds-nqn", &[&foreign, POOL], "[]"), Occupied::Nqn, ""),
    ];
    for (reply, part, by) in cases {
        let error = client(Script::new([reply])).create(&request()).await.unwrap_err();
        assert!(
            matches!(&error, RdsError::Taken { what, .. } if *what == part),
            "{error}"
        );
        assert!(error.to_string().contains(by) && !error.is_unknown(), "{error}");
    }
    let error = client(Script::new([stopped("rds-slot", &[&own], FILE)]))
        .create(&request())
        .await
        .unwrap_err();
    assert!(matches!(&error, RdsError::Taken { by, .. } if by.tag().is_some_and(|t| t.same_token(&tag(1)))));
    assert!(
        error.look().unwrap().row_of(&tag(1)).is_some(),
        "enough to resume without another exec"
    );
}

#[tokio::test]
async fn refusals_of_create_say_what_is_left() {
    let unexported = row(&tag(1).to_string(), 8192, false);
    let say = |words: &str, disks: &[&str], files: &str| {
        let (text, end) = stopped(words, disks, files).unwrap();
        client(Script::new([says(&format!("free-NONCE\r\n{text}"), end)]))
    };
    let full = POOL.replace("100000", "8191");
    let error = say("failure: whatever", &[&full], "[]")
        .create(&request())
        .await
        .unwrap_err();
    assert!(matches!(error, RdsError::PoolFull { free: Bytes(8191), .. }), "{error}");
    let error = say("failure: no space left", &[POOL], "[]")
        .create(&request())
        .await
        .unwrap_err();
    assert!(
        matches!(error, RdsError::Rejected { .. }),
        "full by words only: {error}"
    );
    let error = say("failure: no space left", &[&full], FILE)
        .create(&request())
        .await
        .unwrap_err();
    assert!(
        matches!(&error, RdsError::Incomplete { look, .. } if look.file.is_some()),
        "{error}"
    );
    let error = say("failure: export", &[&unexported, POOL], FILE)
        .create(&request())
        .await
        .unwrap_err();
    assert!(
        matches!(&error, RdsError::Incomplete { look, .. } if look.row_of(&tag(1)).is_some()),
        "{error}"
    );
    let error = say("not enough permissions (9) (/disk/add; line 1)", &[POOL], "[]")
        .create(&request())
        .await
        .unwrap_err();
    assert!(matches!(&error, RdsError::Permission { proven: true, .. }) && error.to_string().contains("policies"));
    // It stopped while it looked: what is there was there before.
    let error = client(Script::new([stopped("action timed out", &[POOL], FILE)]))
        .create(&request())
        .await
        .unwrap_err();
    assert!(
        matches!(&error, RdsError::Precondition { look, .. } if look.file.is_some()),
        "{error}"
    );
    let error = say("rds-mangled", &[POOL], "[]").create(&request()).await.unwrap_err();
    assert!(
        matches!(&error, RdsError::Rejected { .. }) && error.to_string().contains("cut"),
        "{error}"
    );
}

#[tokio::test]
async fn i10_without_a_verdict_every_command_is_unknown() {
    let replies = || {
        [
            ("", End::Closed, "ReplyUnreadable"),
            ("\r\n\r\n", End::Closed, "ReplyUnreadable"),
            ("b0-NONCE\r\n[]\r\ne0-NONCE\r\nb1-NON", End::Closed, "ReplyUnreadable"),
            (
                "b0-NONCE\r\n[]\r\ne0-NONCE\r\nb1-NONCE\r\n[]\r\ne1-NONCE\r\n",
                End::Closed,
                "ReplyUnreadable",
            ),
            ("ok-NONCE\r\n", End::Closed, "ReplyUnreadable"),
            ("err-NONCE failure: x\r\n", End::Closed, "ReplyUnreadable"),
            ("ok-0000000000000000\r\n", End::Closed, "ReplyUnreadable"),
            (
                "expected end of command (line 1 column 29)\r\n",
                End::Closed,
                "NotUnderstood",
            ),
            ("not enough permissions (9)\r\n", End::Closed, "PermissionDenied"),
            ("Fehler\r\n", End::Closed, "ReplyUnreadable"),
            ("", End::Broken("reset".to_owned()), "ConnectionLost"),
            ("", End::TimedOut, "Timeout"),
        ]
    };
    for (text, end, reason) in replies() {
        let t = Script::new((0..8).map(|_| says(text, end.clone())));
        let c = client(t.clone());
        let (g, next) = (guard(1), Generation(2));
        let errors = [
            c.create(&request()).await.unwrap_err(),
            c.grow(&g, Bytes(16384)).await.unwrap_err(),
            c.export(&g, &nqn(), 4420).await.unwrap_err(),
            c.toggle_export(&g, next, &nqn(), 4420).await.unwrap_err(),
            c.retire(&g, next).await.unwrap_err(),
            c.remove(&g).await.unwrap_err(),
            c.remove_file(&g.slot, &g.path).await.unwrap_err(),
            c.release(&g).await.unwrap_err(),
        ];
        for error in errors {
            assert!(error.is_unknown() && error.reason() == reason, "{text:?}: {error}");
        }
        assert_eq!(t.execs(), 8, "nothing is sent twice");
    }
}

#[tokio::test]
async fn i10_absence_needs_a_complete_answer() {
    let look = client(Script::new([done(&[POOL], "[]")])).look(&id()).await.unwrap();
    assert!(look.is_absent() && look.pool.is_some());
    for text in [
        "",
        "ok-NONCE\r\n",
        "b0-NONCE\r\n\r\ne0-NONCE\r\nb1-NONCE\r\n[]\r\ne1-NONCE\r\nok-NONCE",
        "b0-NONCE\r\nno such item\r\ne0-NONCE\r\nb1-NONCE\r\n[]\r\ne1-NONCE\r\nok-NONCE",
        "b0-NONCE\r\n[]\r\ne0-NONCE\r\nok-NONCE",
        "b0-NONCE\r\n[]\r\ne0-NONCE\r\nb1-NONCE\r\n[]\r\ne1-NONCE\r\n",
    ] {
        let error = client(Script::new([says(text, End::Closed)]))
            .look(&id())
            .await
            .unwrap_err();
        assert!(matches!(error, RdsError::Garbled { .. }), "{text:?}: {error}");
    }
    // The verdict counts, not how the channel ended afterwards.
    let (text, _) = done(&[POOL], "[]").unwrap();
    for end in [End::TimedOut, End::Broken("reset".into())] {
        assert!(
            client(Script::new([says(&text, end)]))
                .look(&id())
                .await
                .unwrap()
                .is_absent()
        );
    }
}

/// After a start of the appliance SSH answers before the pool is mounted: `/disk/remove` works then, and `/file` is empty.
#[tokio::test]
async fn i17_of_a_pool_that_is_not_mounted_no_file_is_known_to_be_gone() {
    let unmounted = r#"{".id":"*1","mounted":false,"size":200000,"slot":"raid10","type":"raid"}"#;
    for rows in [vec![], vec![unmounted]] {
        let reply = || done(&rows, "[]");
        let c = client(Script::new([
            reply(),
            reply(),
            reply(),
            stopped("failure: could not create file", &rows, "[]"),
        ]));
        let errors = [
            c.look(&id()).await.unwrap_err(),
            c.remove(&guard(2)).await.unwrap_err(),
            c.remove_file(&guard(2).slot, &guard(2).path).await.unwrap_err(),
            c.create(&request()).await.unwrap_err(),
        ];
        for error in errors {
            assert!(
                error.is_unknown() && error.to_string().contains("not mounted"),
                "{rows:?}: {error}"
            );
        }
        let seen = client(Script::new([done(&rows, FILE)])).look(&id()).await.unwrap();
        assert!(seen.file.is_some(), "what shows is there");
    }
}

#[tokio::test]
async fn d1_a_guard_that_does_not_match_changes_nothing_and_says_why() {
    let cases = [
        (vec![], "no disk has"),
        (vec![row(&tag(3).to_string(), 8192, true)], "generation 3"),
        (vec![row("", 8192, true)], "without owner tag"),
        (vec![row("somebody's", 8192, true)], "somebody's"),
        (vec![row(&tag(1).to_string()[..50], 8192, true)], "damaged"),
        (
            vec![row(&tag(1).to_string().replace("k00c0ffee", "k00000000"), 8192, true)],
            "another create",
        ),
        (
            vec![
                row(&tag(1).to_string(), 8192, true),
                row(&tag(1).to_string(), 8192, true),
            ],
            "one and only one",
        ),
    ];
    for (rows, why) in cases {
        let rows: Vec<&str> = rows.iter().map(String::as_str).chain([POOL]).collect();
        let error = client(Script::new([stopped("rds-guard", &rows, "[]")]))
            .grow(&guard(1), Bytes(16384))
            .await
            .unwrap_err();
        assert!(matches!(error, RdsError::Precondition { .. }), "{error}");
        assert!(error.to_string().contains(why) && !error.is_unknown(), "{why}: {error}");
    }
}

#[tokio::test]
async fn grow_reports_what_was_measured() {
    let own = |size| row(&tag(1).to_string(), size, true);
    let say = |r: Say| client(Script::new([r]));
    let row = say(done(&[&own(16384), POOL], FILE))
        .grow(&guard(1), Bytes(16384))
        .await
        .unwrap();
    assert_eq!(row.size, Some(Bytes(16384)));
    let row = say(done(&[&own(8192), POOL], FILE))
        .grow(&guard(1), Bytes(16384))
        .await
        .unwrap();
    assert_eq!(
        row.size,
        Some(Bytes(8192)),
        "a box that resizes with the next export only"
    );
    let error = say(stopped("rds-size", &[&own(32768), POOL], FILE))
        .grow(&guard(1), Bytes(16384))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, RdsError::Precondition { detail, .. } if detail.contains("32768")),
        "{error}"
    );
    let full = POOL.replace("100000", "10");
    let error = say(stopped("failure: x", &[&own(8192), &full], FILE))
        .grow(&guard(1), Bytes(16384))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            RdsError::PoolFull {
                needed: Bytes(8192),
                free: Bytes(10),
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn retire_and_remove_prove_their_effect() {
    let g1 = row(&tag(1).to_string(), 8192, true);
    let (g2, g2_exported) = (
        row(&tag(2).to_string(), 8192, false),
        row(&tag(2).to_string(), 8192, true),
    );
    let say = |r: Say| client(Script::new([r]));
    assert!(say(done(&[&g2], FILE)).retire(&guard(1), Generation(2)).await.is_ok());
    for rows in [vec![g1.as_str()], vec![g2_exported.as_str()], vec![]] {
        let error = say(done(&rows, FILE))
            .retire(&guard(1), Generation(2))
            .await
            .unwrap_err();
        assert!(matches!(error, RdsError::ReadBack { .. }), "{error}");
    }
    let error = client(Script::new([]))
        .retire(&guard(2), Generation(2))
        .await
        .unwrap_err();
    assert!(matches!(error, RdsError::Invalid { .. }), "D3: {error}");

    assert!(say(done(&[POOL], "[]")).remove(&guard(2)).await.is_ok());
    for (rows, files) in [
        (vec![g2.as_str(), POOL], "[]"),
        (vec![], FILE),
        (vec![g2.as_str()], FILE),
    ] {
        let error = say(done(&rows, files)).remove(&guard(2)).await.unwrap_err();
        assert!(matches!(error, RdsError::ReadBack { .. }), "{error}");
    }
    let error = say(stopped("rds-left", &[], FILE)).remove(&guard(2)).await.unwrap_err();
    assert!(
        matches!(&error, RdsError::Incomplete { look, .. } if look.file.is_some()),
        "{error}"
    );
    let error = say(stopped("rds-named", &[&g1], FILE))
        .remove_file(&guard(2).slot, &guard(2).path)
        .await
        .unwrap_err();
    assert!(matches!(error, RdsError::Precondition { .. }), "{error}");
    let error = say(stopped("rds-exported", &[&g2_exported], FILE))
        .remove(&guard(2))
        .await
        .unwrap_err();
    assert!(matches!(error, RdsError::Precondition { .. }), "{error}");
}

#[tokio::test]
async fn what_was_not_sent_is_known_not_to_have_happened() {
    let cases = [
        (NotSent::Unreachable("refused".into()), Class::Transient),
        (NotSent::HostKey("changed".into()), Class::NeedsHuman),
        (NotSent::Auth("denied".into()), Class::NeedsHuman),
    ];
    for (not_sent, class) in cases {
        let error = client(Script::new([Err(not_sent)]))
            .create(&request())
            .await
            .unwrap_err();
        assert!(!error.is_unknown() && error.class() == class, "{error}");
    }
}

const RESOURCE: &str = r#"{"board-name":"RDS2216","version":"7.24.4 (stable)"}"#;

fn listing(version: &str) -> Say {
    let resource = RESOURCE.replace("7.24.4 (stable)", version);
    let files = r#"[{"name":"raid10/csi","type":"directory"},{"name":"raid10/csi/a.img","size":1},{"name":"x/raid10/csi/b.img"}]"#;
    let other = r#"{".id":"*2","type":"hardware","slot":"nvme1"}"#;
    let text = format!(
        "b0-NONCE\r\n{resource}\r\ne0-NONCE\r\nb1-NONCE\r\n[{{\"name\":\"rose-storage\"}}]\r\ne1-NONCE\r\n\
         b2-NONCE\r\n[{POOL},{other},{}]\r\ne2-NONCE\r\nb3-NONCE\r\n{files}\r\ne3-NONCE\r\nok-NONCE\r\n",
        row("", 8192, false)
    );
    says(&text, End::Closed)
}

#[tokio::test]
async fn one_listing_serves_all_who_wait() {
    let t = Script::new((0..2).map(|_| listing("7.24.4 (stable)")));
    let c = client(t.clone());
    let all = futures::future::join_all((0..50).map(|_| c.inventory(Duration::from_secs(10)))).await;
    let inventory = all[0].as_ref().unwrap();
    assert!(all.iter().all(|i| Arc::ptr_eq(i.as_ref().unwrap(), inventory)));
    assert_eq!(t.execs(), 1);
    assert_eq!(
        (
            inventory.disks.len(),
            inventory.files.len(),
            inventory.has_storage_package()
        ),
        (1, 1, true)
    );
    assert_eq!(inventory.pool.as_ref().unwrap().free, Some(Bytes(100_000)));
    assert_eq!(
        (inventory.version.to_string().as_str(), inventory.board.as_str()),
        ("7.24.4", "RDS2216")
    );
    c.inventory(Duration::from_secs(10)).await.unwrap();
    assert_eq!(t.execs(), 1, "young enough");
    c.inventory(Duration::ZERO).await.unwrap();
    assert_eq!(t.execs(), 2, "fresh means fresh");
}

#[tokio::test]
async fn a_failed_listing_is_no_empty_listing() {
    let t = Script::new([says("", End::TimedOut), listing("7.24.4")]);
    let c = client(t.clone());
    assert!(matches!(
        c.inventory(Duration::ZERO).await,
        Err(RdsError::Timeout { .. })
    ));
    assert!(c.inventory(Duration::ZERO).await.is_ok(), "and is not remembered");
}

#[tokio::test]
async fn an_old_version_is_refused_by_name_until_it_is_upgraded() {
    let t = Script::new([listing("7.20.8 (long-term)"), listing("7.21"), done(&[POOL], "[]")]);
    let c = client(t.clone());
    let inventory = c.inventory(Duration::ZERO).await.unwrap();
    assert!(
        inventory
            .check_version(c.server())
            .unwrap_err()
            .to_string()
            .contains("7.20.8")
    );
    let error = c.create(&request()).await.unwrap_err();
    assert!(matches!(error, RdsError::VersionTooOld { .. }) && !error.is_unknown());
    assert!(matches!(c.look(&id()).await, Err(RdsError::VersionTooOld { .. })));
    assert_eq!(t.execs(), 1);
    c.inventory(Duration::ZERO).await.unwrap();
    assert!(c.look(&id()).await.is_ok());
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_the_command_and_the_queue_in_order() {
    let reply = || done(&[POOL], "[]");
    let t = Script::new([reply(), reply(), reply()]);
    t.hold.forget_permits(Semaphore::MAX_PERMITS);
    let c = client(t.clone());
    let id = id();
    assert!(
        tokio::time::timeout(Duration::from_millis(20), c.look(&id))
            .await
            .is_err(),
        "sent, caller gone"
    );
    assert!(
        tokio::time::timeout(Duration::from_millis(20), c.look(&id))
            .await
            .is_err(),
        "queued, caller gone"
    );
    t.hold.add_permits(10);
    assert!(c.look(&id).await.is_ok());
    c.drained().await;
    assert_eq!(
        (t.execs(), t.most.load(Ordering::SeqCst)),
        (2, 1),
        "the queued one was never sent; one at a time"
    );
}

#[tokio::test(start_paused = true)]
async fn the_queue_has_a_deadline_and_what_waited_too_long_was_not_sent() {
    let t = Script::new([done(&[POOL], "[]")]);
    t.hold.forget_permits(Semaphore::MAX_PERMITS);
    let c = client(t.clone());
    let (id, request) = (id(), request());
    let (first, second) = tokio::join!(c.look(&id), async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        c.create(&request).await
    });
    assert!(
        matches!(first, Err(RdsError::Timeout { .. })),
        "a transport that keeps no deadline"
    );
    let error = second.unwrap_err();
    assert!(matches!(error, RdsError::Busy { .. }) && !error.is_unknown());
    assert_eq!(t.execs(), 1);
}

#[test]
fn metrics_register_once_and_count() {
    let registry = prometheus::Registry::new();
    RouterosMetrics::new(&registry).unwrap();
    assert!(RouterosMetrics::new(&registry).is_err());
}
