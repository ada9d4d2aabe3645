//! The unix socket: a stale one is replaced, and nobody can connect before its mode is right.

use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::Path;

use tokio::net::UnixListener;

/// Binds the socket with that mode. It is made in a private folder, given its mode, and moved into place, so that no moment exists in
/// which others could connect; the move also replaces the socket of a dead predecessor.
///
/// # Errors
/// When something that is no socket is there (it is left alone), another process serves it, or the folder cannot be written.
pub fn bind(path: &Path, mode: u32) -> Result<UnixListener> {
    let explain = |e: Error, what: &str| Error::new(e.kind(), format!("cannot {what} {}: {e}", path.display()));
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            let taken = Error::new(
                ErrorKind::AlreadyExists,
                "there is something else, which is no socket; remove it",
            );
            return Err(explain(taken, "bind"));
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            let taken = Error::new(ErrorKind::AddrInUse, "another process serves it; stop that one first");
            return Err(explain(taken, "bind"));
        }
        Ok(_) | Err(_) => {}
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // A leading dot: kubelet's watcher of plugin sockets passes it over. Always the same: what a killed process left is replaced.
    let private = parent.join(format!(".{name}.new"));
    let made = private.join("s");
    for left in [std::fs::remove_file(&made), std::fs::remove_dir(&private)] {
        match left {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(explain(e, "clean up beside")),
            Ok(()) | Err(_) => {}
        }
    }
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&private)
        .map_err(|e| explain(e, "make the socket beside"))?;
    let listener = UnixListener::bind(&made).map_err(|e| explain(e, "bind"))?;
    std::fs::set_permissions(&made, std::fs::Permissions::from_mode(mode)).map_err(|e| explain(e, "restrict"))?;
    std::fs::rename(&made, path).map_err(|e| explain(e, "move the socket to"))?;
    std::fs::remove_dir(&private).map_err(|e| explain(e, "clean up beside"))?;
    Ok(listener)
}

/// [`bind`], and the folder is made if it is not there.
///
/// # Errors
/// See [`bind`].
pub fn bind_anew(path: &Path, mode: u32) -> Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|e| Error::new(e.kind(), format!("cannot make {}: {e}", folder.display())))?;
    }
    bind(path, mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODE: u32 = 0o660;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_the_mode_is_restricted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("csi.sock");
        drop(bind(&path, MODE).unwrap());
        std::fs::create_dir(directory.path().join(".csi.sock.new")).unwrap();
        let listener = bind(&path, MODE).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        let (client, served) = tokio::join!(tokio::net::UnixStream::connect(&path), listener.accept());
        assert!(client.is_ok() && served.is_ok());
        assert_eq!(
            std::fs::read_dir(directory.path()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
        assert!(
            bind(&path, MODE)
                .unwrap_err()
                .to_string()
                .contains("another process serves it")
        );
    }

    #[tokio::test]
    async fn r4_what_is_no_socket_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("csi.sock");
        std::fs::write(&path, "data").unwrap();
        assert!(bind(&path, MODE).unwrap_err().to_string().contains("no socket"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
        assert!(bind(Path::new("/nowhere/csi.sock"), MODE).is_err());
    }
}
