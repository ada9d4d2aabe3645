//! The program and its HTTP interface, as a person or a test in another language uses them.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

struct Program {
    child: Child,
    control: String,
    ssh: String,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

fn start(dir: &std::path::Path, more: &[&str]) -> Program {
    let path = |name: &str| dir.join(name).display().to_string();
    let mut child = Command::new(env!("CARGO_BIN_EXE_routeros-sim"))
        .args([
            "--listen",
            "127.0.0.1:0",
            "--control",
            "127.0.0.1:0",
            "--host-key-type",
            "ed25519",
        ])
        .args([
            "--host-key",
            &path("host"),
            "--client-key",
            &path("client"),
            "--state",
            &path("state"),
        ])
        .args(["--log", &path("log.jsonl"), "--mkdir", "metal-csi", "--mkdir", "other"])
        .args(more)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let ssh = lines.next().unwrap().strip_prefix("ssh ").unwrap().to_owned();
    let control = lines
        .next()
        .unwrap()
        .strip_prefix("control http://")
        .unwrap()
        .to_owned();
    Program { child, control, ssh }
}

impl Program {
    /// Status and body.
    fn http(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.control).unwrap();
        let kind = if body.starts_with(['{', '[']) {
            "application/json"
        } else {
            "text/plain"
        };
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn json(&self, path: &str) -> serde_json::Value {
        let (status, body) = self.http("GET", path, "");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    fn run(&self, dir: &std::path::Path, line: &str) -> String {
        let (_, port) = self.ssh.rsplit_once(':').unwrap();
        let key = dir.join("client").display().to_string();
        let output = Command::new("ssh")
            .args([
                "-F",
                "none",
                "-T",
                "-i",
                &key,
                "-p",
                port,
                "-o",
                "BatchMode=yes",
                "-o",
                "StrictHostKeyChecking=no",
            ])
            .args([
                "-o",
                "UserKnownHostsFile=/dev/null",
                "-o",
                "LogLevel=ERROR",
                "metal-csi@127.0.0.1",
                line,
            ])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn everything_can_be_done_over_http() {
    let dir = tempfile::tempdir().unwrap();
    let p = start(dir.path(), &["--version", "7.21", "--pool-size", "1000000000000"]);
    assert_eq!(p.http("GET", "/healthz", ""), (200, "ok\n".into()));
    assert!(p.http("GET", "/host-key", "").1.starts_with("ssh-ed25519 "));
    assert_eq!(p.json("/disks")[1]["size"], 1_000_000_000_000u64);
    assert_eq!(p.json("/files").as_array().unwrap().len(), 3);
    assert_eq!(p.json("/knobs")["version"], "7.21");

    let (status, body) = p.http("PUT", "/knobs", r#"{"slot-limit": 40, "version": "7.24"}"#);
    assert_eq!(status, 200, "{body}");
    assert_eq!(p.json("/knobs")["slot-limit"], 40);
    assert_eq!(p.json("/knobs")["max-sessions"], 20, "the rest stays");
    let (status, body) = p.http("PUT", "/knobs", r#"{"slot-limits": 40}"#);
    assert_eq!(status, 400);
    assert!(body.contains("slot-limits"), "{body}");

    let fault = r#"{"matching": ":put", "kind": {"fault": "error", "text": "nein"}}"#;
    assert_eq!(p.http("PUT", "/faults", fault).0, 200);
    assert_eq!(p.json("/faults")[0]["count"], 1);
    assert_eq!(p.run(dir.path(), ":put 1"), "nein\r\n");
    assert_eq!(p.run(dir.path(), ":put 1"), "1\r\n");
    assert_eq!(
        p.http(
            "PUT",
            "/faults",
            r#"[{"matching": "(", "kind": {"fault": "lost-reply"}}]"#
        )
        .0,
        400
    );
    assert_eq!(p.http("PUT", "/faults", r#"{"kind": {"fault": "nonsense"}}"#).0, 400);
    assert_eq!(p.http("DELETE", "/faults", "").0, 204);

    let log = p.json("/log");
    let commands: Vec<_> = log
        .as_array()
        .unwrap()
        .iter()
        .filter(|e| e["command"] == ":put 1")
        .collect();
    assert_eq!(
        (commands[0]["executed"].as_bool(), commands[1]["executed"].as_bool()),
        (Some(false), Some(true))
    );
    assert_eq!(p.http("DELETE", "/log", "").0, 204);
    assert_eq!(p.json("/log").as_array().unwrap().len(), 0);

    let add = "/disk add type=file slot=x file-path=storage-pool/other/x.img file-size=1G nvme-tcp-export=yes";
    let (status, body) = p.http("POST", "/exec", add);
    assert_eq!((status, body.as_str()), (200, r#"{"failed":false,"output":""}"#));
    assert_eq!(p.json("/exports")[0]["nqn"], "nqn.2000-02.com.mikrotik:x");

    let who = r#"{"nqn": "nqn.2000-02.com.mikrotik:x", "host": "n1"}"#;
    let (status, body) = p.http("POST", "/sessions", who);
    assert_eq!(status, 201, "{body}");
    assert_eq!(p.http("POST", "/sessions", who), (200, body), "already connected");
    let (status, body) = p.http("POST", "/sessions", r#"{"nqn": "nqn.x", "host": "n1"}"#);
    assert_eq!(
        (status, body.as_str()),
        (409, r#"{"error":"unknown subsystem","refused":"unknown-subsystem"}"#)
    );
    assert_eq!(p.http("POST", "/sessions/1/write", r#"{"tag": "one"}"#).0, 204);
    assert_eq!(p.http("POST", "/sessions/7/write", r#"{"tag": "one"}"#).0, 404);
    assert_eq!(p.json("/writes?path=%2Fstorage-pool%2Fother%2Fx.img")[0]["tag"], "one");
    assert_eq!(p.json("/writers?path=/storage-pool/other/x.img")[0], "n1");
    assert_eq!(
        p.http("PUT", "/knobs", r#"{"reconnect": "never", "export-off": "drops"}"#)
            .0,
        200
    );
    p.http("POST", "/exec", "/disk set x nvme-tcp-export=no");
    assert_eq!(p.http("POST", "/sessions/1/write", r#"{"tag": "two"}"#).0, 410);
    let session = &p.json("/sessions")[0];
    assert_eq!(
        (session["alive"].as_bool(), session["link"].as_str()),
        (Some(false), Some("ended"))
    );
    assert_eq!(p.http("DELETE", "/sessions/1", "").0, 204);
    assert_eq!(p.http("DELETE", "/sessions/1", "").0, 404);
    assert_eq!(p.http("POST", "/reboot", "").0, 204);
    let lines = std::fs::read_to_string(dir.path().join("log.jsonl")).unwrap();
    assert!(
        lines
            .lines()
            .all(|l| serde_json::from_str::<routeros_sim::LogEntry>(l).is_ok())
            && lines.lines().count() >= 4
    );
}

#[test]
fn state_and_keys_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut p = start(dir.path(), &[]);
    let key = p.http("GET", "/host-key", "").1;
    p.http("POST", "/exec", "/disk set nvme1 comment=kept");
    // A polite end writes the state.
    let pid = p.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert!(p.child.wait().unwrap().success());
    let p = start(dir.path(), &[]);
    assert_eq!(p.http("GET", "/host-key", "").1, key);
    assert_eq!(p.json("/disks")[0]["comment"], "kept");
}

#[test]
fn the_control_interface_stays_on_loopback() {
    let output = Command::new(env!("CARGO_BIN_EXE_routeros-sim"))
        .args([
            "--listen",
            "127.0.0.1:0",
            "--control",
            "0.0.0.0:0",
            "--host-key-type",
            "ed25519",
        ])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("no loopback address"));
}
