//! The RouterOS simulator as a program: an SSH port that behaves like an appliance, and an HTTP port to break it.

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use routeros_sim::{Account, Config, HostKey, Knobs, Nvmet, Simulator, Version, generate_key};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Clone, Copy, ValueEnum)]
enum KeyType {
    Rsa,
    Ed25519,
}

/// A RouterOS simulator: behaves like a MikroTik ROSE data server over SSH, with faults on demand.
#[derive(Debug, Parser)]
#[command(name = "routeros-sim")]
struct Options {
    /// Where SSH listens.
    #[arg(long, default_value = "127.0.0.1:2222")]
    listen: SocketAddr,
    /// Where the HTTP control interface listens; loopback only, it asks nobody for a password.
    #[arg(long, default_value = "127.0.0.1:2223")]
    control: SocketAddr,
    /// The user with the policies ssh, read, write and test. `admin` exists besides.
    #[arg(long, default_value = "metal-csi")]
    user: String,
    /// Policies of that user, instead of ssh,read,write,test.
    #[arg(long, value_delimiter = ',')]
    policy: Vec<String>,
    /// File with public keys that open both accounts; may be given more than once.
    #[arg(long)]
    authorized_key: Vec<PathBuf>,
    /// Where to write a generated private key that opens both accounts.
    #[arg(long)]
    client_key: Option<PathBuf>,
    /// Private host key in OpenSSH form; made when absent.
    #[arg(long)]
    host_key: Option<PathBuf>,
    /// Type of a host key that must be made. Devices have rsa; ed25519 is made faster.
    #[arg(long, value_enum, default_value = "rsa")]
    host_key_type: KeyType,
    /// Slot and mount point of the pool.
    #[arg(long, default_value = "storage-pool")]
    pool: String,
    /// Bytes of the pool.
    #[arg(long, default_value_t = 7_681_574_174_720)]
    pool_size: u64,
    /// File system of the pool: xfs or btrfs.
    #[arg(long, default_value = "xfs")]
    pool_fs: String,
    /// Directory to make in the pool; may be given more than once.
    #[arg(long, default_value = "metal-csi")]
    mkdir: Vec<String>,
    /// RouterOS version, 7.17 to 7.24.4; the one in --knobs if not given.
    #[arg(long)]
    version: Option<Version>,
    /// JSON file with knobs to start with.
    #[arg(long)]
    knobs: Option<PathBuf>,
    /// Directory that keeps the state between runs.
    #[arg(long)]
    state: Option<PathBuf>,
    /// File that gets every command as a line of JSON.
    #[arg(long)]
    log: Option<PathBuf>,
    /// Makes exports real: the NVMe/TCP target of this kernel serves them at this address, each at the port of its row. As root,
    /// on a machine that is there for it.
    #[arg(long, value_name = "ADDRESS")]
    nvmet: Option<IpAddr>,
    /// Folder of the images behind real exports.
    #[arg(long, default_value = "/var/tmp/routeros-sim", requires = "nvmet")]
    images: PathBuf,
    /// Network namespace in which real exports are served.
    #[arg(long, requires = "nvmet")]
    netns: Option<PathBuf>,
}

fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(())
}

fn host_key(options: &Options) -> anyhow::Result<HostKey> {
    let kind = match options.host_key_type {
        KeyType::Rsa => HostKey::Rsa,
        KeyType::Ed25519 => HostKey::Ed25519,
    };
    let Some(path) = &options.host_key else { return Ok(kind) };
    if !path.exists() {
        let text = generate_key(&kind)?;
        write_private(path, &text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(HostKey::Given(
        std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?,
    ))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "routeros_sim=info".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    let options = Options::parse();
    if !options.control.ip().is_loopback() {
        bail!(
            "--control {} is no loopback address: the control interface has no authentication",
            options.control
        );
    }
    let mut authorized_keys = Vec::new();
    for path in &options.authorized_key {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let lines = text
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty() && !l.starts_with('#'));
        authorized_keys.extend(lines.map(str::to_owned));
    }
    let mut knobs = match &options.knobs {
        Some(path) => {
            let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
            serde_json::from_slice::<Knobs>(&text).with_context(|| format!("{} holds no knobs", path.display()))?
        }
        None => Knobs::default(),
    };
    if let Some(version) = options.version {
        knobs.version = version;
    }
    let mut user = Account::operator(&options.user);
    if !options.policy.is_empty() {
        user.policies = options.policy.iter().cloned().collect();
    }
    let config = Config {
        listen: options.listen,
        user,
        more_users: Vec::new(),
        authorized_keys,
        host_key: host_key(&options)?,
        pool: options.pool.clone(),
        pool_size: options.pool_size,
        pool_fs: options.pool_fs.clone(),
        directories: options.mkdir.clone(),
        knobs,
        state_dir: options.state.clone(),
        log_file: options.log.clone(),
        nvmet: options.nvmet.map(|address| Nvmet {
            address,
            images: options.images.clone(),
            netns: options.netns.clone(),
        }),
    };
    let sim = Arc::new(Simulator::start(config).await?);
    if let Some(path) = &options.client_key {
        write_private(path, &sim.client_private_key()).with_context(|| format!("write {}", path.display()))?;
    }
    let control = TcpListener::bind(options.control)
        .await
        .with_context(|| format!("listen on {}", options.control))?;
    let greeting = format!(
        "ssh {}\ncontrol http://{}\nhost-key {}\n",
        sim.addr(),
        control.local_addr()?,
        sim.host_key_line()
    );
    // Nobody has to listen.
    let _unheard = std::io::Write::write_all(&mut std::io::stdout(), greeting.as_bytes());
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let router = routeros_sim::control::router(sim.clone());
    tokio::select! {
        ended = axum::serve(control, router) => ended.context("control interface")?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    sim.shut_down().await;
    Ok(())
}
