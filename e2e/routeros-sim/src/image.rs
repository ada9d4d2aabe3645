//! What `/disk add` and `set` need around a row: its image in the pool, its slot, its comment.

use crate::disk::{Image, Key};
use crate::error::{Fail, Run};
use crate::file::{file_name, parent};
use crate::interp::Interp;
use crate::knobs::{Allocation, ExistingFile, MissingDirectory, Policy, TooLong};

/// Cuts at a character boundary.
fn cut(text: &str, limit: usize) -> String {
    let end = text
        .char_indices()
        .map(|(i, c)| i + c.len_utf8())
        .take_while(|end| *end <= limit)
        .last()
        .unwrap_or(0);
    text.get(..end).unwrap_or_default().to_owned()
}

impl Interp<'_> {
    /// Makes or reuses the file behind a file disk.
    pub(crate) fn open_image(&mut self, path: &str, size: Option<u64>) -> Run<Image> {
        let name = file_name(path).to_owned();
        if name.is_empty() || name.ends_with('/') || name.split('/').any(|c| c.is_empty() || c == "." || c == "..") {
            return Err(Fail::invalid("file-path"));
        }
        let full = format!("/{name}");
        let taken = self.state().disks.ids(Key::Path, &full).is_some();
        if taken && self.knobs.duplicate_path == Policy::Reject {
            return Err(Fail::refused(&self.knobs.existing_file_text));
        }
        if let Some(file) = self.state().files.get(&name).cloned() {
            if file.is_directory() {
                return Err(Fail::invalid("file-path"));
            }
            let size = match self.knobs.existing_file {
                ExistingFile::Fail => return Err(Fail::refused(&self.knobs.existing_file_text)),
                ExistingFile::Keep => file.size,
                ExistingFile::Grow => file.size.max(size.unwrap_or(0)),
            };
            self.resize_file(&name, size)?;
            return Ok(Image {
                path: full,
                size,
                offset: 0,
            });
        }
        let size = size.filter(|s| *s > 0).ok_or_else(|| Fail::invalid("file-size"))?;
        self.make_directories(&name)?;
        let allocated = self.reserve(&name, 0, size)?;
        self.state().add_file(&name, ".img file", size, allocated, "");
        Ok(Image {
            path: full,
            size,
            offset: 0,
        })
    }

    pub(crate) fn make_directories(&mut self, name: &str) -> Run<()> {
        let dir = parent(name).to_owned();
        if self
            .state()
            .files
            .get(&dir)
            .is_some_and(crate::file::File::is_directory)
        {
            return Ok(());
        }
        let missing = Fail::refused(&self.knobs.missing_directory_text);
        if self.knobs.missing_directory == MissingDirectory::Fail || self.state().pool_of(name).is_none() {
            return Err(missing);
        }
        let mut at = String::new();
        for part in dir.split('/') {
            at = if at.is_empty() {
                part.to_owned()
            } else {
                format!("{at}/{part}")
            };
            match self.state().files.get(&at).map(crate::file::File::is_directory) {
                Some(true) => {}
                Some(false) => return Err(missing),
                None => {
                    self.state().add_file(&at, "directory", 0, 0, "");
                }
            }
        }
        Ok(())
    }

    /// Bytes that a file of `size` takes, if the pool has them beside the `now` it takes already.
    pub(crate) fn reserve(&mut self, name: &str, now: u64, size: u64) -> Run<u64> {
        let full = Fail::refused(&self.knobs.no_space_text);
        if (self.knobs.pool_full || self.overrides.pool_full) && size > now {
            return Err(full);
        }
        if self.knobs.allocation == Allocation::Sparse {
            return Ok(now.min(size));
        }
        let state = self.state();
        let Some(pool) = state.pool_of(name) else {
            return Err(Fail::refused(&self.knobs.missing_directory_text));
        };
        if size.saturating_sub(now) > state.free(pool) {
            Err(full)
        } else {
            Ok(size)
        }
    }

    pub(crate) fn resize_file(&mut self, name: &str, size: u64) -> Run<()> {
        if self.state().unmounted.get(name).is_some() {
            return Err(Fail::refused(&self.knobs.missing_directory_text));
        }
        let Some((old, held)) = self.state().files.get(name).map(|f| (f.size, f.allocated)) else {
            return Ok(());
        };
        if old == size {
            return Ok(());
        }
        let allocated = self.reserve(name, held, size)?;
        self.state().files.update(name, |f| {
            f.size = size;
            f.allocated = allocated;
            f.modified = crate::state::now();
        });
        Ok(())
    }

    pub(crate) fn limit_slot(&self, slot: String) -> Run<String> {
        if slot.len() <= self.knobs.slot_limit {
            return Ok(slot);
        }
        match self.knobs.slot_too_long {
            TooLong::Reject => Err(Fail::refused(&self.knobs.slot_too_long_text)),
            TooLong::Truncate => Ok(cut(&slot, self.knobs.slot_limit)),
        }
    }

    pub(crate) fn auto_slot(&mut self, kind: &str, path: Option<&str>) -> String {
        let base = match path {
            Some(path) => format!("file-{}", file_name(path).replace('/', "-")),
            None => kind.to_owned(),
        };
        let base = cut(&base, self.knobs.slot_limit);
        let disks = &self.state().disks;
        if path.is_some() && disks.slot(&base).is_none() {
            return base;
        }
        (1u32..)
            .map(|n| format!("{base}{n}"))
            .find(|s| disks.slot(s).is_none())
            .unwrap_or(base)
    }

    pub(crate) fn limit_comment(&self, text: &str) -> Run<String> {
        let limit = self.knobs.comment_limit;
        if limit == 0 || text.len() <= limit {
            return Ok(text.to_owned());
        }
        match self.knobs.comment_too_long {
            TooLong::Reject => Err(Fail::invalid("comment")),
            TooLong::Truncate => Ok(cut(text, limit)),
        }
    }
}
