//! What a listing says about an appliance, by tables.

use jiff::Timestamp;
use rds_crds::condition::{find_condition, kind};
use rds_crds::server::{OrphanPolicy, RdsServerStatus};
use rds_crds::{RdsServer, RdsVolume, Reason, Size};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::decide::{Answer, Known, fitness, status};
use super::fleet::Fitness;
use crate::routeros::{ClusterId, DiskRow, Inventory};

const GI: u64 = 1 << 30;

fn server() -> RdsServer {
    serde_json::from_value(json!({
        "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsServer",
        "metadata": {"name": "default", "uid": "s", "generation": 3},
        "spec": {
            "management": {"address": "192.0.2.1", "user": "csi"}, "secretRef": {"name": "k"},
            "storage": {"address": "192.0.2.2"}, "basePath": "/pool/csi",
        }
    }))
    .unwrap()
}

fn row(row: Value) -> DiskRow {
    serde_json::from_value(row).unwrap()
}

fn pool(state: &str) -> DiskRow {
    row(
        json!({"slot": "pool", "type": "raid", "mounted": true, "mount-point": "pool", "fs": "btrfs", "state": state,
               "size": 100 * GI, "free": 60 * GI}),
    )
}

fn listing() -> Inventory {
    Inventory {
        taken_at: Instant::now(),
        version: "7.24.4 (stable)".parse().unwrap(),
        board: "RDS2216".to_owned(),
        packages: vec!["routeros".to_owned(), "rose-storage".to_owned()],
        pool: Some(pool("clean")),
        disks: Vec::new(),
        files: Vec::new(),
    }
}

fn cluster() -> ClusterId {
    "0123456789ab".parse().unwrap()
}

fn said(server: &RdsServer, answer: &Answer<'_>, known: &Known) -> RdsServerStatus {
    status(server, answer, known, &cluster(), Timestamp::UNIX_EPOCH)
}

/// Status and reason of a condition.
fn condition<'a>(status: &'a RdsServerStatus, kind: &str) -> Option<(&'a str, &'a str)> {
    find_condition(&status.conditions, kind).map(|c| (c.status.as_str(), c.reason.as_str()))
}

#[tokio::test]
async fn table_of_appliances() {
    type Change = fn(&mut Inventory);
    let cases: [(&str, Change, Option<Reason>, &str); 9] = [
        ("as it should be", |_| {}, None, ""),
        (
            "its package has another name",
            |i| i.packages = vec!["storage".into()],
            None,
            "",
        ),
        ("7.21", |i| i.version = "7.21".parse().unwrap(), None, ""),
        (
            "7.20",
            |i| i.version = "7.20.8".parse().unwrap(),
            Some(Reason::VersionNotSupported),
            "7.21 is the first",
        ),
        (
            "no package",
            |i| i.packages.clear(),
            Some(Reason::VersionNotSupported),
            "install it",
        ),
        (
            "no pool",
            |i| i.pool = None,
            Some(Reason::PoolNotHealthy),
            "spec.basePath",
        ),
        (
            "not mounted",
            |i| i.pool = Some(row(json!({"slot": "pool", "type": "raid"}))),
            Some(Reason::PoolNotHealthy),
            "not mounted",
        ),
        (
            "without sizes",
            |i| {
                i.pool = Some(row(
                    json!({"slot": "pool", "type": "raid", "mounted": true, "size": "-"}),
                ))
            },
            Some(Reason::PoolNotHealthy),
            "no size",
        ),
        (
            "old and without a pool",
            |i| {
                i.version = "7.16".parse().unwrap();
                i.pool = None;
            },
            Some(Reason::VersionNotSupported),
            "upgrade",
        ),
    ];
    for (name, change, refused, words) in cases {
        let mut inventory = listing();
        change(&mut inventory);
        let (server, known) = (server(), Known::default());
        let status = said(&server, &Answer::Listing(&inventory), &known);
        assert_eq!(
            condition(&status, kind::REACHABLE),
            Some(("True", "Available")),
            "{name}"
        );
        match (fitness(&server, &inventory), refused) {
            (Fitness::Usable, None) => {
                assert_eq!(condition(&status, kind::READY), Some(("True", "Available")), "{name}");
                assert_eq!(condition(&status, kind::STALLED), None, "{name}");
            }
            (Fitness::Unusable(reason, why), Some(wanted)) => {
                assert!(reason == wanted && why.contains(words), "{name}: {why}");
                assert_eq!(
                    condition(&status, kind::READY),
                    Some(("False", reason.as_str())),
                    "{name}"
                );
                assert_eq!(
                    condition(&status, kind::STALLED),
                    Some(("True", reason.as_str())),
                    "{name}"
                );
            }
            (other, _) => panic!("{name}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_raid_at_work_is_no_broken_one() {
    for (state, healthy) in [
        ("clean", true),
        ("clean, sync:repair, resync = 3.1%", true),
        ("", true),
        ("degraded", false),
        ("failed", false),
    ] {
        let mut inventory = listing();
        inventory.pool = Some(pool(state));
        let status = said(&server(), &Answer::Listing(&inventory), &Known::default());
        let wanted = if healthy {
            ("True", "Available")
        } else {
            ("False", "PoolNotHealthy")
        };
        assert_eq!(condition(&status, kind::POOL_HEALTHY), Some(wanted), "{state}");
        assert_eq!(
            condition(&status, kind::READY),
            Some(("True", "Available")),
            "{state}: a pool that lost a disk still serves"
        );
    }
}

/// Two RdsServers may be two pools of one appliance.
#[tokio::test]
async fn only_disks_of_the_pool_are_provisioned_on_it() {
    let disk = |slot: &str, path: &str| row(json!({"slot": slot, "type": "file", "file-path": path, "size": 10 * GI}));
    let mut inventory = listing();
    inventory.disks = vec![
        disk("ours", "/pool/csi/a.img"),
        disk("other folder", "pool/b.img"),
        disk("other pool", "/pool2/csi/c.img"),
    ];
    let provisioned = |inventory: &Inventory| {
        said(&server(), &Answer::Listing(inventory), &Known::default())
            .provisioned
            .unwrap()
            .0
    };
    assert_eq!(provisioned(&inventory), 20 * GI);
    inventory.disks[2].size = Some(crate::routeros::Bytes(90 * GI));
    let status = said(&server(), &Answer::Listing(&inventory), &Known::default());
    assert_eq!(
        status.available,
        Some(Size(59 * GI)),
        "a full pool leaves the other one its room"
    );
}

#[tokio::test]
async fn an_outage_keeps_the_last_facts_and_the_moment_it_began() {
    let mut server = server();
    let known = Known {
        volumes: 7,
        ..Known::default()
    };
    server.status = Some(said(&server, &Answer::Listing(&listing()), &known));
    let before = server.status.clone().unwrap();
    assert_eq!((before.volumes, before.observed_generation), (Some(7), Some(3)));
    assert_eq!(before.available, Some(Size(59 * GI)), "free space less the reserve");

    let gone = Answer::None(Reason::Unreachable, "no answer".to_owned());
    let down = said(&server, &gone, &known);
    assert_eq!(condition(&down, kind::REACHABLE), Some(("False", "Unreachable")));
    assert_eq!(condition(&down, kind::STALLED), None, "it comes back by itself");
    assert_eq!(
        (&down.version, &down.pool, down.available),
        (&before.version, &before.pool, before.available)
    );
    let since = down.management.clone().unwrap().unreachable_since;
    server.status = Some(down);
    let later = status(
        &server,
        &gone,
        &known,
        &cluster(),
        "2026-11-21T12:00:00Z".parse().unwrap(),
    );
    assert_eq!(later.management.unwrap().unreachable_since, since);
    let back = said(&server, &Answer::Listing(&listing()), &known);
    assert_eq!(back.management, None);

    // What only a person can help with is said as such.
    for reason in [
        Reason::AuthenticationFailed,
        Reason::SecretInvalid,
        Reason::PermissionDenied,
    ] {
        let refused = said(&server, &Answer::None(reason, "why".to_owned()), &known);
        assert_eq!(condition(&refused, kind::STALLED), Some(("True", reason.as_str())));
    }
}

#[test]
fn b37_a_disk_of_another_servers_volume_is_known_by_slot_and_uid_and_only_that_one() {
    const UID: &str = "01234567-89ab-cdef-0123-456789abcdef";
    let volume = |name: &str, server: &str, more: Value| -> RdsVolume {
        let mut spec = json!({"server": server, "capacity": "1Gi", "accessModes": ["ReadWriteOnce"]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume", "metadata": {"name": name, "uid": UID}, "spec": spec,
        }))
        .unwrap()
    };
    let server = server();
    let here = kube::ResourceExt::name_any(&server);
    let all = [
        volume("mine", &here, json!({"slot": "mine"})),
        volume(
            "theirs",
            "another",
            json!({"slot": "theirs", "path": "/pool/csi/theirs.img"}),
        ),
    ];
    let known = Known::of(&server, all.into_iter(), false);
    assert_eq!((known.volumes, known.slots), (1, ["mine".to_owned()].into()));
    assert_eq!(known.elsewhere, [("theirs".to_owned(), UID.parse().unwrap())].into());
    assert!(known.paths.contains("/pool/csi/theirs.img"), "{:?}", known.paths);
}

#[tokio::test]
async fn b37_orphans_are_ours_and_named_by_nobody_and_only_reported() {
    let tag = |cluster: &str| {
        let volume = "0123456789abcdef0123456789abcdef";
        format!("rds1:c{cluster}:v{volume}:g00000001:k0badcafe:shop/data")
    };
    let disk = |slot: &str, path: &str, comment: &str| {
        row(json!({"slot": slot, "type": "file", "file-path": path, "size": GI, "comment": comment}))
    };
    let mut inventory = listing();
    let ours = tag("0123456789ab");
    inventory.disks = vec![
        disk("used", "/pool/csi/used.img", &ours),
        disk("lost", "/pool/csi/lost.img", &ours),
        disk("elsewhere", "/pool/other/elsewhere.img", &ours),
        disk("neighbour", "/pool/csi/neighbour.img", &tag("ba9876543210")),
        disk("golden", "/pool/csi/golden.img", "golden image"),
        disk("plain", "/pool/csi/plain.img", ""),
        disk("of-another-server", "/pool/csi/of-another-server.img", &ours),
        disk("left-by-it", "/pool/csi/left-by-it.img", &ours),
    ];
    let file = |path: &str| serde_json::from_value(json!({"name": path, "type": ".img file"})).unwrap();
    inventory.files = ["used", "lost", "golden", "awaited", "left"]
        .map(|name| file(&format!("pool/csi/{name}.img")))
        .into();
    inventory.files.push(file("pool/csi/notes.txt"));
    let known = || Known {
        slots: ["used".to_owned()].into(),
        paths: ["/pool/csi/used.img".to_owned(), "/pool/csi/awaited.img".to_owned()].into(),
        elsewhere: [(
            "of-another-server".to_owned(),
            "0123456789abcdef0123456789abcdef".parse().unwrap(),
        )]
        .into(),
        ..Known::default()
    };
    let mut server = server();
    server.spec.orphan_policy = Some(OrphanPolicy::Delete);
    let seen = said(&server, &Answer::Listing(&inventory), &known());
    let orphans = seen.orphans.clone().unwrap();
    let paths: Vec<&str> = orphans.disks.iter().map(|orphan| orphan.path.as_str()).collect();
    assert_eq!(
        paths,
        ["/pool/csi/left.img", "/pool/csi/left-by-it.img", "/pool/csi/lost.img"]
    );
    assert_eq!((orphans.count, orphans.disks[1].comment.as_deref()), (3, Some(&*ours)));
    let ready = find_condition(&seen.conditions, kind::READY).unwrap();
    assert!(ready.message.contains("only reported"), "{}", ready.message);

    // With a hole in what is known nothing new is called an orphan; what was said stays.
    server.status = Some(seen.clone());
    let mut more = inventory.clone();
    more.disks.push(disk("new", "/pool/csi/new.img", &ours));
    let incomplete = Known {
        incomplete: true,
        ..known()
    };
    let unsure = said(&server, &Answer::Listing(&more), &incomplete);
    assert_eq!(unsure.orphans, seen.orphans);
    // A hundred of them are counted and twenty are named.
    more.disks = (0..100)
        .map(|n| disk(&format!("o{n:02}"), &format!("/pool/csi/o{n:02}.img"), &ours))
        .collect();
    more.files.clear();
    let many = said(&server, &Answer::Listing(&more), &known()).orphans.unwrap();
    assert_eq!((many.count, many.disks.len()), (100, 20));
    more.disks.clear();
    assert_eq!(said(&server, &Answer::Listing(&more), &known()).orphans, None);
}
