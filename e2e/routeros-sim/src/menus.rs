//! Commands of menus: permissions, selection of records, `print`, `get`, `find`. What changes rows is in `disk_ops`
//! and `file_ops`.

use crate::ast::Command;
use crate::error::{Fail, Run};
use crate::interp::{Args, Interp};
use crate::print::{Columns, FlagTable, Layout, as_value};
use crate::schema::{DISK_FLAGS, Menu, Verb};
use crate::select::record_property;
use crate::value::Value;
use crate::view::DiskView;

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

    pub(crate) fn view<T>(&mut self, f: impl FnOnce(DiskView<'_>) -> T) -> T {
        let knobs = self.knobs.clone();
        f(DiskView {
            state: self.state(),
            knobs: &knobs,
        })
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
}
