//! What the fuzz targets in `operator/fuzz` call: the three doors through which foreign bytes come in. Not an interface.

use super::encode::{ExecNonce, Script};
use super::look::{self, Identity};
use super::reply::Answer;
use super::row::{disk_rows, file_rows};
use super::tag::Ownership;
use super::types::DiskPath;

/// Encodes a value; a line that comes out holds it between quotes, once, and nothing else.
pub fn encode(value: &str) {
    for line in [
        Script::default().text(value).finish(),
        Script::default().starts_with(value).finish(),
    ]
    .into_iter()
    .flatten()
    {
        let inner = line.trim_start_matches("\"^").trim_matches('"');
        assert_eq!(inner, value.trim_start_matches('^'));
        assert!(!line[1..line.len() - 1].contains(['"', '\\', '$', '[', '\n', '\r']));
    }
}

/// Reads a reply: no panic, and no verdict without the nonce.
pub fn reply(bytes: &[u8]) {
    let nonce = ExecNonce::random();
    let answer = Answer::read(bytes, &nonce);
    let path: Result<DiskPath, _> = "/raid10/csi/x.img".parse();
    if let Ok(path) = path {
        assert!(
            look::read(
                &Identity {
                    slot: None,
                    path,
                    nqn: None
                },
                &answer
            )
            .is_err()
        );
    }
    let text = String::from_utf8_lossy(bytes);
    let _ = (disk_rows(&text), file_rows(&text));
}

/// Reads a comment; what reads as a tag prints as the same tag.
pub fn comment(text: &str) {
    if let Ownership::Tagged(tag) = Ownership::parse(text) {
        assert_eq!(Ownership::parse(&tag.to_string()), Ownership::Tagged(tag));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_fuzz_targets_hold_on_random_input(text in any::<String>(), bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            super::encode(&text);
            super::comment(&text);
            super::reply(&bytes);
        }
    }
}
