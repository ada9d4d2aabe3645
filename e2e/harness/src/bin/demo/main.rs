//! `make demo`: a PersistentVolumeClaim on a simulated RDS, from claim to clean bill, on a real control plane with the real
//! sidecars; then who may write it: a conflict, a node that dies and is cut, a migration that takes too long. Shows each step as it
//! happens: what kubectl prints, and what goes over SSH. Ends in `clean: 0 disks, ..` and exit
//! status 0 only if nothing is left.

mod attach;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use e2e::appliance::Appliance;
use e2e::lab::Options;
use e2e::{Lab, tools, vm};
use kube::Api;
use kube::api::ListParams;
use rds_crds::{RdsAttachment, RdsServer};
use routeros_sim::Knobs;

const CLAIM: &str = "photos";
const SERVER: &str = "rack-1";

fn main() -> ExitCode {
    let start = Instant::now();
    let keep = std::env::var("KEEP").is_ok_and(|keep| !keep.is_empty() && keep != "0");
    let done = e2e::run(async {
        tokio::select! {
            done = demo(keep, start) => done,
            stopped = tokio::signal::ctrl_c() => stopped.map_err(Into::into).and(Ok(keep)),
        }
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\nthe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing was left.
async fn demo(keep: bool, start: Instant) -> Result<bool> {
    heading("What it needs: built once, cached outside of the checkout");
    tools::ensure()?;
    tools::own(e2e::replica::OPERATOR)?;

    heading("A control plane, our manifests, the controller pod with its sidecars");
    let lab = Lab::start(
        "demo",
        &Options {
            progress: true,
            ..Options::default()
        },
    )
    .await?;

    heading("An RDS2216, simulated, and the RdsServer, Secret and StorageClass that name it");
    let appliance = lab
        .appliance_unready(SERVER, Knobs::default(), serde_json::json!({}))
        .await?;
    println!(
        "  RouterOS {} at {}, behind SSH with a pinned host key",
        Knobs::default().version,
        appliance.address()
    );
    let shown = appliance.show_commands();
    appliance.ready(&lab).await?;
    show(&lab, &["get", "rdsservers"]).await?;

    heading(&format!(
        "A claim of 1Gi, {:.0} s after the start",
        start.elapsed().as_secs_f32()
    ));
    let asked = Instant::now();
    lab.claim(CLAIM, SERVER, "1Gi").await?;
    let volume = lab.bound(CLAIM).await?;
    println!("  bound after {:.1} s", asked.elapsed().as_secs_f32());
    show(&lab, &["get", "pvc,pv"]).await?;
    lab.kubectl()
        .run(&[
            "wait",
            "--for=condition=Ready",
            &format!("rdsvolume/{volume}"),
            "--timeout=30s",
        ])
        .await?;
    show(&lab, &["get", "rdsvolumes,rdsservers"]).await?;
    show(&lab, &["describe", "rdsvolume", &volume]).await?;
    disks(&appliance);

    heading("The claim grows to 2Gi");
    lab.resize(CLAIM, "2Gi").await?;
    lab.grown(CLAIM, "2Gi").await?;
    show(&lab, &["get", "rdsvolumes"]).await?;
    disks(&appliance);

    heading("The claim is deleted, and the disk and its file go with it");
    lab.delete_claim(CLAIM).await?;
    show(
        &lab,
        &[
            "get",
            "events",
            "--sort-by=.lastTimestamp",
            "-o",
            "custom-columns=REASON:.reason,ABOUT:.involvedObject.kind,MESSAGE:.message",
        ],
    )
    .await?;
    attach::attachments(&lab, &appliance).await?;
    if !keep {
        appliance.remove(&lab).await?;
    }

    heading(&format!(
        "{}, {:.0} s after the start",
        vm::demo::heading(),
        start.elapsed().as_secs_f32()
    ));
    let (more_disks, more_files) = vm::demo::show(&lab).await?;

    // A person is about to read this: what the listings print late must not come behind the last line.
    shown.abort();
    heading(&format!("The bill, after {:.0} s", start.elapsed().as_secs_f32()));
    let objects = objects(&lab, keep).await?;
    let (disks, files) = (
        appliance.disks().len() + more_disks,
        appliance.images().len() + more_files,
    );
    if keep {
        print_how_to_play(&lab, &appliance);
    }
    println!("clean: {disks} disks, {files} files, {objects} objects left");
    let clean = (disks, files, objects) == (0, 0, 0);
    if keep && clean {
        std::future::pending::<()>().await;
    }
    Ok(clean)
}

/// All that the demo made and that must be gone: claims, PVs, our objects; with KEEP the RdsServer stays.
async fn objects(lab: &Lab, keep: bool) -> Result<usize> {
    let all = ListParams::default();
    let client = lab.cluster.client();
    let mut left = lab.claims().list(&all).await?.items.len();
    left += lab.persistent_volumes().list(&all).await?.items.len();
    left += lab.volumes().list(&all).await?.items.len();
    left += Api::<RdsAttachment>::all(client.clone()).list(&all).await?.items.len();
    if !keep {
        left += Api::<RdsServer>::all(client).list(&all).await?.items.len();
    }
    Ok(left)
}

fn heading(text: &str) {
    println!("\n== {text}");
}

/// Runs kubectl and shows command and output, as a person would see it.
async fn show(lab: &Lab, arguments: &[&str]) -> Result<()> {
    let printed = lab.kubectl().run(arguments).await?;
    println!("  $ kubectl {}", arguments.join(" "));
    for line in printed.lines() {
        println!("  {line}");
    }
    Ok(())
}

/// What a person would see on the appliance.
fn disks(appliance: &Appliance) {
    println!("  on the appliance:");
    for disk in appliance.disks() {
        println!(
            "    {} {} bytes exported={} nqn={}",
            disk.slot, disk.size, disk.exported, disk.nqn
        );
        println!("      file {} comment {}", disk.path, disk.comment);
    }
}

fn print_how_to_play(lab: &Lab, appliance: &Appliance) {
    println!("  It all runs on until Ctrl-C (or: kill {}).", std::process::id());
    println!("  export KUBECONFIG={}", lab.cluster.admin().display());
    println!("  alias kubectl={}", lab.cluster.tools().path("kubectl").display());
    println!("  kubectl get rds                      # StorageClass {SERVER} makes volumes on the simulated RDS");
    println!("  {}", appliance.ssh_command());
    println!("  logs: {}", lab.cluster.dir().display());
}
