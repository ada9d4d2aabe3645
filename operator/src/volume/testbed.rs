//! A model of appliance and API server for the tests of the decisions: the same loop as the shell's, without I/O.
//!
//! The model appliance tests slot, path and token as the real commands do, so that a command may run late or twice.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rds_crds::names::{ANNOTATION_DELETE_REQUESTED, LABEL_MADE_BY, MADE_BY_CSI};
use rds_crds::volume::{DeletionPolicy, FormatState};
use rds_crds::{RdsServer, RdsVolume, Reason, Size};
use serde_json::json;

use crate::routeros::{Bytes, ClusterId, DiskRow, Generation, Nonce, OwnerTag, Ownership};

use super::appliance_view::ApplianceView;
use super::decide::decide;
use super::model::{
    Backing, Deviation, Fact, Ledger, Mutation, PersistentVolumeSeen, Problem, Recheck, Report, Seen, ServerState, Step,
};
use super::problem;
use super::record::changed;
use super::status::applied;
use super::want::Want;

pub(crate) const UID: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
pub(crate) const NAME: &str = "pvc-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
pub(crate) const MAX_EXEC_AGE: Duration = Duration::from_secs(120);

/// What happens to one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It runs and answers.
    Fine,
    /// It runs; the answer is lost.
    Lost,
    /// It does not run; that is not known.
    Dropped,
    /// It runs when [`Bed::run_late`] is called; that is not known.
    Late,
    /// The appliance refuses, provably.
    Refused(Reason),
    /// The appliance refuses in the middle: a create has made the file, and nothing else.
    Half,
}

/// How a pass ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    Rest(Box<Report>, Recheck),
    Forgotten,
    Crashed,
}

/// One command that may still run.
#[derive(Clone, Debug)]
struct Command {
    mutation: Mutation,
    tag: OwnerTag,
    from: Generation,
    size: Bytes,
    want: Want,
}

/// The world of one volume.
pub(crate) struct Bed {
    pub(crate) volume: RdsVolume,
    pub(crate) server: RdsServer,
    pub(crate) state: ServerState,
    pub(crate) rows: Vec<DiskRow>,
    pub(crate) files: Vec<String>,
    pub(crate) pvs: Vec<PersistentVolumeSeen>,
    /// `None`: the pool does not show.
    pub(crate) room: Option<Bytes>,
    pub(crate) now: i64,
    pub(crate) execs: usize,
    pub(crate) looks: usize,
    pub(crate) resize_by_toggle: bool,
    pub(crate) unreachable: bool,
    /// The pool is mounted; otherwise nobody sees a file.
    pub(crate) mounted: bool,
    /// Somebody switches the export on whenever it was switched off.
    pub(crate) meddled: bool,
    pub(crate) deviation: Option<Deviation>,
    late: Vec<Command>,
}

pub(crate) fn server() -> RdsServer {
    serde_json::from_value(json!({
        "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsServer", "metadata": {"name": "default", "uid": "s"},
        "spec": {
            "management": {"address": "192.0.2.1", "user": "csi"}, "secretRef": {"name": "k"},
            "storage": {"address": "192.0.2.2"}, "basePath": "/pool/csi",
        }
    }))
    .unwrap()
}

impl Bed {
    /// A volume of 10 GiB as CreateVolume writes it.
    pub(crate) fn new() -> Self {
        let volume = serde_json::from_value(json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume",
            "metadata": {"name": NAME, "uid": UID, "generation": 1, "labels": {LABEL_MADE_BY: MADE_BY_CSI}},
            "spec": {"server": "default", "capacity": "10Gi", "accessModes": ["ReadWriteOnce"], "deletionPolicy": "Delete"},
        }))
        .unwrap();
        Self {
            volume,
            server: server(),
            state: ServerState::Usable,
            rows: Vec::new(),
            files: Vec::new(),
            pvs: Vec::new(),
            room: Some(Bytes(1 << 40)),
            now: 1_000_000,
            execs: 0,
            looks: 0,
            resize_by_toggle: false,
            unreachable: false,
            mounted: true,
            meddled: false,
            deviation: None,
            late: Vec::new(),
        }
    }

    /// The same, written by hand, with that policy.
    pub(crate) fn by_hand(policy: Option<DeletionPolicy>) -> Self {
        let mut bed = Self::new();
        bed.volume.metadata.labels = None;
        bed.volume.spec.deletion_policy = policy;
        bed
    }

    pub(crate) fn want(&self) -> Want {
        Want::of(&self.volume, &self.server, &cluster()).unwrap()
    }

    pub(crate) fn delete(&mut self) {
        self.volume.metadata.deletion_timestamp = Some(Time(Timestamp::from_second(self.now).unwrap()));
    }

    /// As DeleteVolume does.
    pub(crate) fn request_deletion(&mut self) {
        self.volume
            .metadata
            .annotations
            .get_or_insert_default()
            .insert(ANNOTATION_DELETE_REQUESTED.into(), UID.into());
        self.delete();
    }

    pub(crate) fn format(&self) -> Option<FormatState> {
        self.volume.status.as_ref()?.format.as_ref().map(|f| f.state)
    }

    pub(crate) fn generation(&self) -> Option<u32> {
        self.volume.status.as_ref()?.export_generation
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.files.is_empty()
    }

    /// A pass in which all goes well.
    pub(crate) fn pass(&mut self) -> End {
        self.pass_with(&mut std::iter::empty(), usize::MAX)
    }

    /// Passes until the volume rests for good or is gone; between them the recheck time goes by.
    pub(crate) fn settle(&mut self) -> End {
        for _ in 0..12 {
            match self.pass() {
                End::Rest(_, Recheck::In(delay)) => self.now += i64::try_from(delay.as_secs()).unwrap() + 1,
                End::Rest(_, Recheck::Backoff) => self.now += 5,
                end @ (End::Rest(..) | End::Forgotten | End::Crashed) => return end,
            }
        }
        panic!("does not settle: {:?}", self.pass());
    }

    /// A pass whose commands have these fates and that dies after `crash_after` mutating steps.
    pub(crate) fn pass_with(&mut self, fates: &mut dyn Iterator<Item = Fate>, crash_after: usize) -> End {
        let mut seen = Seen {
            server: self.state.clone(),
            view: Fact::NotRead,
            backing: Fact::NotRead,
            room: Fact::NotRead,
            own_record: false,
            last: None,
            half_made: None,
            seen_before: self.deviation,
            now: Timestamp::from_second(self.now).unwrap(),
            max_exec_age: MAX_EXEC_AGE,
        };
        let mut steps = 0;
        for _ in 0..24 {
            let want = self.want();
            let ledger = Ledger::of(self.volume.status.as_ref()).unwrap();
            match decide(&want, &ledger, &seen) {
                Step::Look | Step::List => {
                    self.looks += 1;
                    seen.view = self.view(&want);
                }
                Step::Backing => {
                    seen.backing = Fact::Known(Backing {
                        volumes: self.pvs.clone(),
                    })
                }
                Step::MeasureRoom => seen.room = problem::room(Ok(self.room), "default"),
                Step::Record(change) => {
                    let before = self.generation();
                    self.volume = changed(&self.volume, &want, &change, &Nonce::random(), seen.now);
                    assert!(self.generation() >= before, "D3: {change:?}");
                    seen.own_record = true;
                    steps += 1;
                }
                Step::Do(mutation) => {
                    self.execs += 1;
                    steps += 1;
                    let fate = if self.unreachable {
                        Fate::Dropped
                    } else {
                        fates.next().unwrap_or(Fate::Fine)
                    };
                    self.act(mutation, &want, &ledger, fate, &mut seen);
                }
                Step::Forget => return End::Forgotten,
                Step::Rest(report, again) => {
                    let mut next = applied(&self.volume, Some(&want), &report, seen.now);
                    let old = self.volume.status.take().unwrap_or_default();
                    (next.creation, next.export_generation, next.format) =
                        (old.creation, old.export_generation, old.format);
                    next.toggling = old.toggling;
                    (next.holders, next.deletion, next.fence) = (old.holders, old.deletion, old.fence);
                    (next.fenced, next.holders_unknown_since) = (old.fenced, old.holders_unknown_since);
                    self.volume.status = Some(next);
                    self.deviation = report.deviation;
                    return End::Rest(report, again);
                }
            }
            if steps >= crash_after {
                return End::Crashed;
            }
        }
        panic!("the pass does not end");
    }

    fn view(&self, want: &Want) -> Fact<ApplianceView> {
        if self.unreachable {
            return Fact::Unknown(Problem {
                reason: Reason::Unreachable,
                message: "away".into(),
                unknown: false,
                incomplete: false,
            });
        }
        if !self.mounted {
            return Fact::Unknown(not_mounted());
        }
        let id = &want.id;
        let about =
            |r: &&DiskRow| r.slot == id.slot.as_str() || r.names(&id.path) || r.nqn.as_deref() == Some(id.nqn.as_str());
        let rows = self.rows.iter().filter(about).cloned().collect();
        Fact::Known(ApplianceView {
            rows,
            file: self.files.iter().any(|f| f == id.path.as_str()),
        })
    }

    fn act(&mut self, mutation: Mutation, want: &Want, ledger: &Ledger, fate: Fate, seen: &mut Seen) {
        let generation = ledger.generation.unwrap();
        let tag = want.tag(generation, &ledger.creation.as_ref().unwrap().nonce);
        let shown = match &seen.view {
            Fact::Known(view) => view.rows.iter().find_map(|r| r.owner.tag()).map(|t| t.generation),
            Fact::NotRead | Fact::Unknown(_) => None,
        };
        let from = shown.unwrap_or(Generation(generation.0.saturating_sub(1)));
        let command = Command {
            mutation,
            tag,
            from,
            size: want.size,
            want: want.clone(),
        };
        let unknown = Problem {
            reason: Reason::ResultUnknown,
            message: "no answer".into(),
            unknown: true,
            incomplete: false,
        };
        seen.view = Fact::NotRead;
        let problem = match fate {
            Fate::Fine => match self.run(&command) {
                _ if !self.mounted => Some(not_mounted()),
                Ok(()) => {
                    let rows = self
                        .rows
                        .iter()
                        .filter(|r| r.slot == want.id.slot.as_str())
                        .cloned()
                        .collect::<Vec<_>>();
                    if let [row] = rows.as_slice()
                        && !matches!(mutation, Mutation::Retire | Mutation::Release)
                    {
                        seen.view = Fact::Known(ApplianceView::of_row(row.clone()));
                    }
                    None
                }
                Err(reason) => Some(Problem {
                    reason,
                    message: format!("{mutation:?} refused"),
                    unknown: false,
                    incomplete: false,
                }),
            },
            Fate::Lost => {
                let _ = self.run(&command);
                Some(unknown)
            }
            Fate::Dropped => Some(unknown),
            Fate::Late => {
                self.late.push(command);
                Some(unknown)
            }
            Fate::Half => {
                if mutation == Mutation::Create {
                    self.files.push(want.id.path.to_string());
                }
                seen.view = self.view(want);
                Some(Problem {
                    reason: Reason::Refused,
                    message: "stopped half-way".into(),
                    unknown: false,
                    incomplete: true,
                })
            }
            Fate::Refused(reason) => Some(Problem {
                reason,
                message: "refused".into(),
                unknown: false,
                incomplete: false,
            }),
        };
        seen.ended(mutation, problem);
    }

    /// Runs what was late.
    pub(crate) fn run_late(&mut self) {
        for command in std::mem::take(&mut self.late) {
            let _ = self.run(&command);
        }
    }

    /// What the guarded command does on the appliance.
    fn run(&mut self, command: &Command) -> Result<(), Reason> {
        let Command {
            mutation,
            tag,
            from,
            size,
            want,
        } = command;
        let (slot, path) = (want.id.slot.as_str(), want.id.path.as_str());
        let at = |rows: &[DiskRow], token: Option<&OwnerTag>| {
            let hits = |r: &&DiskRow| r.slot == slot && r.names(&want.id.path) && token.is_none_or(|t| r.carries(t));
            rows.iter().filter(hits).count() == 1
        };
        let older = tag.at(*from);
        let guard = match mutation {
            Mutation::Create => {
                let taken = self.rows.iter().any(|r| {
                    r.slot == slot || r.names(&want.id.path) || r.nqn.as_deref() == Some(want.id.nqn.as_str())
                });
                if taken || self.files.iter().any(|f| f == path) {
                    return Err(Reason::Taken);
                }
                self.rows
                    .push(row(want, *size, Ownership::Tagged(Box::new(tag.clone()))));
                self.files.push(path.to_owned());
                return Ok(());
            }
            Mutation::RemoveFile => {
                if self.rows.iter().any(|r| r.names(&want.id.path)) {
                    return Err(Reason::Refused);
                }
                self.remove_file(path);
                return Ok(());
            }
            Mutation::Adopt => None,
            Mutation::Retire | Mutation::Toggle | Mutation::Release => Some(&older),
            Mutation::Grow | Mutation::Export | Mutation::Remove => Some(tag),
        };
        if !at(&self.rows, guard) {
            return Err(Reason::Refused);
        }
        let (toggles, meddled) = (self.resize_by_toggle, self.meddled);
        let Some(row) = self.rows.iter_mut().find(|r| r.slot == slot) else {
            return Err(Reason::Refused);
        };
        match mutation {
            Mutation::Adopt => {
                let as_wanted = row.nqn.as_deref() == Some(want.id.nqn.as_str()) && row.port == Some(want.port);
                if row.owner != Ownership::Untagged || row.size != Some(*size) || (row.exported && !as_wanted) {
                    return Err(Reason::Refused);
                }
                row.owner = Ownership::Tagged(Box::new(tag.clone()));
                (row.exported, row.nqn, row.port) = (true, Some(want.id.nqn.to_string()), Some(want.port));
            }
            Mutation::Grow => {
                if row.size >= Some(*size) {
                    return Err(Reason::Refused);
                }
                if !toggles {
                    row.size = Some(*size);
                }
            }
            Mutation::Toggle => {
                row.owner = Ownership::Tagged(Box::new(tag.clone()));
                row.size = row.size.max(Some(*size));
                (row.exported, row.nqn, row.port) = (true, Some(want.id.nqn.to_string()), Some(want.port));
            }
            Mutation::Export => {
                (row.exported, row.nqn, row.port) = (true, Some(want.id.nqn.to_string()), Some(want.port))
            }
            Mutation::Retire => {
                row.owner = Ownership::Tagged(Box::new(tag.clone()));
                (row.exported, row.nqn, row.port) = (meddled, None, None);
            }
            Mutation::Release => row.owner = Ownership::Untagged,
            Mutation::Remove if row.exported => return Err(Reason::Refused),
            Mutation::Remove => {
                self.rows.retain(|r| r.slot != slot);
                if !self.rows.iter().any(|r| r.names(&want.id.path)) {
                    self.remove_file(path);
                }
            }
            Mutation::Create | Mutation::RemoveFile => {}
        }
        Ok(())
    }

    /// `/file/remove [find ..]`: what does not show is not removed, and that is no error.
    fn remove_file(&mut self, path: &str) {
        if self.mounted {
            self.files.retain(|f| f != path);
        }
    }
}

/// What the client makes of an answer without the file while the pool is not mounted.
fn not_mounted() -> Problem {
    Problem {
        reason: Reason::ResultUnknown,
        message: "the pool is not mounted".into(),
        unknown: true,
        incomplete: false,
    }
}

pub(crate) fn cluster() -> ClusterId {
    ClusterId::of("test")
}

/// A file disk at the volume's slot and path.
pub(crate) fn row(want: &Want, size: Bytes, owner: Ownership) -> DiskRow {
    DiskRow {
        slot: want.id.slot.to_string(),
        kind: "file".into(),
        path: Some(want.id.path.to_string()),
        size: Some(size),
        free: None,
        owner,
        disabled: false,
        exported: true,
        nqn: Some(want.id.nqn.to_string()),
        port: Some(want.port),
        mount_filesystem: Some(false),
        shared: false,
        fs: None,
        state: None,
        mounted: false,
        mount_point: None,
    }
}

pub(crate) const GI: u64 = Size::GI;
