//! Raw block volumes under pods.

use anyhow::{Context, Result, ensure};
use e2e::vm::pods::{STAY, Volume, Work};
use serde_json::json;

use crate::world::{SERVER, World, told};

const CLAIM: &str = "disk";

/// Where the pod writes, in MiB: head, the end before it grew, the end after.
const PLACES: [u32; 3] = [0, 1020, 2044];

/// Written at its head and its end, grown under the pod and written at the new end, then read on the other node.
pub(crate) async fn block(world: &World) -> Result<()> {
    let lab = &world.lab;
    let [there, here] = world.nodes();
    lab.claim_with(CLAIM, SERVER, "1Gi", json!({"volumeMode": "Block"}))
        .await?;
    let volume = lab.bound(CLAIM).await?;
    let [head, end, new_end] = PLACES;
    let sums = "for at in 0 1020 2044; do dd if=/dev/data bs=1M skip=$at count=4 2>/dev/null | sha256sum; done";
    let line = format!(
        "write() {{ dd if=/dev/urandom of=/dev/data bs=1M seek=$1 count=4 conv=notrunc,fsync 2>/dev/null; }}; \
         write {head}; write {end}; touch /tmp/ready; \
         until [ $(blockdev --getsize64 /dev/data) = 2147483648 ]; do sleep 1; done; \
         write {new_end}; {sums} >/tmp/sums.new; mv /tmp/sums.new /tmp/sums; {STAY}"
    );
    let work = Work {
        name: "database",
        node: &here.name,
        claim: CLAIM,
        volume: Volume::Block,
        line: &line,
    };
    lab.pod(&work).await?;
    lab.running(work.name).await?;
    told(here, work.name, "cat /tmp/ready").await?;
    let life = world.life(work.name).await?;
    world.grows(CLAIM, "2Gi").await?;
    let written = told(here, work.name, "cat /tmp/sums").await?;
    ensure!(world.life(work.name).await? == life, "the pod was started again");
    lab.end_pod(work.name).await?;

    let slot = lab.volumes().get(&volume).await?.status.and_then(|status| status.slot);
    let target = world
        .pair
        .target
        .pieces(&slot.context("a volume without slot")?, &PLACES)
        .await?;
    ensure!(
        target == written,
        "the pod wrote\n{written}\nand the target has\n{target}"
    );
    let reader = Work {
        name: "database-2",
        node: &there.name,
        line: &format!("{sums} >/dev/termination-log"),
        ..work
    };
    let (read, _) = lab.run_pod(&reader).await?;
    ensure!(
        read == written,
        "{} wrote\n{written}\nand {} read\n{read}",
        here.name,
        there.name
    );
    lab.delete_claim(CLAIM).await
}
