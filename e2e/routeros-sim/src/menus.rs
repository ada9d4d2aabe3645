//! Commands of menus: permissions, selection of records, `print`, `get`, `find`. What changes rows is in `disk_ops`
//! and `file_ops`.

use crate::ast::{Arg, Command};
use crate::disk::Key;
use crate::error::{Fail, Run};
use crate::interp::{Args, Interp};
use crate::ops::Cond;
use crate::print::{Columns, FlagTable, Layout, as_value};
use crate::schema::{DISK_FLAGS, Menu, Verb};
use crate::value::{Value, infer};
use crate::view::{DiskView, Record};
use std::collections::BTreeSet;

const SUBVOLUME_FLAGS: FlagTable = &[
    ('*', "default-root", 0),
    ('S', "snapshot", 1),
    ('r', "read-only", 2),
    ('D', "dead", 3),
    ('M', "mounted", 3),
];

impl Menu {
    fn flags(self) -> FlagTable {
        match self {
            Self::Disk => DISK_FLAGS,
            Self::BtrfsSubvolume => SUBVOLUME_FLAGS,
            Self::DiskSettings
            | Self::BtrfsFilesystem
            | Self::File
            | Self::Root
            | Self::System
            | Self::Resource
            | Self::Package
            | Self::Identity
            | Self::Clock
            | Self::IpService => &[],
        }
    }

    fn columns(self) -> Columns {
        match self {
            Self::Disk => &[
                ("slot", false),
                ("mount-point", false),
                ("model", false),
                ("interface", false),
                ("size", false),
                ("fs", false),
                ("swap", true),
            ],
            Self::File => &[
                ("name", false),
                ("type", false),
                ("size", false),
                ("last-modified", false),
            ],
            Self::BtrfsSubvolume => &[("fs", false), ("name", false), ("parent", false), ("fullname", false)],
            Self::BtrfsFilesystem => &[
                ("label", false),
                ("devs", false),
                ("default-subvolume", false),
                ("uuid", false),
            ],
            Self::Package => &[("name", false), ("version", false), ("build-time", false)],
            Self::IpService => &[
                ("name", false),
                ("port", false),
                ("proto", false),
                ("address", false),
                ("vrf", false),
                ("max-sessions", false),
            ],
            Self::Root | Self::System | Self::Resource | Self::Identity | Self::Clock | Self::DiskSettings => &[],
        }
    }
}

impl Interp<'_> {
    pub(crate) fn menu(&mut self, menu: Menu, verb: Verb, c: &Command) -> Run<Value> {
        self.permit(menu, verb)?;
        let args = Args(&c.args);
        match (menu, verb) {
            (_, Verb::Unmodelled | Verb::Export) | (Menu::Disk, Verb::Format | Verb::MonitorTraffic) => {
                Err(Fail::refused(format!(
                    "failure: this command of {} is not modelled by the simulator",
                    menu.path()
                )))
            }
            (_, Verb::Print) => self.print(menu, c),
            (_, Verb::Find) => {
                let ids = self.select(menu, c)?;
                Ok(Value::list(ids.into_iter().map(Value::Id).collect()))
            }
            (_, Verb::Get) => self.get(menu, args),
            (Menu::Disk, Verb::Add) => self.disk_add(args),
            (Menu::Disk, Verb::Set) => self.disk_set(args),
            (Menu::Disk, Verb::Unset) => self.disk_unset(args),
            (Menu::Disk, Verb::Remove) => self.disk_remove(args),
            (Menu::Disk, Verb::Enable | Verb::Disable) => self.disk_enable(args, verb == Verb::Enable),
            (Menu::Disk, Verb::Comment) => self.disk_comment(args),
            (Menu::Disk, Verb::Copy) => self.disk_copy(args),
            (Menu::File, Verb::Add) => self.file_add(args),
            (Menu::File, Verb::Set) => self.file_set(args),
            (Menu::File, Verb::Remove) => self.file_remove(args),
            (Menu::File, Verb::Copy) => self.file_copy(args),
            (Menu::BtrfsSubvolume, Verb::Add) => self.subvolume_add(args),
            (Menu::BtrfsSubvolume, Verb::Set) => self.subvolume_set(args),
            (Menu::BtrfsSubvolume, Verb::Remove) => self.subvolume_remove(args),
            (Menu::Identity, Verb::Set) => {
                if let Some(name) = self.text_of(args, usize::MAX, "name")? {
                    self.state().identity = name;
                }
                Ok(Value::Nil)
            }
            (Menu::IpService, Verb::Set) => self.service_set(args),
            (Menu::System, Verb::Reboot) => {
                self.appliance.request_reboot();
                Ok(Value::Nil)
            }
            _ => Err(Fail::refused("can not do that")),
        }
    }

    /// Every group may use `/file` (facts, 3); everything else that changes something needs `write`.
    fn permit(&self, menu: Menu, verb: Verb) -> Run<()> {
        let needs = match verb {
            Verb::Print | Verb::Get | Verb::Find if menu == Menu::Resource => "test",
            Verb::Print | Verb::Get | Verb::Find | Verb::MonitorTraffic | Verb::Export => "read",
            Verb::Reboot => "reboot",
            _ if menu == Menu::File => "read",
            Verb::Add
            | Verb::Set
            | Verb::Unset
            | Verb::Remove
            | Verb::Enable
            | Verb::Disable
            | Verb::Comment
            | Verb::Copy
            | Verb::Format
            | Verb::Unmodelled => "write",
        };
        let denied = self.overrides.read_only && matches!(needs, "write" | "reboot");
        if denied || !self.user.may(needs) {
            Err(Fail::permissions())
        } else {
            Ok(())
        }
    }

    /// The text of an argument.
    pub(crate) fn text_of(&mut self, args: Args<'_>, position: usize, name: &str) -> Run<Option<String>> {
        args.get(position, name)
            .map(|a| self.menu_value(a).map(|v| v.text()))
            .transpose()
    }

    fn view<T>(&mut self, f: impl FnOnce(DiskView<'_>) -> T) -> T {
        let knobs = self.knobs.clone();
        f(DiskView {
            state: self.state(),
            knobs: &knobs,
        })
    }

    /// Ids of the records that the condition means, in table order.
    pub(crate) fn select(&mut self, menu: Menu, c: &Command) -> Run<Vec<u32>> {
        let cond = match &c.cond {
            Some(e) => Some(self.bind(e, menu)?),
            None => None,
        };
        self.matching(menu, cond.as_ref())
    }

    fn matching(&mut self, menu: Menu, cond: Option<&Cond>) -> Run<Vec<u32>> {
        match menu {
            Menu::Disk => self.view(|view| {
                let Some(cond) = cond else {
                    return Ok(view.state.disks.iter().map(|d| d.id).collect());
                };
                let lookup = |name: &str, text: &str| -> Option<BTreeSet<u32>> {
                    let ids = |key, text: &str| view.state.disks.ids(key, text).cloned().unwrap_or_default();
                    match name {
                        "slot" if !text.is_empty() => Some(ids(Key::Slot, text)),
                        "file-path" if !text.is_empty() => {
                            Some(ids(Key::Path, &format!("/{}", crate::file::file_name(text))))
                        }
                        _ => None,
                    }
                };
                let mut found = Vec::new();
                match cond.candidates(&lookup) {
                    Some(ids) => {
                        for d in ids.iter().filter_map(|id| view.state.disks.get(*id)) {
                            if cond.holds(&|name| view.property(d, name))? {
                                found.push(d.id);
                            }
                        }
                    }
                    None => {
                        for d in view.state.disks.iter() {
                            if cond.holds(&|name| view.property(d, name))? {
                                found.push(d.id);
                            }
                        }
                    }
                }
                Ok(found)
            }),
            Menu::File => {
                let files = &self.state().files;
                let Some(cond) = cond else {
                    return Ok(files.iter().map(|f| f.id).collect());
                };
                let lookup = |name: &str, text: &str| {
                    (name == "name").then(|| files.get(text).map(|f| f.id).into_iter().collect::<BTreeSet<u32>>())
                };
                let row = |f: &crate::file::File| cond.holds(&|name| f.property(name).unwrap_or(Value::Nil));
                let mut found = Vec::new();
                match cond.candidates(&lookup) {
                    Some(ids) => {
                        for f in ids.iter().filter_map(|id| files.by_id(*id)) {
                            if row(f)? {
                                found.push(f.id);
                            }
                        }
                    }
                    None => {
                        for f in files.iter() {
                            if row(f)? {
                                found.push(f.id);
                            }
                        }
                    }
                }
                Ok(found)
            }
            _ => {
                let mut found = Vec::new();
                for record in self.small_table(menu) {
                    let row = |name: &str| record_property(&record, name);
                    if cond.map_or(Ok(true), |c| c.holds(&row))? {
                        found.push(record.id.unwrap_or(0));
                    }
                }
                Ok(found)
            }
        }
    }

    /// Full records by id, in the given order.
    fn records(&mut self, menu: Menu, ids: &[u32]) -> Vec<Record> {
        match menu {
            Menu::Disk => self.view(|view| {
                // One pass over the table gives the row numbers.
                let wanted: BTreeSet<u32> = ids.iter().copied().collect();
                view.state
                    .disks
                    .iter()
                    .enumerate()
                    .filter(|(_, d)| wanted.contains(&d.id))
                    .map(|(n, d)| view.record(d, n))
                    .collect()
            }),
            Menu::File => {
                let wanted: BTreeSet<u32> = ids.iter().copied().collect();
                let files = &self.state().files;
                let all = files.iter().enumerate().filter(|(_, f)| wanted.contains(&f.id));
                all.map(|(n, f)| crate::file_ops::record(f, n)).collect()
            }
            _ => self
                .small_table(menu)
                .into_iter()
                .filter(|r| ids.contains(&r.id.unwrap_or(0)))
                .collect(),
        }
    }

    fn print(&mut self, menu: Menu, c: &Command) -> Run<Value> {
        let args = Args(&c.args);
        let list = match self.text_of(args, usize::MAX, "proplist")? {
            Some(list) => Some(list),
            None => self.text_of(args, usize::MAX, ".proplist")?,
        };
        let only: Option<Vec<String>> = list.map(|l| l.split([',', ';']).map(str::to_owned).collect());
        if let Some(name) = only
            .iter()
            .flatten()
            .find(|n| !menu.has_property(n, self.knobs.version))
        {
            return Err(Fail::refused(format!(
                "input does not match any value of proplist ({name})"
            )));
        }
        let mut ids = self.select(menu, c)?;
        if menu == Menu::File
            && let Some(path) = self.text_of(args, usize::MAX, "path")?
        {
            let dir = crate::file::file_name(&path).trim_end_matches('/').to_owned();
            let files = &self.state().files;
            ids.retain(|id| files.by_id(*id).is_some_and(|f| crate::file::parent(&f.name) == dir));
        }
        if let Some(arg) = c.args.iter().find(|a| a.name.is_none()) {
            let named = self.targets(menu, arg)?;
            ids.retain(|id| named.contains(id));
        }
        if args.flag("count-only") {
            // It prints even inside an expression (facts, 5.4).
            let text = format!("{}\r\n", ids.len());
            self.out.push_str(&text);
            return Ok(Value::Num(ids.len() as i64));
        }
        let mut records = self.records(menu, &ids);
        let knobs = self.knobs.clone();
        if args.flag("as-value") {
            let mut list: Vec<Value> = records
                .iter()
                .map(|r| as_value(r, menu.flags(), &knobs, only.as_deref()))
                .collect();
            if menu.is_single() {
                return Ok(list.pop().unwrap_or(Value::Nil));
            }
            return Ok(Value::list(list));
        }
        if let Some(only) = &only {
            for r in &mut records {
                r.cells.retain(|(n, _)| only.iter().any(|o| o == n));
            }
        }
        self.console.printed = records.iter().filter_map(|r| r.id).collect();
        let gap = if menu == Menu::File && knobs.width > 0 && knobs.width <= 100 {
            3
        } else {
            1
        };
        let layout = Layout {
            knobs: &knobs,
            flags: menu.flags(),
            show_ids: args.flag("show-ids"),
            gap,
        };
        let text = if menu.is_single() {
            records.first().map_or_else(String::new, |r| layout.single(r))
        } else if args.flag("detail") {
            layout.detail(&records)
        } else if args.flag("terse") {
            layout.terse(&records)
        } else if args.flag("value-list") {
            records.iter().map(|r| layout.single(r)).collect()
        } else {
            let columns: Vec<(&'static str, bool)> = match &only {
                Some(only) => only
                    .iter()
                    .filter_map(|o| {
                        records
                            .iter()
                            .flat_map(|r| &r.cells)
                            .find(|(n, _)| n == o)
                            .map(|(n, _)| (*n, false))
                    })
                    .collect(),
                None => menu.columns().to_vec(),
            };
            layout.brief(&records, &columns)
        };
        self.out.push_str(&text);
        Ok(Value::Nil)
    }

    fn get(&mut self, menu: Menu, args: Args<'_>) -> Run<Value> {
        let single = menu.is_single();
        let id = if single {
            0
        } else {
            let arg = args
                .get(0, "number")
                .ok_or_else(|| Fail::refused("missing value(s) of argument(s) number"))?;
            match self.targets(menu, arg)?.as_slice() {
                [] => return Err(Fail::no_such_item()),
                [id] => *id,
                _ => return Err(Fail::refused("invalid internal item number")),
            }
        };
        let name = self.text_of(args, usize::from(!single), "value-name")?;
        let records = self.records(menu, &[id]);
        let record = records.first().ok_or_else(Fail::no_such_item)?;
        let Some(name) = name else {
            return Ok(as_value(record, menu.flags(), &self.knobs, None));
        };
        let known = if single {
            record.cells.iter().any(|(n, _)| *n == name)
        } else {
            menu.has_property(&name, self.knobs.version)
        };
        if !known {
            return Err(Fail::no_match("value-name"));
        }
        if menu == Menu::Disk {
            return Ok(self.view(|view| view.state.disks.get(id).map_or(Value::Nil, |d| view.property(d, &name))));
        }
        Ok(record_property(record, &name))
    }

    /// The ids that an argument names. An empty list is no error; a name or id that is not there is.
    pub(crate) fn targets(&mut self, menu: Menu, arg: &Arg) -> Run<Vec<u32>> {
        let value = self.menu_value(arg)?;
        let mut ids = Vec::new();
        self.collect_targets(menu, &value, &mut ids)?;
        let mut seen = BTreeSet::new();
        ids.retain(|id| seen.insert(*id));
        Ok(ids)
    }

    fn collect_targets(&mut self, menu: Menu, value: &Value, ids: &mut Vec<u32>) -> Run<()> {
        match value {
            Value::Nil => Ok(()),
            Value::Array(a) => a.list.iter().try_for_each(|v| self.collect_targets(menu, v, ids)),
            Value::Id(id) => {
                if !self.exists(menu, *id) {
                    return Err(Fail::no_such_item());
                }
                ids.push(*id);
                Ok(())
            }
            Value::Str(s) => {
                for word in s.split(',').filter(|w| !w.is_empty()) {
                    let found = self.by_name(menu, word);
                    match (found, infer(word)) {
                        (Some(id), _) => ids.push(id),
                        (None, v @ Value::Id(_)) => self.collect_targets(menu, &v, ids)?,
                        (None, v @ Value::Num(_)) => self.collect_targets(menu, &v, ids)?,
                        _ => return Err(Fail::no_such_item()),
                    }
                }
                Ok(())
            }
            // Row numbers mean something only behind a print of the same console.
            Value::Num(n) => {
                let id = usize::try_from(*n)
                    .ok()
                    .and_then(|n| self.console.printed.get(n))
                    .copied();
                ids.push(id.ok_or_else(Fail::no_such_item)?);
                Ok(())
            }
            Value::Bool(_) | Value::Time(_) | Value::Ip(_) | Value::Code(_) => {
                let found = self.by_name(menu, &value.text());
                ids.push(found.ok_or_else(Fail::no_such_item)?);
                Ok(())
            }
        }
    }

    fn exists(&mut self, menu: Menu, id: u32) -> bool {
        match menu {
            Menu::Disk => self.state().disks.get(id).is_some(),
            Menu::File => self.state().files.by_id(id).is_some(),
            _ => self.small_table(menu).iter().any(|r| r.id == Some(id)),
        }
    }

    fn by_name(&mut self, menu: Menu, name: &str) -> Option<u32> {
        match menu {
            Menu::Disk => self.state().disks.slot(name).map(|d| d.id),
            Menu::File => self.state().files.get(name).map(|f| f.id),
            _ => self
                .small_table(menu)
                .iter()
                .find(|r| {
                    r.cells
                        .iter()
                        .any(|(n, c)| matches!(*n, "name" | "fullname" | "label") && c.value.text() == name)
                })
                .and_then(|r| r.id),
        }
    }
}

fn record_property(record: &Record, name: &str) -> Value {
    if name == ".id" {
        return record.id.map_or(Value::Nil, Value::Id);
    }
    if let Some((_, cell)) = record.cells.iter().find(|(n, _)| *n == name) {
        return cell.value.clone();
    }
    Value::Bool(record.flags.contains(&name))
}
