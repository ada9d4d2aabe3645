//! Which records a command means: conditions, ids, names, row numbers.

use crate::ast::{Arg, Command};
use crate::disk::Key;
use crate::error::{Fail, Run};
use crate::interp::Interp;
use crate::ops::Cond;
use crate::schema::Menu;
use crate::value::{Value, infer};
use crate::view::Record;
use std::collections::BTreeSet;

impl Interp<'_> {
    /// Ids of the records that the condition means, in table order.
    pub(crate) fn select(&mut self, menu: Menu, c: &Command) -> Run<Vec<u32>> {
        let cond = match &c.cond {
            Some(e) => Some(self.bind(e, menu)?),
            None => None,
        };
        self.matching(menu, cond.as_ref())
    }

    pub(crate) fn matching(&mut self, menu: Menu, cond: Option<&Cond>) -> Run<Vec<u32>> {
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
                        "nvme-tcp-server-nqn" if !text.is_empty() => Some(view.may_be_named(text)),
                        "mount-point" if !text.is_empty() => Some(ids(Key::Mount, text)),
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
    pub(crate) fn records(&mut self, menu: Menu, ids: &[u32]) -> Vec<Record> {
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

    /// The ids that an argument names. An empty list is no error; a name or id that is not there is.
    pub(crate) fn targets(&mut self, menu: Menu, arg: &Arg) -> Run<Vec<u32>> {
        let value = self.menu_value(arg)?;
        let mut ids = Vec::new();
        self.collect_targets(menu, &value, &mut ids)?;
        let mut seen = BTreeSet::new();
        ids.retain(|id| seen.insert(*id));
        Ok(ids)
    }

    pub(crate) fn collect_targets(&mut self, menu: Menu, value: &Value, ids: &mut Vec<u32>) -> Run<()> {
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

    pub(crate) fn exists(&mut self, menu: Menu, id: u32) -> bool {
        match menu {
            Menu::Disk => self.state().disks.get(id).is_some(),
            Menu::File => self.state().files.by_id(id).is_some(),
            _ => self.small_table(menu).iter().any(|r| r.id == Some(id)),
        }
    }

    pub(crate) fn by_name(&mut self, menu: Menu, name: &str) -> Option<u32> {
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

/// A property of a record, or one of its flags.
pub(crate) fn record_property(record: &Record, name: &str) -> Value {
    if name == ".id" {
        return record.id.map_or(Value::Nil, Value::Id);
    }
    if let Some((_, cell)) = record.cells.iter().find(|(n, _)| *n == name) {
        return cell.value.clone();
    }
    Value::Bool(record.flags.contains(&name))
}
