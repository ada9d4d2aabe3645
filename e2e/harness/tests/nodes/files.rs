//! Filesystems under pods.

use anyhow::{Result, ensure};
use e2e::vm::pods::{Volume, Work};

use crate::world::{HOME, World};
use crate::writer::WRITER;

/// A pod that is not root writes by its group, through a subPath; another one beside it may only read.
pub(crate) async fn shared(world: &World) -> Result<()> {
    let lab = &world.lab;
    world.writer().await?;
    let node = world.home_node();
    let owner = node
        .exec(
            WRITER,
            "cat /tmp/groups; stat -c '%u %g' /data/logs/written; stat -c %g /data",
        )
        .await?;
    ensure!(
        owner == "3000 2000\n1000 3000\n2000" || owner == "3000 2000\n1000 2000\n2000",
        "groups of the pod, owner of its file, group of the volume: {owner}"
    );
    let line = "(echo mine >/data/mine) 2>/tmp/error && exit 1; grep -q 'Read-only file system' /tmp/error || { cat /tmp/error; exit 2; }; \
                head -c 49152 /data/logs/written | sha256sum >/dev/termination-log";
    let reader = Work {
        name: "reader-2",
        node: &node.name,
        claim: HOME,
        volume: Volume::Mounted,
        line,
    };
    let mut pod = reader.manifest();
    pod["spec"]["volumes"][0]["persistentVolumeClaim"]["readOnly"] = true.into();
    world.writes_on().await?;
    lab.kubectl().apply(&pod).await?;
    let read = lab.answer(reader.name).await?;
    lab.end_pod(reader.name).await?;
    let wrote = node.exec(WRITER, "head -c 49152 /tmp/written | sha256sum").await?;
    ensure!(read == wrote, "{wrote} was written, {read} was read beside it");
    world.writes_on().await
}

/// The claim grows while a pod writes to it; nothing is started again.
pub(crate) async fn grow(world: &World) -> Result<()> {
    world.writer().await?;
    let node = world.home_node();
    let kib = async || -> Result<u64> { Ok(node.exec(WRITER, "df -k /data | awk 'END {print $2}'").await?.parse()?) };
    let (before, life) = (kib().await?, world.life(WRITER).await?);
    ensure!(before < 1024 * 1024, "it has {before} KiB already");
    world.grows(HOME, "2Gi").await?;
    let after = kib().await?;
    ensure!(after > 1900 * 1024, "it had {before} KiB and has {after} KiB of 2 GiB");
    ensure!(world.life(WRITER).await? == life, "the pod was started again");
    world.writes_on().await?;
    world.nothing_is_lost().await.map(drop)
}
