//! Every fault, over real SSH: what the client sees, and what the appliance did.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Bench, Reply};
use routeros_sim::knobs::{Channels, ExitStatus, PtyExec};
use routeros_sim::{Config, Fault, FaultKind, HostKey, Simulator};
use std::time::{Duration, Instant};

const ADD: &str = "/disk/add type=file slot=a file-path=storage-pool/a.img file-size=1G; :put \"ack\"";

async fn with(kind: FaultKind) -> (Bench, Reply) {
    let b = Bench::start().await;
    b.sim.set_fault(Fault::once("/disk/add", kind));
    let reply = b.run(ADD).await;
    (b, reply)
}

async fn until(what: &str, mut f: impl FnMut() -> bool) {
    let start = Instant::now();
    while !f() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn lost_reply_runs_and_cuts_the_connection() {
    let (b, reply) = with(FaultKind::LostReply).await;
    assert_eq!((reply.out.as_str(), reply.status), ("", Some(255)));
    assert_eq!(b.sim.file_disks().len(), 1);
    let log = b.sim.commands();
    assert!(log[0].executed && log[0].fault.is_some());
    assert_eq!(log[0].reply, "ack\r\n", "the log knows what nobody heard");
    assert!(b.sim.faults().is_empty(), "used up");
    assert_eq!(b.ssh(":put 1").await, "1\r\n");
}

#[tokio::test]
async fn hang_answers_nothing_and_runs_or_not() {
    for execute in [true, false] {
        let b = Bench::start().await;
        b.sim.set_fault(Fault::once("/disk/add", FaultKind::Hang { execute }));
        let waiting = async {
            until("the command is logged", || !b.sim.commands().is_empty()).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        };
        tokio::select! {
            reply = b.run(ADD) => panic!("a hang answered {}", reply.out),
            () = waiting => {}
        }
        assert_eq!(b.sim.file_disks().len(), usize::from(execute));
        assert_eq!(b.sim.commands()[0].executed, execute);
    }
}

#[tokio::test]
async fn cut_and_truncation_lose_the_end_of_the_reply() {
    let (b, reply) = with(FaultKind::Cut { after_bytes: 2 }).await;
    assert_eq!((reply.out.as_str(), reply.status), ("ac", Some(255)));
    assert_eq!(b.sim.file_disks().len(), 1);
    let (b, reply) = with(FaultKind::Truncate { bytes: 2 }).await;
    assert_eq!((reply.out.as_str(), reply.status), ("ac", Some(0)));
    assert_eq!(b.sim.file_disks().len(), 1);
    let (b, reply) = with(FaultKind::EmptyReply).await;
    assert_eq!((reply.out.as_str(), reply.status), ("", Some(0)));
    assert_eq!(b.sim.file_disks().len(), 1);
}

#[tokio::test]
async fn slow_commands_take_their_time() {
    for kind in [FaultKind::Slow { ms: 300 }, FaultKind::SlowReply { ms: 300 }] {
        let start = Instant::now();
        let (_b, reply) = with(kind).await;
        assert_eq!(reply.out, "ack\r\n");
        assert!(start.elapsed() >= Duration::from_millis(300));
    }
}

#[tokio::test]
async fn late_execution_happens_behind_a_dead_channel() {
    for connection in [false, true] {
        let (b, reply) = with(FaultKind::Late { ms: 3000, connection }).await;
        assert_eq!((reply.out.as_str(), reply.status), ("", Some(255)), "no exit status");
        assert!(
            b.sim.file_disks().is_empty(),
            "the client knows that something is wrong before the command runs"
        );
        assert_eq!(b.ssh(":put [:len [/disk/find where slot=\"a\"]]").await, "0\r\n");
        until("the command runs after all", || b.sim.file_disks().len() == 1).await;
        until("and is logged", || {
            b.sim.commands().iter().any(|e| e.command == ADD && e.executed)
        })
        .await;
    }
}

#[tokio::test]
async fn wrong_exit_status() {
    let (_b, reply) = with(FaultKind::ExitStatus { code: Some(7) }).await;
    assert_eq!((reply.out.as_str(), reply.status), ("ack\r\n", Some(7)));
    let (b, reply) = with(FaultKind::ExitStatus { code: None }).await;
    assert_eq!((reply.out.as_str(), reply.status), ("ack\r\n", Some(255)));
    b.sim.knobs(|k| k.exit_status = ExitStatus::OneOnError);
    assert_eq!(b.run("/disk/remove *999").await.status, Some(1));
    assert_eq!(b.run(":put 1").await.status, Some(0));
}

#[tokio::test]
async fn refused_commands_change_nothing() {
    for (kind, text) in [
        (FaultKind::PoolFull, "failure: not enough space\r\n"),
        (FaultKind::NoPermission, "not enough permissions (9)\r\n"),
        (
            FaultKind::Error {
                text: "Fehler: kein Platz".into(),
            },
            "Fehler: kein Platz\r\n",
        ),
    ] {
        let (b, reply) = with(kind).await;
        assert_eq!((reply.out.as_str(), reply.status), (text, Some(0)));
        assert!(b.sim.file_disks().is_empty());
        assert_eq!(b.sim.files().len(), 2);
    }
}

#[tokio::test]
async fn replies_arrive_damaged() {
    let (_b, reply) = with(FaultKind::ControlCharacters).await;
    assert!(reply.out.contains('\u{1b}') && reply.out.contains("ack"));
    let (_b, reply) = with(FaultKind::Garbage { text: "#?".into() }).await;
    assert_eq!(reply.out, "#?\r\nack\r\n#?\r\n");
    let (_b, reply) = with(FaultKind::Padding { blanks: 3 }).await;
    assert_eq!(reply.out, "ack   \r\n");
    let (_b, reply) = with(FaultKind::Wrap { width: 2 }).await;
    assert_eq!(reply.out, "ac\r\nk\r\n");
}

#[tokio::test]
async fn down_refuses_and_comes_back_on_the_same_port() {
    let b = Bench::start().await;
    b.sim.knobs(|k| k.down = true);
    until("refused", || std::net::TcpStream::connect(b.sim.addr()).is_err()).await;
    assert_eq!(b.run(":put 1").await.status, Some(255));
    b.sim.knobs(|k| k.down = false);
    until("open", || std::net::TcpStream::connect(b.sim.addr()).is_ok()).await;
    assert_eq!(b.ssh(":put 1").await, "1\r\n");
}

#[tokio::test]
async fn reboot_keeps_objects_and_brings_exports_back_later() {
    let b = Bench::knobs(|k| {
        k.reboot_ms = 100;
        k.exports_after_ms = 400;
    })
    .await;
    b.ssh("/disk/add type=file slot=a file-path=storage-pool/a.img file-size=1G nvme-tcp-export=yes")
        .await;
    assert_eq!(b.sim.exports().len(), 1);
    let before = b.sim.snapshot();
    let mut waiting = b.command("metal-csi", &["-T"]);
    let waiting = waiting.arg(":delay 20s; :put late").output();
    let rebooting = async {
        until("connected", || b.sim.open_connections() > 0).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        b.sim.reboot().await;
        assert!(
            std::net::TcpStream::connect(b.sim.addr()).is_err(),
            "the port is closed"
        );
    };
    let (output, ()) = tokio::join!(waiting, rebooting);
    assert_eq!(output.unwrap().status.code(), Some(255), "running commands are cut");
    assert_eq!(b.sim.snapshot(), before);
    assert!(b.sim.exports().is_empty() && !b.sim.export_port_open());
    b.sim.knobs(|k| k.port_before_exports = true);
    assert!(!b.sim.export_port_open(), "not before the appliance is up");
    until("the NVMe/TCP port opens", || b.sim.export_port_open()).await;
    until("the port opens", || std::net::TcpStream::connect(b.sim.addr()).is_ok()).await;
    until("exports are back", || b.sim.exports().len() == 1).await;
    // A fault reboots behind a command.
    b.sim.set_fault(Fault::once(":put", FaultKind::Reboot));
    assert_eq!(b.run(":put 1").await.status, Some(255));
}

#[tokio::test]
async fn sessions_are_capped() {
    let b = Bench::knobs(|k| k.max_sessions = 2).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(b.command("metal-csi", &["-T", "-N"]).spawn().unwrap());
    }
    until("both are in", || {
        b.sim.log().iter().filter(|e| e.command.is_empty()).count() == 2
    })
    .await;
    assert_eq!(b.run(":put 1").await.status, Some(255), "the third is refused");
    held[0].kill().await.unwrap();
    until("one is gone", || b.sim.open_connections() == 1).await;
    assert_eq!(b.ssh(":put 1").await, "1\r\n");
}

#[tokio::test]
async fn channels_of_one_connection_are_serialised_unless_told_otherwise() {
    for (channels, least, most) in [(Channels::Serialised, 1200, 9000), (Channels::Parallel, 400, 1150)] {
        let b = Bench::knobs(|k| {
            k.channels = channels;
            k.latency_ms = 400;
        })
        .await;
        let dir = tempfile::tempdir().unwrap();
        let path = format!("ControlPath={}/c", dir.path().display());
        let mut master = b.command("metal-csi", &["-M", "-N", "-o", &path]).spawn().unwrap();
        until("master", || dir.path().join("c").exists()).await;
        let start = Instant::now();
        let one = || async {
            let output = b
                .command("metal-csi", &["-T", "-o", &path])
                .arg(":put 1")
                .output()
                .await
                .unwrap();
            assert_eq!(output.stdout, b"1\r\n");
        };
        tokio::join!(one(), one(), one());
        let took = start.elapsed().as_millis();
        assert!((least..most).contains(&took), "{channels:?}: {took} ms");
        assert_eq!(
            b.sim.log().iter().filter(|e| e.command.is_empty()).count(),
            1,
            "one login"
        );
        master.kill().await.unwrap();
    }
}

#[tokio::test]
async fn waits_before_a_channel_and_before_an_add() {
    let b = Bench::knobs(|k| k.channel_delay_ms = 600).await;
    let start = Instant::now();
    assert_eq!(b.ssh(":put 1").await, "1\r\n");
    assert!(start.elapsed() >= Duration::from_millis(600), "{:?}", start.elapsed());
    b.sim.knobs(|k| {
        k.channel_delay_ms = 0;
        k.add_latency_ms = 600;
    });
    b.ssh(":put 1").await;
    b.ssh("/disk/add type=file slot=a file-path=storage-pool/a.img file-size=1G")
        .await;
    let took: Vec<f64> = b.sim.commands().iter().map(|c| c.milliseconds).collect();
    assert!(took[1] < 600.0 && took[2] >= 600.0, "only the add waits: {took:?}");
}

#[tokio::test]
async fn the_exit_status_is_a_knob() {
    for (knob, good, bad) in [
        (ExitStatus::Zero, Some(0), Some(0)),
        (ExitStatus::OneOnError, Some(0), Some(1)),
        // OpenSSH says 255 when the channel closes without one.
        (ExitStatus::Absent, Some(255), Some(255)),
    ] {
        let b = Bench::knobs(|k| k.exit_status = knob).await;
        let (fine, refused) = (b.run(":put 1").await, b.run("/disk remove *999").await);
        assert_eq!((fine.out.as_str(), refused.out.as_str()), ("1\r\n", "no such item\r\n"));
        assert_eq!((fine.status, refused.status), (good, bad), "{knob:?}");
    }
}

#[tokio::test]
async fn an_exec_with_a_terminal_hangs_or_is_denied() {
    let b = Bench::start().await;
    let mut tt = b.command("metal-csi", &["-tt"]);
    assert!(
        tokio::time::timeout(Duration::from_millis(500), tt.arg(":put 1").output())
            .await
            .is_err()
    );
    b.sim.knobs(|k| k.pty_exec = PtyExec::Deny);
    let output = b.command("metal-csi", &["-tt"]).arg(":put 1").output().await.unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(255), &b""[..]));
    b.sim.knobs(|k| k.pty_exec = PtyExec::Ignore);
    let output = b.command("metal-csi", &["-tt"]).arg(":put 1").output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\r\n");
}

#[tokio::test]
async fn a_person_can_type_at_it() {
    use tokio::io::AsyncWriteExt;
    let b = Bench::start().await;
    let mut ssh = b.command("admin", &["-T"]);
    let mut child = ssh
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin
        .write_all(b"/disk\nprint where slot=nvme1\nset 0 comment=mine\n/quit\n")
        .await
        .unwrap();
    let output = child.wait_with_output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("[admin@MikroTik] > [admin@MikroTik] /disk> Flags: B - BLOCK-DEVICE"),
        "{text}"
    );
    assert!(text.contains("Columns: SLOT, MODEL, INTERFACE, SIZE"), "{text}");
    assert_eq!(b.sim.disks()[0].comment, "mine", "row numbers work behind a print");
}

#[tokio::test]
async fn state_is_kept_between_runs_and_rsa_keys_work() {
    let dir = tempfile::tempdir().unwrap();
    let config = || Config {
        state_dir: Some(dir.path().join("state")),
        ..Config::default()
    };
    let b = Bench::with(config()).await;
    b.ssh(ADD).await;
    let before = b.sim.snapshot();
    b.sim.stop().await;
    let b = Bench::with(config()).await;
    assert_eq!(b.sim.snapshot(), before);
    assert_eq!(
        b.ssh(":put [/disk add type=tmpfs tmpfs-max-size=100M]").await,
        "*4\r\n",
        "ids go on"
    );
    assert_eq!(b.sim.disks()[3].size, 100_000_000, "decimal");
    b.sim.stop().await;
    // An RSA host key is what devices have by default.
    let path = dir.path().join("host");
    let mut keygen = tokio::process::Command::new("ssh-keygen");
    keygen
        .args(["-q", "-t", "rsa", "-b", "2048", "-N", "", "-f"])
        .arg(&path);
    assert!(keygen.status().await.unwrap().success());
    let key = std::fs::read_to_string(&path).unwrap();
    let b = Bench::with(Config {
        host_key: HostKey::Given(key),
        ..Config::default()
    })
    .await;
    assert!(b.sim.host_key_line().starts_with("ssh-rsa "));
    assert_eq!(b.ssh(":put 1").await, "1\r\n");
}

#[tokio::test]
async fn strangers_stay_out() {
    let b = Bench::start().await;
    let other = Simulator::start(Config::default()).await.unwrap();
    let port = other.addr().port();
    let mut ssh = b.command(
        "metal-csi",
        &["-o", "StrictHostKeyChecking=no", "-o", &format!("Port={port}")],
    );
    let output = ssh.arg(":put 1").output().await.unwrap();
    assert_eq!(
        output.status.code(),
        Some(255),
        "the key of one simulator does not open another"
    );
    assert!(other.log().is_empty());
}
