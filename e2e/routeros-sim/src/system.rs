//! Small menus: `/system/…`, `/ip/service`, `/disk/settings`, and btrfs.

use crate::error::{Fail, Run};
use crate::interp::{Args, Interp};
use crate::knobs::Knobs;
use crate::schema::Menu;
use crate::state::{State, Subvolume};
use crate::value::Value;
use crate::view::{Cell, Record, Shown};
use std::time::{Duration, Instant};

fn text(name: &'static str, value: impl Into<String>) -> (&'static str, Cell) {
    (name, Cell::new(Value::str(value), Shown::Plain))
}

fn number(name: &'static str, n: i64) -> (&'static str, Cell) {
    (name, Cell::new(Value::Num(n), Shown::Plain))
}

fn one(cells: Vec<(&'static str, Cell)>) -> Vec<Record> {
    vec![Record {
        id: None,
        number: 0,
        flags: Vec::new(),
        cells,
        comment: String::new(),
    }]
}

fn rows(list: Vec<Vec<(&'static str, Cell)>>) -> Vec<Record> {
    list.into_iter()
        .enumerate()
        .map(|(i, cells)| Record {
            id: Some(u32::try_from(i).unwrap_or(0) + 1),
            number: i,
            flags: Vec::new(),
            cells,
            comment: String::new(),
        })
        .collect()
}

fn subvolume_record(s: &Subvolume, number: usize) -> Record {
    let name = s.fullname.rsplit('/').next().unwrap_or_default();
    let mut flags = Vec::new();
    if !s.parent.is_empty() {
        flags.push("snapshot");
    }
    if s.read_only {
        flags.push("read-only");
    }
    if s.dead_until.is_some() {
        flags.push("dead");
    }
    let cells = vec![
        text("fs", &s.fs),
        text("parent", &s.parent),
        text("name", name),
        ("read-only", Cell::new(Value::Bool(s.read_only), Shown::Plain)),
        text("fullname", &s.fullname),
        text("uuid", &s.uuid),
        text("creation-time", &s.created),
    ];
    Record {
        id: Some(s.id),
        number,
        flags,
        cells,
        comment: String::new(),
    }
}

fn table(menu: Menu, state: &State, knobs: &Knobs) -> Vec<Record> {
    let version = knobs.version;
    match menu {
        Menu::Resource => one(vec![
            (
                "uptime",
                Cell::new(
                    Value::Time(i64::try_from(state.started.elapsed().as_millis()).unwrap_or(0)),
                    Shown::Plain,
                ),
            ),
            text("version", format!("{version} (stable)")),
            text("build-time", "2026-09-14 09:12:31"),
            number("free-memory", 31_138_512_896),
            number("total-memory", 34_359_738_368),
            text("cpu", "ARM64"),
            number("cpu-count", 16),
            number("cpu-frequency", 2000),
            number("cpu-load", 1),
            number("free-hdd-space", 92_274_688),
            number("total-hdd-space", 134_217_728),
            text("architecture-name", "arm64"),
            text("board-name", "RDS2216-2XG-4S+4XS-2XQ"),
            text("platform", "MikroTik"),
        ]),
        Menu::Identity => one(vec![text("name", &state.identity)]),
        Menu::Clock => {
            let now = crate::state::now();
            let (date, time) = now.split_once(' ').unwrap_or((&now, ""));
            one(vec![
                text("time", time),
                text("date", date),
                text("time-zone-name", "UTC"),
                text("gmt-offset", "+00:00"),
            ])
        }
        Menu::DiskSettings => one(vec![
            text("auto-smb-sharing", "yes"),
            text("auto-smb-user", "guest"),
            text("auto-media-sharing", "no"),
            text("auto-media-interface", "none"),
            text("default-mount-point-template", "[slot]"),
        ]),
        Menu::Package => {
            let package = |name: &str| {
                vec![
                    text("name", name),
                    text("version", version.to_string()),
                    text("build-time", "2026-09-14 09:12:31"),
                ]
            };
            rows(vec![package("rose-storage"), package("routeros")])
        }
        Menu::IpService => {
            let service = |name: &str, port: i64, sessions: i64| {
                vec![
                    text("name", name),
                    number("port", port),
                    text("proto", "tcp"),
                    text("vrf", "main"),
                    number("max-sessions", sessions),
                ]
            };
            rows(vec![
                service("ssh", 22, i64::from(knobs.max_sessions)),
                service("winbox", 8291, 20),
            ])
        }
        Menu::BtrfsFilesystem => rows(
            state
                .disks
                .iter()
                .filter_map(|d| d.pool.as_ref().filter(|p| p.fs == "btrfs").map(|p| (d, p)))
                .map(|(d, p)| {
                    vec![
                        text("label", &p.label),
                        number("total-devs", 1),
                        text("devs", &d.slot),
                        text("default-subvolume", "<FS_ROOT>"),
                        text("uuid", &p.uuid),
                    ]
                })
                .collect(),
        ),
        Menu::BtrfsSubvolume => state
            .subvolumes
            .iter()
            .enumerate()
            .map(|(i, s)| subvolume_record(s, i))
            .collect(),
        Menu::Root | Menu::Disk | Menu::File | Menu::System => Vec::new(),
    }
}

impl Interp<'_> {
    /// All records of a menu other than `/disk` and `/file`.
    pub(crate) fn small_table(&mut self, menu: Menu) -> Vec<Record> {
        let knobs = self.knobs.clone();
        let state = self.state();
        let now = Instant::now();
        state.subvolumes.retain(|s| s.dead_until.is_none_or(|at| at > now));
        table(menu, state, &knobs)
    }

    pub(crate) fn service_set(&mut self, args: Args<'_>) -> Run<Value> {
        if let Some(n) = self.text_of(args, usize::MAX, "max-sessions")? {
            let n: u32 = n.parse().map_err(|_| Fail::invalid("max-sessions"))?;
            if !(1..=1000).contains(&n) {
                return Err(Fail::refused("value of max-sessions out of range (1..1000)"));
            }
            self.appliance.change_knobs(|k| k.max_sessions = n);
            self.knobs = self.appliance.knobs();
        }
        Ok(Value::Nil)
    }

    pub(crate) fn subvolume_add(&mut self, args: Args<'_>) -> Run<Value> {
        let missing = |what: &str| Fail::refused(format!("missing value(s) of argument(s) {what}"));
        let fs = self.text_of(args, usize::MAX, "fs")?.ok_or_else(|| missing("fs"))?;
        let name = self.text_of(args, usize::MAX, "name")?.ok_or_else(|| missing("name"))?;
        let parent = self.text_of(args, usize::MAX, "parent")?.unwrap_or_default();
        let read_only = matches!(
            self.text_of(args, usize::MAX, "read-only")?.as_deref(),
            Some("yes" | "true")
        );
        let state = self.state();
        let pool = state
            .disks
            .iter()
            .find_map(|d| d.pool.clone().filter(|p| p.fs == "btrfs" && p.label == fs));
        let pool = pool.ok_or_else(|| Fail::no_match("fs"))?;
        let name = name.trim_matches('/').to_owned();
        let at = format!("{}/{name}", pool.mount_point);
        if state.subvolumes.iter().any(|s| s.fs == fs && s.fullname == name) || state.files.get(&at).is_some() {
            return Err(Fail::refused("failure: BTRFS_IOC_SUBVOL_CREATE failed: File exists"));
        }
        let mut copies = Vec::new();
        if !parent.is_empty() {
            let from = state
                .subvolumes
                .iter()
                .find(|s| s.fs == fs && s.fullname == parent && s.dead_until.is_none());
            let from = format!(
                "{}/{}",
                pool.mount_point,
                from.ok_or_else(|| Fail::no_match("parent"))?.fullname
            );
            for below in state.files.below(&from) {
                if let Some(f) = state.files.get(&below).cloned() {
                    copies.push((below.replacen(&from, &at, 1), f));
                }
            }
        }
        state.add_file(&at, "directory", 0, 0, "");
        for (to, f) in copies {
            // A snapshot shares its blocks.
            state.add_file(&to, &f.kind, f.size, 0, &f.contents);
        }
        let id = state.subvolumes.iter().map(|s| s.id).max().unwrap_or(0x100) + 1;
        let uuid = format!("{:08x}-0000-4000-8000-{:012x}", rand::random::<u32>(), id);
        let created = crate::state::now();
        state.subvolumes.push(Subvolume {
            id,
            fs,
            fullname: name,
            parent,
            read_only,
            uuid,
            created,
            dead_until: None,
        });
        self.appliance.touch();
        Ok(Value::Id(id))
    }

    pub(crate) fn subvolume_set(&mut self, args: Args<'_>) -> Run<Value> {
        let target = args
            .get(0, "numbers")
            .ok_or_else(|| Fail::refused("missing value(s) of argument(s) numbers"))?;
        let read_only = self.text_of(args, usize::MAX, "read-only")?;
        for id in self.targets(Menu::BtrfsSubvolume, target)? {
            if let Some(s) = self.state().subvolumes.iter_mut().find(|s| s.id == id)
                && let Some(text) = &read_only
            {
                s.read_only = matches!(text.as_str(), "yes" | "true");
            }
        }
        self.appliance.touch();
        Ok(Value::Nil)
    }

    pub(crate) fn subvolume_remove(&mut self, args: Args<'_>) -> Run<Value> {
        let target = args
            .get(0, "numbers")
            .ok_or_else(|| Fail::refused("missing value(s) of argument(s) numbers"))?;
        let delay = Duration::from_millis(self.knobs.btrfs_delete_ms);
        for id in self.targets(Menu::BtrfsSubvolume, target)? {
            let state = self.state();
            let Some(s) = state.subvolumes.iter_mut().find(|s| s.id == id) else {
                continue;
            };
            s.dead_until = Some(Instant::now() + delay);
            let (fs, fullname) = (s.fs.clone(), s.fullname.clone());
            let mount = state
                .disks
                .iter()
                .find_map(|d| d.pool.clone().filter(|p| p.label == fs))
                .map(|p| p.mount_point);
            if let Some(mount) = mount {
                let at = format!("{mount}/{fullname}");
                for name in state.files.below(&at) {
                    state.files.remove(&name);
                }
                state.files.remove(&at);
            }
            self.appliance.touch();
        }
        Ok(Value::Nil)
    }
}
