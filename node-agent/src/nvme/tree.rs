//! Sysfs trees for tests, as kernels 6.1 and 6.12 lay them out: class entries are links, as in life.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A host's files.
pub(super) struct Tree {
    folder: TempDir,
}

impl Tree {
    pub(super) fn new() -> Self {
        let tree = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        tree.folder_at("sys/class/block");
        tree
    }

    pub(super) fn root(&self) -> &Path {
        self.folder.path()
    }

    fn folder_at(&self, path: &str) -> PathBuf {
        let path = self.root().join(path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub(super) fn put(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(super) fn get(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap()
    }

    pub(super) fn link(&self, path: &str, to: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(to, path).unwrap();
    }

    pub(super) fn remove(&self, path: &str) {
        let path = self.root().join(path);
        if path.symlink_metadata().unwrap().is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }

    pub(super) fn controller(&self, name: &str, nqn: &str, state: &str) -> String {
        let at = format!("sys/devices/virtual/nvme-fabrics/ctl/{name}");
        for (attribute, text) in [
            ("subsysnqn", nqn),
            ("state", state),
            ("transport", "tcp"),
            ("address", "traddr=10.9.0.2,trsvcid=4420"),
            ("hostnqn", "nqn.2014-08.org.nvmexpress:uuid:1"),
            ("hostid", "1"),
            ("ctrl_loss_tmo", "600"),
            ("reconnect_delay", "10"),
            ("delete_controller", ""),
            ("rescan_controller", ""),
            ("dev", "241:0"),
        ] {
            self.put(&format!("{at}/{attribute}"), &format!("{text}\n"));
        }
        self.link(&format!("{at}/subsystem"), "../../../../../class/nvme");
        self.link(
            &format!("sys/class/nvme/{name}"),
            &format!("../../devices/virtual/nvme-fabrics/ctl/{name}"),
        );
        at
    }

    pub(super) fn subsystem(&self, name: &str, nqn: &str, controllers: &[&str]) -> String {
        let at = format!("sys/devices/virtual/nvme-subsystem/{name}");
        self.put(&format!("{at}/subsysnqn"), &format!("{nqn}\n"));
        self.link(&format!("{at}/subsystem"), "../../../../class/nvme-subsystem");
        for controller in controllers {
            self.link(
                &format!("{at}/{controller}"),
                &format!("../../nvme-fabrics/ctl/{controller}"),
            );
        }
        self.link(
            &format!("sys/class/nvme-subsystem/{name}"),
            &format!("../../devices/virtual/nvme-subsystem/{name}"),
        );
        at
    }

    pub(super) fn disk(&self, parent: &str, name: &str, dev: &str, hidden: &str) -> String {
        let at = format!("{parent}/{name}");
        for (attribute, text) in [
            ("dev", dev),
            ("size", "2048"),
            ("hidden", hidden),
            ("nsid", "1"),
            ("ro", "0"),
            ("wwid", "uuid.6c1dc5a0-0000-4000-8000-000000000001"),
            ("diskseq", "9"),
        ] {
            self.put(&format!("{at}/{attribute}"), &format!("{text}\n"));
        }
        self.folder_at(&format!("{at}/holders"));
        at
    }

    /// What only 6.12 has.
    pub(super) fn as_6_12(&self, controller: &str) {
        self.put(&format!("{controller}/passthru_err_log_enabled"), "off\n");
        self.put(&format!("{controller}/dhchap_secret"), "none\n");
    }

    /// Native multipath: the disk below the subsystem, a hidden path below the controller, and its character device.
    pub(super) fn multipath(&self, n: u32, nqn: &str, state: &str) {
        let (controller, disk) = (format!("nvme{n}"), format!("nvme{n}n1"));
        let at = self.controller(&controller, nqn, state);
        let subsystem = self.subsystem(&format!("nvme-subsys{n}"), nqn, &[&controller]);
        self.disk(&subsystem, &disk, &format!("259:{n}"), "0");
        self.put(&format!("{subsystem}/ng{n}n1/dev"), &format!("240:{n}\n"));
        let path = self.disk(&at, &format!("nvme{n}c{n}n1"), "0:0", "1");
        self.put(&format!("{path}/ana_state"), "optimized\n");
    }

    /// Multipath off: the disk below the controller.
    pub(super) fn single_path(&self, n: u32, nqn: &str, state: &str) {
        let (controller, disk) = (format!("nvme{n}"), format!("nvme{n}n1"));
        let at = self.controller(&controller, nqn, state);
        self.subsystem(&format!("nvme-subsys{n}"), nqn, &[&controller]);
        self.disk(&at, &disk, &format!("259:{n}"), "0");
        self.put(&format!("{at}/ng{n}n1/dev"), &format!("240:{n}\n"));
    }
}
