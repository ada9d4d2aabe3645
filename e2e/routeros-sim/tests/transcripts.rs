//! Captures of real devices, replayed over real SSH. The fixtures hold what the devices printed; the state that makes
//! a simulator print the same is set up here by hand.
#![allow(clippy::unwrap_used)]

mod common;

use common::Bench;
use routeros_sim::disk::{Export, Image, Pool};
use routeros_sim::{Disk, State};
use std::collections::BTreeMap;

const TIB: u64 = 1 << 40;

/// The command of a fixture, and the lines that the device printed.
fn fixture(name: &str) -> (String, Vec<String>) {
    let path = format!("{}/tests/transcripts/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.lines().skip_while(|l| l.starts_with('#'));
    let command = lines.next().unwrap().strip_prefix("> ").unwrap().to_owned();
    (command, lines.map(str::to_owned).collect())
}

/// Lines as they come over an exec: each ends in CRLF, and an empty one is the last.
fn framed(lines: &[String]) -> String {
    let mut out: String = lines.iter().map(|l| format!("{l}\r\n")).collect();
    out.push_str("\r\n");
    out
}

fn extra<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// Drives until the next row has that number.
fn fill(state: &mut State, until: usize) {
    for i in state.disks.len()..until {
        state.add_disk(Disk {
            kind: "hardware".into(),
            slot: format!("nvme{i}"),
            ..Disk::default()
        });
    }
}

fn empty(state: &mut State) {
    *state = State {
        identity: "MikroTik".into(),
        ..State::default()
    };
}

async fn replay(name: &str, width: usize, setup: impl FnOnce(&mut State)) {
    let (command, expected) = fixture(name);
    let b = Bench::knobs(|k| k.width = width).await;
    b.sim.edit(|s| {
        empty(s);
        setup(s);
    });
    assert_eq!(b.ssh(&command).await, framed(&expected), "{name}");
    b.sim.stop().await;
}

#[tokio::test]
async fn brief_table_of_one_drive() {
    replay("disk-brief", 80, |s| {
        s.add_disk(Disk {
            kind: "hardware".into(),
            slot: "nvme9".into(),
            size: 1_024_209_543_168,
            pool: Some(Pool {
                fs: "ext4".into(),
                mount_point: "nvme9".into(),
                ..Pool::default()
            }),
            extra: extra([("model", "TS1TUTE210T"), ("interface", "PCIe 2x8 GT/s")]),
            ..Disk::default()
        });
    })
    .await;
}

#[tokio::test]
async fn brief_table_with_three_groups_of_flags() {
    replay("disk-brief-groups", 80, |s| {
        s.add_disk(Disk {
            kind: "hardware".into(),
            slot: "nvme9".into(),
            size: 1_024_209_543_168,
            extra: extra([("guid-partition-table", "yes")]),
            ..Disk::default()
        });
        s.add_disk(Disk {
            kind: "partition".into(),
            slot: "nvme9-part1".into(),
            size: 4_000_000_000,
            pool: Some(Pool {
                fs: "ext4".into(),
                mount_point: "nvme9-part1".into(),
                ..Pool::default()
            }),
            ..Disk::default()
        });
        s.add_disk(Disk {
            slot: "file-nvme9-part1-swapfile".into(),
            size: 536_866_816,
            image: Some(Image {
                path: "/nvme9-part1/swapfile".into(),
                size: 536_870_912,
                offset: 0,
            }),
            extra: extra([("swap", "yes")]),
            ..Disk::default()
        });
    })
    .await;
}

#[tokio::test]
async fn detail_of_a_file_disk_on_a_wide_console() {
    replay("disk-detail-wide", 240, |s| {
        fill(s, 31);
        s.add_disk(Disk {
            slot: "vm-storage-001".into(),
            size: TIB,
            mount_filesystem: false,
            image: Some(Image {
                path: "/raid10/vm-storage-001.img".into(),
                size: TIB,
                offset: 0,
            }),
            export: Export {
                on: true,
                nqn: "nqn.2026-09.com.mikrotik:rds2216.vm-storage-001".into(),
                ..Export::default()
            },
            ..Disk::default()
        });
    })
    .await;
}

#[tokio::test]
async fn detail_of_a_pool_and_a_member_on_a_wide_console() {
    replay("disk-detail-pool", 240, |s| {
        let (size, free) = (16_003_143_565_312, 14_789_895_307_264);
        fill(s, 26);
        s.add_file("raid10", "disk", 0, 0, "");
        s.add_file("raid10/vm-storage-001.img", ".img file", TIB, TIB, "");
        s.add_disk(Disk {
            kind: "raid".into(),
            slot: "raid10".into(),
            size,
            pool: Some(Pool {
                label: "ocp-storage".into(),
                uuid: "40437dbc-2318-45dc-817b-b3bb95cf48ab".into(),
                mount_point: "raid10".into(),
                overhead: size - free - TIB,
                ..Pool::default()
            }),
            extra: extra([
                ("model", "RAID0 striped"),
                ("total-inodes", "1562806656"),
                ("raid-type", "0"),
                ("raid-device-count", "4"),
                ("raid-max-component-size", "none"),
                ("raid-chunk-size", "256K"),
                ("raid-uuid", "eadca0af-ecff031c-239758ad-951a47de"),
            ]),
            ..Disk::default()
        });
        s.add_disk(Disk {
            kind: "raid".into(),
            slot: "raid10-m0".into(),
            size: 4_000_786_153_472,
            mount_filesystem: false,
            extra: extra([
                ("model", "RAID1 mirrored"),
                ("raid-type", "1"),
                ("raid-device-count", "2"),
                ("raid-max-component-size", "none"),
                ("raid-master", "raid10"),
                ("raid-role", "0"),
                ("raid-member-failed", "no"),
                ("raid-member-state", "0:in_sync"),
                ("state", "clean"),
                ("raid-uuid", "5715669c-43873157-0ebaaa3a-7104d138"),
            ]),
            ..Disk::default()
        });
    })
    .await;
}

#[tokio::test]
async fn detail_on_a_narrow_console_has_the_same_tokens() {
    let (command, expected) = fixture("disk-detail-narrow");
    let b = Bench::knobs(|k| k.width = 80).await;
    b.sim.edit(|s| {
        let size = 53_687_091_200;
        s.add_disk(Disk {
            slot: "pvc-test-123".into(),
            size,
            image: Some(Image {
                path: "/storage-pool/test.img".into(),
                size,
                offset: 0,
            }),
            export: Export {
                on: true,
                ..Export::default()
            },
            ..Disk::default()
        });
    });
    let reply = b.ssh(&command).await;
    let body: Vec<&str> = reply.split("\r\n").skip(1).collect();
    assert!(body.iter().all(|l| l.len() <= 78), "{body:?}");
    let words = |lines: &[&str]| {
        lines
            .join(" ")
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    // The capture begins behind number and flags.
    assert_eq!(words(&body)[2..], words(&expected)[..]);
    b.sim.stop().await;
}

fn file(s: &mut State, name: &str, kind: &str, size: u64, modified: &str) {
    s.add_file(name, kind, size, size, "");
    s.files.update(name, |f| f.modified = modified.to_owned());
}

#[tokio::test]
async fn brief_table_of_files() {
    replay("file-brief", 80, |s| {
        file(s, "nvme9", "disk", 0, "2026-09-25 11:47:05");
        file(s, "nvme9/lost+found", "directory", 0, "2026-09-25 11:47:05");
    })
    .await;
}

#[tokio::test]
async fn detail_of_files_on_a_narrow_console() {
    let (command, expected) = fixture("file-detail-narrow");
    let b = Bench::knobs(|k| k.width = 80).await;
    b.sim.edit(|s| {
        empty(s);
        file(s, "storage-pool/metal-csi", "directory", 0, "2025-11-11 16:47:07");
        let image = "storage-pool/metal-csi/pvc-ccdecfad-a8bf-572e-9120-464c4d99f12f.img";
        file(s, image, ".img file", 10 << 30, "2025-11-11 14:32:41");
    });
    let reply = b.ssh(&command).await;
    let got: Vec<&str> = reply.trim_end().split("\r\n").map(str::trim_end).collect();
    assert_eq!(got, expected);
    b.sim.stop().await;
}
