//! A way from guests to a socket of this computer: sockets of files do not cross into a machine, ports do.

use std::path::{Path, PathBuf};

use anyhow::Result;
use tokio::net::{TcpListener, UnixStream};
use tokio::task::JoinSet;

/// A port of loopback, which guests find at [`super::HOST`]. It closes when this is dropped.
#[derive(Debug)]
pub struct Bridge {
    /// The port.
    pub port: u16,
    _serving: JoinSet<()>,
}

impl Bridge {
    /// Whoever connects to the port talks to the socket.
    pub async fn open(socket: &Path) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, socket.to_owned()));
        Ok(Self {
            port,
            _serving: serving,
        })
    }
}

async fn serve(listener: TcpListener, socket: PathBuf) {
    let mut running = JoinSet::new();
    while let Ok((mut here, _)) = listener.accept().await {
        while running.try_join_next().is_some() {}
        let socket = socket.clone();
        running.spawn(async move {
            // A caller whose other side is not there, or goes, sees its connection end.
            if let Ok(mut there) = UnixStream::connect(&socket).await {
                tokio::io::copy_bidirectional(&mut here, &mut there).await.ok();
            }
        });
    }
}
