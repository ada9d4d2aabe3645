use super::super::super::tree::Tree;
use super::*;

const KUBELET: &str = "/nowhere/kubelet";

fn tree() -> Tree {
    let tree = Tree::new();
    tree.link("proc/1/ns/pid", FIRST_PROCESSES);
    process(&tree, 1, "mnt:[1]", "");
    tree
}

fn process(tree: &Tree, pid: u32, namespace: &str, mountinfo: &str) {
    tree.put(&format!("proc/{pid}/comm"), "thing\n");
    tree.put(&format!("proc/{pid}/fd/.keep"), "");
    tree.link(&format!("proc/{pid}/task/{pid}/ns/mnt"), namespace);
    tree.put(&format!("proc/{pid}/task/{pid}/mountinfo"), mountinfo);
    tree.put(&format!("proc/{pid}/task/{pid}/comm"), "thing\n");
    tree.put(
        &format!("proc/{pid}/task/{pid}/stat"),
        &format!("{pid} (a) D (b) S 1 1\n"),
    );
}

fn look(tree: &Tree) -> Result<Walk, String> {
    walk(tree.root(), Path::new(KUBELET))
}

#[test]
fn a_container_that_sees_its_own_processes_only_proves_nothing() {
    let tree = tree();
    assert!(look(&tree).is_ok());
    tree.remove("proc/1/ns/pid");
    assert!(look(&tree).unwrap_err().contains("proc/1/ns/pid"));
    tree.link("proc/1/ns/pid", "pid:[4026532000]");
    assert!(look(&tree).unwrap_err().contains("hostPID"));
}

#[test]
fn mounts_of_every_namespace_are_seen_each_once() {
    let tree = tree();
    let line = "36 35 259:1 / /var/lib/a\\040b rw,noatime shared:1 - ext4 /dev/nvme0n1 rw\n";
    let other = "40 35 0:44 /sub /data rw - btrfs /dev/nvme1n1 rw\n41 35 0:5 /nvme2n1 /dev/x rw - devtmpfs udev rw\n\
                 42 35 0:30 / /tmp rw - tmpfs tmpfs rw\n";
    process(&tree, 7, "mnt:[2]", line);
    process(&tree, 8, "mnt:[2]", line);
    process(&tree, 9, "mnt:[3]", &format!("{line}{other}"));
    let seen = look(&tree).unwrap();
    let points: Vec<&str> = seen.mounts.keys().map(|m| m.point.as_str()).collect();
    assert_eq!(points, ["/dev/x", "/data", "/var/lib/a b"]);
    let (mount, by) = seen.mounts.iter().find(|(m, _)| m.point == "/data").unwrap();
    assert_eq!(
        (mount.kind.as_str(), mount.within.as_str(), mount.source.as_str()),
        ("btrfs", "/sub", "/dev/nvme1n1")
    );
    assert_eq!(by, "process 9 (thing)");
}

#[test]
fn a_thread_may_have_mounts_of_its_own() {
    let tree = tree();
    let line = "36 35 259:1 / /private rw - ext4 /dev/nvme0n1 rw\n";
    tree.link("proc/1/task/5/ns/mnt", "mnt:[9]");
    tree.put("proc/1/task/5/mountinfo", line);
    assert_eq!(look(&tree).unwrap().mounts.len(), 1);
}

#[test]
fn what_ends_meanwhile_is_not_there_and_what_cannot_be_read_is_an_error() {
    let tree = tree();
    for gone in [
        "proc/1/task/1/ns/mnt",
        "proc/1/task/1/mountinfo",
        "proc/1/fd",
        "proc/1/task",
    ] {
        tree.remove(gone);
        assert!(look(&tree).is_ok(), "{gone}");
    }
    process(&tree, 4, "mnt:[4]", "36 35 259:1 / /x rw ext4\n");
    assert!(look(&tree).unwrap_err().contains("is not understood"));
    tree.remove("proc/4/task/4/mountinfo");
    tree.put("proc/4/task/4/mountinfo/x", "");
    assert!(look(&tree).unwrap_err().contains("proc/4/task/4/mountinfo"));
    tree.remove("proc");
    assert!(look(&tree).is_err());
}

#[test]
fn open_devices_are_seen_by_their_number() {
    let tree = tree();
    tree.link("proc/1/fd/3", "/dev/null");
    tree.link("proc/1/fd/4", "/nowhere");
    tree.put("proc/1/fd/5", "a file");
    let seen = look(&tree).unwrap();
    let all: Vec<_> = seen.open.iter().collect();
    assert_eq!(all, [(&(Kind::Character, (1, 3)), &"process 1 (thing)".to_owned())]);
}

#[test]
fn a_file_that_cannot_be_asked_is_passed_over_only_where_no_device_can_be() {
    let tree = tree();
    tree.link("proc/1/fd/3", "/dev/null");
    // As with a file of another user's FUSE: the file does not answer, its process is there.
    tree.link("proc/1/fd/7", "/dev/null/beneath");
    let doubt = |word: &str| {
        let why = look(&tree).unwrap_err();
        assert!(
            why.contains("proc/1/fd/7") && why.contains("thing") && why.contains(word),
            "{why}"
        );
    };
    assert!(look(&tree).is_ok(), "closed meanwhile");
    tree.put("proc/1/fdinfo/7", "pos:\t0\nflags:\t0100000\n");
    doubt("names no mount");
    tree.put("proc/1/fdinfo/7", "pos:\t0\nflags:\t0100000\nmnt_id:\t45\n");
    doubt("mountinfo");
    let other = "450 30 0:60 / /elsewhere rw,nodev - fuse.sshfs sshfs rw\n";
    tree.put("proc/1/mountinfo", other);
    doubt("its mount 45 is not in");
    for (line, proves) in [
        (
            "45 30 0:61 / /home rw,nosuid,nodev,relatime shared:9 - fuse.sshfs sshfs rw,user_id=1000",
            true,
        ),
        (
            "45 30 0:61 / /home rw,nosuid,relatime shared:9 - fuse.sshfs sshfs rw,nodev,user_id=1000",
            false,
        ),
        // There, kubelet's folder may be, with nodes that are published.
        ("45 30 0:61 / /var rw,relatime - nfs4 server:/var rw,vers=4.2", false),
        (
            "45 30 0:61 / /var rw,nodev,relatime - nfs4 server:/var rw,vers=4.2",
            true,
        ),
    ] {
        tree.put("proc/1/mountinfo", &format!("{other}{line}\n"));
        if proves {
            let seen = look(&tree).unwrap();
            assert_eq!(
                seen.open.keys().collect::<Vec<_>>(),
                [&(Kind::Character, (1, 3))],
                "{line}"
            );
        } else {
            doubt("it may be a device");
        }
    }
}

#[test]
fn loop_devices_say_what_is_behind_them() {
    let tree = tree();
    for (name, path) in [
        ("loop0", "/images/a"),
        ("loop1", "/images/gone (deleted)"),
        ("loop2", "/in/a/container"),
        ("loop3", ""),
    ] {
        tree.put(&format!("sys/devices/virtual/block/{name}/size"), "8\n");
        tree.put(
            &format!("sys/devices/virtual/block/{name}/loop/backing_file"),
            &format!("{path}\n"),
        );
        tree.link(
            &format!("sys/block/{name}"),
            &format!("../devices/virtual/block/{name}"),
        );
    }
    tree.put("sys/devices/virtual/block/loop4/size", "0\n");
    tree.link("sys/block/loop4", "../devices/virtual/block/loop4");
    tree.put("images/a", "");
    tree.put("proc/1/task/1/root/in/a/container", "");
    let seen = look(&tree).unwrap();
    let all: Vec<(&str, Behind, u64)> = seen
        .loops
        .iter()
        .map(|l| (l.name.as_str(), l.behind, l.size_bytes))
        .collect();
    assert_eq!(
        all,
        [
            ("loop0", Behind::File, 4096),
            ("loop1", Behind::Unseen, 4096),
            ("loop2", Behind::File, 4096)
        ]
    );
}

#[test]
fn folders_of_kubelet_are_read_in_depth_and_not_without_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    assert_eq!(published(folder.path(), &mut all), Ok(()));
    let deep = folder.path().join(PUBLISHED).join("publish/pv/pod");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), "").unwrap();
    std::os::unix::fs::symlink("/dev/null", deep.join("link")).unwrap();
    assert_eq!(published(folder.path(), &mut all), Ok(()));
    assert!(all.is_empty(), "{all:?}");
    fs::create_dir_all(deep.join("1/2/3/4/5/6/7/8/9")).unwrap();
    assert!(published(folder.path(), &mut all).unwrap_err().contains("too deep"));
}

#[test]
fn whoever_hangs_in_the_kernel_is_named() {
    let tree = tree();
    assert_eq!(stuck(tree.root()), Ok(vec![]), "a name may look like a state");
    process(&tree, 12, "mnt:[1]", "");
    tree.put("proc/12/task/12/stat", "12 (umount) D 1 1\n");
    assert_eq!(stuck(tree.root()), Ok(vec!["process 12 (thing)".to_owned()]));
    tree.put("proc/12/task/12/stat", "12\n");
    assert!(stuck(tree.root()).unwrap_err().contains("not understood"));
}
