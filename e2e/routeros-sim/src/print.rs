//! The forms of `print`: brief tables, detail, terse, as-value, single records (facts, section 5).

use crate::knobs::Knobs;
use crate::value::Value;
use crate::view::{Record, Shown};
use std::collections::BTreeMap;

/// Flag letters of a menu: letter, name, group.
pub(crate) type FlagTable = &'static [(char, &'static str, u8)];

/// Name, and whether its column shows only when a value is `yes`.
pub(crate) type Columns = &'static [(&'static str, bool)];

/// How to print.
pub(crate) struct Layout<'a> {
    /// Width, padding and legend habits.
    pub knobs: &'a Knobs,
    /// Flags of the menu.
    pub flags: FlagTable,
    /// Ids instead of row numbers.
    pub show_ids: bool,
    /// Columns between number and first property in detail (3 in narrow `/file`, else 1).
    pub gap: usize,
}

const EOL: &str = "\r\n";

impl Layout<'_> {
    /// Groups of flags that occur, in order: each is one character column.
    fn groups(&self, records: &[Record]) -> Vec<u8> {
        let mut groups: Vec<u8> = Vec::new();
        for (_, name, group) in self.flags {
            if !groups.contains(group) && records.iter().any(|r| r.flags.contains(name)) {
                groups.push(*group);
            }
        }
        groups
    }

    fn letters(&self, record: &Record, groups: &[u8]) -> String {
        groups
            .iter()
            .map(|g| {
                self.flags
                    .iter()
                    .find(|(_, name, group)| group == g && record.flags.contains(name))
                    .map_or(' ', |(letter, _, _)| *letter)
            })
            .collect()
    }

    /// `Flags: B - BLOCK-DEVICE; M - MOUNTED, S - SWAP-ENABLED`
    fn legend(&self, records: &[Record]) -> Option<String> {
        let all = records.is_empty();
        let mut out = String::from("Flags: ");
        let (mut line, mut last) = (out.len(), None);
        for (letter, name, group) in self.flags {
            if !all && !records.iter().any(|r| r.flags.contains(name)) {
                continue;
            }
            let entry = format!("{letter} - {}", name.to_uppercase());
            let separator = match last {
                None => "",
                Some(g) if g == group => ", ",
                Some(_) => "; ",
            };
            // A group that does not fit starts a new line, and the line break takes the place of the semicolon.
            let rest: usize = self
                .flags
                .iter()
                .filter(|(_, n, g)| g == group && (all || records.iter().any(|r| r.flags.contains(n))))
                .map(|(_, n, _)| n.len() + 6)
                .sum();
            if separator == "; " && self.knobs.width > 0 && line + rest > self.knobs.width {
                out.push_str(EOL);
                out.push_str("       ");
                line = 7;
            } else {
                out.push_str(separator);
                line += separator.len();
            }
            out.push_str(&entry);
            line += entry.len();
            last = Some(group);
        }
        last.is_some().then_some(out)
    }

    fn numbers(&self, records: &[Record], least: usize) -> Vec<String> {
        let plain: Vec<String> = records
            .iter()
            .map(|r| match r.id {
                Some(id) if self.show_ids => format!("*{id:X}"),
                _ => r.number.to_string(),
            })
            .collect();
        let width = plain.iter().map(String::len).max().unwrap_or(1).max(least);
        plain.into_iter().map(|n| format!("{n:>width$}")).collect()
    }

    fn no_match(&self) -> String {
        match self.legend(&[]) {
            Some(legend) if self.knobs.legend_without_match => legend + EOL,
            _ => String::new(),
        }
    }

    fn line(&self, out: &mut String, line: &str) {
        out.push_str(line.trim_end_matches(' '));
        if self.knobs.pad_lines {
            out.push_str("    ");
        }
        out.push_str(EOL);
    }

    fn finish(&self, mut out: String) -> String {
        if self.knobs.blank_last_line && !out.is_empty() {
            out.push_str(EOL);
        }
        out
    }

    /// `print detail`
    pub(crate) fn detail(&self, records: &[Record]) -> String {
        if records.is_empty() {
            return self.no_match();
        }
        let groups = self.groups(records);
        let mut out = String::new();
        if let Some(legend) = self.legend(records) {
            self.line(&mut out, &legend);
        }
        for (i, (record, number)) in records.iter().zip(self.numbers(records, 2)).enumerate() {
            if i > 0 {
                out.push(' ');
                out.push_str(EOL);
            }
            let mut head = format!("{number} {}", self.letters(record, &groups));
            if !groups.is_empty() {
                head.push(' ');
            }
            head.push_str(&" ".repeat(self.gap - 1));
            let indent = head.len();
            if !record.comment.is_empty() {
                self.line(&mut out, &format!("{head};;; {}", record.comment));
                head = " ".repeat(indent);
            }
            let tokens: Vec<String> = record
                .cells
                .iter()
                .map(|(name, c)| format!("{name}={}", c.detail()))
                .collect();
            for line in wrap(&head, &tokens, indent, self.knobs) {
                self.line(&mut out, &line);
            }
        }
        self.finish(out)
    }

    /// `print terse`
    pub(crate) fn terse(&self, records: &[Record]) -> String {
        let groups = self.groups(records);
        let mut out = String::new();
        for (record, number) in records.iter().zip(self.numbers(records, 1)) {
            let mut line = format!("{number} {}", self.letters(record, &groups));
            if !groups.is_empty() {
                line.push(' ');
            }
            let mut tokens: Vec<String> = record
                .cells
                .iter()
                .map(|(name, c)| format!("{name}={}", c.value_text()))
                .collect();
            if !record.comment.is_empty() {
                tokens.push(format!("comment=\"{}\"", record.comment));
            }
            line.push_str(&tokens.join(" "));
            self.line(&mut out, &line);
        }
        self.finish(out)
    }

    /// The table that `print` gives without a mode.
    pub(crate) fn brief(&self, records: &[Record], columns: &[(&'static str, bool)]) -> String {
        if records.is_empty() {
            return self.no_match();
        }
        let groups = self.groups(records);
        let mut out = String::new();
        if let Some(legend) = self.legend(records) {
            self.line(&mut out, &legend);
        }
        let shown: Vec<&str> = columns
            .iter()
            .filter(|(name, only_yes)| {
                records.iter().any(|r| {
                    r.cells.iter().any(|(n, c)| {
                        n == name
                            && match &c.value {
                                Value::Bool(b) => *b || !only_yes,
                                v => !v.is_empty(),
                            }
                    })
                })
            })
            .map(|(name, _)| *name)
            .collect();
        let headings: Vec<String> = shown.iter().map(|n| n.to_uppercase()).collect();
        self.line(&mut out, &format!("Columns: {}", headings.join(", ")));
        let cell = |r: &Record, name: &str| r.cells.iter().find(|(n, _)| *n == name).map(|(_, c)| c.clone());
        let table: Vec<Vec<String>> = records
            .iter()
            .map(|r| {
                shown
                    .iter()
                    .map(|n| cell(r, n).map_or_else(String::new, |c| c.plain()))
                    .collect()
            })
            .collect();
        let numeric: Vec<bool> = shown
            .iter()
            .map(|n| {
                records
                    .iter()
                    .any(|r| cell(r, n).is_some_and(|c| matches!(c.value, Value::Num(_))))
            })
            .collect();
        let numbers = self.numbers(records, 1);
        let number_width = numbers.first().map_or(1, String::len);
        let head = number_width + 1 + groups.len() + usize::from(!groups.is_empty());
        let data: Vec<usize> = (0..shown.len())
            .map(|i| {
                table
                    .iter()
                    .filter_map(|r| r.get(i))
                    .map(|c| c.chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut titles = headings;
        let width_of = |titles: &[String]| {
            head + titles
                .iter()
                .zip(&data)
                .map(|(t, d)| t.len().max(*d) + 2)
                .sum::<usize>()
                .saturating_sub(2)
        };
        // Headings that do not fit shrink to their first letter, from the right.
        for i in (0..titles.len()).rev() {
            if self.knobs.width == 0 || width_of(&titles) <= self.knobs.width {
                break;
            }
            if titles
                .get(i)
                .is_some_and(|t| t.len() > data.get(i).copied().unwrap_or(0))
                && let Some(t) = titles.get_mut(i)
            {
                t.truncate(1);
            }
        }
        let widths: Vec<usize> = titles.iter().zip(&data).map(|(t, d)| t.len().max(*d)).collect();
        let row = |cells: &[String]| {
            let padded: Vec<String> = cells
                .iter()
                .zip(&widths)
                .zip(&numeric)
                .map(|((c, w), right)| if *right { format!("{c:>w$}") } else { format!("{c:<w$}") })
                .collect();
            padded.join("  ")
        };
        self.line(
            &mut out,
            &format!("{:<head$}{}", format!("{:>number_width$}", "#"), row(&titles)),
        );
        for ((record, cells), number) in records.iter().zip(&table).zip(&numbers) {
            if !record.comment.is_empty() {
                self.line(&mut out, &format!(";;; {}", record.comment));
            }
            let mut line = format!("{number} {}", self.letters(record, &groups));
            if !groups.is_empty() {
                line.push(' ');
            }
            line.push_str(&row(cells));
            self.line(&mut out, &line);
        }
        self.finish(out)
    }

    /// A menu with one record: names right-aligned before a colon.
    pub(crate) fn single(&self, record: &Record) -> String {
        let width = record.cells.iter().map(|(n, _)| n.len()).max().unwrap_or(0) + 2;
        let mut out = String::new();
        for (name, cell) in &record.cells {
            self.line(&mut out, &format!("{name:>width$}: {}", cell.plain()));
        }
        self.finish(out)
    }
}

/// Lays tokens into lines of at most `width` columns; 0 never breaks.
fn wrap(head: &str, tokens: &[String], indent: usize, knobs: &Knobs) -> Vec<String> {
    if knobs.width == 0 {
        return vec![format!("{head}{}", tokens.join(" "))];
    }
    // Lines end two columns before the edge: 238 of 240 and 78 of 80 in the captures.
    let limit = knobs.width.saturating_sub(2).max(indent + 20);
    let (mut lines, mut line, mut fresh) = (Vec::new(), head.to_owned(), true);
    for token in tokens {
        let gap = usize::from(!fresh);
        let wanted = line.chars().count() + gap + token.chars().count();
        if wanted > limit && !fresh && !knobs.break_inside_tokens {
            lines.push(std::mem::replace(&mut line, " ".repeat(indent)));
        } else if !fresh {
            line.push(' ');
        }
        line.push_str(token);
        fresh = false;
        while knobs.break_inside_tokens && line.chars().count() > limit {
            let cut = line.char_indices().nth(limit).map_or(line.len(), |(i, _)| i);
            let rest = line.split_off(cut);
            lines.push(std::mem::replace(&mut line, " ".repeat(indent) + &rest));
        }
    }
    lines.push(line);
    lines
}

/// A record as scripts see it: `.id`, properties, flags.
pub(crate) fn as_value(record: &Record, flags: FlagTable, knobs: &Knobs, only: Option<&[String]>) -> Value {
    let mut map: BTreeMap<String, Value> = BTreeMap::new();
    let wanted = |name: &str| only.is_none_or(|list| list.iter().any(|n| n == name));
    if let Some(id) = record.id {
        map.insert(".id".into(), Value::Id(id));
    }
    for (_, name, _) in flags {
        let set = record.flags.contains(name);
        if (set || knobs.false_flags) && wanted(name) {
            map.insert((*name).to_owned(), Value::Bool(set));
        }
    }
    for (name, cell) in &record.cells {
        if wanted(name) {
            map.insert((*name).to_owned(), cell.value.clone());
        }
    }
    if !record.comment.is_empty() && wanted("comment") {
        map.insert("comment".into(), Value::str(&record.comment));
    }
    Value::map(map)
}

impl crate::view::Cell {
    /// As in `print terse`: no quotes, digits together.
    fn value_text(&self) -> String {
        match (&self.value, self.shown) {
            (Value::Num(n), Shown::Grouped) => n.to_string(),
            _ => self.plain(),
        }
    }
}
