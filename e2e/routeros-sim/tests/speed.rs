//! Ten thousand disks: what the appliance answers many times a second must not cost a scan. A scan in the same process is the measure:
//! machines differ, and are busy.
#![allow(clippy::unwrap_used)]

use routeros_sim::{Account, Appliance, Console, Knobs, Overrides, State, log::Log};
use std::time::{Duration, Instant};

fn timed(appliance: &Appliance, line: &str) -> (String, Duration) {
    let mut best = Duration::MAX;
    let mut output = String::new();
    for _ in 0..10 {
        let start = Instant::now();
        output = appliance
            .run(&Account::admin(), line, &mut Console::default(), Overrides::default())
            .output;
        best = best.min(start.elapsed());
    }
    (output, best)
}

#[test]
fn lookups_do_not_scan() {
    let mut state = State::with_pool("pool", 1 << 60, "xfs");
    for i in 0..10_000 {
        let id = state.add_file_disk(
            &format!("pvc-{i:028}"),
            &format!("pool/csi/pvc-{i:028}.img"),
            1 << 30,
            "rds1:owner",
        );
        state.disks.update(id, |d| {
            d.export.on = true;
            d.export.nqn = format!("nqn.x:pvc-{i:028}");
        });
    }
    let appliance = Appliance::new(state, Knobs::default(), Log::default());
    let slot = format!("pvc-{:028}", 7777);
    let scan = ":put [:len [/disk/find where slot~\"^pvc-\" && comment~\"^rds1:\"]]";
    let (output, scan) = timed(&appliance, scan);
    assert_eq!(output, "10000\r\n");
    for condition in [
        format!("slot=\"{slot}\""),
        format!("slot=\"{slot}\" && file-path=\"/pool/csi/{slot}.img\" && comment~\"^rds1:\""),
        format!("nvme-tcp-server-nqn=\"nqn.x:{slot}\""),
        // What an operator asks about one volume: its row under any name, and the pool.
        format!(
            "(file-path=\"/pool/csi/{slot}.img\" || file-path=\"pool/csi/{slot}.img\") || slot=\"{slot}\" \
             || nvme-tcp-server-nqn=\"nqn.x:{slot}\" || mount-point=\"none\""
        ),
        format!("(file-path=\"/pool/csi/{slot}.img\" || file-path=\"pool/csi/{slot}.img\")"),
    ] {
        let (output, took) = timed(&appliance, &format!(":put [:len [/disk/find where {condition}]]"));
        assert_eq!(output, "1\r\n", "{condition}");
        assert!(took * 5 < scan, "{condition}: {took:?}, a scan {scan:?}");
    }
    let (output, took) = timed(
        &appliance,
        &format!(":put [:len [/file/find where name=\"pool/csi/{slot}.img\"]]"),
    );
    assert_eq!(output, "1\r\n");
    assert!(took * 5 < scan, "{took:?}, a scan {scan:?}");
    let json =
        ":put [:serialize to=json options=json.no-string-conversion [/disk/print detail as-value where type=file]]";
    let (output, took) = timed(&appliance, json);
    println!("a listing of 10,000 disks: {} bytes in {took:?}", output.len());
    println!("a scan of 10,000 disks: {scan:?}");
}

#[test]
fn ten_thousand_sessions() {
    let mut state = State::with_pool("pool", 1 << 60, "xfs");
    for i in 0..10_000 {
        let id = state.add_file_disk(&format!("s{i}"), &format!("pool/s{i}.img"), 1 << 30, "");
        state.disks.update(id, |d| {
            d.export.on = true;
            d.export.nqn = format!("nqn.x:s{i}");
        });
    }
    let appliance = Appliance::new(state, Knobs::default(), Log::default());
    let mut hundreds = Vec::new();
    for hundred in 0..100 {
        let start = Instant::now();
        for i in hundred * 100..(hundred + 1) * 100 {
            let (id, new) = appliance
                .connect(&format!("nqn.x:s{i}"), &format!("n{}", i % 100))
                .unwrap();
            assert!(new);
            appliance.write(id, "one").unwrap();
        }
        hundreds.push(start.elapsed());
    }
    println!("10,000 connects and writes: {:?}", hundreds.iter().sum::<Duration>());
    let best = |of: &[Duration]| of.iter().min().copied().unwrap();
    let (first, last) = (best(&hundreds[..20]), best(&hundreds[80..]));
    assert!(
        last < first * 5,
        "a connect or a write scans: {first:?} for the first hundred, {last:?} for the last"
    );
    let toggle = "/disk set s7777 nvme-tcp-export=no; /disk set s7777 nvme-tcp-export=yes";
    let (_, took) = timed(&appliance, toggle);
    let (_, scan) = timed(
        &appliance,
        ":put [:len [/disk/find where slot~\"^s\" && file-path~\"img\"]]",
    );
    assert!(took * 3 < scan, "{took:?}, a scan {scan:?}");
    let start = Instant::now();
    assert_eq!(appliance.live_writers("pool/s7777.img"), ["n77"]);
    assert_eq!(appliance.live_writers("pool/s42.img"), ["n42"]);
    println!("two looks at all of them: {:?}", start.elapsed());
}

#[test]
fn a_burst_of_creates_is_linear() {
    let appliance = Appliance::new(
        State::with_pool("pool", 1 << 60, "xfs"),
        Knobs::default(),
        Log::default(),
    );
    let start = Instant::now();
    for i in 0..1000 {
        let line = format!(
            "/disk/add type=file slot=\"s{i}\" file-path=\"pool/s{i}.img\" file-size=1G nvme-tcp-export=yes nvme-tcp-server-nqn=\"nqn.a:s{i}\""
        );
        let done = appliance.run(&Account::admin(), &line, &mut Console::default(), Overrides::default());
        assert!(!done.failed, "{}", done.output);
    }
    println!("1000 creates: {:?}", start.elapsed());
}
