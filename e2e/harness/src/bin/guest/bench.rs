//! What the agent costs on a real kernel: time around the kernel's own, memory, and the data path beside one made by hand.
//!
//! Processors are emulated where the host cannot virtualise: differences and ratios say something, milliseconds alone do not.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::process::Process;
use e2e::vm::SHARE;
use serde_json::{Value, json};

use crate::fabric;
use crate::plane::{Plane, Use, Volume};
use crate::rig::{Rig, TARGET, sh, until};

/// Numbers by name.
type Report = BTreeMap<String, f64>;

/// A pod of this name, as kubelet would name its folder.
const POD: &str = "6d0c9b0e-0000-4000-8000-000000000002";

/// How often each step is taken.
const ROUNDS: usize = 7;

/// How many volumes are attached for the second look at memory.
const MANY: usize = 100;

const MIB: f64 = 1024.0 * 1024.0;

pub(crate) fn measure(rig: &Rig, plane: &Plane) -> Result<bool> {
    let mut report = Report::new();
    at_rest(plane, &mut report, 0)?;
    starts(plane)?;
    steps(plane, &mut report)?;
    data_path(plane, &mut report)?;
    rig.clean()?;
    many(plane, &mut report)?;
    fs::write(Path::new(SHARE).join("bench.json"), serde_json::to_string(&report)?)?;
    Ok(true)
}

fn say(report: &mut Report, name: &str, value: f64) {
    println!("   {name} {value:.2}");
    report.insert(name.into(), value);
}

/// What is resident once it grows no more.
fn at_rest(plane: &Plane, report: &mut Report, attached: usize) -> Result<()> {
    std::thread::sleep(Duration::from_secs(20));
    let resident = plane.agent.with(Process::resident)?;
    let peak = plane.agent.with(Process::peak)?;
    #[expect(clippy::cast_precision_loss, reason = "a number to read")]
    for (name, bytes) in [("rss", resident), ("rss_peak", peak)] {
        say(report, &format!("agent_{name}_mib_{attached}"), bytes as f64 / MIB);
    }
    Ok(())
}

/// Two starts of a pod, the first of which makes the filesystem. The host counts what is written into the API meanwhile.
fn starts(plane: &Plane) -> Result<()> {
    let volume = plane.volume("bench-start", json!({}))?;
    for name in ["first", "again"] {
        counted(&format!("before-{name}"))?;
        volume.attach()?;
        volume.retry("stage", || volume.stage(Use::Mount))?;
        volume.retry("publish", || volume.publish(POD, Use::Mount))?;
        counted(&format!("after-{name}"))?;
        down(&volume, Use::Mount)?;
    }
    volume.delete()
}

/// Asks the host to count now, and waits until it has.
fn counted(moment: &str) -> Result<()> {
    // What a step has to say is written within moments after it.
    std::thread::sleep(Duration::from_secs(3));
    let share = Path::new(SHARE);
    fs::write(share.join(moment), "")?;
    until(&format!("the host to count {moment}"), Duration::from_secs(60), || {
        ensure!(share.join(format!("{moment}.counted")).exists(), "not yet");
        Ok(())
    })
}

fn down(volume: &Volume<'_>, used: Use) -> Result<()> {
    volume.retry("unpublish", || volume.unpublish(POD, used))?;
    volume.retry("unstage", || volume.unstage())?;
    volume.detach()
}

fn timed<T>(samples: &mut Vec<f64>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let done = work()?;
    samples.push(start.elapsed().as_secs_f64() * 1000.0);
    Ok(done)
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}

/// Each step through the agent, and the same work of the kernel by hand. The filesystem exists from the second round on, so the
/// first one is not counted: mkfs is not what a step costs.
fn steps(plane: &Plane, report: &mut Report) -> Result<()> {
    let volume = plane.volume("bench-steps", json!({}))?;
    let names = ["connect", "stage", "publish", "unpublish", "unstage", "disconnect"];
    let mut ours: [Vec<f64>; 6] = Default::default();
    let mut theirs: [Vec<f64>; 6] = Default::default();
    for round in 0..=ROUNDS {
        let mut samples: [Vec<f64>; 6] = Default::default();
        let [connect, stage, publish, unpublish, unstage, disconnect] = &mut samples;
        timed(connect, || volume.attach())?;
        timed(stage, || volume.retry("stage", || volume.stage(Use::Mount)))?;
        timed(publish, || volume.retry("publish", || volume.publish(POD, Use::Mount)))?;
        timed(unpublish, || {
            volume.retry("unpublish", || volume.unpublish(POD, Use::Mount))
        })?;
        timed(unstage, || volume.retry("unstage", || volume.unstage()))?;
        timed(disconnect, || volume.detach())?;
        if round > 0 {
            for (all, one) in ours.iter_mut().zip(samples) {
                all.extend(one);
            }
        }
    }
    let nqn = volume.nqn()?;
    let (staged, published) = (Path::new("/run/bench-staged"), Path::new("/run/bench-published"));
    fs::create_dir_all(staged)?;
    fs::create_dir_all(published)?;
    let [a, b] = [staged, published].map(|path| path.display().to_string());
    for _ in 0..ROUNDS {
        let [connect, stage, publish, unpublish, unstage, disconnect] = &mut theirs;
        let device = timed(connect, || {
            fabric::connect(&nqn, TARGET, 4420)?;
            Ok(fabric::disk(&nqn)?.display().to_string())
        })?;
        timed(stage, || sh("mount", &["-t", "ext4", &device, &a]))?;
        timed(publish, || sh("mount", &["--bind", &a, &b]))?;
        timed(unpublish, || sh("umount", &[&b]))?;
        timed(unstage, || sh("umount", &[&a]))?;
        timed(disconnect, || fabric::disconnect(&nqn))?;
    }
    for ((name, mut ours), mut theirs) in names.into_iter().zip(ours).zip(theirs) {
        let (ours, theirs) = (median(&mut ours), median(&mut theirs));
        say(report, &format!("agent_{name}_ms_p50"), ours);
        say(report, &format!("kernel_{name}_ms_p50"), theirs);
        say(report, &format!("agent_{name}_overhead_ms_p50"), ours - theirs);
    }
    volume.delete()
}

/// The same load on a disk that the agent connected and on one that nvme-cli did, with the same options, in turn.
fn data_path(plane: &Plane, report: &mut Report) -> Result<()> {
    let volume = plane.volume("bench-data", json!({"volumeMode": "Block"}))?;
    let mut speeds: BTreeMap<(&str, bool), Vec<f64>> = BTreeMap::new();
    for _ in 0..3 {
        for ours in [true, false] {
            let nqn = volume.nqn()?;
            if ours {
                volume.attach()?;
            } else {
                by_hand(&nqn)?;
            }
            let device = fabric::disk(&nqn)?.display().to_string();
            for direction in ["read", "write"] {
                let speed = fio(&device, direction)?;
                speeds.entry((direction, ours)).or_default().push(speed);
            }
            if ours {
                volume.detach()?;
            } else {
                fabric::disconnect(&nqn)?;
            }
        }
    }
    for direction in ["read", "write"] {
        let mut of = |ours| median(speeds.entry((direction, ours)).or_default());
        let (ours, theirs) = (of(true), of(false));
        say(report, &format!("fio_mib_per_s_{direction}"), ours / MIB);
        say(report, &format!("fio_ratio_{direction}"), ours / theirs);
    }
    volume.delete()
}

/// With the options that the agent gives to a volume that wishes none.
fn by_hand(nqn: &str) -> Result<()> {
    let queues = format!("--nr-io-queues={}", std::thread::available_parallelism()?);
    let done = Command::new("nvme")
        .args(["connect", "-t", "tcp", "-a", TARGET, "-s", "4420", "-n", nqn])
        .args([
            "--ctrl-loss-tmo=-1",
            "--reconnect-delay=5",
            "--keep-alive-tmo=5",
            &queues,
        ])
        .args(["--hostnqn=nqn.2014-08.org.nvmexpress:uuid:22222222-2222-4222-8222-222222222222"])
        .args(["--hostid=22222222-2222-4222-8222-222222222222"])
        .output()
        .context("run nvme (Debian package nvme-cli)")?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(done.status.success(), "nvme connect: {said}");
    Ok(())
}

/// Bytes per second of random blocks of 16 KiB, 16 at a time.
fn fio(device: &str, direction: &str) -> Result<f64> {
    let printed = sh(
        "fio",
        &[
            "--name=bench",
            &format!("--filename={device}"),
            &format!("--rw=rand{direction}"),
            "--ioengine=libaio",
            "--direct=1",
            "--bs=16k",
            "--iodepth=16",
            "--time_based",
            "--ramp_time=2",
            "--runtime=8",
            "--randrepeat=1",
            "--output-format=json",
        ],
    )?;
    let said: Value = serde_json::from_str(printed.get(printed.find('{').unwrap_or(0)..).unwrap_or_default())?;
    said["jobs"][0][direction]["bw_bytes"]
        .as_f64()
        .with_context(|| format!("no bandwidth in {said}"))
}

/// Attached, connected, unused: what the agent holds of each. They are left to the end of the machine.
fn many(plane: &Plane, report: &mut Report) -> Result<()> {
    for number in 0..MANY {
        let volume = plane.volume(&format!("bench-{number}"), json!({"capacity": "64Mi"}))?;
        volume.attach()?;
    }
    at_rest(plane, report, MANY)
}
