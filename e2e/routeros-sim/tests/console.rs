//! The console as scripts see it, over real SSH: command templates, errors, silent commands, as-value and JSON.
#![allow(clippy::unwrap_used)]

mod common;

use common::Bench;
use routeros_sim::{Account, Config, Version};

const JSON: &str = ":serialize to=json options=json.no-string-conversion";

fn json(reply: &str) -> serde_json::Value {
    let line = reply.strip_suffix("\r\n").unwrap();
    assert!(!line.contains(['\r', '\n']), "one line: {line}");
    serde_json::from_str(line).unwrap()
}

#[tokio::test]
async fn reading_templates() {
    let b = Bench::start().await;
    assert_eq!(
        b.ssh(":put [/system/resource/get version]").await,
        "7.24.4 (stable)\r\n"
    );
    let packages = json(&b.ssh(&format!(":put [{JSON} [/system/package/print as-value]]")).await);
    let names: Vec<_> = packages
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"rose-storage") && names.contains(&"routeros"));
    let pool = json(
        &b.ssh(&format!(
            ":put [{JSON} [/disk/print detail as-value where slot=\"storage-pool\"]]"
        ))
        .await,
    );
    assert_eq!(pool[0]["fs"], "xfs");
    assert_eq!(pool[0]["mounted"], true);
    assert_eq!(pool[0]["state"], "clean");
    assert_eq!(pool[0]["mount-point"], "storage-pool");
    assert_eq!(pool[0]["size"], 7_681_574_174_720u64);
    let none = format!(":put [{JSON} [/disk/print detail as-value where type=file && slot~\"^csi-\"]]");
    assert_eq!(b.ssh(&none).await, "[]\r\n");
    assert_eq!(
        b.ssh(":put [:len [/file/find where name=\"storage-pool/S.img\"]]")
            .await,
        "0\r\n"
    );
    // A menu with one record is an object, not an array.
    let resource = json(&b.ssh(&format!(":put [{JSON} [/system/resource/print as-value]]")).await);
    assert_eq!(resource["version"], "7.24.4 (stable)");
    // Indexing the result of print, as the guide for RAID10 does.
    let size = b
        .ssh(":put ([/disk print detail as-value where slot=\"storage-pool\"]->0->\"size\")")
        .await;
    assert_eq!(size, "7681574174720\r\n");
    let mounted =
        ":if (([/disk print detail as-value where slot=\"storage-pool\"]->0->\"mounted\") = true) do={ :put yes }";
    assert_eq!(b.ssh(mounted).await, "true\r\n", "a bareword yes is a boolean");
    b.sim.stop().await;
}

#[tokio::test]
async fn writing_templates() {
    let b = Bench::start().await;
    let n = 1u64 << 30;
    let add = format!(
        "{{ :if ([:len [/disk/find where slot=\"S\"]] = 0) do={{ /disk/add type=file slot=\"S\" \
         file-path=\"storage-pool/S.img\" file-size={n} mount-filesystem=no smb-sharing=no nfs-sharing=no \
         media-sharing=no comment=\"owner\" }}; :put \"ack-1\" }}"
    );
    assert_eq!(b.ssh(&add).await, "ack-1\r\n");
    assert_eq!(b.ssh(&add).await, "ack-1\r\n", "the second one finds it");
    assert_eq!(b.sim.file_disks().len(), 1);
    let row = json(
        &b.ssh(&format!(":put [{JSON} [/disk/print detail as-value where slot=\"S\"]]"))
            .await,
    );
    assert_eq!(row[0]["file-path"], "/storage-pool/S.img");
    assert_eq!((&row[0]["file-size"], &row[0]["size"]), (&n.into(), &n.into()));
    assert_eq!((&row[0]["type"], &row[0]["comment"]), (&"file".into(), &"owner".into()));
    assert_eq!(row[0]["nvme-tcp-export"], false);
    assert!(row[0].get("nvme-tcp-server-nqn").is_none(), "only while exported");

    let export = "{ :local ids [/disk/find where slot=\"S\"]; :if ([:len $ids] != 1) do={ :error \"count mismatch\" }; \
         /disk/set $ids nvme-tcp-server-port=4420 nvme-tcp-server-nqn=\"nqn.x:S\" nvme-tcp-export=yes; :put \"ack-2\" }";
    assert_eq!(b.ssh(export).await, "ack-2\r\n");
    assert_eq!(b.sim.exports()[0].nqn, "nqn.x:S");
    assert_eq!(b.ssh(&export.replace("\"S\"", "\"T\"")).await, "count mismatch\r\n");

    let guarded = ":onerror e in={ /disk/set [find where slot=\"S\"] nvme-tcp-server-port=4420 \
         nvme-tcp-server-nqn=\"nqn.x:S2\" nvme-tcp-export=yes; :put \"ack-3\" } do={ :put \"err-3 $e\" }";
    assert_eq!(b.ssh(guarded).await, "ack-3\r\n");
    let broken = guarded.replace("4420", "0");
    assert_eq!(
        b.ssh(&broken).await,
        "err-3 value of nvme-tcp-server-port out of range (1..65535)\r\n"
    );

    let grow = format!(
        "{{ /disk/set [find where slot=\"S\"] file-size={}; :put \"ack-4\" }}",
        2 * n
    );
    assert_eq!(b.ssh(&grow).await, "ack-4\r\n");
    assert_eq!(b.sim.file_disks()[0].size, 2 * n);

    let remove = "{ /disk/set [find where slot=\"S\"] nvme-tcp-export=no; /disk/remove [find where slot=\"S\"]; :put \"ack-5\" }";
    assert_eq!(b.ssh(remove).await, "ack-5\r\n");
    assert!(b.sim.file_disks().is_empty());
    assert!(
        b.sim.files().iter().any(|f| f.name == "storage-pool/S.img"),
        "remove keeps the file"
    );
    let file = "{ /file/remove [find where name=\"storage-pool/S.img\"]; :put \"ack-6\" }";
    assert_eq!(b.ssh(file).await, "ack-6\r\n");
    assert!(!b.sim.files().iter().any(|f| f.name == "storage-pool/S.img"));
    b.sim.stop().await;
}

#[tokio::test]
async fn the_two_commands_of_the_guide() {
    let b = Bench::start().await;
    let add = "/disk add type=file slot=vm-storage-001 file-path=storage-pool/vm-storage-001.img file-size=1T \
         mount-filesystem=no mount-read-only=no compress=no";
    assert_eq!(b.ssh(add).await, "", "a bare add prints nothing");
    let set = "/disk set [find slot=vm-storage-001] nvme-tcp-export=yes nvme-tcp-server-port=4420 \
         nvme-tcp-server-nqn=nqn.2026-09.com.mikrotik:rds2216.vm-storage-001";
    assert_eq!(b.ssh(set).await, "");
    assert_eq!(
        b.ssh(":put [/disk get vm-storage-001 file-size]").await,
        format!("{}\r\n", 1u64 << 40)
    );
    assert_eq!(
        b.ssh(":put [/disk get [find slot=\"vm-storage-001\"] nvme-tcp-server-port]")
            .await,
        "4420\r\n"
    );
    let id = b
        .ssh(":put [/disk add type=file file-path=storage-pool/metal-csi/swapfile file-size=512M]")
        .await;
    assert_eq!(id, "*4\r\n", "add gives the id");
    assert_eq!(
        b.ssh(":put [/disk get *4 slot]").await,
        "file-storage-pool-metal-csi-swap\r\n"
    );
    assert_eq!(b.ssh(":put [/disk/find where type=file]").await, "*3;*4\r\n");
    assert_eq!(b.ssh(":put [/disk/find where slot=nothing]").await, "\r\n");
    b.sim.stop().await;
}

#[tokio::test]
async fn errors_are_text_on_standard_output_with_status_0() {
    let b = Bench::start().await;
    for (command, reply) in [
        (
            "/export terse show-sensitive=no",
            "expected end of command (line 1 column 29)",
        ),
        ("/disk/add foo=bar", "expected end of command (line 1 column 11)"),
        ("/foo print", "bad command name foo (line 1 column 2)"),
        ("/disk/frobnicate", "bad command name frobnicate (line 1 column 7)"),
        (":put \"x\"; /disk/print)", "expected end of command (line 1 column 22)"),
        ("{ :put 1", "expected closing brace (line 1 column 9)"),
        (":put \"$\"", "syntax error (line 1 column 7)"),
        (":put \"\\q\"", "syntax error (line 1 column 7)"),
        ("/disk/add type=floppy", "input does not match any value of type"),
        ("/disk/remove *999", "no such item"),
        ("/disk/remove \"bogusname\"", "no such item"),
        ("/disk/remove 0", "no such item"),
        ("/disk/get [find slot=\"nope\"] size", "no such item"),
        ("/disk/get nvme1 colour", "input does not match any value of value-name"),
        ("/disk/set nvme1 compress=yes", "compression only available for btrfs"),
        ("/disk/remove nvme1", "can not do that"),
        (":error \"stop\"", "stop"),
        (
            "/disk/add type=file slot=x file-path=storage-pool/no/x.img file-size=1G",
            "failure: could not create file: No such file or directory",
        ),
        (
            "/disk/add type=file slot=x file-path=storage-pool/x.img file-size=9T",
            "failure: not enough space",
        ),
        (
            "/disk/add type=file slot=storage-pool file-path=storage-pool/x.img file-size=1G",
            "failure: already have disk with such slot",
        ),
        (
            "/disk/add type=file slot=123456789012345678901234567890123 file-path=storage-pool/x.img file-size=1G",
            "invalid value for argument slot",
        ),
    ] {
        let r = b.run(command).await;
        assert_eq!(
            (r.out.as_str(), r.err.as_str(), r.status),
            (&*format!("{reply}\r\n"), "", Some(0)),
            "{command}"
        );
    }
    assert!(b.sim.file_disks().is_empty());
    assert_eq!(b.sim.files().len(), 2, "nothing is left behind");
    // Output of earlier statements stands before the error; later ones do not run.
    assert_eq!(
        b.ssh(":put \"a\"; /disk/remove *999; :put \"b\"").await,
        "a\r\nno such item\r\n"
    );
    assert_eq!(
        b.ssh(":put \"a\"; /nope; :put \"b\"").await,
        "bad command name nope (line 1 column 12)\r\n"
    );
    // Caught errors do not stop the line.
    assert_eq!(
        b.ssh(":do { /disk/remove *999 } on-error={ :put \"caught\" }; :put \"b\"")
            .await,
        "caught\r\nb\r\n"
    );
    // One line only.
    assert_eq!(b.ssh(":put 1\n:put 2").await, "syntax error (line 1 column 7)\r\n");
    b.sim.stop().await;
}

#[tokio::test]
async fn commands_that_say_nothing() {
    let b = Bench::start().await;
    for command in [
        "/disk/set [find slot=\"nope\"] nvme-tcp-export=no",
        "/disk/remove [find slot=\"nope\"]",
        "/file/remove [find where name=\"nope\"]",
        "/disk print where slot=\"nope\"",
        "/disk print as-value",
        "/disk/disable [find slot=\"nope\"]",
    ] {
        assert_eq!(b.ssh(command).await, "", "{command}");
    }
    b.sim.knobs(|k| k.legend_without_match = true);
    assert!(
        b.ssh("/disk print detail where slot=\"nope\"")
            .await
            .starts_with("Flags: ")
    );
    b.sim.stop().await;
}

#[tokio::test]
async fn count_only_prints_even_inside_an_expression() {
    let b = Bench::start().await;
    assert_eq!(b.ssh("/disk print count-only where slot=\"nope\"").await, "0\r\n");
    let reply = b
        .ssh(":if ([/disk print count-only where slot=\"nope\"] = 0) do={ :put \"none\" }")
        .await;
    assert_eq!(reply, "0\r\nnone\r\n");
    b.sim.stop().await;
}

#[tokio::test]
async fn as_value_is_one_unquoted_line() {
    let b = Bench::start().await;
    b.sim
        .edit(|s| s.add_file_disk("vm", "raid10/vm.img", 1 << 40, "alpha;name=INJECTED;.id=*999;beta"));
    let reply = b.ssh(":put [/disk/print as-value where slot=\"vm\"]").await;
    assert!(reply.starts_with(".id=*3;block-device=true;comment=alpha;name=INJECTED;.id=*999;beta;compress=false;"));
    assert!(
        reply.contains(";file-offset=0;file-path=/raid10/vm.img;file-size=1099511627776;"),
        "{reply}"
    );
    assert!(
        reply.ends_with(";slot=vm;slot-default=;smb-sharing=false;swap=false;type=file\r\n"),
        "{reply}"
    );
    let two = b.ssh(":put [/disk/print as-value proplist=slot]").await;
    assert_eq!(two, ".id=*1;slot=nvme1;.id=*2;slot=storage-pool;.id=*3;slot=vm\r\n");
    let row = json(
        &b.ssh(&format!(":put [{JSON} [/disk/print as-value where slot=\"vm\"]]"))
            .await,
    );
    assert_eq!(row[0]["comment"], "alpha;name=INJECTED;.id=*999;beta");
    b.sim.stop().await;
}

#[tokio::test]
async fn where_is_type_sensitive_and_has_its_traps() {
    let b = Bench::start().await;
    b.sim.edit(|s| {
        for slot in ["10", "1h2", "csi-a", "csi-b"] {
            s.add_file_disk(slot, &format!("storage-pool/{slot}.img"), 1 << 30, "");
        }
    });
    for (condition, count) in [
        ("slot=10", 0),
        ("slot=\"10\"", 1),
        ("slot=1h2", 0),
        ("slot=\"1h2\"", 1),
        ("slot=csi-a", 1),
        ("slot~\"^csi-\"", 2),
        ("slot~\"^csi-(a|x)\\$\"", 1),
        ("type=file", 4),
        ("type=\"file\"", 4),
        ("type=file && slot~\"^csi-\"", 2),
        ("type=file and slot~\"^csi-\"", 2),
        ("slot=\"csi-a\" || slot=\"csi-b\"", 2),
        ("slot=\"csi-a\" or slot=\"csi-b\"", 2),
        ("(slot=\"csi-a\" || slot=\"csi-b\") && !(slot=\"csi-b\")", 1),
        ("file-path=\"/storage-pool/csi-a.img\"", 1),
        ("file-size=1073741824", 4),
        ("file-size>1073741823", 4),
        ("file-size>1073741824", 0),
        ("nvme-tcp-export=no type=file", 4),
        ("nvme-tcp-export", 0),
        ("!mounted", 5),
        ("mounted", 1),
        (".id=*3", 1),
        ("slot=(\"csi\" . \"-a\")", 1),
        ("slot=[:tostr \"csi-a\"]", 1),
        ("slot!=\"csi-a\" type=file", 3),
    ] {
        let reply = b.ssh(&format!(":put [:len [/disk/find where {condition}]]")).await;
        assert_eq!(reply, format!("{count}\r\n"), "{condition}");
    }
    // A local that is named like a property is the property.
    let trap = ":local slot \"csi-a\"; :put [:len [/disk/find where slot=$slot]]";
    assert_eq!(b.ssh(trap).await, "6\r\n");
    let right = ":local wanted \"csi-a\"; :put [:len [/disk/find where slot=$wanted]]";
    assert_eq!(b.ssh(right).await, "1\r\n");
    // Names in /file have no leading slash.
    assert_eq!(b.ssh(":put [:len [/file/find where name~\"^/\"]]").await, "0\r\n");
    assert_eq!(
        b.ssh(":put [:len [/file/find where name=\"storage-pool/csi-a.img\"]]")
            .await,
        "1\r\n"
    );
    b.sim.stop().await;
}

#[tokio::test]
async fn language() {
    let b = Bench::start().await;
    for (line, output) in [
        (":put \"a\\\"b\\\\c\\_d\\48\\$e\\?\"", "a\"b\\c dH$e?"),
        (
            ":local n 5; :put \"n=$n sum=$($n + 1) len=$[:len \"abc\"]\"",
            "n=5 sum=6 len=3",
        ),
        (":local a 1; { :local a 2; :set a 3 }; :put $a", "1"),
        (":foreach i in={1;2;3} do={ :put $i }", "1\r\n2\r\n3"),
        (":foreach k,v in={x=1;y=2} do={ :put \"$k=$v\" }", "x=1\r\ny=2"),
        (":for i from=1 to=3 do={ :put $i }", "1\r\n2\r\n3"),
        (":local i 0; :while ($i < 2) do={ :set i ($i + 1) }; :put $i", "2"),
        (":if (1 = 2) do={ :put a } else={ :put b }", "b"),
        (":put [:pick \"abcdef\" 1 3]; :put [:find \"abc\" \"c\"]", "bc\r\n2"),
        (
            ":put [:typeof 10]; :put [:typeof \"10\"]; :put [:typeof 1h2]; :put [:typeof {1;2}]",
            "num\r\nstr\r\ntime\r\narray",
        ),
        (
            ":put (5-3); :put (10/3); :put (2 * 3); :put (7 % 4); :put (\"a\" . 1)",
            "2\r\n3\r\n6\r\n3\r\na1",
        ),
        (":put [:toarray \"a,b\"]; :put [:len [:toarray \"a,b\"]]", "a;b\r\n2"),
        (":put ({a=1;b=2}->\"b\"); :put ({7;8}->1)", "2\r\n8"),
        (":put 3s; :put [:totime \"1d\"]", "00:00:03\r\n1d00:00:00"),
        (":put (2 in {1;2}); :put (3 in {1;2})", "true\r\nfalse"),
        (":put (\"abc\" ~ \"^a.c\\$\")", "true"),
        (":onerror e in={ :error \"boom\" } do={ :put \"got $e\" }", "got boom"),
        (":put [:serialize to=json {\"1234\"}]", "[1234.000000]"),
        (
            ":put [:serialize to=json options=json.no-string-conversion {\"1234\"}]",
            "[\"1234\"]",
        ),
        (":put [:parse \"/disk/print\"]", "(evl /disk/print)"),
        (
            ":put [:parse \"/disk/add foo=1\"]",
            "bad parameter foo (line 1 column 11)",
        ),
        (":put [:parse \"this\"]", "bad command name this (line 1 column 1)"),
        ("# nothing", ""),
        (":put (1 < 2 && 3 >= 3)", "true"),
        (":global g 7; :put $g", "7"),
        ("system identity print", "  name: MikroTik\r\n"),
        (":put 1;;:put 2;", "1\r\n2"),
    ] {
        let expected = if output.is_empty() {
            String::new()
        } else {
            format!("{output}\r\n")
        };
        assert_eq!(b.ssh(line).await, expected, "{line}");
    }
    assert_eq!(b.ssh(":put $g").await, "7\r\n", "globals stay");
    b.sim.stop().await;
}

#[tokio::test]
async fn versions_know_different_properties() {
    let b = Bench::start().await;
    let add = "/disk add type=file slot=v file-path=storage-pool/v.img file-size=1G nvme-tcp-export=yes";
    let nqn = format!("{add} nvme-tcp-server-nqn=nqn.a:b");
    b.sim.knobs(|k| k.version = Version(7, 20, 0));
    assert_eq!(b.ssh(":put [/system/resource/get version]").await, "7.20 (stable)\r\n");
    assert!(b.ssh(&nqn).await.starts_with("expected end of command"));
    assert_eq!(b.ssh(add).await, "");
    assert_eq!(b.sim.exports()[0].nqn, "v", "before 7.21 the slot is the name");
    b.sim.knobs(|k| k.version = Version(7, 21, 0));
    assert_eq!(
        b.ssh(":put [/disk get v nvme-tcp-server-nqn]").await,
        "nqn.2000-02.com.mikrotik:v\r\n"
    );
    assert!(b.ssh("/file/copy a name=b").await.starts_with("bad command name copy"));
    b.sim.knobs(|k| k.version = Version(7, 23, 0));
    assert_eq!(b.ssh("/file/copy storage-pool/v.img name=storage-pool/w.img").await, "");
    assert!(
        b.sim
            .files()
            .iter()
            .any(|f| f.name == "storage-pool/w.img" && f.size == 1 << 30)
    );
    b.sim.knobs(|k| k.version = Version(7, 17, 0));
    assert!(
        b.ssh("/disk/btrfs/subvolume/add fs=x name=y")
            .await
            .starts_with("bad command name add")
    );
    b.sim.stop().await;
}

#[tokio::test]
async fn policies_bind_users() {
    let reader = Account::new("reader", &["ssh", "read"]);
    let b = Bench::with(Config {
        more_users: vec![reader],
        ..Config::default()
    })
    .await;
    let r = b.run_as("reader", "/disk set nvme1 comment=x").await;
    assert_eq!((r.out.as_str(), r.status), ("not enough permissions (9)\r\n", Some(0)));
    assert_eq!(b.run_as("reader", ":put [/disk get nvme1 slot]").await.out, "nvme1\r\n");
    assert_eq!(
        b.run_as("reader", ":put [/system/resource/get version]").await.out,
        "not enough permissions (9)\r\n"
    );
    assert_eq!(
        b.run_as("admin+cet80w", ":put 1").await.out,
        "1\r\n",
        "options behind + are no part of the name"
    );
    assert_eq!(b.run_as("nobody", ":put 1").await.status, Some(255));
    b.sim.stop().await;
}
