//! A pod that writes all the time, and knows by heart what it has written.

use anyhow::{Context, Result, ensure};
use e2e::vm::node::Node;
use e2e::vm::pods::{Volume, Work};
use e2e::wait_until;
use serde_json::json;

use crate::world::{HOME, LONG, World, told};

/// Its name.
pub(crate) const WRITER: &str = "scribe";

/// Blocks of 16 KiB, each on the disk before the next one is begun. `/tmp/count` of them are whole, here and in the pod's memory.
const LINE: &str = "trap 'exit 0' TERM; id -G >/tmp/groups; n=0; while :; do \
     head -c 16384 /dev/urandom >/tmp/block; cat /tmp/block >>/tmp/written; \
     dd if=/tmp/block of=/logs/written bs=16k seek=$n conv=notrunc,fsync 2>/dev/null; \
     n=$((n+1)); echo $n >/tmp/count.new; mv /tmp/count.new /tmp/count; sleep 1; done";

/// What it has written.
pub(crate) struct Written {
    /// So many blocks, at least.
    pub(crate) blocks: u32,
    /// Their checksum.
    pub(crate) sum: String,
}

impl World {
    /// The node of the writer.
    pub(crate) fn home_node(&self) -> &Node {
        &self.pair.nodes[0]
    }

    /// The writer runs: as user 1000, group 2000 by `fsGroup`, through a subPath of the shared claim.
    pub(crate) async fn writer(&self) -> Result<()> {
        let lab = &self.lab;
        self.home().await?;
        if lab.pods().get_opt(WRITER).await?.is_none() {
            let work = Work {
                name: WRITER,
                node: &self.home_node().name,
                claim: HOME,
                volume: Volume::Mounted,
                line: LINE,
            };
            let mut pod = work.manifest();
            pod["spec"]["securityContext"] = json!({"runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 2000});
            let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array_mut();
            mounts
                .context("mounts")?
                .push(json!({"name": "data", "mountPath": "/logs", "subPath": "logs"}));
            // What it knows by heart must not be where its container's files are: root owns those.
            let tmp = json!({"name": "tmp", "mountPath": "/tmp"});
            let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array_mut();
            mounts.context("mounts")?.push(tmp);
            let volumes = pod["spec"]["volumes"].as_array_mut();
            volumes
                .context("volumes")?
                .push(json!({"name": "tmp", "emptyDir": {"medium": "Memory"}}));
            lab.kubectl().apply(&pod).await?;
        }
        lab.running(WRITER).await?;
        let waited = told(self.home_node(), WRITER, "cat /tmp/count").await;
        lab.explained_pod(waited, WRITER).await.map(drop)
    }

    /// Ends the writer if it runs: the shared claim is wanted elsewhere.
    pub(crate) async fn no_writer(&self) -> Result<()> {
        match self.lab.pods().get_opt(WRITER).await? {
            Some(_) => self.lab.end_pod(WRITER).await,
            None => Ok(()),
        }
    }

    /// How many blocks it has written.
    async fn written(&self) -> Result<u32> {
        let count = self.home_node().exec(WRITER, "cat /tmp/count").await?;
        count.parse().with_context(|| format!("`{count}` is no number"))
    }

    /// Waits until it has begun and finished some more blocks.
    pub(crate) async fn writes_on(&self) -> Result<()> {
        let before = self.written().await?;
        wait_until("the pod to write more", LONG, async || {
            let now = self.written().await?;
            ensure!(now >= before + 3, "it had written {before} blocks, and now {now}");
            Ok(())
        })
        .await
    }

    /// What is on the disk is what it wrote.
    pub(crate) async fn nothing_is_lost(&self) -> Result<Written> {
        let blocks = self.written().await?;
        let sum = |file: &str| format!("head -c $(({blocks}*16384)) {file} | sha256sum");
        let line = format!("{}; {}", sum("/tmp/written"), sum("/data/logs/written"));
        let printed = self.home_node().exec(WRITER, &line).await?;
        let (wrote, disk) = printed.split_once('\n').context("two checksums")?;
        ensure!(wrote == disk, "{wrote} was written, {disk} is on the disk");
        let sum = wrote.to_owned();
        Ok(Written { blocks, sum })
    }
}
