//! Real pods on two nodes with a real kubelet, against real exports: one boot tells all stories. See docs/vm-tests.md.
//!
//! Some alone: `NODES_STORY=name,another cargo test -p e2e --test nodes`.

mod disks;
mod files;
mod moves;
mod outages;
mod power;
mod world;
mod writer;

use std::time::Instant;

use anyhow::{Result, ensure};
use futures::FutureExt;
use futures::future::LocalBoxFuture;

use world::World;

/// What a person would want to know before trusting us with data.
struct Story {
    /// By which it is told alone.
    name: &'static str,
    tell: for<'a> fn(&'a mut World) -> LocalBoxFuture<'a, Result<()>>,
}

/// In this order. Those behind the first find the claim that it made, with its filesystem; alone, each makes its own.
const STORIES: &[Story] = &[
    Story {
        name: "statefulset_keeps_its_data",
        tell: |world| moves::statefulset(world).boxed_local(),
    },
    Story {
        name: "group_subpath_and_readonly",
        tell: |world| files::shared(world).boxed_local(),
    },
    Story {
        name: "files_grow_under_a_pod",
        tell: |world| files::grow(world).boxed_local(),
    },
    Story {
        name: "agent_and_kubelet_restart",
        tell: |world| outages::restarts(world).boxed_local(),
    },
    Story {
        name: "control_plane_goes_away",
        tell: |world| outages::control_plane(world).boxed_local(),
    },
    Story {
        name: "pod_is_deleted_after_all_that",
        tell: |world| outages::delete(world).boxed_local(),
    },
    Story {
        name: "block_device_grows_and_migrates",
        tell: |world| disks::block(world).boxed_local(),
    },
    Story {
        name: "xfs_and_btrfs",
        tell: |world| files::xfs_and_btrfs(world).boxed_local(),
    },
    Story {
        name: "node_loses_its_power",
        tell: |world| power::cut(world).boxed_local(),
    },
];

/// A world with that many failures is broken, and each further story would wait for its whole time.
const ENOUGH: usize = 2;

#[test]
fn stories() -> Result<()> {
    let alone = std::env::var("NODES_STORY").unwrap_or_default();
    let asked = |story: &&Story| alone.split(',').any(|name| story.name.starts_with(name));
    let chosen: Vec<_> = STORIES.iter().filter(asked).collect();
    ensure!(!chosen.is_empty(), "no story is called {alone}");
    e2e::run(async {
        let begin = Instant::now();
        let mut world = World::boot().await?;
        let mut failed = Vec::new();
        for story in &chosen {
            let start = Instant::now();
            let told = (story.tell)(&mut world).await;
            let seconds = start.elapsed().as_secs_f32();
            let Err(error) = told else {
                println!("ok {} ({seconds:.0} s)", story.name);
                continue;
            };
            println!(
                "FAILED {name} ({seconds:.0} s): {error:#}\n  logs in {}, rerun alone: NODES_STORY={name} cargo test -p e2e --test nodes",
                world.logs(),
                name = story.name,
            );
            failed.push(story.name);
            if failed.len() == ENOUGH {
                break;
            }
        }
        ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
        world.leave().await?;
        println!("{} stories in {:.0} s", chosen.len(), begin.elapsed().as_secs_f32());
        Ok(())
    })
}
