//! What changed from one listing of an appliance to the next: pure. Only marks of the rows are kept, as a second copy of ten
//! thousand rows would be most of the operator's memory.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use crate::routeros::DiskRow;

type Marks = BuildHasherDefault<DefaultHasher>;

/// The mark of a slot or a path.
pub(super) fn mark(word: &str) -> u64 {
    Marks::default().hash_one(word)
}

/// The rows of a listing, by the mark of their slot: the mark of their file, and of all that they say.
#[derive(Default)]
pub(super) struct Rows(HashMap<u64, (Option<u64>, u64), Marks>);

impl Rows {
    pub(super) fn of(disks: &[DiskRow]) -> Self {
        let marks = |row: &DiskRow| {
            let path = row.path.as_deref().map(mark);
            (mark(&row.slot), (path, Marks::default().hash_one(row)))
        };
        Self(disks.iter().map(marks).collect())
    }

    /// Marks of the slots and files of all rows that came, went or changed.
    pub(super) fn changed(&self, old: &Self) -> HashSet<u64> {
        let differ = |(slot, row): &(&u64, &(Option<u64>, u64)), other: &Self| other.0.get(slot) != Some(row);
        let new = self.0.iter().filter(|row| differ(row, old));
        let gone = old.0.iter().filter(|row| differ(row, self));
        new.chain(gone)
            .flat_map(|(slot, (path, _))| std::iter::once(*slot).chain(*path))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routeros::Bytes;

    fn row(slot: &str) -> DiskRow {
        let json = format!(r#"{{"slot":"{slot}","type":"file","file-path":"/p/{slot}.img","size":1}}"#);
        serde_json::from_str(&json).unwrap()
    }

    fn marks(words: &[&str]) -> HashSet<u64> {
        words.iter().map(|word| mark(word)).collect()
    }

    #[test]
    fn only_rows_that_came_went_or_changed_count() {
        let old = Rows::of(&[row("a"), row("b"), row("c")]);
        assert!(
            Rows::of(&[row("c"), row("a"), row("b")]).changed(&old).is_empty(),
            "the order says nothing"
        );
        let mut grown = row("b");
        grown.size = Some(Bytes(2));
        let new = Rows::of(&[row("a"), grown, row("d")]);
        assert_eq!(
            new.changed(&old),
            marks(&["b", "/p/b.img", "c", "/p/c.img", "d", "/p/d.img"])
        );
    }

    #[test]
    fn a_disk_that_moved_to_another_file_concerns_both_files() {
        let mut moved = row("a");
        moved.path = Some("/p/z.img".to_owned());
        assert_eq!(
            Rows::of(&[moved]).changed(&Rows::of(&[row("a")])),
            marks(&["a", "/p/a.img", "/p/z.img"])
        );
    }
}
