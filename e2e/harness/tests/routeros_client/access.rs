//! Getting in, staying in, and being refused.

use std::time::{Duration, Instant};

use rds_operator::routeros::*;
use routeros_sim::knobs::{Channels, ExitStatus};
use routeros_sim::{Fault, FaultKind};

use crate::rig::{GIB, Rig, Volume};

#[tokio::test(flavor = "multi_thread")]
async fn another_host_key_is_refused_before_anything_is_sent() {
    let rig = Rig::start().await;
    let other = Rig::start().await;
    let mut target = rig.target();
    target.host_keys = other.target().host_keys;
    let client = Client::connect(&target, None);
    let error = client.create(&Volume::new(1).create(GIB)).await.unwrap_err();
    assert!(
        matches!(error, RdsError::HostKey { .. }) && !error.is_unknown(),
        "{error}"
    );
    assert_eq!(error.class(), Class::NeedsHuman);
    assert_eq!(rig.execs(), 0);
    target.host_keys = vec![];
    let error = Client::connect(&target, None)
        .inventory(Duration::ZERO)
        .await
        .unwrap_err();
    assert!(matches!(error, RdsError::HostKey { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_is_refused() {
    let rig = Rig::start().await;
    let mut target = rig.target();
    target.private_key = Rig::start().await.target().private_key;
    let error = Client::connect(&target, None)
        .inventory(Duration::ZERO)
        .await
        .unwrap_err();
    assert!(matches!(error, RdsError::Auth { .. }), "{error}");
    target.private_key = "not a key".to_owned().into();
    let error = Client::connect(&target, None)
        .inventory(Duration::ZERO)
        .await
        .unwrap_err();
    assert!(matches!(error, RdsError::Auth { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn i10_an_outage_is_an_outage_and_ends_by_itself() {
    let rig = Rig::start().await;
    let v = Volume::new(1);
    rig.client.create(&v.create(GIB)).await.unwrap();
    rig.knobs(|k| k.down = true);
    for _ in 0..3 {
        let started = Instant::now();
        let error = rig.client.look(&v.id()).await.unwrap_err();
        assert_eq!(error.class(), Class::Transient, "{error}");
        assert!(started.elapsed() < Duration::from_secs(3), "callers fail fast");
    }
    rig.knobs(|k| k.down = false);
    let deadline = Instant::now() + Duration::from_secs(60);
    let look = loop {
        match rig.client.look(&v.id()).await {
            Ok(look) => break look,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(look.row_of(&v.tag(1)).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_lasts_whatever_the_exit_status_and_a_hang_costs_only_that_one() {
    let rig = Rig::start().await;
    let v = Volume::new(1);
    for status in [ExitStatus::Absent, ExitStatus::OneOnError, ExitStatus::Zero] {
        rig.knobs(|k| k.exit_status = status);
        for _ in 0..5 {
            assert!(rig.client.look(&v.id()).await.unwrap().is_absent());
        }
        let refused = rig.client.grow(&v.guard(1), Bytes(2 * GIB)).await.unwrap_err();
        assert!(matches!(refused, RdsError::Precondition { .. }), "{refused}");
    }
    assert_eq!(rig.logins(), 1);
    rig.fault(Fault::once("", FaultKind::Hang { execute: true }));
    assert!(rig.client.look(&v.id()).await.unwrap_err().is_unknown());
    assert!(rig.client.look(&v.id()).await.is_ok());
    assert_eq!(rig.logins(), 2, "the hung connection was replaced");
    for _ in 0..50 {
        if rig.sim.open_connections() == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the hung connection is still open");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_commands_at_once_where_allowed() {
    let rig = Rig::start().await;
    rig.knobs(|k| {
        k.channels = Channels::Parallel;
        k.latency_ms = 1000;
    });
    let mut target = rig.target();
    target.limits.max_in_flight = 4;
    target.limits.command_timeout = Duration::from_secs(10);
    let client = Client::connect(&target, None);
    let started = Instant::now();
    let ids: Vec<DiskId> = (0..8).map(|n| Volume::new(n).id()).collect();
    for look in futures::future::join_all(ids.iter().map(|id| client.look(id))).await {
        look.unwrap();
    }
    assert!(
        started.elapsed() < Duration::from_millis(8 * 1000),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(rig.logins(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_left_on_disk_and_none_is_in_an_argument() {
    let rig = Rig::start().await;
    let target = rig.target();
    let client = Client::connect(&target, None);
    client.inventory(Duration::ZERO).await.unwrap();
    let body = secrecy::ExposeSecret::expose_secret(&target.private_key)
        .lines()
        .nth(2)
        .unwrap()
        .to_owned();
    let ours = |name: &str| name.starts_with("rds-ssh-");
    for entry in std::fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
        if ours(&entry.file_name().to_string_lossy()) {
            for file in std::fs::read_dir(entry.path()).into_iter().flatten().flatten() {
                let text = std::fs::read(file.path()).unwrap_or_default();
                assert!(!String::from_utf8_lossy(&text).contains(&body), "{:?}", file.path());
            }
        }
    }
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&line).contains(&body));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_routeros_is_told_by_its_version() {
    let rig = Rig::start().await;
    rig.knobs(|k| k.version = serde_json::from_value("7.20.8".into()).unwrap());
    let inventory = rig.client.inventory(Duration::ZERO).await.unwrap();
    let error = inventory.check_version(rig.client.server()).unwrap_err();
    assert!(
        error.to_string().contains("7.20.8") && error.to_string().contains("7.21"),
        "{error}"
    );
    assert!(matches!(
        rig.client.look(&Volume::new(1).id()).await,
        Err(RdsError::VersionTooOld { .. })
    ));
    // Without having asked for the version: not understood, and nothing done.
    let before = rig.snapshot();
    let error = Client::connect(&rig.target(), None)
        .create(&Volume::new(1).create(GIB))
        .await
        .unwrap_err();
    assert!(
        matches!(error, RdsError::NotUnderstood { .. } | RdsError::Rejected { .. }),
        "{error}"
    );
    assert_eq!(rig.snapshot(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_volumes_share_one_connection_one_exec_at_a_time() {
    let rig = Rig::start().await;
    let volumes: Vec<Volume> = (0..30).map(Volume::new).collect();
    let requests: Vec<CreateDisk> = volumes.iter().map(|v| v.create(GIB)).collect();
    for created in futures::future::join_all(requests.iter().map(|r| rig.client.create(r))).await {
        created.unwrap();
    }
    assert_eq!(rig.execs(), 30);
    assert_eq!(rig.logins(), 1);
    let inventory = rig.client.inventory(Duration::from_secs(1)).await.unwrap();
    assert_eq!(inventory.disks.len(), 30);
}
