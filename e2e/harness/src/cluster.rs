//! A control plane on loopback: etcd, kube-apiserver, kube-controller-manager. About four seconds to ready.
//!
//! There is no scheduler and no kubelet: volumes with `volumeBindingMode: Immediate` need neither. All is ended with SIGKILL,
//! since a graceful end of kube-apiserver takes seconds and nothing of it is kept; every start has a fresh folder.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

use crate::access::Endpoint;
use crate::kubectl::Kubectl;
use crate::process::{Process, command};
use crate::tools::{self, Tools};
use crate::wait_until;

/// Writes only, without their bodies.
const AUDIT: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata, verbs: [create, update, patch, delete]}, {level: None}]
";

/// Nodes in virtual machines, whose kubelets the API server knows.
pub const WORKERS: [&str; 3] = ["worker-1", "worker-2", "worker-3"];

const READY: Duration = Duration::from_secs(60);

/// A running control plane. It ends when this is dropped or the process is gone.
pub struct Cluster {
    pub(crate) dir: PathBuf,
    pub(crate) tools: Tools,
    pub(crate) endpoint: Endpoint,
    pub(crate) client: Client,
    kubectl: Kubectl,
    // In the order in which they are dropped: kube-apiserver before etcd.
    processes: Vec<Process>,
}

impl Cluster {
    /// Starts a control plane. Logs and state live in `target/e2e/<name>/`, which is emptied first and kept afterwards.
    pub async fn start(name: &str) -> Result<Self> {
        Self::start_with(name, false).await
    }

    /// The same, and all writes go into `audit.log` when `audit` is set.
    pub async fn start_with(name: &str, audit: bool) -> Result<Self> {
        let tools = tools::ensure()?;
        let dir = tools::target()?.join("e2e").join(name);
        // Another process may take a free port between our look and the start of the server: rare, and a second try helps.
        let first = Self::start_in(&tools, &dir, audit).await;
        match first {
            Err(error) if format!("{error:#}").contains("address already in use") => {
                Self::start_in(&tools, &dir, audit).await
            }
            other => other,
        }
    }

    async fn start_in(tools: &Tools, dir: &Path, audit: bool) -> Result<Self> {
        if dir.exists() {
            std::fs::remove_dir_all(dir).with_context(|| format!("empty {}", dir.display()))?;
        }
        std::fs::create_dir_all(dir)?;
        let [etcd_port, peer_port, api_port, kcm_port] = free_ports()?;
        let etcd_url = format!("http://127.0.0.1:{etcd_port}");

        let mut etcd = part(tools, "etcd");
        etcd.arg("--data-dir")
            .arg(dir.join("etcd"))
            .args(["--unsafe-no-fsync", "--log-level=warn"])
            .args([
                format!("--listen-client-urls={etcd_url}"),
                format!("--advertise-client-urls={etcd_url}"),
                format!("--listen-peer-urls=http://127.0.0.1:{peer_port}"),
            ]);
        let etcd = Process::start("etcd", etcd, &dir.join("etcd.log"))?;

        let key = dir.join("sa.key");
        signing_key(&key).await?;
        let admin_token = uuid::Uuid::new_v4().to_string();
        let kcm_token = uuid::Uuid::new_v4().to_string();
        let mut users =
            format!("{admin_token},admin,admin,\"system:masters\"\n{kcm_token},system:kube-controller-manager,kcm\n");
        for node in WORKERS {
            let token = uuid::Uuid::new_v4();
            users += &format!("{token},system:node:{node},{node},\"system:nodes\"\n");
        }
        std::fs::write(dir.join("tokens.csv"), users)?;

        let certs = dir.join("certs");
        let mut api = part(tools, "kube-apiserver");
        api.arg(format!("--etcd-servers={etcd_url}"))
            .arg(format!("--secure-port={api_port}"))
            .arg(path_flag("--cert-dir", &certs))
            .arg(path_flag("--service-account-key-file", &key))
            .arg(path_flag("--service-account-signing-key-file", &key))
            .arg(path_flag("--token-auth-file", &dir.join("tokens.csv")))
            .args([
                "--bind-address=127.0.0.1",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                "--allow-privileged=true",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--endpoint-reconciler-type=none",
                // Bursts of tests are not to be throttled by the fairness of a server that serves nobody else.
                "--max-requests-inflight=2000",
                "--max-mutating-requests-inflight=1000",
            ]);
        if audit {
            let policy = dir.join("audit-policy.yaml");
            std::fs::write(&policy, AUDIT)?;
            api.arg(path_flag("--audit-policy-file", &policy))
                .arg(path_flag("--audit-log-path", &dir.join("audit.log")));
        }
        let api = Process::start("kube-apiserver", api, &dir.join("kube-apiserver.log"))?;

        let authority = certs.join("apiserver.crt");
        wait_until("the certificate of kube-apiserver", READY, async || {
            api.alive()?;
            ensure!(
                authority.exists() && certs.join("apiserver.key").exists(),
                "no {}",
                authority.display()
            );
            Ok(())
        })
        .await?;
        let endpoint = Endpoint {
            url: format!("https://127.0.0.1:{api_port}"),
            authority,
        };
        let admin = dir.join("admin.kubeconfig");
        endpoint.write(&admin, "admin", &admin_token, "default")?;
        let kcm_config = dir.join("kcm.kubeconfig");
        endpoint.write(&kcm_config, "system:kube-controller-manager", &kcm_token, "default")?;

        let client = client(&admin).await?;
        wait_until("kube-apiserver to be ready", READY, async || {
            etcd.alive()?;
            api.alive()?;
            let request = http::Request::get("/readyz").body(Vec::new())?;
            let answer = client.request_text(request).await?;
            ensure!(answer == "ok", "/readyz says {answer}");
            Ok(())
        })
        .await?;

        let mut kcm = part(tools, "kube-controller-manager");
        for flag in [
            "--kubeconfig",
            "--authentication-kubeconfig",
            "--authorization-kubeconfig",
        ] {
            kcm.arg(path_flag(flag, &kcm_config));
        }
        kcm.arg(path_flag("--service-account-private-key-file", &key))
            .arg(format!("--secure-port={kcm_port}"))
            .args([
                "--leader-elect=false",
                "--use-service-account-credentials=true",
                "--bind-address=127.0.0.1",
                "--controllers=*,-node-ipam-controller,-cloud-node-lifecycle-controller",
            ]);
        let kcm = Process::start("kube-controller-manager", kcm, &dir.join("kube-controller-manager.log"))?;
        // The first thing it does that can be seen: from here on its controllers run.
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
        wait_until("kube-controller-manager to work", READY, async || {
            kcm.alive()?;
            accounts
                .get("default")
                .await
                .map(drop)
                .context("no ServiceAccount default/default")
        })
        .await?;

        let kubectl = Kubectl {
            program: tools.path("kubectl"),
            kubeconfig: admin,
            cache: dir.join("kubectl-cache"),
        };
        Ok(Self {
            dir: dir.into(),
            tools: tools.clone(),
            endpoint,
            client,
            kubectl,
            processes: vec![kcm, api, etcd],
        })
    }

    /// A client with all rights, for the tests' own hands.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// kubectl with all rights.
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// The folder of logs and state.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The kubeconfig with all rights.
    pub fn admin(&self) -> &Path {
        &self.kubectl.kubeconfig
    }

    /// The programs of this cluster.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// Freezes kube-apiserver, or lets it go on: to all others a control plane that is away.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let api = self.processes.iter().find(|process| process.name() == "kube-apiserver");
        api.context("no kube-apiserver")?.freeze(frozen)
    }

    /// An error if a part of the control plane has ended.
    pub fn alive(&self) -> Result<()> {
        self.processes.iter().try_for_each(Process::alive)
    }
}

/// A client from a kubeconfig, without any limit of our own on requests.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    let config =
        Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Free ports on loopback, all held at once so that they differ.
pub fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

/// A program of the control plane. There is memory: collecting garbage a quarter as often makes a start a third faster.
fn part(tools: &Tools, program: &str) -> Command {
    let mut part = command(tools.path(program));
    part.env("GOGC", "400");
    part
}

fn path_flag(flag: &str, path: &Path) -> String {
    format!("{flag}={}", path.display())
}

/// The key that signs tokens of ServiceAccounts. ssh-keygen is here anyway, for the keys of the appliance.
async fn signing_key(path: &Path) -> Result<()> {
    let made = tokio::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ecdsa", "-b", "256", "-m", "PEM", "-N", "", "-f"])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .await
        .context("run ssh-keygen (Debian package openssh-client)")?;
    ensure!(
        made.status.success(),
        "ssh-keygen failed: {}",
        String::from_utf8_lossy(&made.stderr)
    );
    Ok(())
}
