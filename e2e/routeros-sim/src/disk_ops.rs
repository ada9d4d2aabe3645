//! `/disk add | set | unset | remove | enable | disable | comment | copy`.

use crate::ast::Arg;
use crate::disk::{Disk, Image};
use crate::error::{Fail, Run};
use crate::file::{file_name, root};
use crate::interp::{Args, Interp};
use crate::knobs::{Policy, Resize};
use crate::schema::Menu;
use crate::value::{Value, parse_size};

const TYPES: &[&str] = &[
    "raid",
    "nvme-tcp",
    "iscsi",
    "nfs",
    "smb",
    "partition",
    "tmpfs",
    "ramdisk",
    "crypted",
    "sshfs",
    "file",
    "hardware",
];

fn yes_no(name: &str, text: &str) -> Run<bool> {
    match text {
        "yes" | "true" => Ok(true),
        "no" | "false" => Ok(false),
        _ => Err(Fail::invalid(name)),
    }
}

impl Interp<'_> {
    fn texts(&mut self, args: &[Arg]) -> Run<Vec<(String, String)>> {
        args.iter()
            .filter(|a| a.name.as_deref().is_some_and(|n| n != "numbers"))
            .map(|a| {
                let value = self.menu_value(a)?;
                Ok((a.name.clone().unwrap_or_default(), value.text()))
            })
            .collect()
    }

    pub(crate) fn disk_add(&mut self, args: Args<'_>) -> Run<Value> {
        let given = self.texts(args.0)?;
        let get = |name: &str| given.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        let mut disk = Disk {
            export: crate::disk::Export::default(),
            ..Disk::default()
        };
        let mut image: Option<Image> = None;
        if let Some(source) = get("copy-from") {
            let id = self
                .state()
                .disks
                .slot(&source)
                .map(|d| d.id)
                .or_else(|| match crate::value::infer(&source) {
                    Value::Id(id) => Some(id),
                    _ => None,
                });
            let from = id
                .and_then(|id| self.state().disks.get(id).cloned())
                .ok_or_else(Fail::no_such_item)?;
            image.clone_from(&from.image);
            disk = Disk {
                slot: String::new(),
                id: 0,
                export: crate::disk::Export::default(),
                ..from
            };
            disk.image = None;
        } else {
            disk.kind = get("type").ok_or_else(|| Fail::refused("missing value(s) of argument(s) type"))?;
        }
        if let Some(kind) = get("type") {
            disk.kind = kind;
        }
        if !TYPES.contains(&disk.kind.as_str()) {
            return Err(Fail::no_match("type"));
        }
        let slot = match get("slot").filter(|s| !s.is_empty()) {
            Some(slot) => self.limit_slot(slot)?,
            None => self.auto_slot(&disk.kind, get("file-path").as_deref()),
        };
        if self.state().disks.slot(&slot).is_some() {
            return Err(Fail::refused(&self.knobs.duplicate_slot_text));
        }
        disk.slot = slot;
        let export_wanted = get("nvme-tcp-export");
        for (name, text) in &given {
            if !matches!(
                name.as_str(),
                "type" | "slot" | "copy-from" | "file-path" | "file-size" | "file-offset" | "nvme-tcp-export"
            ) {
                self.apply(&mut disk, name, text)?;
            }
        }
        match disk.kind.as_str() {
            "file" => {
                let path = get("file-path").or(image.as_ref().map(|i| i.path.clone()));
                let path = path.ok_or_else(|| Fail::refused("missing value(s) of argument(s) file-path"))?;
                let size = match get("file-size") {
                    Some(text) => Some(parse_size(&text, 1024).ok_or_else(|| Fail::invalid("file-size"))?),
                    None => image.as_ref().map(|i| i.size),
                };
                let offset = match get("file-offset") {
                    Some(text) => parse_size(&text, 1024).ok_or_else(|| Fail::invalid("file-offset"))?,
                    None => 0,
                };
                if let Some(text) = &export_wanted {
                    self.switch_export(&mut disk, yes_no("nvme-tcp-export", text)?)?;
                }
                let mut image = self.open_image(&path, size)?;
                if self.overrides.half_add {
                    return Err(Fail::refused("failure: could not add disk"));
                }
                image.offset = offset;
                disk.size = image.size;
                disk.export.visible_size = image.size;
                disk.image = Some(image);
            }
            "tmpfs" | "ramdisk" | "partition" => {
                for name in ["tmpfs-max-size", "ramdisk-size", "partition-size"] {
                    if let Some(text) = get(name) {
                        disk.size = parse_size(&text, 1000).ok_or_else(|| Fail::invalid(name))?;
                    }
                }
            }
            _ => {
                if let Some(text) = &export_wanted {
                    self.switch_export(&mut disk, yes_no("nvme-tcp-export", text)?)?;
                }
            }
        }
        let id = self.state().add_disk(disk);
        self.settle(id);
        Ok(Value::Id(id))
    }

    pub(crate) fn disk_set(&mut self, args: Args<'_>) -> Run<Value> {
        let target = args
            .get(0, "numbers")
            .ok_or_else(|| Fail::refused("missing value(s) of argument(s) numbers"))?;
        let ids = self.targets(Menu::Disk, target)?;
        let named: Vec<Arg> = args.0.iter().filter(|a| a.name.is_some()).cloned().collect();
        let given = self.texts(&named)?;
        for id in ids {
            let Some(before) = self.state().disks.get(id).cloned() else {
                continue;
            };
            let mut disk = before.clone();
            // The export is switched last, so that it starts with the port and the name given beside it; the file is
            // touched only when nothing else can fail any more.
            let export = given.iter().rev().find(|(n, _)| n == "nvme-tcp-export");
            let on = export.map(|(name, text)| yes_no(name, text)).transpose()?;
            let is_file = |name: &str| matches!(name, "file-size" | "file-path");
            for (name, text) in given.iter().filter(|(n, _)| n != "nvme-tcp-export" && !is_file(n)) {
                self.apply(&mut disk, name, text)?;
            }
            if on == Some(true) {
                self.check_nqn(&disk)?;
            }
            for (name, text) in given.iter().filter(|(n, _)| is_file(n)) {
                self.apply(&mut disk, name, text)?;
            }
            if let Some(on) = on {
                self.switch_export(&mut disk, on)?;
            } else if disk.export.on && disk.export.nqn != before.export.nqn {
                self.check_nqn(&disk)?;
            }
            self.state().disks.put(disk);
            self.settle(id);
        }
        Ok(Value::Nil)
    }

    /// Sets one property of a row that is not in the table, or not yet changed there.
    fn apply(&mut self, disk: &mut Disk, name: &str, text: &str) -> Run<()> {
        match name {
            "slot" => {
                let slot = self.limit_slot(text.to_owned())?;
                if slot.is_empty() {
                    return Err(Fail::invalid("slot"));
                }
                if slot != disk.slot && self.state().disks.slot(&slot).is_some() {
                    return Err(Fail::refused(&self.knobs.duplicate_slot_text));
                }
                disk.slot = slot;
            }
            "comment" => disk.comment = self.limit_comment(text)?,
            "disabled" => disk.disabled = yes_no(name, text)?,
            "mount-filesystem" => disk.mount_filesystem = yes_no(name, text)?,
            "mount-read-only" | "swap" | "nfs-sharing" | "smb-sharing" | "media-sharing" | "iscsi-export"
            | "raid-member-failed" => {
                let value = if yes_no(name, text)? { "yes" } else { "no" };
                disk.extra.insert(name.to_owned(), value.to_owned());
            }
            "compress" => {
                let on = yes_no(name, text)?;
                if on && disk.pool.as_ref().is_none_or(|p| p.fs != "btrfs") {
                    return Err(Fail::refused("compression only available for btrfs"));
                }
                disk.extra
                    .insert(name.to_owned(), if on { "yes" } else { "no" }.to_owned());
            }
            "nvme-tcp-server-port" => {
                let port: u16 = text.parse().map_err(|_| match text.parse::<i64>() {
                    Ok(_) => Fail::refused("value of nvme-tcp-server-port out of range (1..65535)"),
                    Err(_) => Fail::invalid(name),
                })?;
                if port == 0 {
                    return Err(Fail::refused("value of nvme-tcp-server-port out of range (1..65535)"));
                }
                disk.export.port = port;
            }
            "nvme-tcp-server-nqn" => {
                if text.len() > 223 {
                    return Err(Fail::invalid(name));
                }
                text.clone_into(&mut disk.export.nqn);
            }
            "nvme-tcp-server-allow-host-name" => text.clone_into(&mut disk.export.allow_host_name),
            "nvme-tcp-server-password" => text.clone_into(&mut disk.export.password),
            "mount-point-template" if text.is_empty() => return Err(Fail::invalid(name)),
            "type" => {
                if text != disk.kind {
                    return Err(Fail::refused("can not do that"));
                }
            }
            "file-path" => {
                let image = disk.image.as_ref().ok_or_else(|| Fail::refused("can not do that"))?;
                if file_name(text) != file_name(&image.path) {
                    let size = image.size;
                    let image = self.open_image(text, Some(size))?;
                    disk.size = image.size;
                    disk.image = Some(image);
                }
            }
            "file-size" => {
                let size = parse_size(text, 1024)
                    .filter(|s| *s > 0)
                    .ok_or_else(|| Fail::invalid(name))?;
                let image = disk.image.clone().ok_or_else(|| Fail::refused("can not do that"))?;
                if size < image.size && self.knobs.shrink == Policy::Reject {
                    return Err(Fail::invalid(name));
                }
                self.resize_file(file_name(&image.path), size)?;
                disk.image = Some(Image { size, ..image });
                if self.knobs.resize == Resize::Live || !disk.export.on {
                    disk.size = size;
                    disk.export.visible_size = size;
                }
            }
            "file-offset" => {
                let offset = parse_size(text, 1024).ok_or_else(|| Fail::invalid(name))?;
                if let Some(image) = &mut disk.image {
                    image.offset = offset;
                }
            }
            _ => {
                disk.extra.insert(name.to_owned(), text.to_owned());
            }
        }
        Ok(())
    }

    /// Lets sessions follow what was just done to a row.
    fn settle(&mut self, id: u32) {
        let knobs = self.knobs.clone();
        self.state().settle(id, &knobs);
        let appliance = self.appliance;
        appliance.project(self.state(), &knobs);
        appliance.touch();
    }

    /// Real exports hold data, and copying it is not built: better no copy than one without the data.
    pub(crate) fn no_copies_of_data(&self) -> Run<()> {
        if self.appliance.is_real() {
            return Err(Fail::refused(
                "failure: copies are not supported while exports are real",
            ));
        }
        Ok(())
    }

    fn each(&mut self, args: Args<'_>, f: impl Fn(&mut Disk)) -> Run<Value> {
        let target = args
            .get(0, "numbers")
            .ok_or_else(|| Fail::refused("missing value(s) of argument(s) numbers"))?;
        for id in self.targets(Menu::Disk, target)? {
            self.state().disks.update(id, &f);
            self.settle(id);
        }
        Ok(Value::Nil)
    }

    pub(crate) fn disk_enable(&mut self, args: Args<'_>, on: bool) -> Run<Value> {
        self.each(args, |d| d.disabled = !on)
    }

    pub(crate) fn disk_comment(&mut self, args: Args<'_>) -> Run<Value> {
        let text = self.text_of(args, 1, "comment")?.unwrap_or_default();
        let text = self.limit_comment(&text)?;
        self.each(args, |d| d.comment.clone_from(&text))
    }

    pub(crate) fn disk_unset(&mut self, args: Args<'_>) -> Run<Value> {
        let name = self.text_of(args, 1, "value-name")?.unwrap_or_default();
        if !Menu::Disk.takes(crate::schema::Verb::Set, &name, self.knobs.version) {
            return Err(Fail::no_match("value-name"));
        }
        self.each(args, |d| match name.as_str() {
            "comment" => d.comment.clear(),
            "nvme-tcp-server-nqn" => d.export.nqn.clear(),
            "nvme-tcp-server-allow-host-name" => d.export.allow_host_name.clear(),
            "nvme-tcp-server-password" => d.export.password.clear(),
            name => {
                d.extra.remove(name);
            }
        })
    }

    pub(crate) fn disk_remove(&mut self, args: Args<'_>) -> Run<Value> {
        let target = args
            .get(0, "numbers")
            .ok_or_else(|| Fail::refused("missing value(s) of argument(s) numbers"))?;
        for id in self.targets(Menu::Disk, target)? {
            let knobs = self.knobs.clone();
            let refuse = knobs.remove_while_connected == Policy::Reject;
            let state = self.state();
            let Some(disk) = state.disks.get(id) else { continue };
            if disk.kind == "hardware" {
                return Err(Fail::refused("can not do that"));
            }
            let mounted = disk.pool.as_ref().filter(|p| p.mounted).map(|p| p.mount_point.clone());
            let in_use = mounted.is_some_and(|at| {
                state
                    .disks
                    .iter()
                    .any(|d| d.path().is_some_and(|p| root(file_name(p)) == at))
            });
            if in_use || (refuse && state.row_in_use(id, &knobs)) {
                return Err(Fail::refused("could not unmount, stop using it first"));
            }
            // Only the row goes; the file stays (facts, 2.5).
            state.disks.remove(id);
            self.settle(id);
        }
        Ok(Value::Nil)
    }

    /// A raw copy between two rows: the data of the destination becomes that of the source.
    pub(crate) fn disk_copy(&mut self, args: Args<'_>) -> Run<Value> {
        let missing = || Fail::refused("missing value(s) of argument(s) src, dst");
        self.no_copies_of_data()?;
        let src = self.text_of(args, usize::MAX, "src")?.ok_or_else(missing)?;
        let dst = self.text_of(args, usize::MAX, "dst")?.ok_or_else(missing)?;
        let state = self.state();
        let row = |slot: &str| state.disks.slot(slot).cloned();
        let (Some(from), Some(to)) = (row(&src), row(&dst)) else {
            return Err(Fail::no_such_item());
        };
        if to.size < from.size {
            return Err(Fail::refused("failure: destination is too small"));
        }
        let mark = from
            .path()
            .and_then(|p| state.files.get(file_name(p)))
            .map(|f| f.contents.clone());
        if let (Some(mark), Some(path)) = (mark, to.path()) {
            state.files.update(file_name(path), |f| f.contents = mark);
        }
        self.appliance.touch();
        self.out.push_str("  status: done\r\n\r\n");
        Ok(Value::Nil)
    }
}
