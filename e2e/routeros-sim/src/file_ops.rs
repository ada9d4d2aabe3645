//! `/file add | set | remove | copy`.

use crate::error::{Fail, Run};
use crate::file::{File, file_name, parent};
use crate::interp::{Args, Interp};
use crate::schema::Menu;
use crate::value::Value;
use crate::view::{Cell, Record, Shown};

/// A row of `/file`. Nothing there is quoted, sizes are for people.
pub(crate) fn record(f: &File, number: usize) -> Record {
    let cells = ["name", "type", "size", "last-modified", "contents"]
        .into_iter()
        .filter_map(|name| {
            let shown = if name == "size" { Shown::Human } else { Shown::Plain };
            f.property(name)
                .filter(|v| !v.is_empty())
                .map(|v| (name, Cell::new(v, shown)))
        })
        .collect();
    Record {
        id: Some(f.id),
        number,
        flags: Vec::new(),
        cells,
        comment: String::new(),
    }
}

impl Interp<'_> {
    fn new_name(&mut self, args: Args<'_>) -> Run<String> {
        let name = self.text_of(args, usize::MAX, "name")?;
        let name = name.ok_or_else(|| Fail::refused("missing value(s) of argument(s) name"))?;
        let name = file_name(&name).trim_end_matches('/').to_owned();
        if name.is_empty() || name.split('/').any(|c| c.is_empty() || c == "." || c == "..") {
            return Err(Fail::invalid("name"));
        }
        let dir = parent(&name).to_owned();
        let state = self.state();
        if state.files.get(&name).is_some() {
            return Err(Fail::refused(&self.knobs.existing_file_text));
        }
        if !dir.is_empty() && !state.files.get(&dir).is_some_and(File::is_directory) {
            return Err(Fail::refused(&self.knobs.missing_directory_text));
        }
        Ok(name)
    }

    pub(crate) fn file_add(&mut self, args: Args<'_>) -> Run<Value> {
        let name = self.new_name(args)?;
        let kind = self.text_of(args, usize::MAX, "type")?.unwrap_or_else(|| "file".into());
        if !matches!(kind.as_str(), "file" | "directory") {
            return Err(Fail::no_match("type"));
        }
        let contents = self.text_of(args, usize::MAX, "contents")?.unwrap_or_default();
        let size = contents.len() as u64;
        let id = self.state().add_file(&name, &kind, size, size, &contents);
        self.appliance.touch();
        Ok(Value::Id(id))
    }

    pub(crate) fn file_set(&mut self, args: Args<'_>) -> Run<Value> {
        let target = args
            .get(0, "numbers")
            .ok_or_else(|| Fail::refused("missing value(s) of argument(s) numbers"))?;
        let contents = self.text_of(args, usize::MAX, "contents")?;
        let rename = if args.flag("name") {
            Some(self.new_name(args)?)
        } else {
            None
        };
        for id in self.targets(Menu::File, target)? {
            let Some(name) = self.state().files.by_id(id).map(|f| f.name.clone()) else {
                continue;
            };
            self.state().files.update(&name, |f| {
                if let Some(text) = &contents {
                    f.contents.clone_from(text);
                    f.size = text.len() as u64;
                    f.allocated = f.size;
                }
                if let Some(new) = &rename {
                    f.name.clone_from(new);
                }
                f.modified = crate::state::now();
            });
            self.appliance.touch();
        }
        Ok(Value::Nil)
    }

    pub(crate) fn file_remove(&mut self, args: Args<'_>) -> Run<Value> {
        let target = args
            .get(0, "numbers")
            .ok_or_else(|| Fail::refused("missing value(s) of argument(s) numbers"))?;
        for id in self.targets(Menu::File, target)? {
            let state = self.state();
            let Some(file) = state.files.by_id(id).cloned() else {
                continue;
            };
            if file.kind == "disk" {
                return Err(Fail::refused("can not do that"));
            }
            // A directory goes with all that is in it.
            for name in state.files.below(&file.name) {
                state.files.remove(&name);
            }
            state.files.remove(&file.name);
            self.appliance.touch();
        }
        Ok(Value::Nil)
    }

    pub(crate) fn file_copy(&mut self, args: Args<'_>) -> Run<Value> {
        let source = args
            .get(0, "number")
            .ok_or_else(|| Fail::refused("missing value(s) of argument(s) number"))?;
        let ids = self.targets(Menu::File, source)?;
        let [id] = ids.as_slice() else {
            return Err(Fail::no_such_item());
        };
        let from = self.state().files.by_id(*id).cloned().ok_or_else(Fail::no_such_item)?;
        self.no_copies_of_data()?;
        let name = self.new_name(args)?;
        let mut all = vec![(from.clone(), name.clone())];
        for below in self.state().files.below(&from.name) {
            if let Some(f) = self.state().files.get(&below).cloned() {
                let suffix = below.strip_prefix(&from.name).unwrap_or_default().to_owned();
                all.push((f, name.clone() + &suffix));
            }
        }
        for (f, to) in all {
            let allocated = if f.is_directory() {
                0
            } else {
                self.reserve(&to, 0, f.size)?
            };
            let kind = if f.is_directory() { "directory" } else { f.kind.as_str() };
            self.state().add_file(&to, kind, f.size, allocated, &f.contents);
        }
        self.appliance.touch();
        Ok(Value::Nil)
    }
}
