//! Questions to a guest, over a port that is forwarded from loopback.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than anything takes that is asked for; an emulated processor is slow.
const LIMIT: Duration = Duration::from_secs(60);

/// The control port of a guest.
#[derive(Clone, Debug)]
pub struct Control {
    /// On loopback of the host.
    pub port: u16,
}

impl Control {
    /// Asks; the body of a good answer.
    pub async fn ask(&self, method: &str, path: &str, body: &str) -> Result<String> {
        let asked = tokio::time::timeout(LIMIT, self.exchange(method, path, body)).await;
        let text = asked
            .with_context(|| format!("no answer to {method} {path} within {} s", LIMIT.as_secs()))?
            .with_context(|| format!("{method} {path}"))?;
        let (head, body) = text.split_once("\r\n\r\n").context("an answer without a head")?;
        let status = head.split_whitespace().nth(1).unwrap_or_default();
        if !status.starts_with('2') {
            bail!("{method} {path} was answered with {status}: {body}");
        }
        Ok(body.to_owned())
    }

    async fn exchange(&self, method: &str, path: &str, body: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let kind = if body.starts_with(['{', '[']) {
            "application/json"
        } else {
            "text/plain"
        };
        let length = body.len();
        // HTTP/1.0: the answer ends with the connection, and comes in no chunks.
        let request =
            format!("{method} {path} HTTP/1.0\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Runs a line of shell in the guest; what it printed. An error when it fails.
    pub async fn sh(&self, line: &str) -> Result<String> {
        self.ask("POST", "/sh", line).await
    }
}
