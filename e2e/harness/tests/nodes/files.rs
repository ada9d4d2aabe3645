//! Filesystems under pods.

use anyhow::{Result, ensure};
use e2e::vm::node::Node;
use e2e::vm::pods::{Volume, Work};
use serde_json::json;

use crate::world::{HOME, SERVER, World};
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

/// The other two filesystems, each made on one node and read on the other.
pub(crate) async fn xfs_and_btrfs(world: &World) -> Result<()> {
    let [first, second] = world.nodes();
    futures::try_join!(
        filesystem(world, "xfs", [first, second]),
        filesystem(world, "btrfs", [second, first])
    )?;
    Ok(())
}

async fn filesystem(world: &World, fs: &str, [here, there]: [&Node; 2]) -> Result<()> {
    let (lab, class) = (&world.lab, format!("{SERVER}-{fs}"));
    let parameters = json!({"parameters": {"server": SERVER, "csi.storage.k8s.io/fstype": fs}});
    lab.class(&class, SERVER, parameters).await?;
    lab.claim(fs, &class, "1Gi").await?;
    lab.bound(fs).await?;
    let tell = "(awk '$2 == \"/data\" {print $3}' /proc/mounts; sha256sum </data/photo) >/dev/termination-log";
    let work = Work {
        name: &format!("{fs}-1"),
        node: &here.name,
        claim: fs,
        volume: Volume::Mounted,
        line: &format!("head -c 1048576 /dev/urandom >/data/photo; sync; {tell}"),
    };
    let (written, _) = lab.run_pod(&work).await?;
    ensure!(
        written.starts_with(&format!("{fs}\n")),
        "asked for {fs}, the pod saw {written}"
    );
    let reader = Work {
        name: &format!("{fs}-2"),
        node: &there.name,
        line: tell,
        ..work
    };
    let (read, _) = lab.run_pod(&reader).await?;
    ensure!(
        read == written,
        "{} wrote {written}, {} read {read}",
        here.name,
        there.name
    );
    lab.delete_claim(fs).await?;
    lab.kubectl().run(&["delete", "storageclass", &class]).await.map(drop)
}
