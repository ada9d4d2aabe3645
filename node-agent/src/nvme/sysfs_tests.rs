use super::super::tree::Tree;
use super::*;

const NQN: &str = "nqn.2000-02.com.mikrotik:pvc-1";
const OTHER: &str = "nqn.2000-02.com.mikrotik:pvc-10";

fn disk(tree: &Tree) -> Disk {
    disk_of(tree.root(), NQN).unwrap().unwrap()
}

#[test]
fn r28_both_layouts_of_both_kernels_show_the_same_disk() {
    for multipath in [true, false] {
        for new in [true, false] {
            let tree = Tree::new();
            let lay = if multipath { Tree::multipath } else { Tree::single_path };
            lay(&tree, 3, OTHER, "live");
            lay(&tree, 0, NQN, "live");
            if new {
                tree.as_6_12("sys/devices/virtual/nvme-fabrics/ctl/nvme0");
            }
            let disk = disk(&tree);
            assert_eq!(
                (disk.name.as_str(), disk.major, disk.minor),
                ("nvme0n1", 259, 0),
                "{multipath}"
            );
            assert_eq!(disk.path, tree.root().join("dev/nvme0n1"));
            assert_eq!((disk.size_bytes, disk.nsid, disk.read_only), (1 << 20, 1, false));
            assert_eq!(disk.wwid.as_deref(), Some("uuid.6c1dc5a0-0000-4000-8000-000000000001"));
            assert_eq!(disk.sequence, Some(9));
            assert!(disk.live() && disk.controllers.len() == 1, "{disk:?}");
        }
    }
}

#[test]
fn r29_no_class_is_no_connection_but_no_sysfs_is_an_error() {
    let tree = Tree::new();
    assert_eq!(disk_of(tree.root(), NQN).unwrap(), None);
    assert_eq!(controllers(tree.root()).unwrap(), vec![]);
    tree.remove("sys/class");
    assert!(disk_of(tree.root(), NQN).is_err());
    assert!(controllers(tree.root()).unwrap_err().to_string().contains("sys/class"));
    assert!(
        controllers(std::path::Path::new("/nowhere"))
            .unwrap_err()
            .to_string()
            .contains("/nowhere/sys")
    );
}

#[test]
fn names_do_not_tell_what_belongs_together() {
    // As after a reconnect beneath a stale mount: controller 1, subsystem 0, disk nvme0n2.
    let tree = Tree::new();
    let controller = tree.controller("nvme1", NQN, "live");
    let subsystem = tree.subsystem("nvme-subsys0", NQN, &["nvme1"]);
    tree.disk(&subsystem, "nvme0n2", "259:5", "0");
    tree.disk(&controller, "nvme0c1n2", "0:0", "1");
    let disk = disk(&tree);
    assert_eq!((disk.name.as_str(), disk.minor), ("nvme0n2", 5));
    assert_eq!(disk.controllers[0].name, "nvme1");
}

#[test]
fn two_controllers_are_two_paths_of_one_disk_or_two_disks() {
    let tree = Tree::new();
    tree.multipath(0, NQN, "connecting");
    let second = tree.controller("nvme1", NQN, "live");
    tree.disk(&second, "nvme0c1n1", "0:0", "1");
    let one = disk(&tree);
    assert_eq!(one.controllers.len(), 2);
    assert!(one.live(), "one path is enough");

    let tree = Tree::new();
    tree.single_path(0, NQN, "live");
    let second = tree.controller("nvme1", NQN, "live");
    tree.disk(&second, "nvme1n1", "259:1", "0");
    let message = disk_of(tree.root(), NQN).unwrap_err().to_string();
    assert!(
        message.contains("more than one disk") && message.contains("nvme0n1, nvme1n1"),
        "{message}"
    );
    assert_eq!(disks_of(tree.root(), NQN).unwrap().len(), 2);
}

#[test]
fn live_without_a_disk_is_a_normal_answer() {
    let tree = Tree::new();
    tree.multipath(0, NQN, "live");
    tree.remove("sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1");
    assert_eq!(disk_of(tree.root(), NQN).unwrap(), None);
    assert!(controllers(tree.root()).unwrap()[0].is_live());
}

#[test]
fn a_stale_mount_leaves_a_subsystem_without_controllers() {
    let tree = Tree::new();
    tree.subsystem("nvme-subsys0", NQN, &[]);
    assert_eq!(disk_of(tree.root(), NQN).unwrap(), None);
    let objects = objects_of(tree.root(), NQN).unwrap();
    assert_eq!(
        (objects.subsystems.as_slice(), objects.controllers.len()),
        (["nvme-subsys0".to_owned()].as_slice(), 0)
    );
    assert_eq!(objects_of(tree.root(), OTHER).unwrap(), Objects::default());
}

#[test]
fn states_are_whole_lines_and_only_live_is_live() {
    for state in [
        "live",
        "deleting (no IO)",
        "connecting",
        "resetting",
        "new",
        "dead",
        "something of 2031",
    ] {
        let tree = Tree::new();
        tree.multipath(0, NQN, state);
        let disk = disk(&tree);
        assert_eq!(disk.controllers[0].state, state);
        assert_eq!(disk.live(), state == "live");
    }
}

#[test]
fn a_controller_that_goes_while_it_is_read_is_not_there() {
    for attribute in ["subsysnqn", "state"] {
        let tree = Tree::new();
        tree.multipath(0, NQN, "live");
        tree.remove(&format!("sys/devices/virtual/nvme-fabrics/ctl/nvme0/{attribute}"));
        assert!(controllers(tree.root()).unwrap().is_empty(), "{attribute}");
    }
    let tree = Tree::new();
    tree.multipath(0, NQN, "live");
    tree.remove("sys/devices/virtual/nvme-fabrics/ctl/nvme0");
    assert!(controllers(tree.root()).unwrap().is_empty(), "a link to nothing");
}

#[test]
fn what_cannot_be_read_fails_the_whole_list() {
    let tree = Tree::new();
    tree.multipath(0, NQN, "live");
    tree.multipath(1, OTHER, "live");
    tree.remove("sys/devices/virtual/nvme-fabrics/ctl/nvme1/subsysnqn");
    // Reading a folder is an error even for root.
    tree.put("sys/devices/virtual/nvme-fabrics/ctl/nvme1/subsysnqn/x", "");
    let message = controllers(tree.root()).unwrap_err().to_string();
    assert!(message.contains("nvme1/subsysnqn"), "{message}");
    assert!(disk_of(tree.root(), NQN).is_err());
}

#[test]
fn links_that_lead_out_of_sysfs_are_errors() {
    let tree = Tree::new();
    tree.multipath(0, NQN, "live");
    tree.put("elsewhere/subsysnqn", NQN);
    tree.put("elsewhere/state", "live");
    tree.link("sys/class/nvme/nvme1", "../../../elsewhere");
    assert!(controllers(tree.root()).is_err());
    tree.remove("sys/class/nvme/nvme1");
    tree.link("sys/class/nvme/nvme1", tree.root().join("elsewhere").to_str().unwrap());
    assert!(controllers(tree.root()).is_err());
    tree.remove("sys/class/nvme/nvme1");
    // An attribute is never a link.
    tree.remove("sys/devices/virtual/nvme-fabrics/ctl/nvme0/state");
    tree.link("sys/devices/virtual/nvme-fabrics/ctl/nvme0/state", "subsysnqn");
    assert!(controllers(tree.root()).is_err());
}

#[test]
fn strange_numbers_are_errors_and_strange_text_is_shown() {
    for (attribute, text) in [
        ("size", "many"),
        ("size", "-1"),
        ("size", "18446744073709551615"),
        ("dev", "259"),
        ("dev", "259:x"),
        ("nsid", ""),
    ] {
        let tree = Tree::new();
        tree.multipath(0, NQN, "live");
        tree.put(
            &format!("sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1/{attribute}"),
            text,
        );
        let message = disk_of(tree.root(), NQN).unwrap_err().to_string();
        assert!(message.contains("nvme0n1") && message.contains(attribute), "{message}");
    }
    let tree = Tree::new();
    tree.multipath(0, NQN, &"x".repeat(100_000));
    assert!(controllers(tree.root()).unwrap()[0].state.len() <= 4096);
}

#[test]
fn an_nqn_is_compared_whole() {
    let tree = Tree::new();
    tree.multipath(0, OTHER, "live");
    assert_eq!(disk_of(tree.root(), NQN).unwrap(), None);
}

#[test]
fn partitions_and_holders_are_the_disks_too() {
    let tree = Tree::new();
    tree.multipath(0, NQN, "live");
    let at = "sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1";
    tree.put(&format!("{at}/nvme0n1p1/partition"), "1\n");
    tree.put(&format!("{at}/nvme0n1p1/dev"), "259:7\n");
    tree.put(&format!("{at}/nvme0n1p1/holders/dm-0"), "");
    tree.put(&format!("{at}/queue/size"), "3\n");
    let disk = disk(&tree);
    assert_eq!(disk.partitions, [(259, 7)]);
    assert_eq!(disk.holders, ["dm-0"]);
}

#[test]
fn generic_devices_are_ways_to_a_disk() {
    for lay in [Tree::multipath, Tree::single_path] {
        let tree = Tree::new();
        lay(&tree, 4, NQN, "live");
        let objects = objects_of(tree.root(), NQN).unwrap();
        assert_eq!(objects.generic, [(240, 4)]);
        assert_eq!((objects.subsystems.len(), objects.controllers.len()), (1, 1));
    }
}
