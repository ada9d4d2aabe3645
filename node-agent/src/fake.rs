//! Sessions on a simulated appliance instead of the kernel's, for tests: debug builds only.
//!
//! The simulator keeps the sessions, as a kernel does: they outlive the agent. What uses a device is a list of NQNs, one a line,
//! in a file that the test writes; `?` in front of one makes its use unknown.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::attachment::decide::DisconnectKey;
use crate::attachment::model::Use;
use crate::fabrics::{ConnectError, Fabrics, FabricsError, Link, Session, Target};

const PATIENCE: Duration = Duration::from_secs(5);

/// The control interface of a simulator, as one host.
#[derive(Debug)]
pub(crate) struct Simulated {
    address: String,
    host: String,
    used: PathBuf,
}

#[derive(Deserialize)]
struct Row {
    id: u64,
    nqn: String,
    host: String,
    link: String,
    uuid: Option<String>,
}

impl Simulated {
    /// `url` is `http://address:port`, `host` the name of this host there, `used` the file of devices in use.
    #[must_use]
    pub(crate) fn new(url: &str, host: &str, used: PathBuf) -> Self {
        let address = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        Self {
            address,
            host: host.to_owned(),
            used,
        }
    }

    /// Status and body of one request.
    fn ask(&self, method: &str, path: &str, body: &str) -> Result<(u16, String), FabricsError> {
        let failed = |e: std::io::Error| FabricsError(format!("the simulator at {}: {e}", self.address));
        let mut stream = TcpStream::connect(&self.address).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: simulator\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).map_err(failed)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(failed)?;
        let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
        match (status, answer.split_once("\r\n\r\n")) {
            (Some(status), Some((_, body))) => Ok((status, body.to_owned())),
            _ => Err(FabricsError(format!("the simulator answered {answer:?}"))),
        }
    }

    fn rows(&self) -> Result<Vec<Row>, FabricsError> {
        let (status, body) = self.ask("GET", "/sessions", "")?;
        let rows: Vec<Row> = serde_json::from_str(&body)
            .map_err(|e| FabricsError(format!("the simulator answered {status} with {body:?}: {e}")))?;
        // An ended session is one that the kernel has dropped.
        let ours = |row: &Row| row.host == self.host && row.link != "ended";
        Ok(rows.into_iter().filter(ours).collect())
    }
}

impl Fabrics for Simulated {
    fn connect(&self, to: &Target) -> Result<Link, ConnectError> {
        let place = format!("{}:{}", to.address, to.port);
        let body = json!({"nqn": to.nqn, "host": self.host}).to_string();
        let (status, body) = self
            .ask("POST", "/sessions", &body)
            .map_err(|e| ConnectError::Unreachable(place.clone(), e.to_string()))?;
        if matches!(status, 200 | 201) {
            return Ok(Link::Ready("simulated".to_owned()));
        }
        let said: Value = serde_json::from_str(&body).unwrap_or_default();
        match said["refused"].as_str() {
            Some("port-closed") => Err(ConnectError::Unreachable(place, "connection refused".to_owned())),
            Some(_) => Err(ConnectError::Refused(to.nqn.clone())),
            None => Err(ConnectError::Other(to.nqn.clone(), body)),
        }
    }

    fn disconnect(&self, nqn: &str, _key: DisconnectKey) -> Result<(), FabricsError> {
        for row in self.rows()?.iter().filter(|row| row.nqn == nqn) {
            let (status, body) = self.ask("DELETE", &format!("/sessions/{}", row.id), "")?;
            if !matches!(status, 204 | 404) {
                return Err(FabricsError(format!("the simulator answered {status}: {body}")));
            }
        }
        Ok(())
    }

    fn sessions(&self) -> Result<Vec<Session>, FabricsError> {
        let state = |link: &str| match link {
            "served" | "orphaned" => "live",
            _ => "connecting",
        };
        let rows = self.rows()?;
        let session = |row: Row| Session {
            state: state(&row.link).to_owned(),
            disk: true,
            // What a kernel makes up where the target gives nothing.
            identity: Some(
                row.uuid
                    .map_or("nvme.0000-simulated".to_owned(), |uuid| format!("uuid.{uuid}")),
            ),
            connection: row.id.to_string(),
            nqn: row.nqn,
        };
        Ok(rows.into_iter().map(session).collect())
    }

    fn in_use(&self, nqn: &str) -> Use {
        match std::fs::read_to_string(&self.used) {
            Err(e) if e.kind() == ErrorKind::NotFound => Use::Unused,
            Err(e) => Use::Unknown(format!("{}: {e}", self.used.display())),
            Ok(text) if text.lines().any(|line| line == nqn) => Use::Used("a pod of the test".to_owned()),
            Ok(text) if text.lines().any(|line| line.strip_prefix('?') == Some(nqn)) => {
                Use::Unknown("the test says so".to_owned())
            }
            Ok(_) => Use::Unused,
        }
    }
}
