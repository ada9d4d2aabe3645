//! What one listing says about an appliance: pure.

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use rds_crds::condition::{Saying, clear_condition, kind, set_condition, whole_seconds};
use rds_crds::identity::{default_path, default_slot, is_canary};
use rds_crds::server::{ManagementStatus, Orphan, OrphanPolicy, Orphans, Pool, RdsServerStatus};
use rds_crds::{RdsServer, RdsVolume, Reason, Size};

use crate::routeros::{Bytes, ClusterId, DiskPath, Inventory, VolumeUid};

use super::fleet::{Fitness, limits};
use super::room::{available, provisioned};

/// What the appliance answered.
pub(crate) enum Answer<'a> {
    /// A complete listing.
    Listing(&'a Inventory),
    /// None: the word, what and what to do. The last facts stay.
    None(Reason, String),
}

/// Volumes of this cluster, as the cache and the list of unreadable objects know them.
#[derive(Default)]
pub(crate) struct Known {
    /// Slots that an RdsVolume of this server uses.
    pub slots: HashSet<String>,
    /// Files that an RdsVolume of any server uses.
    pub paths: HashSet<String>,
    /// Slot and UID of RdsVolumes of other servers, two of which may be one appliance.
    pub elsewhere: HashSet<(String, VolumeUid)>,
    /// How many name this server.
    pub volumes: u32,
    /// Some stored object could not be read: nothing may be called an orphan then.
    pub incomplete: bool,
}

impl Known {
    /// What all volumes of the cluster mean for this server, whose appliance may be that of others too.
    pub(crate) fn of(server: &RdsServer, volumes: impl Iterator<Item = RdsVolume>, incomplete: bool) -> Self {
        let mut known = Self {
            incomplete,
            ..Self::default()
        };
        let name = server.name_any();
        for volume in volumes {
            let here = volume.spec.server == name;
            // The canary of the self-test is there for seconds and nobody's volume.
            known.volumes += u32::from(here && !is_canary(&volume));
            let uid = volume.metadata.uid.as_deref().unwrap_or_default();
            let status = volume.status.as_ref();
            let slot = volume
                .spec
                .slot
                .clone()
                .or_else(|| status.and_then(|s| s.slot.clone()))
                .unwrap_or_else(|| default_slot(&volume.name_any(), uid));
            let path = volume
                .spec
                .path
                .clone()
                .or_else(|| status.and_then(|s| s.path.clone()))
                .unwrap_or_else(|| default_path(&server.spec.base_path, &slot));
            known.paths.insert(path);
            match uid.parse() {
                Ok(uid) if !here => {
                    known.elsewhere.insert((slot, uid));
                }
                Ok(_) | Err(_) => {
                    known.slots.insert(slot);
                }
            }
        }
        known
    }
}

/// Why the appliance cannot be used, if so.
pub(crate) fn fitness(server: &RdsServer, inventory: &Inventory) -> Fitness {
    if !inventory.version.is_supported() {
        let why = format!(
            "RouterOS {} is too old: 7.21 is the first with nvme-tcp-server-nqn; upgrade the appliance",
            inventory.version
        );
        return Fitness::Unusable(Reason::VersionNotSupported, why);
    }
    if !inventory.has_storage_package() {
        return Fitness::Unusable(
            Reason::VersionNotSupported,
            "the package rose-storage is not installed: install it".to_owned(),
        );
    }
    match pool_trouble(server, inventory) {
        Some(why) => Fitness::Unusable(Reason::PoolNotHealthy, why),
        None => Fitness::Usable,
    }
}

fn usable(server: &RdsServer) -> &'static str {
    match server.spec.orphan_policy {
        None | Some(OrphanPolicy::Report) => "volumes can be made",
        Some(OrphanPolicy::Delete) => {
            "volumes can be made; spec.orphanPolicy Delete is not available yet, orphans are only reported"
        }
    }
}

fn pool_trouble(server: &RdsServer, inventory: &Inventory) -> Option<String> {
    let base = &server.spec.base_path;
    let Some(pool) = &inventory.pool else {
        return Some(format!(
            "no disk of the appliance is mounted where {base} lies: check spec.basePath and the pool"
        ));
    };
    if !pool.is_mounted() {
        return Some(format!("the pool {} is not mounted", pool.slot));
    }
    if pool.size.is_none() || pool.free.is_none() {
        return Some(format!("the pool {} shows no size or free space", pool.slot));
    }
    None
}

/// The status after an answer.
pub(crate) fn status(
    server: &RdsServer,
    answer: &Answer<'_>,
    known: &Known,
    cluster: &ClusterId,
    now: Timestamp,
) -> RdsServerStatus {
    let mut status = server.status.clone().unwrap_or_default();
    let generation = server.metadata.generation;
    let mut conditions = std::mem::take(&mut status.conditions);
    let mut say = |kind: &str, status: Option<bool>, reason: Reason, message: String| {
        set_condition(
            &mut conditions,
            Saying {
                kind,
                status,
                reason: reason.as_str(),
                message,
            },
            generation,
            now,
        );
    };
    let mut stalled = None;
    match answer {
        Answer::Listing(inventory) => {
            say(
                kind::REACHABLE,
                Some(true),
                Reason::Available,
                "the appliance answers".to_owned(),
            );
            let fit = fitness(server, inventory);
            let pool = pool_trouble(server, inventory);
            match (&fit, &pool) {
                (Fitness::Unusable(reason, why), _) if *reason == Reason::VersionNotSupported => {
                    say(kind::COMPATIBLE, Some(false), *reason, why.clone());
                }
                _ => say(
                    kind::COMPATIBLE,
                    Some(true),
                    Reason::Available,
                    format!("RouterOS {}", inventory.version),
                ),
            }
            match &pool {
                Some(why) => say(kind::POOL_HEALTHY, Some(false), Reason::PoolNotHealthy, why.clone()),
                None => match degraded(inventory) {
                    Some(why) => say(kind::POOL_HEALTHY, Some(false), Reason::PoolNotHealthy, why),
                    None => say(
                        kind::POOL_HEALTHY,
                        Some(true),
                        Reason::Available,
                        "the pool is mounted".to_owned(),
                    ),
                },
            }
            match fit {
                Fitness::Usable => say(kind::READY, Some(true), Reason::Available, usable(server).to_owned()),
                Fitness::Unusable(reason, why) => {
                    say(kind::READY, Some(false), reason, why.clone());
                    stalled = Some((reason, why));
                }
            }
            facts(server, inventory, &mut status);
            status.orphans = orphans(server, inventory, known, cluster, status.orphans.take());
            status.management = None;
        }
        Answer::None(reason, why) => {
            let person = matches!(
                reason,
                Reason::AuthenticationFailed | Reason::SecretInvalid | Reason::Invalid | Reason::PermissionDenied
            );
            say(kind::REACHABLE, Some(false), *reason, why.clone());
            say(kind::READY, Some(false), *reason, why.clone());
            if person {
                stalled = Some((*reason, why.clone()));
            }
            let old = status.management.take().unwrap_or_default();
            status.management = Some(ManagementStatus {
                unreachable_since: old.unreachable_since.or_else(|| Some(Time(whole_seconds(now)))),
            });
        }
    }
    match stalled {
        Some((reason, message)) => {
            set_condition(
                &mut conditions,
                Saying {
                    kind: kind::STALLED,
                    status: Some(true),
                    reason: reason.as_str(),
                    message,
                },
                generation,
                now,
            );
        }
        None => {
            clear_condition(&mut conditions, kind::STALLED);
        }
    }
    status.conditions = conditions;
    status.observed_generation = generation;
    status.volumes = Some(known.volumes);
    status
}

fn degraded(inventory: &Inventory) -> Option<String> {
    let pool = inventory.pool.as_ref()?;
    let state = pool.state.as_deref()?;
    // `clean, sync:repair, resync = ..` is a RAID at work, not a broken one.
    (!state.starts_with("clean") && !state.is_empty()).then(|| format!("the pool {} is {state}", pool.slot))
}

fn facts(server: &RdsServer, inventory: &Inventory, status: &mut RdsServerStatus) {
    status.version = Some(inventory.version.to_string());
    status.board = Some(inventory.board.clone()).filter(|b| !b.is_empty());
    status.provisioned = Some(Size(provisioned(inventory).0));
    status.available = available(inventory, limits(server)).map(|b| Size(b.0));
    status.pool = inventory.pool.as_ref().map(|pool| Pool {
        slot: pool.slot.clone(),
        filesystem: pool.fs.clone(),
        state: pool.state.clone(),
        size: pool.size.map(|b| Size(b.0)),
        free: pool.free.map(|b| Size(b.0)),
        summary: pool
            .free
            .zip(pool.size)
            .map(|(free, size)| format!("{} of {} free", human(free), human(size))),
    });
}

/// `6.6 TiB`.
pub(crate) fn human(bytes: Bytes) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes.0 as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{} B", bytes.0)
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

const LISTED: usize = 20;

/// Disks with our cluster's tag below the base path that no RdsVolume names. Reported only.
fn orphans(
    server: &RdsServer,
    inventory: &Inventory,
    known: &Known,
    cluster: &ClusterId,
    before: Option<Orphans>,
) -> Option<Orphans> {
    // An inventory with holes proves nothing about orphans (B37).
    if known.incomplete {
        return before;
    }
    let base: DiskPath = server.spec.base_path.parse().ok()?;
    let mut all: Vec<Orphan> = Vec::new();
    for disk in &inventory.disks {
        let Some(path) = disk.path.as_deref().filter(|p| base.contains(p)) else {
            continue;
        };
        let Some(tag) = disk.owner.tag().filter(|tag| tag.cluster == *cluster) else {
            continue;
        };
        let elsewhere = || known.elsewhere.contains(&(disk.slot.clone(), tag.volume.clone()));
        if !known.slots.contains(&disk.slot) && !elsewhere() {
            all.push(Orphan {
                slot: Some(disk.slot.clone()),
                path: path.to_owned(),
                comment: Some(tag.to_string()),
            });
        }
    }
    let named: HashSet<&str> = inventory.disks.iter().filter_map(|d| d.path.as_deref()).collect();
    for file in &inventory.files {
        let image = base.contains(&file.path) && file.path.ends_with(".img") && !file.directory;
        if image && !named.contains(file.path.as_str()) && !known.paths.contains(&file.path) {
            all.push(Orphan {
                slot: None,
                path: file.path.clone(),
                comment: None,
            });
        }
    }
    all.sort_by(|a, b| a.slot.cmp(&b.slot));
    (!all.is_empty()).then(|| Orphans {
        count: u32::try_from(all.len()).unwrap_or(u32::MAX),
        disks: all.into_iter().take(LISTED).collect(),
    })
}
