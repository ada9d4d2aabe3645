//! Where a CSI server listens: always a unix socket.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Path of a unix socket, absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(PathBuf);

impl Endpoint {
    /// The path of the socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let path = text.strip_prefix("unix://").unwrap_or(text);
        if path.starts_with('/') && !path.ends_with('/') {
            return Ok(Self(PathBuf::from(path)));
        }
        Err(format!(
            "`{text}` is not an absolute unix socket path, give for example unix:///csi/csi.sock"
        ))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_unix_sockets() {
        for good in ["unix:///csi/csi.sock", "/csi/csi.sock"] {
            assert_eq!(good.parse::<Endpoint>().unwrap().to_string(), "unix:///csi/csi.sock");
        }
        for bad in ["", "/", "/csi/", "tcp://127.0.0.1:1", "unix://csi.sock", "csi.sock"] {
            assert!(
                bad.parse::<Endpoint>().unwrap_err().contains("unix:///csi/csi.sock"),
                "{bad}"
            );
        }
    }
}
