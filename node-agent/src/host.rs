//! Which machine this is, and which run of it: read once at start, from the same files as kubelet's.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context;

use crate::attachment::model::Host;

/// Reads boot ID, system UUID and machine ID below `root`.
///
/// # Errors
/// When boot ID or machine ID cannot be read: without them no reboot can ever be proven, and no intent is worth anything.
pub fn read(root: &Path, node: &str) -> anyhow::Result<Host> {
    let needed = |path: &str| -> anyhow::Result<String> {
        let path = root.join(path);
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let text = text.trim().to_owned();
        anyhow::ensure!(!text.is_empty(), "{} is empty", path.display());
        Ok(text)
    };
    let uuid = root.join("sys/class/dmi/id/product_uuid");
    let system_uuid = match std::fs::read_to_string(&uuid) {
        Ok(text) => text.trim().to_owned(),
        // Machines without such firmware have none.
        Err(e) if e.kind() == ErrorKind::NotFound => String::new(),
        Err(e) => return Err(e).with_context(|| format!("read {}", uuid.display())),
    };
    Ok(Host {
        node: node.to_owned(),
        boot_id: needed("proc/sys/kernel/random/boot_id")?,
        system_uuid,
        machine_id: needed("etc/machine-id")?,
        node_uid: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("proc/sys/kernel/random/boot_id", "boot\n");
        let message = format!("{:#}", read(root.path(), "n").unwrap_err());
        assert!(message.contains("etc/machine-id"), "{message}");
        put("etc/machine-id", "\n");
        assert!(read(root.path(), "n").is_err(), "an empty one is none");
        put("etc/machine-id", "machine\n");
        let host = read(root.path(), "n").unwrap();
        assert_eq!((host.boot_id.as_str(), host.machine_id.as_str()), ("boot", "machine"));
        assert_eq!(host.system_uuid, "");
        assert_eq!(host.intent(1), None, "no intent before the Node was read");
        put("sys/class/dmi/id/product_uuid", "uuid\n");
        assert_eq!(read(root.path(), "n").unwrap().system_uuid, "uuid");
    }
}
