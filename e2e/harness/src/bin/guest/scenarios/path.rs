//! The way of the data: from a command on the appliance to bytes on a disk of this kernel.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::fabric;
use crate::rig::{Rig, TARGET};

const NQN: &str = "nqn.2000-02.com.mikrotik:pvc-one";

/// Bytes that differ from place to place and from seed to seed.
pub(super) fn pattern(seed: u8, length: usize) -> Vec<u8> {
    let mut state = u32::from(seed) | 0x9e37_0000;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    (0..length).map(|_| next()).collect()
}

pub(super) fn write(disk: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
    let mut file = File::options().write(true).open(disk)?;
    file.seek(SeekFrom::Start(offset))?;
    file.write_all(bytes)?;
    file.sync_all().with_context(|| format!("sync {}", disk.display()))
}

pub(super) fn read(disk: &Path, offset: u64, length: usize) -> Result<Vec<u8>> {
    let mut file = File::open(disk)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes)
        .with_context(|| format!("read {}", disk.display()))?;
    Ok(bytes)
}

/// What was written through one connection is read through the next, and is what the image holds.
pub(crate) fn one_disk_add_is_a_disk(rig: &Rig) -> Result<()> {
    let size: u64 = 64 << 20;
    rig.ssh(&format!(
        "/disk add type=file slot=one file-path=storage-pool/metal-csi/one.img file-size={size} nvme-tcp-export=yes \
         nvme-tcp-server-nqn={NQN}"
    ))?;
    let first = pattern(1, 1 << 20);
    fabric::connect(NQN, TARGET, 4420)?;
    let disk = fabric::disk(NQN)?;
    let sectors = std::fs::read_to_string(format!("/sys/class/block/{}/size", name(&disk)))?;
    ensure!(
        sectors.trim() == (size / 512).to_string(),
        "{} has {sectors} sectors",
        disk.display()
    );
    write(&disk, 4 << 20, &first)?;
    fabric::disconnect(NQN)?;

    fabric::connect(NQN, TARGET, 4420)?;
    let disk = fabric::disk(NQN)?;
    ensure!(
        read(&disk, 4 << 20, first.len())? == first,
        "other data than was written"
    );
    fabric::disconnect(NQN)?;

    let refused = rig
        .ssh("/disk set [find slot=one] nvme-tcp-export=no")
        .and_then(|_| fabric::connect(NQN, TARGET, 4420));
    ensure!(refused.is_err(), "connected to a disk that is not exported");
    rig.ssh("/disk remove [find slot=one]")?;
    rig.ssh("/file remove [find name=\"storage-pool/metal-csi/one.img\"]")?;
    Ok(())
}

fn name(disk: &Path) -> String {
    disk.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
