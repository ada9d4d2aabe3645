use super::tree::Tree;
use super::*;

const PREFIX: &str = "nqn.2000-02.com.mikrotik:pvc-";
const NQN: &str = "nqn.2000-02.com.mikrotik:pvc-1";
const FOREIGN: &str = "nqn.2026-01.org.example:nixos-root";
const CONTROLLER: &str = "sys/devices/virtual/nvme-fabrics/ctl/nvme0";

fn kernel(tree: &Tree) -> Kernel {
    let identity = Identity {
        machine_id: "m".into(),
        host_nqn: "nqn.2014-08.org.nvmexpress:uuid:1".into(),
        host_id: "1".into(),
    };
    Kernel::new(tree.root(), &tree.root().join("kubelet"), PREFIX, identity)
}

fn target(nqn: &str) -> Target {
    Target {
        nqn: nqn.into(),
        address: "10.9.0.2".into(),
        port: 4420,
        options: Options::default(),
    }
}

#[test]
fn sessions_are_those_of_fabrics_ours_and_others() {
    let tree = Tree::new();
    tree.multipath(0, NQN, "connecting");
    tree.multipath(1, FOREIGN, "live");
    let local = tree.controller("nvme2", "nqn.2014.08.org.nvmexpress:local disk", "live");
    tree.put(&format!("{local}/transport"), "pcie\n");
    let all = kernel(&tree).sessions().unwrap();
    let all: Vec<(&str, &str)> = all.iter().map(|s| (s.nqn.as_str(), s.state.as_str())).collect();
    assert_eq!(all, [(NQN, "connecting"), (FOREIGN, "live")]);
}

#[test]
fn a_session_tells_whether_there_is_a_disk_behind_it() {
    let shown = |tree: &Tree| {
        let all = kernel(tree).sessions().unwrap();
        all.into_iter().map(|s| s.disk).collect::<Vec<_>>()
    };
    let tree = Tree::new();
    tree.multipath(0, NQN, "live");
    assert_eq!(shown(&tree), [true]);
    tree.remove("sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1");
    assert_eq!(shown(&tree), [false], "a path is no disk");
    let tree = Tree::new();
    tree.single_path(0, NQN, "live");
    assert_eq!(shown(&tree), [true]);
    tree.remove(&format!("{CONTROLLER}/nvme0n1"));
    assert_eq!(shown(&tree), [false]);
}

#[test]
fn i6_r12_nothing_outside_of_the_prefix_is_ever_written_to() {
    let tree = Tree::new();
    tree.multipath(0, FOREIGN, "live");
    let kernel = kernel(&tree);
    for (what, refused) in [
        (
            "disconnect",
            kernel.disconnect(FOREIGN, DisconnectKey::Fenced).unwrap_err().0,
        ),
        ("rescan", kernel.rescan(FOREIGN).unwrap_err().0),
        (
            "set_timeouts",
            kernel.set_timeouts(FOREIGN, &Options::default()).unwrap_err().0,
        ),
        ("connect", kernel.connect(&target(FOREIGN)).unwrap_err().to_string()),
    ] {
        assert!(
            refused.contains(&format!("does not begin with {PREFIX}")),
            "{what}: {refused}"
        );
    }
    assert_eq!(tree.get(&format!("{CONTROLLER}/delete_controller")), "\n");
    assert_eq!(tree.get(&format!("{CONTROLLER}/rescan_controller")), "\n");
    assert_eq!(tree.get(&format!("{CONTROLLER}/ctrl_loss_tmo")), "600\n");
}

#[test]
fn disconnect_without_a_controller_is_done() {
    let tree = Tree::new();
    assert_eq!(kernel(&tree).disconnect(NQN, DisconnectKey::Fenced), Ok(()));
    tree.multipath(1, FOREIGN, "live");
    assert_eq!(kernel(&tree).disconnect(NQN, DisconnectKey::Fenced), Ok(()));
}

#[test]
fn what_is_ours_by_name_and_not_by_transport_is_left_alone() {
    let tree = Tree::new();
    tree.multipath(0, NQN, "live");
    tree.put(&format!("{CONTROLLER}/transport"), "rdma\n");
    assert!(
        kernel(&tree)
            .disconnect(NQN, DisconnectKey::Fenced)
            .unwrap_err()
            .0
            .contains("rdma")
    );
    assert_eq!(tree.get(&format!("{CONTROLLER}/delete_controller")), "\n");
}

/// Ends nvme0 as the kernel does, once that is asked for.
fn ends(tree: &Tree, before: impl FnOnce()) {
    while !tree.get(&format!("{CONTROLLER}/delete_controller")).starts_with('1') {
        std::thread::yield_now();
    }
    before();
    tree.remove("sys/class/nvme/nvme0");
    tree.remove(CONTROLLER);
}

#[test]
fn disconnect_waits_until_the_controller_is_gone() {
    let tree = Tree::new();
    tree.multipath(0, NQN, "live");
    std::thread::scope(|scope| {
        scope.spawn(|| ends(&tree, || {}));
        assert_eq!(kernel(&tree).disconnect(NQN, DisconnectKey::Fenced), Ok(()));
    });
}

#[test]
fn i6_a_session_that_comes_meanwhile_is_left_alone() {
    let tree = Tree::new();
    tree.multipath(0, NQN, "live");
    let said = std::thread::scope(|scope| {
        scope.spawn(|| ends(&tree, || drop(tree.controller("nvme1", NQN, "live"))));
        kernel(&tree).disconnect(NQN, DisconnectKey::Fenced).unwrap_err().0
    });
    assert!(said.contains("nvme1") && said.contains("left alone"), "{said}");
    let newcomer = CONTROLLER.replace("nvme0", "nvme1");
    assert_eq!(tree.get(&format!("{newcomer}/delete_controller")), "\n");
}

#[test]
fn times_are_changed_where_they_differ() {
    let tree = Tree::new();
    tree.multipath(0, NQN, "live");
    let kernel = kernel(&tree);
    let wanted = Options::default();
    let changed = kernel.set_timeouts(NQN, &wanted).unwrap();
    assert_eq!(
        changed,
        ["nvme0: reconnect_delay 10 -> 5", "nvme0: ctrl_loss_tmo 600 -> -1"]
    );
    tree.put(&format!("{CONTROLLER}/ctrl_loss_tmo"), "off\n");
    tree.put(&format!("{CONTROLLER}/reconnect_delay"), "5\n");
    assert!(
        kernel.set_timeouts(NQN, &wanted).unwrap().is_empty(),
        "never is written off"
    );
}

#[test]
fn a_connection_that_is_being_deleted_is_waited_for() {
    let tree = Tree::new();
    tree.multipath(0, NQN, "deleting (no IO)");
    tree.link(
        "proc/1/ns/net",
        std::fs::read_link("/proc/self/ns/net").unwrap().to_str().unwrap(),
    );
    let said = kernel(&tree).connect(&target(NQN)).unwrap_err().to_string();
    assert!(said.contains("still being deleted"), "{said}");
}

#[test]
fn another_network_than_the_hosts_is_refused() {
    let tree = Tree::new();
    tree.link("proc/1/ns/net", "net:[1]");
    let said = kernel(&tree).connect(&target(NQN)).unwrap_err().to_string();
    assert!(said.contains("hostNetwork"), "{said}");
}

#[test]
fn without_the_module_it_says_what_to_do() {
    let tree = Tree::new();
    tree.link(
        "proc/1/ns/net",
        std::fs::read_link("/proc/self/ns/net").unwrap().to_str().unwrap(),
    );
    let said = kernel(&tree).connect(&target(NQN)).unwrap_err().to_string();
    assert!(
        said.contains("dev/nvme-fabrics") && said.contains("modprobe nvme-tcp"),
        "{said}"
    );
}

#[test]
fn i6_without_a_proof_nothing_is_deleted() {
    let tree = Tree::new();
    tree.multipath(0, NQN, "live");
    tree.link("proc/1/ns/pid", "pid:[4026532000]");
    for key in [DisconnectKey::Unused, DisconnectKey::Orphan] {
        let said = kernel(&tree).disconnect(NQN, key).unwrap_err().0;
        assert!(said.contains("it is not proven that nothing uses it"), "{said}");
    }
    assert_eq!(tree.get(&format!("{CONTROLLER}/delete_controller")), "\n");
}

#[test]
fn times_read_back_as_whole_attempts() {
    for (seconds, delay, reads) in [(-1, 5, -1), (0, 5, 0), (600, 7, 602), (700, 7, 700), (3, 5, 5)] {
        assert_eq!(attempts(seconds, delay), reads, "{seconds} by {delay}");
    }
}
