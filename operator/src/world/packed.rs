//! Objects at rest, packed. As Rust structs ten thousand RdsVolumes take some 47 MiB, mostly empty options and small strings; most
//! of their text is the same in all of them, so that a few hundred bytes tell one when its neighbours are known.

use std::sync::Arc;

use lz4_flex::block::{compress_prepend_size_with_dict, decompress_size_prepended_with_dict};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A dictionary does not grow any more at this size. The format looks back 64 KiB at most.
const DICTIONARY: usize = 24 << 10;

/// An object, packed against a dictionary.
pub(super) struct Packed {
    dictionary: Arc<[u8]>,
    bytes: Box<[u8]>,
}

impl Packed {
    /// The object. An error here is a bug: it was packed by this process.
    pub(super) fn unpack<K: DeserializeOwned>(&self) -> Result<K, String> {
        let json = decompress_size_prepended_with_dict(&self.bytes, &self.dictionary).map_err(|e| e.to_string())?;
        serde_json::from_slice(&json).map_err(|e| e.to_string())
    }
}

/// Packs the objects of one kind.
pub(super) struct Packer {
    dictionary: Arc<[u8]>,
}

impl Default for Packer {
    fn default() -> Self {
        Self {
            dictionary: Arc::from([]),
        }
    }
}

impl Packer {
    /// Packs an object. One that the dictionary does not help with joins the dictionary for those that come later.
    pub(super) fn pack<K: Serialize>(&mut self, object: &K) -> Result<Packed, String> {
        let json = serde_json::to_vec(object).map_err(|e| e.to_string())?;
        let mut bytes = compress_prepend_size_with_dict(&json, &self.dictionary);
        if bytes.len() > json.len() / 3 && self.dictionary.len() + json.len() <= DICTIONARY {
            self.dictionary = self.dictionary.iter().chain(&json).copied().collect();
            bytes = compress_prepend_size_with_dict(&json, &self.dictionary);
        }
        Ok(Packed {
            dictionary: self.dictionary.clone(),
            bytes: bytes.into_boxed_slice(),
        })
    }
}

#[cfg(test)]
mod tests {
    use rds_crds::RdsVolume;
    use serde_json::{Value, json};

    use super::*;

    fn volume(n: usize) -> RdsVolume {
        let name = format!("pvc-{:08x}-7e57-4b53-95b0-{:012x}", n * 7919, n * 104_729);
        let condition = |kind: &str, message: &str| {
            json!({"type": kind, "status": "True", "reason": "Available", "message": message, "observedGeneration": 1,
                   "lastTransitionTime": "2026-11-21T11:51:55Z"})
        };
        serde_json::from_value(json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume",
            "metadata": {"name": name, "uid": format!("{:08x}-7094-4d25-bbf6-{:012x}", n * 31, n * 17), "generation": 1,
                "resourceVersion": (3000 + n).to_string(), "creationTimestamp": "2026-11-21T11:52:07Z",
                "labels": {"rds.csi.srvlab.io/made-by": "csi"}, "finalizers": ["rds.csi.srvlab.io/protect"]},
            "spec": {"server": "idle", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"], "fsType": "ext4",
                "slot": format!("pvc-{n:028x}"), "path": format!("/storage-pool/metal-csi/pvc-{n:028x}.img"),
                "nqn": format!("nqn.2000-02.com.mikrotik:{name}"), "volumeMode": "Filesystem", "deletionPolicy": "Delete"},
            "status": {"address": "127.0.0.1", "capacity": "1Gi", "port": 4420, "observedGeneration": 1,
                "conditions": [condition("Exported", "exported under status.nqn"), condition("Ready", "the disk is exported"),
                    condition("Provisioned", "the disk exists and carries this volume's tag")],
                "creation": {"nonce": format!("{n:08x}"), "outcome": "Created", "startedAt": "2026-11-21T11:51:55Z"},
                "disk": {"comment": format!("rds1:c844fc95e60cb:v{n:032x}:g00000001:k{n:08x}:default/claim-{n}"),
                    "exported": true, "mountFilesystem": false},
                "explain": "1Gi on idle, exported; nothing to do", "exportGeneration": 1, "format": {"state": "Blank"},
                "slot": format!("pvc-{n:028x}"), "path": format!("/storage-pool/metal-csi/pvc-{n:028x}.img"),
                "nqn": format!("nqn.2000-02.com.mikrotik:{name}")},
        }))
        .unwrap()
    }

    #[test]
    fn what_was_packed_comes_back_whole_and_a_thousand_volumes_fit_into_half_a_mebibyte() {
        let mut packer = Packer::default();
        let volumes: Vec<RdsVolume> = (0..1000).map(volume).collect();
        let packed: Vec<Packed> = volumes.iter().map(|v| packer.pack(v).unwrap()).collect();
        for (volume, packed) in volumes.iter().zip(&packed) {
            let back: RdsVolume = packed.unpack().unwrap();
            assert_eq!(
                serde_json::to_value(&back).unwrap(),
                serde_json::to_value(volume).unwrap()
            );
        }
        let total: usize = packed.iter().map(|p| p.bytes.len() + size_of::<Packed>()).sum();
        assert!(total < 512 << 10, "{total} bytes");
        assert!(packer.dictionary.len() <= DICTIONARY);
    }

    #[test]
    fn a_dictionary_learns_but_does_not_grow_for_ever() {
        let mut packer = Packer::default();
        for n in 0..200 {
            // Nothing in common with any other.
            let odd: Vec<String> = (0..20)
                .map(|i| format!("{:x}", (n * 7919 + i * 65_537) * 2_654_435_761_u64))
                .collect();
            let packed = packer.pack(&odd).unwrap();
            assert_eq!(packed.unpack::<Value>().unwrap(), json!(odd));
        }
        assert!((1..=DICTIONARY).contains(&packer.dictionary.len()));
    }
}
