//! Live sessions: who connects, who is cut by what, who comes back, who can write after whom.
#![allow(clippy::unwrap_used)]

use routeros_sim::knobs::*;
use routeros_sim::{Config, Dead, Knobs, Link, Refused, SessionId, Simulator};
use std::time::Duration;

const ADD: &str = "/disk add type=file slot=a file-path=storage-pool/a.img file-size=1G nvme-tcp-export=yes nvme-tcp-server-nqn=nqn.x:a";
const PATH: &str = "/storage-pool/a.img";
const NQN: &str = "nqn.x:a";

/// Everything that takes an export away from those who use it, and what brings it back under the same name.
const AWAY: [(&str, Option<&str>); 5] = [
    (
        "/disk set a nvme-tcp-export=no",
        Some("/disk set a nvme-tcp-export=yes"),
    ),
    (
        "/disk set a nvme-tcp-server-nqn=nqn.x:a.g2",
        Some("/disk set a nvme-tcp-server-nqn=nqn.x:a"),
    ),
    (
        "/disk unset a nvme-tcp-server-nqn",
        Some("/disk set a nvme-tcp-server-nqn=nqn.x:a"),
    ),
    ("/disk/disable a", Some("/disk/enable a")),
    ("/disk/remove a", None),
];

async fn with(f: impl FnOnce(&mut Knobs)) -> Simulator {
    let mut config = Config::default();
    f(&mut config.knobs);
    let sim = Simulator::start(config).await.unwrap();
    ok(&sim, ADD).await;
    sim
}

async fn ok(sim: &Simulator, line: &str) {
    let done = sim.exec(line).await;
    assert_eq!(done.output, "", "{line}");
}

fn link(sim: &Simulator, id: SessionId) -> Link {
    let s = sim.session(id).unwrap();
    assert_eq!(s.alive, s.link.is_alive());
    s.link
}

#[tokio::test]
async fn only_what_is_exported_under_that_name_can_be_reached() {
    let sim = with(|_| ()).await;
    for wrong in ["nqn.x", "nqn.x:A", "nqn.x:a.g2", "a", "nqn.2000-02.com.mikrotik:a", ""] {
        assert_eq!(sim.connect(wrong, "n1"), Err(Refused::UnknownSubsystem), "{wrong}");
    }
    let id = sim.connect(NQN, "n1").unwrap();
    assert_eq!(sim.connect(NQN, "n1"), Ok(id), "EALREADY");
    let other = sim.connect(NQN, "n2").unwrap();
    assert_ne!(id, other);
    let s = sim.session(id).unwrap();
    assert_eq!(
        (s.nqn.as_str(), s.host.as_str(), s.slot.as_str(), s.path.as_str()),
        (NQN, "n1", "a", PATH)
    );
    assert!(s.alive && s.losses == 0);
    assert_eq!(sim.live_writers(PATH), ["n1", "n2"]);
    assert_eq!(
        sim.live_writers("storage-pool/a.img"),
        ["n1", "n2"],
        "with or without slash"
    );
    assert!(sim.disconnect(id) && !sim.disconnect(id));
    assert_eq!(sim.write(id, "x"), Err(Dead::NoSession));
    assert_eq!(sim.live_writers(PATH), ["n2"]);
    ok(&sim, "/disk/disable a").await;
    assert_eq!(sim.connect(NQN, "n1"), Err(Refused::UnknownSubsystem));
    // The name of a slot for which none was set.
    ok(
        &sim,
        "/disk add type=file slot=b file-path=storage-pool/b.img file-size=1G nvme-tcp-export=yes",
    )
    .await;
    assert!(sim.connect("nqn.2000-02.com.mikrotik:b", "n1").is_ok());
    assert_eq!(sim.connect("b", "n1"), Err(Refused::UnknownSubsystem));
    sim.knobs(|k| k.default_nqn = DefaultNqn::Slot);
    assert!(sim.connect("b", "n1").is_ok());
}

#[tokio::test]
async fn a_list_of_hosts_refuses_others_and_ends_nobody() {
    let sim = with(|_| ()).await;
    let id = sim.connect(NQN, "n1").unwrap();
    ok(&sim, "/disk set a nvme-tcp-server-allow-host-name=\"n2,n3\"").await;
    assert_eq!(sim.connect(NQN, "n1"), Err(Refused::HostNotAllowed));
    assert!(sim.connect(NQN, "n3").is_ok());
    assert_eq!(sim.write(id, "still here"), Ok(()));
}

#[tokio::test]
async fn taking_the_export_away_drops_sessions() {
    for (away, back) in AWAY {
        let sim = with(|_| ()).await;
        let id = sim.connect(NQN, "n1").unwrap();
        sim.write(id, "before").unwrap();
        ok(&sim, away).await;
        assert_eq!(link(&sim, id), Link::Lost, "{away}");
        assert_eq!(sim.write(id, "late"), Err(Dead::Lost), "{away}");
        assert!(sim.live_writers(PATH).is_empty(), "{away}");
        assert_eq!(sim.connect(NQN, "n1"), Err(Refused::UnknownSubsystem), "{away}");
        let Some(back) = back else { continue };
        ok(&sim, back).await;
        assert_eq!(sim.write(id, "again"), Ok(()), "{away}");
        let tags: Vec<String> = sim.writes(PATH).into_iter().map(|w| w.tag).collect();
        assert_eq!(tags, ["before", "again"], "{away}");
    }
}

#[tokio::test]
async fn away_and_back_in_one_line_cuts_too() {
    for (away, back) in AWAY {
        let Some(back) = back else { continue };
        let sim = with(|k| k.reconnect = Reconnect::Never).await;
        let id = sim.connect(NQN, "n1").unwrap();
        ok(&sim, &format!("{away}; {back}")).await;
        assert_eq!(
            sim.session(id).map(|s| (s.link, s.losses)),
            Some((Link::Ended, 1)),
            "{away}"
        );
    }
}

#[tokio::test]
async fn an_initiator_stays_at_its_port() {
    let sim = with(|_| ()).await;
    let (one, two) = (sim.connect(NQN, "n1").unwrap(), sim.connect(NQN, "n2").unwrap());
    ok(&sim, "/disk set a nvme-tcp-server-port=4421").await;
    assert_eq!((link(&sim, one), link(&sim, two)), (Link::Lost, Link::Lost));
    let fresh = sim.connect(NQN, "n1").unwrap();
    assert_ne!(fresh, one);
    ok(&sim, "/disk set a nvme-tcp-server-port=4420").await;
    assert_eq!((link(&sim, fresh), link(&sim, two)), (Link::Lost, Link::Served));
}

#[tokio::test]
async fn sessions_that_are_left_alone_write_on_until_they_disconnect() {
    for (away, _) in AWAY {
        let sim = with(|k| k.export_off = ExportOff::LeavesSessions).await;
        let lost = sim.connect(NQN, "n1").unwrap();
        ok(&sim, away).await;
        assert_eq!(link(&sim, lost), Link::Orphaned, "{away}");
        assert_eq!(
            sim.connect(NQN, "n2"),
            Err(Refused::UnknownSubsystem),
            "nobody else gets in"
        );
        assert_eq!(sim.live_writers(PATH), ["n1"], "{away}");
        // A fence by generation, which on such a box lets two write.
        if !away.contains("remove") {
            ok(&sim, "/disk set a disabled=no nvme-tcp-export=no").await;
            ok(&sim, "/disk set a nvme-tcp-server-nqn=nqn.x:a.g2 nvme-tcp-export=yes").await;
            let next = sim.connect("nqn.x:a.g2", "n2").unwrap();
            assert_eq!(sim.live_writers(PATH), ["n1", "n2"], "{away}");
            sim.write(next, "mine").unwrap();
        }
        assert_eq!(sim.write(lost, "late"), Ok(()), "{away}");
        assert_eq!(sim.writes(PATH).last().unwrap().host, "n1", "the oracle sees it");
        sim.disconnect(lost);
        assert!(!sim.live_writers(PATH).contains(&"n1".to_owned()), "{away}");
    }
}

#[tokio::test]
async fn another_name_is_the_end_of_a_session_that_was_dropped() {
    for reconnect in [Reconnect::Retries, Reconnect::UntilRefused, Reconnect::Never] {
        let sim = with(|k| k.reconnect = reconnect).await;
        let lost = sim.connect(NQN, "n1").unwrap();
        sim.write(lost, "one").unwrap();
        ok(&sim, "/disk set a nvme-tcp-export=no").await;
        ok(&sim, "/disk set a nvme-tcp-server-nqn=nqn.x:a.g2 nvme-tcp-export=yes").await;
        let next = sim.connect("nqn.x:a.g2", "n2").unwrap();
        sim.write(next, "two").unwrap();
        assert!(sim.write(lost, "three").is_err(), "{reconnect:?}");
        assert_eq!(sim.connect(NQN, "n1"), Err(Refused::UnknownSubsystem));
        assert_eq!(sim.live_writers(PATH), ["n2"]);
        let seen: Vec<_> = sim
            .writes(PATH)
            .into_iter()
            .map(|w| (w.seq, w.host, w.tag, w.nqn))
            .collect();
        let write = |seq, host: &str, tag: &str, nqn: &str| (seq, host.to_owned(), tag.to_owned(), nqn.to_owned());
        assert_eq!(seen, [write(1, "n1", "one", NQN), write(2, "n2", "two", "nqn.x:a.g2")]);
    }
}

#[tokio::test]
async fn reconnecting_is_a_knob() {
    let toggle = "/disk set a nvme-tcp-export=no; /disk set a nvme-tcp-export=yes";
    for (reconnect, at_once, looked_at) in [
        (Reconnect::Retries, Link::Served, Link::Served),
        // Its next attempt comes later than the toggle; when it comes in between, the refusal is the end.
        (Reconnect::UntilRefused, Link::Served, Link::Ended),
        (Reconnect::Never, Link::Ended, Link::Ended),
    ] {
        let sim = with(|k| k.reconnect = reconnect).await;
        let id = sim.connect(NQN, "n1").unwrap();
        ok(&sim, toggle).await;
        assert_eq!(link(&sim, id), at_once, "{reconnect:?}");
        assert_eq!(sim.session(id).unwrap().losses, 1, "one line, and yet it was cut");
        let sim = with(|k| k.reconnect = reconnect).await;
        let id = sim.connect(NQN, "n1").unwrap();
        ok(&sim, "/disk set a nvme-tcp-export=no").await;
        let _look = sim.sessions();
        ok(&sim, "/disk set a nvme-tcp-export=yes").await;
        assert_eq!(link(&sim, id), looked_at, "{reconnect:?}");
        // Whoever gave up can connect afresh.
        let again = sim.connect(NQN, "n1").unwrap();
        assert_eq!(again == id, looked_at == Link::Served);
        assert_eq!(sim.live_writers(PATH), ["n1"]);
        assert_eq!(sim.sessions().len(), 1);
    }
}

#[tokio::test]
async fn a_namespace_that_changed_is_not_taken_for_the_old_one() {
    let toggle = "/disk set a nvme-tcp-export=no; /disk set a nvme-tcp-export=yes";
    for (knob, after) in [
        (NamespaceUuid::Stable, Link::Served),
        (NamespaceUuid::Random, Link::Ended),
        (NamespaceUuid::Absent, Link::Served),
    ] {
        let sim = with(|k| k.namespace_uuid = knob).await;
        let id = sim.connect(NQN, "n1").unwrap();
        ok(&sim, toggle).await;
        assert_eq!(link(&sim, id), after, "{knob:?}");
    }
    // A disk made anew under the name of a removed one: without an identifier the initiator takes it for the old one.
    for (knob, after) in [
        (NamespaceUuid::Stable, Link::Ended),
        (NamespaceUuid::Absent, Link::Served),
    ] {
        let sim = with(|k| k.namespace_uuid = knob).await;
        let id = sim.connect(NQN, "n1").unwrap();
        ok(&sim, "/disk/remove a; /file/remove storage-pool/a.img").await;
        assert_eq!(link(&sim, id), Link::Lost);
        ok(&sim, ADD).await;
        assert_eq!(link(&sim, id), after, "{knob:?}");
        assert_eq!(sim.live_writers(PATH).len(), usize::from(after == Link::Served));
    }
}

#[tokio::test]
async fn writes_belong_to_files_not_to_names() {
    let sim = with(|k| k.export_off = ExportOff::LeavesSessions).await;
    let old = sim.connect(NQN, "n1").unwrap();
    sim.write(old, "old").unwrap();
    ok(&sim, "/disk/remove a; /file/remove storage-pool/a.img").await;
    assert_eq!(sim.live_writers(PATH), ["n1"], "a removed file that is still open");
    ok(&sim, ADD).await;
    let new = sim.connect(NQN, "n2").unwrap();
    sim.write(new, "new").unwrap();
    sim.write(old, "lost").unwrap();
    assert_eq!(
        sim.live_writers(PATH),
        ["n2"],
        "the old session does not reach the new file"
    );
    let files: Vec<u32> = sim.writes(PATH).iter().map(|w| w.file).collect();
    assert!(files[0] != files[1] && files[0] == files[2]);
    let file = |name: &str| sim.files().into_iter().find(|f| f.name == name).unwrap();
    assert_eq!(file("storage-pool/a.img").contents, "new");
    // Another row on the same file is another way to write into it; a copy carries what was written before it.
    ok(
        &sim,
        "/disk add copy-from=a slot=alias nvme-tcp-export=yes nvme-tcp-server-nqn=nqn.x:alias",
    )
    .await;
    ok(&sim, "/file/copy storage-pool/a.img name=storage-pool/copy.img").await;
    let alias = sim.connect("nqn.x:alias", "n3").unwrap();
    sim.write(alias, "aliased").unwrap();
    assert_eq!(sim.live_writers(PATH), ["n2", "n3"]);
    assert_eq!(
        (
            file("storage-pool/a.img").contents,
            file("storage-pool/copy.img").contents
        ),
        ("aliased".into(), "new".into())
    );
    // A row without a file.
    ok(
        &sim,
        "/disk set nvme1 nvme-tcp-export=yes nvme-tcp-server-nqn=nqn.x:raw",
    )
    .await;
    let raw = sim.connect("nqn.x:raw", "n4").unwrap();
    sim.write(raw, "raw").unwrap();
    assert_eq!(
        (sim.writes("nvme1").len(), sim.live_writers("nvme1")),
        (1, vec!["n4".to_owned()])
    );
}

#[tokio::test]
async fn remove_minds_live_sessions_when_told_to() {
    let refused = "could not unmount, stop using it first\r\n";
    let sim = with(|k| k.remove_while_connected = Policy::Reject).await;
    let id = sim.connect(NQN, "n1").unwrap();
    assert_eq!(sim.exec("/disk/remove a").await.output, refused);
    assert_eq!(sim.write(id, "x"), Ok(()));
    ok(&sim, "/disk set a nvme-tcp-export=no; /disk/remove a").await;
    assert_eq!(sim.write(id, "x"), Err(Dead::Lost));
    // Where sessions outlive the export they hold the row too.
    let sim = with(|k| {
        k.remove_while_connected = Policy::Reject;
        k.export_off = ExportOff::LeavesSessions;
    })
    .await;
    let id = sim.connect(NQN, "n1").unwrap();
    ok(&sim, "/disk set a nvme-tcp-export=no").await;
    assert_eq!(sim.exec("/disk/remove a").await.output, refused);
    sim.disconnect(id);
    ok(&sim, "/disk/remove a").await;
}

async fn until(what: &str, f: impl Fn() -> bool) {
    for _ in 0..500 {
        if f() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn a_reboot_cuts_everybody() {
    for export_off in [ExportOff::DropsSessions, ExportOff::LeavesSessions] {
        for (early, reconnect, after) in [
            (false, Reconnect::Retries, Link::Served),
            (true, Reconnect::Retries, Link::Served),
            (false, Reconnect::UntilRefused, Link::Served),
            (true, Reconnect::UntilRefused, Link::Ended),
            (false, Reconnect::Never, Link::Ended),
        ] {
            let sim = with(|k| {
                k.export_off = export_off;
                k.reconnect = reconnect;
                k.port_before_exports = early;
                k.reboot_ms = 300;
                k.exports_after_ms = 500;
            })
            .await;
            let case = format!("{export_off:?} {reconnect:?} {early}");
            let id = sim.connect(NQN, "n1").unwrap();
            sim.write(id, "before").unwrap();
            sim.reboot().await;
            assert!(sim.live_writers(PATH).is_empty(), "{case}");
            assert_eq!(sim.connect(NQN, "n1"), Err(Refused::PortClosed), "{case}");
            if early {
                until("the port opens", || sim.export_port_open()).await;
                assert_eq!(sim.connect(NQN, "n1"), Err(Refused::UnknownSubsystem), "{case}");
                assert!(sim.write(id, "between").is_err(), "{case}");
            }
            until("exports are back", || sim.exports().len() == 1).await;
            assert_eq!(link(&sim, id), after, "{case}");
            assert!(sim.connect(NQN, "n1").is_ok(), "{case}");
            assert_eq!(sim.writes(PATH).len(), 1, "{case}");
        }
    }
}

#[tokio::test]
async fn a_session_follows_edits_behind_everybodys_back() {
    let sim = with(|_| ()).await;
    let id = sim.connect(NQN, "n1").unwrap();
    sim.edit(|state| {
        let row = state.disks.slot("a").unwrap().id;
        state.disks.update(row, |d| d.export.on = false);
    });
    assert_eq!(link(&sim, id), Link::Lost);
}

#[tokio::test]
async fn writes_outlive_the_program_and_sessions_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let config = || Config {
        state_dir: Some(dir.path().to_owned()),
        ..Config::default()
    };
    let sim = Simulator::start(config()).await.unwrap();
    ok(&sim, ADD).await;
    let id = sim.connect(NQN, "n1").unwrap();
    sim.write(id, "kept").unwrap();
    sim.stop().await;
    let sim = Simulator::start(config()).await.unwrap();
    assert!(sim.sessions().is_empty());
    let id = sim.connect(NQN, "n2").unwrap();
    sim.write(id, "next").unwrap();
    let seen: Vec<_> = sim.writes(PATH).into_iter().map(|w| (w.seq, w.host, w.tag)).collect();
    assert_eq!(seen, [(1, "n1".into(), "kept".into()), (2, "n2".into(), "next".into())]);
}
