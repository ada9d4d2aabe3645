//! Mount options of a volume: what people use passes, by name; everything else is refused with the list of what does (B75).
//!
//! Nothing is forced: programs on a volume may run. Refused is what would lead to other data (`subvol`, `device`), switch off
//! what keeps the data whole (`noload`, `norecovery`, `nobarrier`), or take the node down (`errors=panic`).

use rds_crds::volume::FsType;
use rustix::mount::MountFlags;

/// Options, sorted by who takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Flags of mount(2).
    pub flags: MountFlags,
    /// Options of the filesystem, and the SELinux context.
    pub data: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            flags: MountFlags::empty(),
            data: Vec::new(),
        }
    }
}

/// An option that is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("mount option `{word}` is not accepted for {fs}{why}; allowed are {allowed}")]
pub struct BadOption {
    word: String,
    fs: &'static str,
    why: &'static str,
    allowed: String,
}

/// What a word does to the flags.
#[derive(Clone, Copy)]
enum Flag {
    Set(MountFlags),
    Clear(MountFlags),
}

/// Words of every filesystem.
const FLAGS: &[(&str, Flag)] = &[
    ("ro", Flag::Set(MountFlags::RDONLY)),
    ("rw", Flag::Clear(MountFlags::RDONLY)),
    ("noatime", Flag::Set(MountFlags::NOATIME)),
    ("atime", Flag::Clear(MountFlags::NOATIME)),
    ("nodiratime", Flag::Set(MountFlags::NODIRATIME)),
    ("diratime", Flag::Clear(MountFlags::NODIRATIME)),
    ("relatime", Flag::Set(MountFlags::RELATIME)),
    ("norelatime", Flag::Clear(MountFlags::RELATIME)),
    ("strictatime", Flag::Set(MountFlags::STRICTATIME)),
    ("nostrictatime", Flag::Clear(MountFlags::STRICTATIME)),
    ("lazytime", Flag::Set(MountFlags::LAZYTIME)),
    ("nolazytime", Flag::Clear(MountFlags::LAZYTIME)),
    ("nosuid", Flag::Set(MountFlags::NOSUID)),
    ("suid", Flag::Clear(MountFlags::NOSUID)),
    ("nodev", Flag::Set(MountFlags::NODEV)),
    ("dev", Flag::Clear(MountFlags::NODEV)),
    ("noexec", Flag::Set(MountFlags::NOEXEC)),
    ("exec", Flag::Clear(MountFlags::NOEXEC)),
    ("nosymfollow", Flag::Set(MountFlags::NOSYMFOLLOW)),
    ("symfollow", Flag::Clear(MountFlags::NOSYMFOLLOW)),
    ("sync", Flag::Set(MountFlags::SYNCHRONOUS)),
    ("async", Flag::Clear(MountFlags::SYNCHRONOUS)),
    ("dirsync", Flag::Set(MountFlags::DIRSYNC)),
];

/// Words for the programs around mount(2), which mean nothing here.
const NOTHING: &[&str] = &["defaults", "_netdev", "nofail"];

/// Of a single mount, so that a bind mount can have them too.
const OF_A_MOUNT: [MountFlags; 8] = [
    MountFlags::NOATIME,
    MountFlags::NODIRATIME,
    MountFlags::RELATIME,
    MountFlags::STRICTATIME,
    MountFlags::NOSUID,
    MountFlags::NODEV,
    MountFlags::NOEXEC,
    MountFlags::NOSYMFOLLOW,
];

/// SELinux labels: given to the kernel as they are.
const LABELS: &[&str] = &["context", "fscontext", "defcontext", "rootcontext"];

/// `key` alone, or `key=` with a value.
const EXT: &[&str] = &[
    "acl",
    "noacl",
    "user_xattr",
    "nouser_xattr",
    "auto_da_alloc",
    "noauto_da_alloc",
    "barrier=1",
    "block_validity",
    "noblock_validity",
    "bsddf",
    "commit=",
    "data=journal",
    "data=ordered",
    "data=writeback",
    "data_err=abort",
    "data_err=ignore",
    "delalloc",
    "nodelalloc",
    "dioread_lock",
    "dioread_nolock",
    "discard",
    "nodiscard",
    "errors=continue",
    "errors=remount-ro",
    "grpid",
    "nogrpid",
    "bsdgroups",
    "sysvgroups",
    "i_version",
    "init_itable",
    "init_itable=",
    "noinit_itable",
    "inode_readahead_blks=",
    "journal_async_commit",
    "journal_checksum",
    "journal_ioprio=",
    "max_batch_time=",
    "min_batch_time=",
    "mblk_io_submit",
    "minixdf",
    "prefetch_block_bitmaps",
    "no_prefetch_block_bitmaps",
    "quota",
    "noquota",
    "usrquota",
    "grpquota",
    "prjquota",
    "stripe=",
];

const XFS: &[&str] = &[
    "allocsize=",
    "attr2",
    "discard",
    "nodiscard",
    "filestreams",
    "grpid",
    "nogrpid",
    "bsdgroups",
    "sysvgroups",
    "ikeep",
    "noikeep",
    "inode32",
    "inode64",
    "largeio",
    "nolargeio",
    "logbsize=",
    "logbufs=",
    "noalign",
    "nouuid",
    "noquota",
    "quota",
    "uquota",
    "usrquota",
    "gquota",
    "grpquota",
    "pquota",
    "prjquota",
    "uqnoenforce",
    "gqnoenforce",
    "pqnoenforce",
    "sunit=",
    "swalloc",
    "swidth=",
    "wsync",
];

const BTRFS: &[&str] = &[
    "acl",
    "noacl",
    "autodefrag",
    "noautodefrag",
    "barrier",
    "commit=",
    "compress",
    "compress=",
    "compress-force",
    "compress-force=",
    "datacow",
    "nodatacow",
    "datasum",
    "nodatasum",
    "discard",
    "discard=async",
    "discard=sync",
    "nodiscard",
    "enospc_debug",
    "fatal_errors=bug",
    "flushoncommit",
    "noflushoncommit",
    "max_inline=",
    "metadata_ratio=",
    "skip_balance",
    "space_cache",
    "space_cache=v2",
    "ssd",
    "nossd",
    "ssd_spread",
    "nossd_spread",
    "thread_pool=",
    "treelog",
    "notreelog",
];

fn known(fs: FsType) -> &'static [&'static str] {
    match fs {
        FsType::Ext3 | FsType::Ext4 => EXT,
        FsType::Xfs => XFS,
        FsType::Btrfs => BTRFS,
    }
}

impl Options {
    /// Sorts the options of a volume. Words may hold several options, with commas between; later ones win.
    ///
    /// # Errors
    /// Names the first that is not accepted, and all that are.
    pub fn parse(fs: FsType, words: &[String]) -> Result<Self, BadOption> {
        let mut options = Self::default();
        for word in words {
            // A label may hold commas: s0:c1,c2.
            if let Some((key, label)) = word.split_once('=').filter(|(key, _)| LABELS.contains(key)) {
                options.data.push(label_option(fs, word, key, label)?);
                continue;
            }
            for part in word.split(',').map(str::trim).filter(|part| !part.is_empty()) {
                options.take(fs, part)?;
            }
        }
        Ok(options)
    }

    /// The flags of a single mount, for a bind mount.
    #[must_use]
    pub fn of_a_mount(&self) -> MountFlags {
        OF_A_MOUNT
            .into_iter()
            .filter(|flag| self.flags.contains(*flag))
            .fold(MountFlags::empty(), |all, flag| all | flag)
    }

    fn take(&mut self, fs: FsType, word: &str) -> Result<(), BadOption> {
        if NOTHING.contains(&word) {
            return Ok(());
        }
        if let Some((_, flag)) = FLAGS.iter().find(|(name, _)| *name == word) {
            match flag {
                Flag::Set(flag) => self.flags |= *flag,
                Flag::Clear(flag) => self.flags &= !*flag,
            }
            return Ok(());
        }
        let value_is_plain =
            |value: &str| !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || "_-:.".contains(c));
        let good = known(fs).iter().any(|option| match option.strip_suffix('=') {
            Some(key) => word
                .strip_prefix(key)
                .and_then(|rest| rest.strip_prefix('='))
                .is_some_and(value_is_plain),
            None => *option == word,
        });
        if !good {
            return Err(refused(fs, word));
        }
        self.data.push(word.to_owned());
        Ok(())
    }
}

/// `context="label"`: quoted, or the kernel would split it at its commas.
fn label_option(fs: FsType, word: &str, key: &str, label: &str) -> Result<String, BadOption> {
    let label = label
        .strip_prefix('"')
        .and_then(|l| l.strip_suffix('"'))
        .unwrap_or(label);
    let good = |c: char| c.is_ascii_alphanumeric() || "_:.,-".contains(c);
    if label.is_empty() || !label.chars().all(good) {
        return Err(refused(fs, word));
    }
    Ok(format!("{key}=\"{label}\""))
}

fn refused(fs: FsType, word: &str) -> BadOption {
    let key = word.split('=').next().unwrap_or(word);
    let why = match key {
        "noload" | "norecovery" | "rescue" | "nologreplay" | "usebackuproot" | "degraded" => {
            ": it shows a filesystem as it never was"
        }
        "nobarrier" | "barrier" => ": without barriers a power cut destroys the filesystem",
        "subvol" | "subvolid" | "device" | "bind" | "rbind" | "loop" | "offset" | "sb" | "journal_dev"
        | "journal_path" | "logdev" | "rtdev" => ": a volume is mounted whole and from its own disk",
        "errors" | "fatal_errors" => ": it would take the node down",
        "remount" | "move" | "shared" | "private" | "slave" => ": it is not an option of a volume",
        _ => "",
    };
    let mut allowed: Vec<&str> = FLAGS.iter().map(|(name, _)| *name).collect();
    allowed.extend(known(fs));
    allowed.extend(["context=", "_netdev"]);
    BadOption {
        word: word.to_owned(),
        fs: fs.as_str(),
        why,
        allowed: allowed.join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(fs: FsType, words: &[&str]) -> Result<Options, String> {
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        Options::parse(fs, &words).map_err(|e| e.to_string())
    }

    #[test]
    fn b75_what_people_use_passes() {
        let ext = parse(
            FsType::Ext4,
            &["noatime,discard", "data=ordered", "commit=30", "_netdev"],
        )
        .unwrap();
        assert_eq!(ext.flags, MountFlags::NOATIME);
        assert_eq!(ext.data, ["discard", "data=ordered", "commit=30"]);
        let xfs = parse(FsType::Xfs, &["nouuid", "inode64", "logbsize=256k", "lazytime"]).unwrap();
        assert_eq!(xfs.data, ["nouuid", "inode64", "logbsize=256k"]);
        let btrfs = parse(FsType::Btrfs, &["compress=zstd:3", "discard=async", "nodatacow"]).unwrap();
        assert_eq!(btrfs.data.len(), 3);
        assert_eq!(
            parse(FsType::Ext4, &[]).unwrap().flags,
            MountFlags::empty(),
            "nothing is forced, not even noexec"
        );
    }

    #[test]
    fn later_words_win() {
        let options = parse(FsType::Ext4, &["ro", "noexec", "rw", "exec", "nosuid"]).unwrap();
        assert_eq!(options.flags, MountFlags::NOSUID);
        let options = parse(FsType::Ext4, &["noatime", "sync", "noexec"]).unwrap();
        assert_eq!(options.of_a_mount(), MountFlags::NOATIME | MountFlags::NOEXEC);
    }

    #[test]
    fn what_is_dangerous_or_unknown_is_refused_with_the_list() {
        for (fs, word, says) in [
            (FsType::Ext4, "noload", "never was"),
            (FsType::Xfs, "norecovery", "never was"),
            (FsType::Btrfs, "rescue=all", "never was"),
            (FsType::Ext4, "nobarrier", "power cut"),
            (FsType::Ext4, "barrier=0", "power cut"),
            (FsType::Btrfs, "subvol=/x", "whole"),
            (FsType::Btrfs, "device=/dev/sda", "whole"),
            (FsType::Xfs, "logdev=/dev/sda", "whole"),
            (FsType::Ext4, "errors=panic", "node down"),
            (FsType::Ext4, "bind", "whole"),
            (FsType::Ext4, "remount", "not an option"),
            (FsType::Ext4, "inode64", "allowed are"),
            (FsType::Xfs, "compress=zstd", "allowed are"),
            (FsType::Ext4, "commit=", "allowed are"),
            (FsType::Ext4, "commit=1\"", "allowed are"),
            (FsType::Ext4, "discard=async", "allowed are"),
            (FsType::Ext4, "context=", "allowed are"),
            (FsType::Ext4, "context=a\"b", "allowed are"),
            (FsType::Ext4, "NOATIME", "noatime"),
        ] {
            let text = parse(fs, &[word]).unwrap_err();
            assert!(text.contains(says) && text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn selinux_labels_keep_their_commas() {
        for word in [
            "context=system_u:object_r:container_file_t:s0:c1,c2",
            "context=\"system_u:object_r:container_file_t:s0:c1,c2\"",
        ] {
            let options = parse(FsType::Xfs, &[word, "noatime"]).unwrap();
            assert_eq!(
                options.data,
                ["context=\"system_u:object_r:container_file_t:s0:c1,c2\""]
            );
        }
    }

    proptest! {
        /// No word smuggles a second option into what the kernel gets.
        #[test]
        fn what_passes_is_known(words in proptest::collection::vec("[a-z_=,:\" 0-9]{0,16}", 0..5)) {
            for fs in [FsType::Ext4, FsType::Xfs, FsType::Btrfs] {
                if let Ok(options) = Options::parse(fs, &words) {
                    for option in options.data {
                        let key = option.split_once('=').map_or(option.clone(), |(key, _)| format!("{key}="));
                        let label = LABELS.iter().any(|l| format!("{l}=") == key) && option.matches('"').count() == 2;
                        prop_assert!(label || !option.contains(','), "{option}");
                        prop_assert!(label || known(fs).iter().any(|k| *k == option || *k == key), "{option}");
                    }
                }
            }
        }
    }
}
