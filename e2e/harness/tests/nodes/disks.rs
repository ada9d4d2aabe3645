//! Raw block volumes under pods.

use anyhow::{Context, Result, ensure};
use e2e::vm::pods::{STAY, Volume, Work};
use e2e::wait_until;
use serde_json::json;

use crate::world::{LONG, SERVER, World, told};

const CLAIM: &str = "disk";

/// Where the pods write, in MiB: head, the end before it grew, the end after, and where the source writes at last.
const PLACES: [u32; 4] = [0, 1020, 2044, 512];

/// `write MIB` and `sums` for the shell of a pod.
const TOOLS: &str = "write() { dd if=/dev/urandom of=/dev/data bs=1M seek=$1 count=4 conv=notrunc,fsync 2>/dev/null; }; \
     sums() { for at in 0 1020 2044 512; do dd if=/dev/data bs=1M skip=$at count=4 2>/dev/null | sha256sum; done >/tmp/sums.new; \
     mv /tmp/sums.new /tmp/$1; }; told() { until [ -e /tmp/$1 ]; do sleep 0.5; done; }";

/// Written at its head and its end, grown under the pod and written at the new end; then taken over by a pod on the other node while
/// the first one still runs and writes, as KubeVirt migrates a virtual machine.
pub(crate) async fn block(world: &World) -> Result<()> {
    let lab = &world.lab;
    let [there, here] = world.nodes();
    let shared = json!({"accessModes": ["ReadWriteMany"], "volumeMode": "Block"});
    lab.claim_with(CLAIM, SERVER, "1Gi", shared).await?;
    let volume = lab.bound(CLAIM).await?;
    let [head, end, new_end, last] = PLACES;
    let line = format!(
        "{TOOLS}; write {head}; write {end}; touch /tmp/ready; \
         until [ $(blockdev --getsize64 /dev/data) = 2147483648 ]; do sleep 1; done; \
         write {new_end}; sums grown; told last; write {last}; sums end; {STAY}"
    );
    let source = Work {
        name: "vm-source",
        node: &here.name,
        claim: CLAIM,
        volume: Volume::Block,
        line: &line,
    };
    lab.pod(&source).await?;
    lab.running(source.name).await?;
    told(here, source.name, "cat /tmp/ready").await?;
    let life = world.life(source.name).await?;
    world.grows(CLAIM, "2Gi").await?;
    let grown = told(here, source.name, "cat /tmp/grown").await?;

    let target = Work {
        name: "vm-target",
        node: &there.name,
        line: &format!(
            "{TOOLS}; dd if=/dev/data bs=1M count=4 2>/dev/null | sha256sum >/tmp/head.new; mv /tmp/head.new /tmp/head; \
             told gone; sums taken; write {end}; sums end; {STAY}"
        ),
        ..source
    };
    lab.pod(&target).await?;
    lab.running(target.name).await?;
    let read = told(there, target.name, "cat /tmp/head").await?;
    let first = grown.lines().next().context("no checksums")?;
    ensure!(
        read == first,
        "beside {} the head is {read}, it wrote {first}",
        here.name
    );
    holders(
        world,
        &volume,
        &[
            (here.name.as_str(), "Primary"),
            (there.name.as_str(), "MigrationTarget"),
        ],
    )
    .await?;
    // The last pages of a machine that moves are written by the source while the target is there.
    here.exec(source.name, "touch /tmp/last").await?;
    let written = told(here, source.name, "cat /tmp/end").await?;
    ensure!(
        world.life(source.name).await? == life,
        "{} was started again",
        source.name
    );
    lab.end_pod(source.name).await?;
    holders(world, &volume, &[(there.name.as_str(), "Primary")]).await?;
    there.exec(target.name, "touch /tmp/gone").await?;
    let taken = told(there, target.name, "cat /tmp/taken").await?;
    ensure!(
        taken == written,
        "{} wrote\n{written}\nand {} read\n{taken}",
        here.name,
        there.name
    );
    let end = told(there, target.name, "cat /tmp/end").await?;
    ensure!(end != taken, "{} wrote nothing", there.name);
    ensure!(
        world.life(target.name).await?.undisturbed(),
        "{} was disturbed",
        target.name
    );
    let status = lab.volumes().get(&volume).await?.status.context("no status")?;
    ensure!(
        status.export_generation.unwrap_or(1) == 1 && status.fenced.is_empty(),
        "somebody was cut: {status:?}"
    );
    lab.end_pod(target.name).await?;
    let slot = status.slot.context("a volume without slot")?;
    let image = world.pair.target.pieces(&slot, &PLACES).await?;
    ensure!(image == end, "the pods wrote\n{end}\nand the appliance has\n{image}");
    lab.delete_claim(CLAIM).await
}

/// Waits until the volume says that these nodes hold it, and whether that is a migration.
async fn holders(world: &World, volume: &str, wanted: &[(&str, &str)]) -> Result<()> {
    let wanted: Vec<_> = wanted
        .iter()
        .map(|(node, role)| (node.to_string(), role.to_string()))
        .collect();
    let what = format!("{volume} to be held by {wanted:?}");
    let waited = wait_until(&what, LONG, async || {
        let status = world.lab.volumes().get(volume).await?.status.context("no status")?;
        let now: Vec<_> = status
            .holders
            .iter()
            .map(|h| (h.node.clone(), format!("{:?}", h.role)))
            .collect();
        ensure!(now == wanted, "it is held by {now:?}");
        let migration = status.migration.map(|m| vec![m.source, m.target]).unwrap_or_default();
        let moving: Vec<_> = match wanted.as_slice() {
            [source, target] => vec![source.0.clone(), target.0.clone()],
            _ => Vec::new(),
        };
        ensure!(migration == moving, "the migration is {migration:?}");
        Ok(())
    });
    world.lab.explained(waited.await, CLAIM).await
}
