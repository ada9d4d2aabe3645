//! A guest that is a node: our agent as a process with a token of its own, and a real containerd and kubelet if their folders are
//! given. All of them are started again when they end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::extract::Path as Name;
use axum::http::StatusCode;
use axum::routing::post;
use e2e::process::{Process, command};
use e2e::supervisor::Supervised;
use e2e::vm::{PROGRAMS, SHARE};
use e2e::wait_until;

use crate::control;
use crate::rig::{sh, until};

const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// What kubelet and agent must not forget.
const OWN: [&str; 2] = ["/var/lib/kubelet", "/var/lib/rds-csi"];

/// The disk of a machine that has one.
const KEPT: &str = "/mnt/kept";

/// Where the agent serves CSI, below the folder that kubelet looks into.
pub(crate) const PLUGIN: &str = "/var/lib/kubelet/plugins/rds.csi.srvlab.io";

/// `GOGC` of programs in Go: there is memory, and collecting garbage is much of what an idle kubelet does.
const RARELY: &str = "400";

/// What to be.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Name of the Node object.
    name: String,
    /// Folders of kubelet and containerd; without them there is only the agent.
    #[arg(long)]
    tools: Vec<PathBuf>,
    /// The disk that outlives a power cut; without it all is in memory.
    #[arg(long)]
    disk: Option<PathBuf>,
}

impl Options {
    fn tool(&self, name: &str) -> Result<PathBuf> {
        let found = self
            .tools
            .iter()
            .map(|folder| folder.join(name))
            .find(|path| path.exists());
        found.with_context(|| format!("no {name} in {:?}", self.tools))
    }
}

fn share(name: &str) -> PathBuf {
    Path::new(SHARE).join(name)
}

fn start(name: &'static str, make: impl Fn() -> Command + Send + Sync + 'static) -> Result<Supervised> {
    Supervised::start(name, share(&format!("{name}.log")), make)
}

/// What a host has before kubelet and agent are started.
pub(crate) fn prepare(name: &str, disk: Option<&Path>) -> Result<()> {
    let memory = |folder: &str| -> Result<()> {
        std::fs::create_dir_all(folder)?;
        sh("mount", &["-t", "tmpfs", "-o", "mode=755", "none", folder]).map(drop)
    };
    sh("mount", &["--make-rshared", "/"])?;
    for folder in ["/var/lib/containerd", "/var/log"] {
        memory(folder)?;
    }
    for folder in OWN {
        match disk {
            Some(_) => std::fs::create_dir_all(folder)?,
            None => memory(folder)?,
        }
    }
    // Every guest sees the same root: what tells machines apart must differ.
    let mut machine = uuid::Uuid::new_v4().simple().to_string();
    if let Some(disk) = disk {
        mount_disk(disk)?;
        let kept = Path::new(KEPT).join("machine-id");
        match std::fs::read_to_string(&kept) {
            Ok(earlier) => machine = earlier.trim().to_owned(),
            Err(_) => std::fs::write(&kept, &machine)?,
        }
    }
    std::fs::write("/etc/machine-id", format!("{machine}\n"))?;
    std::fs::create_dir_all(PLUGIN)?;
    std::fs::create_dir_all("/var/lib/kubelet/plugins_registry")?;
    sh("hostname", &[name]).map(drop)
}

/// What is on it is older than this boot, unless there is nothing. As on many nodes, kubelet's folder is a bind mount of one on a
/// larger disk, where its mounts are to be seen a second time.
fn mount_disk(disk: &Path) -> Result<()> {
    sh("modprobe", &["virtio_blk"])?;
    until("the disk of this node", Duration::from_secs(60), || {
        ensure!(disk.exists(), "no {}", disk.display());
        Ok(())
    })?;
    let path = disk.display().to_string();
    if sh("blkid", &[&path]).is_err() {
        sh("mkfs.ext4", &["-q", &path])?;
    }
    std::fs::create_dir_all(KEPT)?;
    sh("mount", &["-t", "ext4", &path, KEPT])?;
    for folder in OWN {
        let kept = format!("{KEPT}{folder}");
        std::fs::create_dir_all(&kept)?;
        sh("mount", &["--bind", &kept, folder])?;
    }
    Ok(())
}

/// Runs until the machine ends.
pub(crate) fn run(options: Options) -> Result<bool> {
    prepare(&options.name, options.disk.as_deref())?;
    e2e::run(async {
        let mut processes = BTreeMap::new();
        if !options.tools.is_empty() {
            processes.insert("containerd", containerd(&options).await?);
            processes.insert("kubelet", kubelet(&options)?);
        }
        processes.insert("rds-node-agent", agent(&options.name)?);
        println!("the node {} is up", options.name);
        let processes = Arc::new(processes);
        let of = |ask: fn(&Supervised) -> Result<()>| {
            let processes = processes.clone();
            post(async move |Name(name): Name<String>| -> (StatusCode, String) {
                match processes.get(name.as_str()).map(ask) {
                    Some(Ok(())) => (StatusCode::OK, String::new()),
                    Some(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")),
                    None => (StatusCode::NOT_FOUND, format!("no process {name}")),
                }
            })
        };
        let routes = Router::new()
            .route("/kill/{name}", of(Supervised::restart))
            .route("/terminate/{name}", of(|process| process.with(Process::terminate)));
        control::serve(control::with_health().merge(routes)).await
    })?;
    Ok(true)
}

async fn containerd(options: &Options) -> Result<Supervised> {
    let config = Path::new("/run/vm/containerd.toml");
    std::fs::write(config, include_str!("../../../../vm/containerd.toml"))?;
    std::fs::create_dir_all("/run/cni")?;
    // A node is Ready only with a network of pods; ours use that of their node.
    let network = r#"{"cniVersion":"1.0.0","name":"loopback","plugins":[{"type":"loopback"}]}"#;
    std::fs::write("/run/cni/10-loopback.conflist", network)?;
    let program = options.tool("containerd")?;
    // Its shim is found by PATH.
    let path = format!(
        "{}:{}",
        program.parent().context("a folder")?.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let made = move || {
        let mut containerd = command(&program);
        containerd
            .args(["-c", "/run/vm/containerd.toml"])
            .env("PATH", &path)
            .env("GOGC", RARELY);
        containerd
    };
    let process = start("containerd", made)?;
    wait_until("containerd to listen", Duration::from_secs(120), async || {
        std::os::unix::net::UnixStream::connect(CONTAINERD_SOCKET).context("not yet")
    })
    .await?;
    let ctr = options.tool("ctr")?.display().to_string();
    let images = share("images.tar").display().to_string();
    sh(&ctr, &["-n", "k8s.io", "images", "import", "--local", &images])?;
    Ok(process)
}

fn kubelet(options: &Options) -> Result<Supervised> {
    std::fs::write("/run/vm/kubelet.yaml", include_str!("../../../../vm/kubelet.yaml"))?;
    let key = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "30",
    ];
    let files = [
        "-subj",
        "/CN=kubelet",
        "-keyout",
        "/run/vm/kubelet.key",
        "-out",
        "/run/vm/kubelet.crt",
    ];
    sh("openssl", &[key.as_slice(), files.as_slice()].concat())?;
    let (program, name) = (options.tool("kubelet")?, options.name.clone());
    start("kubelet", move || {
        let mut kubelet = command(&program);
        kubelet
            .args(["--config=/run/vm/kubelet.yaml", "--node-ip=10.0.2.15", "--v=2"])
            .arg(format!("--kubeconfig={}", share("kubelet.kubeconfig").display()))
            .arg(format!("--hostname-override={name}"))
            .env("GOGC", RARELY);
        kubelet
    })
}

/// The agent that ships. Needs to be called on the runtime of `e2e::run`.
pub(crate) fn agent(node: &str) -> Result<Supervised> {
    let node = node.to_owned();
    start("rds-node-agent", move || agent_command(&node))
}

/// How it is started.
pub(crate) fn agent_command(node: &str) -> Command {
    let mut agent = command(Path::new(PROGRAMS).join("rds-node-agent"));
    agent
        .env("KUBECONFIG", share("agent.kubeconfig"))
        .env("NODE_ID", node)
        .env("POD_NAMESPACE", e2e::lab::NAMESPACE)
        .env("CSI_ENDPOINT", format!("unix://{PLUGIN}/csi.sock"))
        .env("CSI_MANAGED_NQN_PREFIX", "nqn.2000-02.com.mikrotik:pvc-")
        .env("RUST_BACKTRACE", "1");
    agent
}
