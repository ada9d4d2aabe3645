//! Knobs: everything about the appliance that is unknown, in conflict, or differs between versions.
//!
//! A default is what was measured on a real device where there is a measurement, else the likeliest guess.

use crate::schema::Version;
use serde::{Deserialize, Serialize};

/// The exit status of an exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitStatus {
    /// 0 whatever happened; measured.
    Zero,
    /// 1 when the command failed.
    OneOnError,
    /// None at all, only the channel is closed.
    Absent,
}

/// What happens to a value that is longer than its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TooLong {
    /// The command is refused.
    Reject,
    /// The value is cut in silence.
    Truncate,
}

/// Whether something is taken or refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// It is taken.
    Accept,
    /// It is refused.
    Reject,
}

/// `add type=file` on a path where a file already exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExistingFile {
    /// The file is used with the size it has.
    Keep,
    /// The file is used and made as large as asked.
    Grow,
    /// The command is refused.
    Fail,
}

/// `add type=file` in a directory that does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MissingDirectory {
    /// The command is refused.
    Fail,
    /// The directory is made.
    Create,
}

/// How an image takes space in the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Allocation {
    /// All of it at once; likely on XFS.
    Prealloc,
    /// Nothing until it is written.
    Sparse,
}

/// When a connected initiator can see a grown image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resize {
    /// At once.
    Live,
    /// After the export was switched off and on.
    AfterToggle,
}

/// The NQN of an export for which none was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DefaultNqn {
    /// `nqn.2000-02.com.mikrotik:<slot>`
    Mikrotik,
    /// The slot name, as before 7.21.
    Slot,
}

/// What sessions do when their export is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExportOff {
    /// They are dropped.
    #[serde(alias = "drops")]
    DropsSessions,
    /// They go on, and can write until they disconnect.
    #[serde(alias = "leaves")]
    LeavesSessions,
}

/// What initiators do whose session was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reconnect {
    /// They try until the subsystem is there again, whatever the target says meanwhile.
    Retries,
    /// They try while nothing listens; the first refusal by an open port ends it.
    UntilRefused,
    /// They give up at once.
    Never,
}

/// The UUID of the namespace behind an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NamespaceUuid {
    /// The same one after every toggle of the export.
    Stable,
    /// A new one each time.
    Random,
    /// None.
    Absent,
}

/// How numbers appear in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JsonNumbers {
    /// `2048`
    Int,
    /// `2048.000000`
    Float,
    /// `"2048"`
    String,
}

/// How booleans appear in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JsonBools {
    /// `true`
    Native,
    /// `"true"`
    TrueFalse,
    /// `"yes"`
    YesNo,
}

/// Whether the channels of one connection run at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Channels {
    /// One exec after the other; measured.
    Serialised,
    /// All at once.
    Parallel,
}

/// What an exec on a channel with a terminal does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PtyExec {
    /// It never answers; measured.
    Hang,
    /// The request is refused.
    Deny,
    /// It runs as without terminal.
    Ignore,
}

/// All knobs. A change takes effect with the next command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Knobs {
    pub version: Version,
    pub exit_status: ExitStatus,
    /// The SSH port refuses connections, and running ones are cut.
    pub down: bool,
    /// Milliseconds before every command.
    pub latency_ms: u64,
    /// Milliseconds more before a line with a `/disk add` in it.
    pub add_latency_ms: u64,
    pub channels: Channels,
    /// Milliseconds before a channel opens.
    pub channel_delay_ms: u64,
    pub max_sessions: u32,
    pub pty_exec: PtyExec,
    /// Blanks behind every line of a printed table.
    pub pad_lines: bool,
    /// An empty line behind everything that `print` prints.
    pub blank_last_line: bool,
    /// Columns of the terminal that `print` thinks it has; 0 never wraps.
    pub width: usize,
    /// Wrap inside tokens, as a narrow console does.
    pub break_inside_tokens: bool,
    /// `print` without match prints `Flags:` instead of nothing.
    pub legend_without_match: bool,
    /// `bad parameter x` instead of `expected end of command`.
    pub bad_parameter_text: bool,
    /// Runtime errors end in ` (/disk/add; line 1)`.
    pub error_location: bool,
    /// `bad command name` stops the line only when the command is reached.
    pub late_bad_command: bool,
    pub slot_limit: usize,
    pub slot_too_long: TooLong,
    pub slot_too_long_text: String,
    /// 0 is no limit.
    pub comment_limit: usize,
    pub comment_too_long: TooLong,
    pub duplicate_slot_text: String,
    pub duplicate_nqn: Policy,
    pub duplicate_nqn_text: String,
    /// A second file disk on the same file.
    pub duplicate_path: Policy,
    pub no_space_text: String,
    pub missing_directory: MissingDirectory,
    pub missing_directory_text: String,
    pub existing_file: ExistingFile,
    pub existing_file_text: String,
    pub allocation: Allocation,
    /// Every `add` and every growth is refused for want of space, whatever `free` says.
    pub pool_full: bool,
    pub default_nqn: DefaultNqn,
    /// `remove` of a disk to which somebody is connected.
    pub remove_while_connected: Policy,
    pub resize: Resize,
    pub export_off: ExportOff,
    pub reconnect: Reconnect,
    pub namespace_uuid: NamespaceUuid,
    /// `file-size` may be set below what it is.
    pub shrink: Policy,
    /// `file-path` prints with a leading slash.
    pub path_slash: bool,
    /// as-value holds flags that are not set too.
    pub false_flags: bool,
    pub json_numbers: JsonNumbers,
    pub json_bools: JsonBools,
    /// Pools are mounted. While they are not, `/file` shows nothing of them and nothing can be made there; rows of `/disk` stay.
    pub pool_mounted: bool,
    /// Milliseconds during which the SSH port is closed in a reboot.
    pub reboot_ms: u64,
    /// Milliseconds from a reboot until exports are back.
    pub exports_after_ms: u64,
    /// After a reboot the NVMe/TCP port opens before the exports are back.
    pub port_before_exports: bool,
    /// Milliseconds during which a removed btrfs subvolume stays with flag D.
    pub btrfs_delete_ms: u64,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            version: Version(7, 24, 4),
            exit_status: ExitStatus::Zero,
            down: false,
            latency_ms: 0,
            add_latency_ms: 0,
            channels: Channels::Serialised,
            channel_delay_ms: 0,
            max_sessions: 20,
            pty_exec: PtyExec::Hang,
            pad_lines: false,
            blank_last_line: true,
            width: 0,
            break_inside_tokens: false,
            legend_without_match: false,
            bad_parameter_text: false,
            error_location: false,
            late_bad_command: false,
            slot_limit: 32,
            slot_too_long: TooLong::Reject,
            slot_too_long_text: "invalid value for argument slot".into(),
            comment_limit: 0,
            comment_too_long: TooLong::Reject,
            duplicate_slot_text: "failure: already have disk with such slot".into(),
            duplicate_nqn: Policy::Reject,
            duplicate_nqn_text: "failure: already have nvme-tcp export with such nqn".into(),
            duplicate_path: Policy::Accept,
            no_space_text: "failure: not enough space".into(),
            missing_directory: MissingDirectory::Fail,
            missing_directory_text: "failure: could not create file: No such file or directory".into(),
            existing_file: ExistingFile::Keep,
            existing_file_text: "failure: file already exists".into(),
            allocation: Allocation::Prealloc,
            pool_full: false,
            default_nqn: DefaultNqn::Mikrotik,
            remove_while_connected: Policy::Accept,
            resize: Resize::Live,
            export_off: ExportOff::DropsSessions,
            reconnect: Reconnect::Retries,
            namespace_uuid: NamespaceUuid::Stable,
            shrink: Policy::Accept,
            path_slash: true,
            false_flags: false,
            json_numbers: JsonNumbers::Int,
            json_bools: JsonBools::Native,
            pool_mounted: true,
            reboot_ms: 0,
            exports_after_ms: 0,
            port_before_exports: false,
            btrfs_delete_ms: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knobs_read_partly_and_refuse_unknown_names() {
        let k: Knobs = serde_json::from_str(r#"{"slot-limit": 40, "version": "7.21"}"#).unwrap();
        assert_eq!((k.slot_limit, k.version), (40, Version(7, 21, 0)));
        assert!(serde_json::from_str::<Knobs>(r#"{"slot-limits": 40}"#).is_err());
        assert!(serde_json::from_str::<Knobs>(r#"{"version": "7.16"}"#).is_err());
        let text = serde_json::to_string(&Knobs::default()).unwrap();
        assert_eq!(serde_json::from_str::<Knobs>(&text).unwrap(), Knobs::default());
    }
}
