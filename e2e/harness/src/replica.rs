//! One replica of the controller pod: the operator and its sidecars, as processes with the flags that are shipped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::Cluster;
use crate::cluster::free_ports;
use crate::manifest::{Container, Manifests};
use crate::process::{command, sweep};
use crate::supervisor::Supervised;
use crate::{tools, wait_until};

/// The container of the operator in the manifests.
pub const OPERATOR: &str = "rds-operator";

const READY: Duration = Duration::from_secs(60);

/// A running replica. Dropping it is SIGKILL for all of it.
pub struct Replica {
    /// Name of the pod it plays.
    pub pod: String,
    /// The CSI socket.
    pub socket: PathBuf,
    /// The operator.
    pub operator: Supervised,
    /// Sidecars by container name.
    pub sidecars: BTreeMap<String, Supervised>,
    recipe: Recipe,
}

/// All that is needed to start the operator of a replica again with another environment.
#[derive(Clone)]
struct Recipe {
    program: PathBuf,
    container: Container,
    arguments: Vec<String>,
    env: BTreeMap<String, String>,
    pod: String,
    port: u16,
    home: PathBuf,
}

impl Recipe {
    fn command(&self, extra: &[(String, String)]) -> Command {
        sweep(&self.home);
        let mut command = in_pod(&self.pod, &self.program);
        command.args(&self.arguments).envs(&self.container.env).envs(&self.env);
        command.envs(extra.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.operator.hold();
        sweep(&self.recipe.home);
    }
}

impl Replica {
    /// Starts operator and sidecars, and waits until the operator is ready. `short` is a folder with a short path: socket
    /// addresses have at most 107 bytes.
    pub async fn start(
        cluster: &Cluster,
        manifests: &Manifests,
        short: &Path,
        index: usize,
        sidecars: &[&str],
        env: &[(String, String)],
    ) -> Result<Self> {
        let pod = format!("rds-csi-controller-{index}");
        let home = short.join(index.to_string());
        std::fs::create_dir_all(&home)?;
        let socket = home.join("csi.sock");
        let container = manifests.container(OPERATOR, &pod)?;
        let kubeconfig = cluster
            .kubeconfig(&container.namespace, &container.account, None)
            .await?;
        let [port] = free_ports()?;

        let arguments = container.arguments(&[
            ("--endpoint", format!("unix://{}", socket.display())),
            ("--metrics-address", format!("127.0.0.1:{port}")),
        ]);
        let env: BTreeMap<String, String> = [
            ("KUBECONFIG", kubeconfig.display().to_string()),
            ("POD_NAME", pod.clone()),
            ("POD_NAMESPACE", container.namespace.clone()),
            ("TMPDIR", home.display().to_string()),
            ("RUST_BACKTRACE", "1".into()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .chain(env.iter().cloned())
        .collect();
        let recipe = Recipe {
            program: tools::own(OPERATOR)?,
            container,
            arguments,
            env,
            pod: pod.clone(),
            port,
            home: home.clone(),
        };
        let started = recipe.clone();
        let log = cluster.dir().join(format!("{OPERATOR}-{index}.log"));
        let operator = Supervised::start(OPERATOR, log, move || started.command(&[]))?;
        let mut replica = Self {
            pod,
            socket,
            operator,
            sidecars: BTreeMap::new(),
            recipe,
        };
        replica.ready().await?;

        for name in sidecars {
            let started = sidecar(
                cluster,
                manifests,
                name,
                &replica.pod,
                &replica.socket,
                &index.to_string(),
            )
            .await?;
            replica.sidecars.insert((*name).into(), started);
        }
        Ok(replica)
    }

    /// Waits until the operator says that it is ready.
    pub async fn ready(&self) -> Result<()> {
        let what = format!("{OPERATOR} of {} to be ready", self.pod);
        let waited = wait_until(&what, READY, async || {
            let (status, body) = self.get("/readyz").await?;
            ensure!(status == 200, "/readyz says {status}: {body}");
            Ok(())
        });
        waited
            .await
            .with_context(|| format!("its last lines:\n{}", self.operator.tail(20)))
    }

    /// SIGKILL for the operator; its next life, and only that one, has this environment on top of its own.
    pub fn restart_once_with(&self, env: &[(String, String)]) -> Result<()> {
        let (recipe, env) = (self.recipe.clone(), std::sync::Mutex::new(env.to_vec()));
        self.operator.remake(move || {
            let once = std::mem::take(&mut *env.lock().unwrap_or_else(PoisonError::into_inner));
            recipe.command(&once)
        });
        self.operator.restart()
    }

    /// A GET on the operator's port for health and metrics.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        http_get(self.recipe.port, path).await
    }
}

/// Starts a sidecar with the flags that are shipped, on this socket; `suffix` tells its log from those of others.
pub async fn sidecar(
    cluster: &Cluster,
    manifests: &Manifests,
    name: &str,
    pod: &str,
    socket: &Path,
    suffix: &str,
) -> Result<Supervised> {
    let container = manifests.container(name, pod)?;
    let kubeconfig = cluster
        .kubeconfig(&container.namespace, &container.account, None)
        .await?;
    let mut instead = vec![
        ("--csi-address", socket.display().to_string()),
        ("--kubeconfig", kubeconfig.display().to_string()),
        // Outside of a pod there is no file that names the namespace.
        ("--leader-election-namespace", container.namespace.clone()),
    ];
    if container
        .args
        .iter()
        .any(|argument| argument.starts_with("--http-endpoint"))
    {
        let [port] = free_ports()?;
        instead.push(("--http-endpoint", format!("127.0.0.1:{port}")));
    }
    if name == "csi-provisioner" {
        // There is no pod and no Deployment that could own the CSIStorageCapacity objects.
        instead.push(("--capacity-ownerref-level", "-1".into()));
    }
    let program = cluster.tools().path(name);
    let arguments = container.arguments(&instead);
    let (owner, log) = (pod.to_owned(), cluster.dir().join(format!("{name}-{suffix}.log")));
    Supervised::start(name, log, move || {
        let mut command = in_pod(&owner, &program);
        command
            .args(&arguments)
            .envs(&container.env)
            .env("NAMESPACE", &container.namespace)
            .env("POD_NAME", &owner);
        command
    })
}

/// The smallest HTTP client there is: one request, one answer, the connection closed by the server.
async fn http_get(port: u16, path: &str) -> Result<(u16, String)> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .context("an HTTP status")?;
    let body = answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .unwrap_or_default();
    Ok((status, body))
}

/// A command with a host name of its own, as in a pod: leader election of the sidecars tells replicas apart by it.
fn in_pod(pod: &str, program: &Path) -> Command {
    let mut wrapped = command("unshare");
    if !rustix::process::geteuid().is_root() {
        wrapped.arg("--map-root-user");
    }
    wrapped
        .args(["--uts", "--", "sh", "-c", "hostname \"$0\" && exec \"$@\"", pod])
        .arg(program);
    wrapped
}
