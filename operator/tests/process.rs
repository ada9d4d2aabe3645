//! Runs the binary without an API server that answers: it starts all the same (B80), says what is missing, and ends in order.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use csi_proto::csi::v1::{ProbeRequest, identity_client::IdentityClient};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Endpoint, Uri};

/// A kubeconfig whose server refuses every connection.
fn kubeconfig(directory: &Path) -> std::path::PathBuf {
    let path = directory.join("kubeconfig");
    let text = "{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: a, user: a}}], \
                clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}], users: [{name: a, user: {}}]}";
    std::fs::write(&path, text).unwrap();
    path
}

fn operator(directory: &Path, metrics: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rds-operator"));
    command
        .env_clear()
        .env("KUBECONFIG", kubeconfig(directory))
        .stderr(Stdio::piped());
    let endpoint = format!("unix://{}", directory.join("csi.sock").display());
    command.args([
        "--endpoint",
        &endpoint,
        "--metrics-address",
        metrics,
        "--shutdown-timeout",
        "20s",
    ]);
    command
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: operator\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Reads the log up to the line that contains `text`.
fn line_with(log: &mut impl BufRead, text: &str) -> String {
    loop {
        let mut line = String::new();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "the log ended without `{text}`");
        if line.contains(text) {
            return line;
        }
    }
}

fn started(child: &mut Child) -> (impl BufRead + use<>, String) {
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let line = line_with(&mut log, "\"started\"");
    let address = line
        .split("\"metrics_address\":\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .to_owned();
    (log, address)
}

#[tokio::test]
async fn b80_r2_without_an_api_server_it_starts_is_not_ready_and_ends_with_0() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = operator(directory.path(), "127.0.0.1:0").spawn().unwrap();
    let (mut log, address) = started(&mut child);
    assert!(get(&address, "/livez").starts_with("HTTP/1.1 200"));
    let ready = get(&address, "/readyz");
    assert!(
        ready.starts_with("HTTP/1.1 503") && ready.contains("cache of RdsVolumes: not yet"),
        "{ready}"
    );
    assert!(!ready.contains("CSI socket"), "{ready}");
    assert!(get(&address, "/metrics").contains("rds_csi_build_info{"));

    let path = directory.path().join("csi.sock");
    let socket = path.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://csi")
        .connect_with_connector(connector)
        .await
        .unwrap();
    let answer = IdentityClient::new(channel).probe(ProbeRequest {}).await.unwrap();
    assert_eq!(answer.into_inner().ready, Some(false));

    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    assert!(line_with(&mut log, "shutdown started").contains("SIGTERM"));
    line_with(&mut log, "shutdown complete");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!path.exists(), "no socket of nobody is left");
}

#[test]
fn r4_what_it_cannot_serve_ends_it_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let output = operator(directory.path(), &taken.local_addr().unwrap().to_string())
        .output()
        .unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("change --metrics-address"), "{log}");

    std::fs::write(directory.path().join("csi.sock"), "something else").unwrap();
    let output = operator(directory.path(), "127.0.0.1:0").output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("which is no socket; remove it"), "{log}");
}
