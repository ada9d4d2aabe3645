//! A simulator with a client on it.

use std::time::Duration;

use rds_operator::routeros::*;
use routeros_sim::knobs::Knobs;
use routeros_sim::{Account, Disk, Fault, Snapshot, State};
use routeros_sim::{Config, Simulator};

pub(crate) const GIB: u64 = 1 << 30;

pub(crate) struct Rig {
    pub(crate) sim: Simulator,
    pub(crate) client: Client,
}

impl Rig {
    /// Commands time out after 1.5 s, so that a hang does not take a test's whole life.
    pub(crate) async fn start() -> Self {
        let config = Config {
            user: Account::operator("csi"),
            pool: "raid10".into(),
            directories: vec!["csi".into()],
            ..Config::default()
        };
        let sim = Simulator::start(config).await.unwrap();
        let client = Client::connect(&target(&sim), None);
        Self { sim, client }
    }

    pub(crate) fn target(&self) -> Target {
        target(&self.sim)
    }

    pub(crate) fn knobs(&self, f: impl FnOnce(&mut Knobs)) {
        self.sim.knobs(f);
    }

    pub(crate) fn fault(&self, fault: Fault) {
        self.sim.set_fault(fault);
    }

    pub(crate) fn clear_faults(&self) {
        self.sim.clear_faults();
    }

    /// Forgets the commands so far.
    pub(crate) fn forget(&self) {
        self.sim.clear_log();
    }

    pub(crate) fn execs(&self) -> usize {
        self.sim.commands().len()
    }

    pub(crate) fn logins(&self) -> usize {
        self.sim.log().len() - self.execs()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.sim.snapshot()
    }

    /// Reads or changes the appliance behind everybody's back.
    pub(crate) fn state<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        self.sim.edit(f)
    }

    pub(crate) fn disk(&self, v: &Volume) -> Option<Disk> {
        self.sim.disks().into_iter().find(|d| d.slot == v.slot.as_str())
    }

    pub(crate) fn edit(&self, v: &Volume, f: impl FnOnce(&mut Disk)) {
        self.state(|s| {
            let id = s.disks.slot(v.slot.as_str()).map(|d| d.id).unwrap();
            s.disks.update(id, f);
        });
    }
}

fn target(sim: &Simulator) -> Target {
    Target {
        name: "rds-1".into(),
        address: sim.addr().ip().to_string(),
        port: sim.addr().port(),
        user: "csi".into(),
        private_key: sim.client_private_key().into(),
        host_keys: vec![sim.host_key_line()],
        base_path: "/raid10/csi".parse().unwrap(),
        limits: Limits {
            command_timeout: Duration::from_millis(1500),
            ..Limits::default()
        },
    }
}

/// Names of one volume.
pub(crate) struct Volume {
    pub(crate) slot: Slot,
    pub(crate) path: DiskPath,
    pub(crate) nqn: Nqn,
    uid: String,
}

impl Volume {
    /// Slots as long as they come: 32 characters.
    pub(crate) fn new(n: usize) -> Self {
        let slot: Slot = format!("pvc-{n:028x}").parse().unwrap();
        let base: DiskPath = "/raid10/csi".parse().unwrap();
        Self {
            path: base.image(&slot),
            nqn: format!("nqn.2000-02.com.mikrotik:pvc-{n:08}").parse().unwrap(),
            uid: format!("{n:032x}"),
            slot,
        }
    }

    pub(crate) fn id(&self) -> DiskId {
        DiskId {
            slot: self.slot.clone(),
            path: self.path.clone(),
            nqn: self.nqn.clone(),
        }
    }

    pub(crate) fn tag(&self, generation: u32) -> OwnerTag {
        self.tagged(generation, "00c0ffee")
    }

    /// Of another create of the same volume.
    pub(crate) fn other_tag(&self) -> OwnerTag {
        self.tagged(1, "0badcafe")
    }

    fn tagged(&self, generation: u32, nonce: &str) -> OwnerTag {
        let cluster = ClusterId::of("cluster");
        let (uid, nonce) = (self.uid.parse().unwrap(), nonce.parse().unwrap());
        OwnerTag::new(cluster, uid, Generation(generation), nonce, "team-a/data-postgres-0")
    }

    pub(crate) fn guard(&self, generation: u32) -> Guard {
        Guard {
            slot: self.slot.clone(),
            path: self.path.clone(),
            tag: self.tag(generation),
        }
    }

    pub(crate) fn create(&self, size: u64) -> CreateDisk {
        let Guard { slot, path, tag } = self.guard(1);
        CreateDisk {
            slot,
            path,
            size: Bytes(size),
            nqn: self.nqn.clone(),
            port: 4420,
            tag,
        }
    }
}
