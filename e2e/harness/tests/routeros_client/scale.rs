//! Many disks in one listing.

use std::time::{Duration, Instant};

use crate::rig::{GIB, Rig, Volume};

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_disks_come_in_one_listing() {
    let rig = Rig::start().await;
    rig.state(|s| {
        for n in 0..10_000 {
            let v = Volume::new(n);
            s.add_file_disk(v.slot.as_str(), v.path.as_str(), GIB, &v.tag(1).to_string());
        }
    });
    let mut target = rig.target();
    target.limits.command_timeout = Duration::from_secs(60);
    let client = rds_operator::routeros::Client::connect(&target, None);
    let started = Instant::now();
    let inventory = client.inventory(Duration::ZERO).await.unwrap();
    println!("{:?}", started.elapsed());
    assert_eq!((inventory.disks.len(), inventory.files.len()), (10_000, 10_000));
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    println!(
        "{}",
        status
            .lines()
            .filter(|l| l.starts_with("VmHWM") || l.starts_with("VmRSS"))
            .collect::<String>()
    );
}
