use std::sync::atomic::{AtomicU32, Ordering};

use super::super::tree::Tree;
use super::walk::Loop;
use super::*;

const NQN: &str = "nqn.2000-02.com.mikrotik:pvc-1";
const SIZE: u64 = 1 << 20;

fn subject() -> Subject {
    Subject {
        blocks: [(259, 1), (259, 7)].into(),
        characters: [(240, 1)].into(),
        names: ["nvme3n1".to_owned()].into(),
        size_bytes: SIZE,
        holders: vec![],
        instances: [3].into(),
    }
}

fn mount(dev: Number, within: &str, kind: &str, source: &str) -> Walk {
    let mount = Mount {
        dev,
        within: within.into(),
        point: "/data".into(),
        kind: kind.into(),
        source: source.into(),
    };
    Walk {
        mounts: [(mount, "process 9 (thing)".to_owned())].into(),
        ..Walk::default()
    }
}

fn looped(path: &str, behind: Behind, size_bytes: u64) -> Walk {
    let (name, path) = ("loop0".to_owned(), path.to_owned());
    Walk {
        loops: vec![Loop {
            name,
            path,
            size_bytes,
            behind,
        }],
        ..Walk::default()
    }
}

fn verdict(seen: &Walk) -> Result<(), Use> {
    judge(seen, &subject(), |_| false)
}

#[test]
fn each_way_to_use_a_disk_is_a_use_and_is_named() {
    let open = |kind, number| Walk {
        open: [((kind, number), "process 5 (qemu)".to_owned())].into(),
        ..Walk::default()
    };
    let published = Walk {
        published: vec![((259, 1), "/var/lib/kubelet/x".into())],
        ..Walk::default()
    };
    for (what, seen, word) in [
        (
            "mounted",
            mount((259, 1), "/", "ext4", "/dev/nvme3n1"),
            "mounted on /data, as process 9 (thing)",
        ),
        (
            "a partition",
            mount((259, 7), "/", "xfs", "/dev/root"),
            "mounted on /data",
        ),
        (
            "btrfs",
            mount((0, 44), "/", "btrfs", "/dev/nvme3n1"),
            "mounted on /data",
        ),
        (
            "btrfs on a partition",
            mount((0, 44), "/", "btrfs", "/dev/nvme3n1p2"),
            "mounted on /data",
        ),
        (
            "a node mounted",
            mount((0, 5), "/nvme3n1", "devtmpfs", "udev"),
            "mounted on /data",
        ),
        ("open", open(Kind::Block, (259, 1)), "process 5 (qemu)"),
        ("open, generic", open(Kind::Character, (240, 1)), "process 5 (qemu)"),
        ("published", published, "/var/lib/kubelet/x"),
        ("loop", looped("/x", Behind::Device((259, 7)), SIZE), "loop0"),
    ] {
        match verdict(&seen) {
            Err(Use::Used(by)) => assert!(by.contains(word), "{what}: {by}"),
            other => panic!("{what}: {other:?}"),
        }
    }
    let mut held = subject();
    held.holders = vec!["dm-0".into()];
    assert!(matches!(judge(&Walk::default(), &held, |_| false), Err(Use::Used(by)) if by.contains("dm-0")));
}

#[test]
fn what_others_use_is_not_ours() {
    let mut seen = mount((259, 2), "/", "ext4", "/dev/nvme3n10");
    seen.open.insert((Kind::Block, (240, 1)), "x".into());
    seen.open.insert((Kind::Character, (259, 1)), "x".into());
    seen.published.push(((259, 2), "/x".into()));
    for (kind, within, source) in [
        ("devtmpfs", "/", "udev"),
        ("btrfs", "/", "/dev/nvme33n1"),
        ("tmpfs", "/nvme3n1", "nvme3n1"),
    ] {
        seen.mounts.extend(mount((0, 44), within, kind, source).mounts);
    }
    assert_eq!(verdict(&seen), Ok(()));
}

#[test]
fn a_loop_device_on_something_unseen_is_a_doubt_where_it_could_be_the_disk() {
    let unseen = |size| verdict(&looped("/gone (deleted)", Behind::Unseen, size));
    for size in [512, SIZE] {
        assert!(matches!(unseen(size), Err(Use::Unknown(why)) if why.contains("losetup -d") && why.contains("/gone")));
    }
    assert_eq!(unseen(SIZE + 512), Ok(()));
    assert_eq!(verdict(&looped("/file", Behind::File, SIZE)), Ok(()));
    assert_eq!(verdict(&looped("/sda", Behind::Device((8, 0)), SIZE)), Ok(()));
}

#[test]
fn a_mount_whose_device_is_gone_belongs_to_whom_its_name_says() {
    let stale = |source: &str, gone: bool| judge(&mount((259, 99), "/", "ext4", source), &subject(), |_| gone);
    assert!(
        matches!(stale("/dev/nvme3n2", true), Err(Use::Used(by)) if by.contains("the device of that mount is gone"))
    );
    assert_eq!(stale("/dev/nvme3n2", false), Ok(()));
    assert_eq!(stale("/dev/nvme4n1", true), Ok(()));
    assert_eq!(stale("/dev/sda", true), Ok(()));
}

#[test]
fn without_anything_of_the_nqn_nothing_is_asked() {
    // There is no /proc in this tree: a look would be an error.
    let tree = Tree::new();
    let walks = Walks::new(tree.root(), tree.root());
    assert!(prove(tree.root(), &walks, NQN).is_ok());
}

#[test]
fn what_is_left_without_a_connection_is_in_use() {
    let tree = Tree::new();
    tree.link("proc/1/ns/pid", "pid:[4026531836]");
    tree.subsystem("nvme-subsys0", NQN, &[]);
    let walks = Walks::new(tree.root(), tree.root());
    assert!(matches!(prove(tree.root(), &walks, NQN), Err(Use::Used(by)) if by.contains("nvme-subsys0")));
    tree.put(
        "proc/1/task/1/mountinfo",
        "36 35 259:1 / /var/lib/pod rw - ext4 /dev/nvme0n1 rw\n",
    );
    tree.link("proc/1/task/1/ns/mnt", "mnt:[1]");
    assert!(matches!(prove(tree.root(), &walks, NQN), Err(Use::Used(by)) if by.contains("/var/lib/pod")));
}

#[test]
fn a_disk_that_cannot_be_opened_is_a_doubt() {
    let tree = Tree::new();
    tree.link("proc/1/ns/pid", "pid:[4026531836]");
    tree.multipath(0, NQN, "live");
    let walks = Walks::new(tree.root(), tree.root());
    assert!(matches!(prove(tree.root(), &walks, NQN), Err(Use::Unknown(why)) if why.contains("nvme0n1")));
    // A node of that name which is no device, or another one, is not the disk.
    tree.put("dev/nvme0n1", "");
    assert!(matches!(prove(tree.root(), &walks, NQN), Err(Use::Unknown(_))));
    tree.remove("dev/nvme0n1");
    tree.link("dev/nvme0n1", "/dev/null");
    assert!(matches!(prove(tree.root(), &walks, NQN), Err(Use::Unknown(_))));
}

#[test]
fn without_a_whole_look_there_is_no_proof() {
    let tree = Tree::new();
    tree.multipath(0, NQN, "live");
    let walks = Walks::new(tree.root(), tree.root());
    assert!(matches!(prove(tree.root(), &walks, NQN), Err(Use::Unknown(why)) if why.contains("proc/1/ns/pid")));
}

#[test]
fn numbers_in_names() {
    assert_eq!(
        (instance("nvme-subsys12"), instance("nvme3"), instance("x")),
        (Some(12), Some(3), None)
    );
    for (source, n) in [
        ("/dev/nvme3n1", Some(3)),
        ("/dev/nvme12n1p2", Some(12)),
        ("/dev/sda", None),
        ("nvme3n1", None),
    ] {
        assert_eq!(subject_instance(source), n);
    }
}

#[test]
fn a_look_serves_only_those_who_asked_before_it_began() {
    let tree = Tree::new();
    tree.link("proc/1/ns/pid", "pid:[4026531836]");
    let walks = Walks::new(tree.root(), tree.root());
    let first = walks.fresh();
    assert!(
        !Arc::ptr_eq(&first, &walks.fresh()),
        "a later question gets a later look"
    );
    let asked = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                assert!(walks.fresh().is_ok());
                asked.fetch_add(1, Ordering::SeqCst);
            });
        }
    });
    assert_eq!(asked.load(Ordering::SeqCst), 50);
    assert!(walks.lock().begun <= 52, "{}", walks.lock().begun);
}
