//! Which further arguments of mkfs a volume may ask for. Everything else is refused by name.
//!
//! Invariant: no argument passes that makes mkfs overwrite what it finds, write elsewhere, or give the filesystem another
//! identity (I1).

use rds_crds::volume::FsType;

/// An argument that is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("mkfsOptions: `{word}` is not accepted for {fs}{why}; allowed are {allowed}")]
pub struct BadOption {
    word: String,
    fs: &'static str,
    why: String,
    allowed: String,
}

/// What a program accepts.
struct Grammar {
    /// Without a value.
    alone: &'static [&'static str],
    /// With a value, attached (one letter) or as the next word or after `=` (long ones).
    valued: &'static [&'static str],
    /// Keys inside a value that are refused, with the option they are refused in.
    refused: &'static [(&'static str, &'static str)],
}

const EXT: Grammar = Grammar {
    alone: &["-q", "-v"],
    valued: &[
        "-b", "-C", "-e", "-E", "-g", "-G", "-i", "-I", "-J", "-L", "-m", "-N", "-O", "-T",
    ],
    refused: &[
        ("-E", "offset"),
        ("-E", "test_fs"),
        ("-J", "device"),
        ("-O", "journal_dev"),
    ],
};

const XFS: Grammar = Grammar {
    alone: &["-q", "-K"],
    valued: &["-b", "-d", "-i", "-l", "-L", "-m", "-n", "-s"],
    refused: &[
        ("-d", "file"),
        ("-d", "name"),
        ("-d", "size"),
        ("-l", "file"),
        ("-l", "name"),
        ("-l", "logdev"),
        ("-l", "internal"),
        ("-m", "uuid"),
    ],
};

const BTRFS: Grammar = Grammar {
    alone: &["-q", "-v", "-K", "--nodiscard"],
    valued: &[
        "-d",
        "-m",
        "-n",
        "-s",
        "-L",
        "-O",
        "-R",
        "--data",
        "--metadata",
        "--nodesize",
        "--sectorsize",
        "--label",
        "--csum",
        "--checksum",
        "--features",
        "--runtime-features",
    ],
    refused: &[],
};

fn grammar(fs: FsType) -> &'static Grammar {
    match fs {
        FsType::Ext3 | FsType::Ext4 => &EXT,
        FsType::Xfs => &XFS,
        FsType::Btrfs => &BTRFS,
    }
}

/// Checks the arguments of a volume.
///
/// # Errors
/// Names the first that is not accepted, and all that are.
pub fn check(fs: FsType, words: &[String]) -> Result<(), BadOption> {
    let grammar = grammar(fs);
    let bad = |word: &str, why: String| BadOption {
        word: word.to_owned(),
        fs: fs.as_str(),
        why,
        allowed: [grammar.alone, grammar.valued].concat().join(" "),
    };
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        if grammar.alone.contains(&word) {
            continue;
        }
        let (option, value) = split(grammar, word).ok_or_else(|| bad(word, String::new()))?;
        let value = match value {
            Some(value) => value,
            None => words
                .next()
                .ok_or_else(|| bad(word, ": its value is missing".to_owned()))?,
        };
        // A value that begins with a dash would be an option to some parsers.
        if value.is_empty() || value.starts_with('-') {
            return Err(bad(word, format!(" with the value `{value}`")));
        }
        for key in value.split(',').filter_map(|part| part.split('=').next()) {
            if grammar.refused.contains(&(option, key)) {
                return Err(bad(&format!("{option} {key}"), String::new()));
            }
        }
    }
    Ok(())
}

/// The option of a word that takes a value, and the value if it is in the same word.
fn split<'a>(grammar: &Grammar, word: &'a str) -> Option<(&'static str, Option<&'a str>)> {
    grammar.valued.iter().find_map(|option| {
        let rest = word.strip_prefix(option)?;
        match (rest.is_empty(), option.starts_with("--")) {
            (true, _) => Some((*option, None)),
            (false, false) => Some((*option, Some(rest))),
            (false, true) => rest.strip_prefix('=').map(|value| (*option, Some(value))),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn try_words(fs: FsType, text: &str) -> Result<(), String> {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        check(fs, &words).map_err(|e| e.to_string())
    }

    #[test]
    fn what_people_use_passes() {
        for (fs, text) in [
            (FsType::Ext4, ""),
            (FsType::Ext4, "-m 1 -i 65536 -O ^has_journal -L data"),
            (FsType::Ext4, "-m0 -b4096 -E stride=16,stripe_width=64 -J size=128"),
            (FsType::Xfs, "-i size=512 -m reflink=1,crc=1 -d agcount=16 -s size=4096"),
            (FsType::Btrfs, "--csum xxhash -m dup --nodesize=16384 -O no-holes"),
        ] {
            assert_eq!(try_words(fs, text), Ok(()), "{fs:?} {text}");
        }
    }

    #[test]
    fn i1_no_argument_forces_or_renames() {
        for (fs, text) in [
            (FsType::Ext4, "-F"),
            (FsType::Ext4, "-qF"),
            (FsType::Ext4, "-FF"),
            (FsType::Ext4, "-U random"),
            (FsType::Ext4, "-S"),
            (FsType::Ext4, "-n"),
            (FsType::Ext4, "-z undo"),
            (FsType::Ext4, "-d folder"),
            (FsType::Ext4, "-c"),
            (FsType::Ext4, "-E offset=1048576"),
            (FsType::Ext4, "-Estride=1,offset=4096"),
            (FsType::Ext4, "-J device=UUID"),
            (FsType::Ext4, "-m -F"),
            (FsType::Ext4, "-m"),
            (FsType::Ext4, "10G"),
            (FsType::Xfs, "-f"),
            (FsType::Xfs, "-qf"),
            (FsType::Xfs, "-m crc=1,uuid=x"),
            (FsType::Xfs, "-l logdev=x"),
            (FsType::Xfs, "-d file,name=x"),
            (FsType::Xfs, "-N"),
            (FsType::Xfs, "-r rtdev=x"),
            (FsType::Btrfs, "-f"),
            (FsType::Btrfs, "--force"),
            (FsType::Btrfs, "--forc"),
            (FsType::Btrfs, "-U x"),
            (FsType::Btrfs, "--rootdir=x"),
            (FsType::Btrfs, "-b 1G"),
        ] {
            let text_of = try_words(fs, text).unwrap_err();
            assert!(text_of.contains("allowed are"), "{fs:?} {text}: {text_of}");
        }
    }

    proptest! {
        /// Whatever passes, each word of it that begins with a dash begins with an option of the table.
        #[test]
        fn i1_no_option_hides(words in proptest::collection::vec("-?-?[a-zA-Z=,.0-9]{0,6}", 0..6)) {
            for fs in [FsType::Ext4, FsType::Xfs, FsType::Btrfs] {
                if check(fs, &words).is_ok() {
                    let grammar = grammar(fs);
                    for word in words.iter().filter(|w| w.starts_with('-')) {
                        prop_assert!(
                            grammar.alone.contains(&word.as_str()) || grammar.valued.iter().any(|o| word.starts_with(o)),
                            "{word}"
                        );
                    }
                }
            }
        }
    }
}
