//! Runs the binary: refusals at start, health, and a clean end on SIGTERM.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// An agent whose API server is away, on a host of its own.
fn agent(home: &Path) -> Command {
    let kubeconfig = home.join("kubeconfig");
    let text = r#"{"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "c", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}]}"#;
    std::fs::write(&kubeconfig, text).unwrap();
    for (path, text) in [
        ("proc/sys/kernel/random/boot_id", "boot"),
        ("etc/machine-id", "machine"),
    ] {
        let path = home.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_rds-node-agent"));
    command
        .env_clear()
        .env("NODE_ID", "worker-1")
        .env("KUBECONFIG", kubeconfig)
        .env("STATE_DIR", home.join("state"))
        .env("HOST_ROOT", home)
        .env("KUBELET_DIR", home.join("kubelet"))
        .env("CSI_ENDPOINT", home.join("kubelet/plugins/d/csi.sock"))
        .env("REGISTRATION_DIR", home.join("kubelet/plugins_registry"))
        .args(["--metrics-address", "127.0.0.1:0"])
        .stderr(Stdio::piped());
    command
}

#[test]
fn r7_to_r9_bad_prefixes_end_the_process_with_the_reason() {
    for (value, reason) in [
        (None, "CSI_MANAGED_NQN_PREFIX is not set"),
        (Some(""), "CSI_MANAGED_NQN_PREFIX is not set"),
        (Some("iqn.2000-02.com.mikrotik:pvc-"), "does not begin with `nqn.`"),
        (Some("nqn.2000-02"), "has no `:`"),
    ] {
        let home = tempfile::tempdir().unwrap();
        let mut command = agent(home.path());
        if let Some(value) = value {
            command.env("CSI_MANAGED_NQN_PREFIX", value);
        }
        let output = command.output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{value:?}: {log}");
        assert!(log.contains(reason), "{value:?}: {log}");
        assert!(!log.contains("started"), "{value:?}: {log}");
    }
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn r1_r2_a_healthy_agent_ends_with_0_on_a_signal() {
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let home = tempfile::tempdir().unwrap();
        let mut child = agent(home.path())
            .env("CSI_MANAGED_NQN_PREFIX", "nqn.2000-02.com.mikrotik:pvc-")
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        assert!(line.contains("\"started\""), "{line}");
        let address = line
            .split("\"metrics_address\":\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        let sockets = ["plugins/d/csi.sock", "plugins_registry/rds.csi.srvlab.io-reg.sock"];
        let sockets = sockets.map(|path| home.path().join("kubelet").join(path));
        let begun = Instant::now();
        while !get(address, "/readyz").starts_with("HTTP/1.1 200") || !sockets.iter().all(|path| path.exists()) {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "not ready: {}",
                get(address, "/readyz")
            );
        }
        for (path, body) in [("/livez", "ok"), ("/metrics", "rds_csi_build_info{")] {
            let answer = get(address, path);
            assert!(
                answer.starts_with("HTTP/1.1 200") && answer.contains(body),
                "{path}: {answer}"
            );
        }
        // It goes on without the API server, and says what it cannot do.
        let mut said = String::new();
        while !said.contains("cannot renew the Lease") {
            assert_ne!(log.read_line(&mut said).unwrap(), 0, "{said}");
        }
        assert!(said.contains("nqn.2014-08.org.nvmexpress:uuid:"), "{said}");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let mut rest = String::new();
        log.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("shutdown complete"), "{rest}");
        assert!(!sockets.iter().any(|path| path.exists()), "a socket is left");
    }
}
