//! The lines as they are sent. A change here is a change of what runs on people's appliances: read it twice.

use super::*;
use crate::routeros::tag::ClusterId;

fn guard() -> Guard {
    let volume = "0123456789abcdef0123456789abcdef".parse().unwrap();
    let tag = OwnerTag::new(
        ClusterId::of("x"),
        volume,
        Generation(1),
        "00c0ffee".parse().unwrap(),
        "ns/claim",
    );
    Guard {
        slot: "pvc-1".parse().unwrap(),
        path: "/raid10/csi/pvc-1.img".parse().unwrap(),
        tag,
    }
}

fn create() -> CreateDisk {
    let Guard { slot, path, tag } = guard();
    CreateDisk {
        slot,
        path,
        tag,
        size: Bytes(4096),
        nqn: "nqn.2026-01.io.x:pvc-1".parse().unwrap(),
        port: 4420,
    }
}

fn text(command: &impl Command) -> String {
    line(command, &ExecNonce::fixed('7')).finish().unwrap()
}

#[test]
fn create_is_one_guarded_line() {
    let fixed = guard().tag.fixed();
    let at = r#"slot="pvc-1" && (file-path="/raid10/csi/pvc-1.img" || file-path="raid10/csi/pvc-1.img")"#;
    let naming = r#"file-path="/raid10/csi/pvc-1.img" || file-path="raid10/csi/pvc-1.img""#;
    let file = r#"name="raid10/csi/pvc-1.img" || name="/raid10/csi/pvc-1.img""#;
    let look = format!(
        concat!(
            r#":put "b0-7777777777777777"; :put [:serialize to=json options=json.no-string-conversion [/disk/print detail as-value where {naming} "#,
            r#"|| slot="pvc-1" || nvme-tcp-server-nqn="nqn.2026-01.io.x:pvc-1" || slot="raid10" || mount-point="raid10"]]; :put "e0-7777777777777777"; "#,
            r#":put "b1-7777777777777777"; :put [:serialize to=json options=json.no-string-conversion [/file/print detail as-value where {file}]]; "#,
            r#":put "e1-7777777777777777""#,
        ),
        naming = naming,
        file = file
    );
    let expected = [
        r#"{ :local rdsEnd ""; :onerror e in={ "#.to_owned(),
        r#":if ([:len [/disk/find where slot="pvc-1"]] != 0) do={ :error "rds-slot" }; "#.to_owned(),
        format!(r#":if ([:len [/disk/find where {naming}]] != 0) do={{ :error "rds-path" }}; "#),
        format!(r#":if ([:len [/file/find where {file}]] != 0) do={{ :error "rds-file" }}; "#),
        r#":if ([:len [/disk/find where nvme-tcp-server-nqn="nqn.2026-01.io.x:pvc-1"]] != 0) do={ :error "rds-nqn" }; "#.to_owned(),
        r#":put "free-7777777777777777"; "#.to_owned(),
        format!(r#":local rdsNew [/disk/add type=file slot="pvc-1" file-path="raid10/csi/pvc-1.img" file-size=4096 comment="{fixed}ns/claim""#),
        " mount-filesystem=no smb-sharing=no nfs-sharing=no media-sharing=no compress=no]; ".to_owned(),
        format!(r#":if ([:len [/disk/find where {at} && comment~"^{fixed}"]] != 1) do={{ /disk/remove $rdsNew; "#),
        format!(r#":if ([:len [/disk/find where {naming}]] = 0) do={{ /file/remove [/file/find where {file}] }}; :error "rds-mangled" }}; "#),
        format!(r#"/disk/set [/disk/find where {at} && comment~"^{fixed}"] mount-filesystem=no smb-sharing=no nfs-sharing=no media-sharing=no"#),
        r#" nvme-tcp-server-port=4420 nvme-tcp-server-nqn="nqn.2026-01.io.x:pvc-1" nvme-tcp-export=yes; "#.to_owned(),
        r#":set rdsEnd "ok-7777777777777777" } do={ :set rdsEnd "err-7777777777777777 $e" }; "#.to_owned(),
        format!("{look}; :put $rdsEnd }}"),
    ]
    .concat();
    assert_eq!(text(&create()), expected);
}

#[test]
fn d1_every_change_of_an_existing_disk_is_guarded_by_slot_path_and_token() {
    let nqn: Nqn = "nqn.2026-01.io.x:pvc-1".parse().unwrap();
    let next = Generation(2);
    let lines = [
        text(&Grow {
            guard: guard(),
            to: Bytes(8192),
        }),
        text(&Export {
            guard: guard(),
            nqn: nqn.clone(),
            port: 4420,
        }),
        text(&ToggleExport {
            guard: guard(),
            next,
            nqn,
            port: 4420,
        }),
        text(&Retire { guard: guard(), next }),
        text(&Remove { guard: guard() }),
        text(&Release { guard: guard() }),
    ];
    let bind = format!(
        r#"{{ :local rdsEnd ""; :onerror e in={{ :local rdsIds [/disk/find where slot="pvc-1" && (file-path="/raid10/csi/pvc-1.img" || file-path="raid10/csi/pvc-1.img") && comment~"^{}"]; :if ([:len $rdsIds] != 1) do={{ :error "rds-guard" }}; "#,
        guard().tag.fixed()
    );
    for line in lines {
        let rest = line.strip_prefix(&bind).unwrap_or_else(|| panic!("unguarded: {line}"));
        // And nothing is changed or removed by any other selection of disks.
        for (at, _) in rest
            .match_indices("/disk/set ")
            .chain(rest.match_indices("/disk/remove "))
        {
            assert!(rest[at..].split_once(' ').unwrap().1.starts_with("$rdsIds"), "{line}");
        }
    }
}

#[test]
fn i11_no_file_is_removed_before_it_is_known_that_no_row_names_it() {
    for line in [
        text(&Remove { guard: guard() }),
        text(&RemoveFile {
            slot: guard().slot,
            path: guard().path,
        }),
    ] {
        let check = line
            .find(r#"]] != 0) do={ :error "rds-named" }; /file/remove [/file/find where name="raid10/csi/pvc-1.img""#);
        assert!(
            check.is_some_and(|at| line.find("/file/remove").is_some_and(|remove| remove > at)),
            "{line}"
        );
        assert_eq!(line.matches("/file/remove").count(), 1);
    }
}

#[test]
fn d3_a_generation_never_goes_down() {
    let retire = |next| {
        Retire {
            guard: guard(),
            next: Generation(next),
        }
        .validate()
    };
    assert!(retire(2).is_ok() && retire(1).is_err() && retire(0).is_err() && retire(Generation::MAX + 1).is_err());
}

#[test]
fn sizes_are_whole_blocks() {
    for bad in [0, 1, 4095, 4097] {
        assert!(
            CreateDisk {
                size: Bytes(bad),
                ..create()
            }
            .validate()
            .is_err()
        );
        assert!(
            Grow {
                guard: guard(),
                to: Bytes(bad)
            }
            .validate()
            .is_err()
        );
    }
}
