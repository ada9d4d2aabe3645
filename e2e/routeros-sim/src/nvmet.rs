//! Real exports: what `/disk` exports becomes a subsystem of the kernel's own NVMe/TCP target, so that a kernel can connect to it.
//!
//! Owns the image files in a folder and everything of ours below `/sys/kernel/config/nvmet`; refuses what it cannot do with data
//! (copies). The change is there when the command that made it is answered. Invariant: the link to the port comes last and goes
//! first, so that nobody meets a subsystem that is not complete.

use crate::knobs::{ExportOff, Knobs, NamespaceUuid};
use crate::state::State;
use crate::view::DiskView;
use anyhow::{Context, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};

use crate::target::Target;

/// Where real exports are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nvmet {
    /// Where the target listens; the port is that of each row.
    pub address: IpAddr,
    /// Folder of the image files, one for each entry of `/file` that is an image, named by its id. They are sparse.
    pub images: PathBuf,
    /// Network namespace in which the target listens, for example `/run/netns/target`; that of the program if not given.
    pub netns: Option<PathBuf>,
}

/// One export as it shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Export {
    /// Id of the image in `/file`.
    pub(crate) image: u32,
    pub(crate) port: u16,
    /// All zeros makes the target report none.
    pub(crate) uuid: String,
    pub(crate) serial: String,
    pub(crate) hosts: BTreeSet<String>,
    /// How often it was switched on: one more means that it was off in between.
    pub(crate) times: u32,
    pub(crate) size: u64,
}

/// All that shall be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Sizes of images by id.
    pub(crate) images: BTreeMap<u32, u64>,
    /// By NQN.
    pub(crate) exports: BTreeMap<String, Export>,
    /// Whether the exports are linked to their ports: not while the appliance boots.
    pub(crate) linked: bool,
    /// Whether the ports answer although nothing is exported there yet.
    pub(crate) listening: bool,
    /// Whether sessions go on when their export goes.
    pub(crate) leaves: bool,
}

/// Puts a UUID where the facts say that none is reported.
const NO_UUID: &str = "00000000-0000-0000-0000-000000000000";

impl Wanted {
    pub(crate) fn of(state: &State, knobs: &Knobs) -> Self {
        let mut wanted = Self {
            linked: state.exports_up(),
            listening: state.port_open(knobs),
            leaves: knobs.export_off == ExportOff::LeavesSessions,
            ..Self::default()
        };
        // An image that is out of sight keeps its data.
        let files = state.files.iter().chain(state.unmounted.iter());
        wanted.images = files
            .filter(|f| f.kind == ".img file")
            .map(|f| (f.id, f.size))
            .collect();
        let view = DiskView { state, knobs };
        for disk in state.disks.iter().filter(|d| d.export.on && !d.disabled) {
            let file = disk.path().and_then(|p| state.files.get(crate::file::file_name(p)));
            let Some(file) = file.filter(|f| wanted.images.contains_key(&f.id)) else {
                continue;
            };
            let uuid = disk.export.namespace_uuid.clone();
            let hosts = disk.export.allow_host_name.split(',').map(str::trim);
            let export = Export {
                image: file.id,
                port: disk.export.port,
                uuid: uuid
                    .filter(|_| knobs.namespace_uuid != NamespaceUuid::Absent)
                    .unwrap_or_else(|| NO_UUID.to_owned()),
                serial: format!("rds{:08x}", disk.id),
                hosts: hosts.filter(|h| !h.is_empty()).map(str::to_owned).collect(),
                times: disk.export.times,
                size: disk.export.visible_size,
            };
            // Of two rows with one name the first is served.
            wanted.exports.entry(view.nqn(disk)).or_insert(export);
        }
        wanted
    }
}

type Job = (Wanted, Sender<anyhow::Result<()>>);

/// The thread that does it. A thread of its own, as it lives in the network namespace of the target.
#[derive(Debug)]
pub(crate) struct Projector {
    jobs: Mutex<Sender<Job>>,
    last: Mutex<Option<Wanted>>,
}

impl Projector {
    /// Looks for the kernel's target and takes away what an earlier life of this program left there.
    pub(crate) fn start(options: Nvmet) -> anyhow::Result<Self> {
        let (jobs, inbox) = channel::<Job>();
        let (ready, started) = channel();
        std::thread::Builder::new().name("nvmet".into()).spawn(move || {
            let mut target = match enter(&options).and_then(|()| Target::new(options)) {
                Ok(target) => target,
                Err(error) => {
                    ready.send(Err(error)).ok();
                    return;
                }
            };
            ready.send(Ok(())).ok();
            for (wanted, reply) in inbox {
                reply.send(target.apply(&wanted)).ok();
            }
        })?;
        started.recv().context("the thread of the target ended")??;
        Ok(Self {
            jobs: Mutex::new(jobs),
            last: Mutex::default(),
        })
    }

    /// Makes it so, and returns when it is. A failure is logged and tried again at the next change.
    pub(crate) fn project(&self, wanted: Wanted) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref() == Some(&wanted) {
            return;
        }
        let (reply, done) = channel();
        let sent = self
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send((wanted.clone(), reply));
        let result = match sent {
            Ok(()) => done.recv().unwrap_or_else(|_| Err(anyhow::anyhow!("its thread ended"))),
            Err(_) => Err(anyhow::anyhow!("its thread ended")),
        };
        match result {
            Ok(()) => *last = Some(wanted),
            Err(error) => {
                *last = None;
                tracing::error!(
                    error = format!("{error:#}"),
                    "the kernel's target is not as it should be"
                );
            }
        }
    }
}

fn enter(options: &Nvmet) -> anyhow::Result<()> {
    let Some(path) = &options.netns else { return Ok(()) };
    let namespace = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    use std::os::fd::AsFd;
    if let Err(error) = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)) {
        bail!("cannot enter {}: {error}", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> (State, Knobs) {
        let mut state = State::with_pool("storage-pool", 1 << 40, "xfs");
        let id = state.add_file_disk("v", "/storage-pool/v.img", 1 << 20, "");
        state.disks.update(id, |d| {
            d.export.on = true;
            d.export.nqn = "nqn.x:v".into();
            d.export.visible_size = 1 << 20;
            d.export.namespace_uuid = Some("a-uuid".into());
            d.export.allow_host_name = "a, b".into();
        });
        (state, Knobs::default())
    }

    #[test]
    fn what_is_exported_is_wanted_with_its_image() {
        let (mut state, mut knobs) = state();
        let wanted = Wanted::of(&state, &knobs);
        let export = &wanted.exports["nqn.x:v"];
        assert_eq!(wanted.images[&export.image], 1 << 20);
        assert_eq!(
            (export.port, export.uuid.as_str(), export.hosts.len()),
            (4420, "a-uuid", 2)
        );
        assert!(wanted.linked && wanted.listening && !wanted.leaves);

        knobs.namespace_uuid = NamespaceUuid::Absent;
        assert_eq!(Wanted::of(&state, &knobs).exports["nqn.x:v"].uuid, NO_UUID);

        let id = state.disks.slot("v").unwrap().id;
        state.disks.update(id, |d| d.export.on = false);
        let wanted = Wanted::of(&state, &knobs);
        assert!(
            wanted.exports.is_empty() && wanted.images.len() == 1,
            "the image outlives its export"
        );
    }

    #[test]
    fn a_reboot_takes_the_links_away_and_a_knob_leaves_the_port() {
        let (mut state, mut knobs) = state();
        let later = std::time::Instant::now() + std::time::Duration::from_secs(60);
        state.exports_from = Some(later);
        knobs.port_before_exports = false;
        let wanted = Wanted::of(&state, &knobs);
        assert_eq!(
            (wanted.linked, wanted.listening, wanted.exports.len()),
            (false, false, 1)
        );
        knobs.port_before_exports = true;
        assert!(Wanted::of(&state, &knobs).listening);
    }
}
