//! The `/file` table: directories and images, and how much of a pool they take.
//!
//! Names have no leading slash (facts, 2.5). Invariant: `used` is the sum of `allocated` per first path component.

use crate::value::Value;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// One entry of `/file`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Internal id.
    pub id: u32,
    /// Path without leading slash.
    pub name: String,
    /// `disk`, `directory`, `.img file`, `file`.
    pub kind: String,
    /// Bytes; 0 for a directory.
    pub size: u64,
    /// Bytes taken in the pool.
    pub allocated: u64,
    /// `YYYY-MM-DD HH:MM:SS`
    pub modified: String,
    /// Text content, or a mark that travels with copies of an image.
    pub contents: String,
}

impl File {
    /// Whether it is a directory or the root of a pool.
    pub fn is_directory(&self) -> bool {
        matches!(self.kind.as_str(), "directory" | "disk")
    }

    /// A property by name.
    pub fn property(&self, name: &str) -> Option<Value> {
        match name {
            ".id" => Some(Value::Id(self.id)),
            "name" => Some(Value::str(&self.name)),
            "type" => Some(Value::str(&self.kind)),
            "size" => (!self.is_directory()).then(|| Value::Num(i64::try_from(self.size).unwrap_or(i64::MAX))),
            "last-modified" => Some(Value::str(&self.modified)),
            "contents" => (self.kind == "file").then(|| Value::str(&self.contents)),
            _ => None,
        }
    }
}

/// All files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<File>", into = "Vec<File>")]
pub struct Files {
    by_name: BTreeMap<String, File>,
    by_id: BTreeMap<u32, String>,
    used: HashMap<String, u64>,
}

impl From<Vec<File>> for Files {
    fn from(list: Vec<File>) -> Self {
        let mut files = Self::default();
        for f in list {
            files.put(f);
        }
        files
    }
}

impl From<Files> for Vec<File> {
    fn from(files: Files) -> Self {
        files.by_name.into_values().collect()
    }
}

/// The file name of a path: without leading slash.
pub fn file_name(path: &str) -> &str {
    path.trim_start_matches('/')
}

/// The directory of a name, empty at the top.
pub fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// The first component of a name: the mount point of its pool.
pub fn root(name: &str) -> &str {
    name.split_once('/').map_or(name, |(first, _)| first)
}

impl Files {
    /// The file of that name.
    pub fn get(&self, name: &str) -> Option<&File> {
        self.by_name.get(name)
    }

    /// The file of that id.
    pub fn by_id(&self, id: u32) -> Option<&File> {
        self.by_name.get(self.by_id.get(&id)?)
    }

    /// In the order of their names, as they print.
    pub fn iter(&self) -> impl Iterator<Item = &File> {
        self.by_name.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The highest id in use.
    pub fn last_id(&self) -> u32 {
        self.by_id.keys().next_back().copied().unwrap_or(0)
    }

    /// Puts a file in place of one of the same name.
    pub fn put(&mut self, file: File) {
        self.remove(&file.name.clone());
        *self.used.entry(root(&file.name).to_owned()).or_default() += file.allocated;
        self.by_id.insert(file.id, file.name.clone());
        self.by_name.insert(file.name.clone(), file);
    }

    /// Takes a file away.
    pub fn remove(&mut self, name: &str) -> Option<File> {
        let file = self.by_name.remove(name)?;
        self.by_id.remove(&file.id);
        if let Some(used) = self.used.get_mut(root(name)) {
            *used = used.saturating_sub(file.allocated);
        }
        Some(file)
    }

    /// Changes a file; its name and its share of the pool may change too.
    pub fn update(&mut self, name: &str, f: impl FnOnce(&mut File)) {
        if let Some(mut file) = self.remove(name) {
            f(&mut file);
            self.put(file);
        }
    }

    /// Bytes taken below a mount point.
    pub fn used(&self, mount_point: &str) -> u64 {
        self.used.get(mount_point).copied().unwrap_or(0)
    }

    /// How many entries are below a directory.
    pub fn count_below(&self, dir: &str) -> usize {
        let prefix = format!("{dir}/");
        self.by_name
            .range(prefix.clone()..)
            .take_while(|(n, _)| n.starts_with(&prefix))
            .count()
    }

    /// Names below a directory, without itself.
    pub fn below(&self, dir: &str) -> Vec<String> {
        let prefix = format!("{dir}/");
        self.by_name
            .range(prefix.clone()..)
            .take_while(|(n, _)| n.starts_with(&prefix))
            .map(|(n, _)| n.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(id: u32, name: &str, allocated: u64) -> File {
        File {
            id,
            name: name.into(),
            kind: ".img file".into(),
            size: allocated,
            allocated,
            modified: String::new(),
            contents: String::new(),
        }
    }

    #[test]
    fn used_follows_every_change() {
        let mut files = Files::default();
        files.put(file(1, "pool/a.img", 10));
        files.put(file(2, "pool/d/b.img", 5));
        files.put(file(3, "pool/a.img", 7));
        assert_eq!((files.len(), files.used("pool")), (2, 12));
        files.update("pool/a.img", |f| f.allocated = 100);
        assert_eq!(files.used("pool"), 105);
        assert_eq!(files.below("pool"), vec!["pool/a.img", "pool/d/b.img"]);
        files.remove("pool/d/b.img");
        let again: Files = serde_json::from_str(&serde_json::to_string(&files).unwrap()).unwrap();
        assert_eq!(again, files);
    }
}
