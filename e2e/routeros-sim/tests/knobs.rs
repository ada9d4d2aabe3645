//! Every knob that changes what a command does, in both positions.
#![allow(clippy::unwrap_used)]

use routeros_sim::knobs::*;
use routeros_sim::{Account, Appliance, Console, Knobs, Overrides, State, log::Log};

struct Box(Appliance);

impl Box {
    fn new(f: impl FnOnce(&mut Knobs)) -> Self {
        let mut knobs = Knobs::default();
        f(&mut knobs);
        let mut state = State::with_pool("pool", 1 << 40, "xfs");
        state.add_file("pool/csi", "directory", 0, 0, "");
        Self(Appliance::new(state, knobs, Log::default()))
    }

    fn run(&self, line: &str) -> String {
        self.0
            .run(&Account::admin(), line, &mut Console::default(), Overrides::default())
            .output
    }

    fn ok(&self, line: &str) {
        assert_eq!(self.run(line), "", "{line}");
    }

    fn free(&self) -> u64 {
        self.run(":put [/disk get pool free]").trim().parse().unwrap()
    }

    fn get(&self, slot: &str, what: &str) -> String {
        self.run(&format!(":put [/disk get {slot} {what}]"))
            .trim_end()
            .to_owned()
    }
}

#[test]
fn an_add_that_is_refused_after_it_made_the_image() {
    let b = Box::new(|_| ());
    let half = Overrides {
        half_add: true,
        ..Overrides::default()
    };
    let refused = b.0.run(&Account::admin(), ADD, &mut Console::default(), half);
    assert!(
        refused.failed && refused.output.starts_with("failure:"),
        "{}",
        refused.output
    );
    assert_eq!(b.run(":put [:len [/disk find where slot=a]]"), "0\r\n");
    assert_eq!(b.run(":put [:len [/file find where name=\"pool/csi/a.img\"]]"), "1\r\n");
}

const ADD: &str = "/disk add type=file slot=a file-path=pool/csi/a.img file-size=1G";
const LONG: &str = "pvc-ccdecfad-a8bf-572e-9120-464c4d99f12f";

#[test]
fn slot_limit() {
    let add = format!("/disk add type=file slot={LONG} file-path=pool/csi/a.img file-size=1G");
    assert_eq!(Box::new(|_| ()).run(&add), "invalid value for argument slot\r\n");
    let b = Box::new(|k| k.slot_too_long = TooLong::Truncate);
    b.ok(&add);
    assert_eq!(b.get("[find type=file]", "slot"), LONG[..32]);
    let b = Box::new(|k| k.slot_limit = 40);
    b.ok(&add);
    assert_eq!(b.get(LONG, "slot"), LONG);
}

#[test]
fn comment_limit() {
    let add = format!("{ADD} comment={}", "c".repeat(200));
    let b = Box::new(|_| ());
    b.ok(&add);
    assert_eq!(b.get("a", "comment").len(), 200);
    assert_eq!(
        Box::new(|k| k.comment_limit = 128).run(&add),
        "invalid value for argument comment\r\n"
    );
    let b = Box::new(|k| {
        k.comment_limit = 128;
        k.comment_too_long = TooLong::Truncate;
    });
    b.ok(&add);
    assert_eq!(b.get("a", "comment").len(), 128);
}

#[test]
fn allocation_and_a_full_pool() {
    let b = Box::new(|_| ());
    let before = b.free();
    b.ok(ADD);
    assert_eq!(before - b.free(), 1 << 30);
    b.ok("/disk set a file-size=3G");
    assert_eq!(before - b.free(), 3 << 30);
    b.ok("/disk remove a");
    assert_eq!(before - b.free(), 3 << 30, "the file still takes its place");
    b.ok("/file remove pool/csi/a.img");
    assert_eq!(b.free(), before);
    assert_eq!(
        b.run("/disk add type=file slot=b file-path=pool/b.img file-size=2T"),
        "failure: not enough space\r\n"
    );

    let b = Box::new(|k| k.allocation = Allocation::Sparse);
    b.ok("/disk add type=file slot=b file-path=pool/b.img file-size=2T");
    assert_eq!(b.free(), before);
    b.0.change_knobs(|k| k.pool_full = true);
    assert_eq!(b.run(ADD), "failure: not enough space\r\n");
    assert_eq!(b.run("/disk set b file-size=3T"), "failure: not enough space\r\n");
    assert_eq!(b.get("b", "file-size"), (2u64 << 40).to_string());
}

#[test]
fn existing_files_and_missing_directories() {
    for (knob, size) in [
        (ExistingFile::Keep, Some(1u64 << 30)),
        (ExistingFile::Grow, Some(2 << 30)),
        (ExistingFile::Fail, None),
    ] {
        let b = Box::new(|k| k.existing_file = knob);
        b.ok(ADD);
        b.ok("/disk remove a");
        let reply = b.run(&ADD.replace("1G", "2G"));
        match size {
            Some(size) => assert_eq!(b.get("a", "size"), size.to_string()),
            None => assert_eq!(reply, "failure: file already exists\r\n"),
        }
    }
    let add = ADD.replace("/csi/", "/x/y/");
    assert!(Box::new(|_| ()).run(&add).starts_with("failure: could not create file"));
    let b = Box::new(|k| k.missing_directory = MissingDirectory::Create);
    b.ok(&add);
    assert_eq!(b.run(":put [/file get pool/x/y type]"), "directory\r\n");
    assert!(
        b.run(&ADD.replace("slot=a", "slot=z").replace("pool/csi", "nowhere"))
            .starts_with("failure: could not create file")
    );
}

#[test]
fn names_and_paths_that_are_taken() {
    let two = "nvme-tcp-export=yes nvme-tcp-server-nqn=nqn.a:b";
    let second = "/disk add type=file slot=b file-path=pool/csi/b.img file-size=1G";
    let b = Box::new(|_| ());
    b.ok(&format!("{ADD} {two}"));
    assert!(b.run(&format!("{second} {two}")).starts_with("failure: already have"));
    b.ok(second);
    assert!(
        b.run(&format!("/disk set b {two}"))
            .starts_with("failure: already have")
    );
    b.ok("/disk set b nvme-tcp-server-nqn=nqn.a:b");
    assert!(
        b.run("/disk set b nvme-tcp-export=yes")
            .starts_with("failure: already have")
    );
    b.0.change_knobs(|k| k.duplicate_nqn = Policy::Accept);
    b.ok("/disk set b nvme-tcp-export=yes");
    // A second row on the same file is possible unless told otherwise.
    let alias = "/disk add type=file slot=c file-path=/pool/csi/a.img";
    b.ok(alias);
    b.0.change_knobs(|k| k.duplicate_path = Policy::Reject);
    assert!(b.run(&alias.replace("slot=c", "slot=d")).starts_with("failure:"));
    b.0.change_knobs(|k| k.duplicate_slot_text = "failure: slot exists".into());
    assert_eq!(b.run(ADD), "failure: slot exists\r\n");
    // The default name of a slot counts too.
    let b = Box::new(|k| k.default_nqn = DefaultNqn::Slot);
    b.ok(&format!("{ADD} nvme-tcp-export=yes"));
    assert_eq!(b.get("a", "nvme-tcp-server-nqn"), "a");
    assert!(
        b.run(&format!("{second} nvme-tcp-export=yes nvme-tcp-server-nqn=a"))
            .starts_with("failure: already have")
    );
}

#[test]
fn growth_is_seen_at_once_or_after_a_toggle() {
    let grow = "/disk set a file-size=2G";
    let b = Box::new(|_| ());
    b.ok(&format!("{ADD} nvme-tcp-export=yes"));
    b.ok(grow);
    assert_eq!(b.get("a", "size"), (2u64 << 30).to_string());
    let b = Box::new(|k| k.resize = Resize::AfterToggle);
    b.ok(&format!("{ADD} nvme-tcp-export=yes"));
    b.ok(grow);
    assert_eq!(b.get("a", "file-size"), (2u64 << 30).to_string());
    assert_eq!(b.get("a", "size"), (1u64 << 30).to_string());
    b.ok("/disk set a nvme-tcp-export=yes");
    assert_eq!(b.get("a", "size"), (1u64 << 30).to_string(), "that was no toggle");
    b.ok("/disk set a nvme-tcp-export=no");
    b.ok("/disk set a nvme-tcp-export=yes");
    assert_eq!(b.get("a", "size"), (2u64 << 30).to_string());
    b.ok("/disk set a file-size=1G");
    b.0.change_knobs(|k| k.shrink = Policy::Reject);
    assert!(b.run("/disk set a file-size=512M").starts_with("invalid value"));
}

#[test]
fn a_pool_that_is_not_mounted_shows_no_file_and_keeps_all() {
    let b = Box::new(|_| ());
    b.ok(&format!("{ADD} nvme-tcp-export=yes"));
    let before = b.0.state().snapshot();
    let free = b.free();
    b.0.change_knobs(|k| k.pool_mounted = false);
    let count = |what: &str| b.run(&format!(":put [:len [{what}]]")).trim_end().to_owned();
    assert_eq!(count("/file find"), "0");
    assert_eq!(count("/disk find where mounted"), "0");
    assert_eq!(count("/disk find where mount-point=pool"), "0");
    assert_eq!(count("/disk find where slot=a"), "1", "what is configured stays");
    assert_eq!(b.get("pool", "free"), "");
    let other = ADD.replace("slot=a", "slot=b").replace("a.img", "b.img");
    for line in [
        ADD.replace("slot=a", "slot=b").as_str(),
        &other,
        "/disk set a file-size=2G",
    ] {
        assert!(b.run(line).starts_with("failure: could not create file"), "{line}");
    }
    b.ok("/file remove [find name=\"pool/csi/a.img\"]");
    b.ok("/disk set a comment=x");
    b.ok("/disk set a comment=\"\"");
    b.0.change_knobs(|k| k.pool_mounted = true);
    assert_eq!(b.0.state().snapshot(), before);
    assert_eq!(b.free(), free);
    b.0.change_knobs(|k| k.pool_mounted = false);
    b.ok("/disk remove a");
    b.0.change_knobs(|k| k.pool_mounted = true);
    assert_eq!(
        count("/file find where name=\"pool/csi/a.img\""),
        "1",
        "the row went, the file did not"
    );
}

#[test]
fn uuids_of_namespaces() {
    let uuid = |b: &Box| b.0.state().disks.slot("a").unwrap().export.namespace_uuid.clone();
    for (knob, same) in [(NamespaceUuid::Stable, true), (NamespaceUuid::Random, false)] {
        let b = Box::new(|k| k.namespace_uuid = knob);
        b.ok(&format!("{ADD} nvme-tcp-export=yes"));
        let first = uuid(&b).unwrap();
        b.ok("/disk set a nvme-tcp-export=no");
        b.ok("/disk set a nvme-tcp-export=yes");
        assert_eq!(uuid(&b).unwrap() == first, same);
    }
    let b = Box::new(|k| k.namespace_uuid = NamespaceUuid::Absent);
    b.ok(&format!("{ADD} nvme-tcp-export=yes"));
    assert_eq!(uuid(&b), None);
}

#[test]
fn words_and_forms() {
    let b = Box::new(|k| k.bad_parameter_text = true);
    assert_eq!(b.run("/disk add foo=1"), "bad parameter foo (line 1 column 11)\r\n");
    let b = Box::new(|k| k.error_location = true);
    assert_eq!(b.run("/disk remove *999"), "no such item (/disk/remove; line 1)\r\n");
    let b = Box::new(|k| k.late_bad_command = true);
    assert_eq!(
        b.run(":put 1; /nope x=1; :put 2"),
        "1\r\nbad command name nope (line 1 column 10)\r\n"
    );
    let b = Box::new(|k| k.path_slash = false);
    b.ok(ADD);
    assert_eq!(b.get("a", "file-path"), "pool/csi/a.img");
    assert_eq!(
        b.run(":put [:len [/disk find where file-path=\"pool/csi/a.img\"]]"),
        "1\r\n"
    );
    let json = ":put [:serialize to=json options=json.no-string-conversion [/disk/print as-value proplist=size,swap,mounted where slot=a]]";
    assert_eq!(b.run(json), "[{\".id\":\"*3\",\"size\":1073741824,\"swap\":false}]\r\n");
    b.0.change_knobs(|k| {
        k.json_numbers = JsonNumbers::Float;
        k.json_bools = JsonBools::TrueFalse;
        k.false_flags = true;
    });
    let row = "[{\".id\":\"*3\",\"mounted\":\"false\",\"size\":1073741824.000000,\"swap\":\"false\"}]\r\n";
    assert_eq!(b.run(json), row);
    let b = Box::new(|k| {
        k.width = 80;
        k.break_inside_tokens = true;
    });
    b.ok(&ADD.replace("slot=a", "slot=abcdefghijklmnopqrstuvwxyz"));
    let detail = b.run("/disk print detail where type=file");
    assert!(
        detail.lines().skip(1).all(|l| l.len() <= 78) && !detail.contains("file-path=/pool/csi/a.img\r"),
        "{detail}"
    );
    let b = Box::new(|k| {
        k.pad_lines = true;
        k.blank_last_line = false;
    });
    assert_eq!(b.run("/system identity print"), "  name: MikroTik    \r\n");
}

/// What the words of a refusal are nobody knows: a client that lives by them must fail a test.
#[test]
fn refusals_in_other_words() {
    let words = "Fehler: geht nicht";
    let reply = "Fehler: geht nicht\r\n";
    let b = Box::new(|k| {
        k.slot_too_long_text = words.into();
        k.duplicate_slot_text = words.into();
        k.duplicate_nqn_text = words.into();
        k.no_space_text = words.into();
        k.missing_directory_text = words.into();
        k.existing_file_text = words.into();
        k.existing_file = ExistingFile::Fail;
    });
    b.ok(&format!("{ADD} nvme-tcp-export=yes nvme-tcp-server-nqn=nqn.a:b"));
    let other = ADD.replace("slot=a", "slot=b").replace("a.img", "b.img");
    for refused in [
        ADD.to_owned(),
        other.replace("slot=b", &format!("slot={LONG}")),
        other.replace("1G", "3T"),
        other.replace("pool/csi/", "pool/none/"),
        other.replace("b.img", "a.img"),
        format!("{other} nvme-tcp-export=yes nvme-tcp-server-nqn=nqn.a:b"),
        "/disk set a file-size=3T".to_owned(),
        "/file add name=pool/csi/a.img".to_owned(),
        "/file add name=pool/none/x".to_owned(),
        "/file copy pool/csi/a.img name=pool/none/x".to_owned(),
    ] {
        assert_eq!(b.run(&refused), reply, "{refused}");
    }
    b.ok(&other);
    b.0.change_knobs(|k| k.pool_full = true);
    assert_eq!(
        b.run(&other.replace("slot=b", "slot=c").replace("b.img", "c.img")),
        reply
    );
}

#[test]
fn json_in_all_its_forms() {
    let json = ":put [:serialize to=json options=json.no-string-conversion [/disk/print as-value proplist=size,swap where slot=a]]";
    for (numbers, size) in [
        (JsonNumbers::Int, "1073741824"),
        (JsonNumbers::Float, "1073741824.000000"),
        (JsonNumbers::String, "\"1073741824\""),
    ] {
        for (bools, swap) in [
            (JsonBools::Native, "false"),
            (JsonBools::TrueFalse, "\"false\""),
            (JsonBools::YesNo, "\"no\""),
        ] {
            let b = Box::new(|k| {
                k.json_numbers = numbers;
                k.json_bools = bools;
            });
            b.ok(ADD);
            let row = format!("[{{\".id\":\"*3\",\"size\":{size},\"swap\":{swap}}}]\r\n");
            assert_eq!(b.run(json), row);
        }
    }
}

#[test]
fn copy_from_copies_properties_and_no_data() {
    let b = Box::new(|_| ());
    b.ok(&format!("{ADD} comment=mine mount-filesystem=no"));
    b.ok("/disk add copy-from=a slot=b");
    assert_eq!(b.get("b", "file-path"), "/pool/csi/a.img", "an alias of the same file");
    assert_eq!(b.get("b", "comment"), "mine");
    b.0.state()
        .files
        .update("pool/csi/a.img", |f| f.contents = "data".into());
    b.ok("/disk add copy-from=a slot=c file-path=pool/csi/c.img");
    assert_eq!(b.0.state().files.get("pool/csi/c.img").unwrap().contents, "");
    b.ok("/file copy pool/csi/a.img name=pool/csi/d.img");
    assert_eq!(b.0.state().files.get("pool/csi/d.img").unwrap().contents, "data");
    assert_eq!(b.run("/disk copy src=a dst=c"), "  status: done\r\n\r\n");
    assert_eq!(b.0.state().files.get("pool/csi/c.img").unwrap().contents, "data");
}

#[test]
fn btrfs_subvolumes() {
    let mut state = State::with_pool("pool", 1 << 40, "btrfs");
    state.add_file("pool/csi", "directory", 0, 0, "");
    let b = Box(Appliance::new(
        state,
        Knobs {
            btrfs_delete_ms: 200,
            ..Knobs::default()
        },
        Log::default(),
    ));
    b.ok("/disk/btrfs/subvolume/add fs=pool-fs name=vol");
    b.ok("/disk/add type=file slot=v file-path=pool/vol/volume.img file-size=1G");
    b.ok("/disk/btrfs/subvolume/add fs=pool-fs name=snap parent=vol read-only=yes");
    assert_eq!(
        b.run(":put [/file get pool/snap/volume.img size]"),
        format!("{}\r\n", 1 << 30)
    );
    assert!(
        b.run("/disk/btrfs/subvolume/add fs=pool-fs name=snap")
            .contains("File exists")
    );
    b.ok("/disk/btrfs/subvolume/remove [find where fullname=vol]");
    assert_eq!(b.run(":put [:len [/disk/btrfs/subvolume/find where dead]]"), "1\r\n");
    std::thread::sleep(std::time::Duration::from_millis(250));
    assert_eq!(
        b.run(":put [/disk/btrfs/subvolume/get [find] fullname]"),
        "snap\r\n",
        "independent of its parent"
    );
}
