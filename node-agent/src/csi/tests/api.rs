//! An API server of one volume and one attachment, with an operator that keeps the ledger.

use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use rds_crds::identity::attachment_name;
use serde_json::{Value, json};
use tower::service_fn;

pub(super) const VOLUME: &str = "pvc-1";
pub(super) const UID: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
pub(super) const NQN: &str = "nqn.2000-02.com.mikrotik:pvc-1";
pub(super) const IDENTITY: &str = "uuid.6c1dc5a0-0000-4000-8000-000000000001";
pub(super) const CONNECTION: &str = "nvme0/7";

/// What is stored. `operator`: whether the ledger is kept.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) volume: Value,
    pub(super) attachment: Option<Value>,
    pub(super) operator: bool,
    pub(super) down: bool,
    version: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Api(pub(super) Arc<Mutex<Stored>>);

impl Api {
    /// Admitted, with the intent of this host and its connection, blank.
    pub(super) fn new() -> Self {
        let volume = json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume",
            "metadata": {"name": VOLUME, "uid": UID, "resourceVersion": "1"},
            "spec": {"server": "s", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"]},
            "status": {"capacity": "1Gi", "exportGeneration": 1, "format": {"state": "Blank"}},
        });
        let attachment = json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsAttachment",
            "metadata": {"name": attachment_name(VOLUME, "n1"), "uid": "a", "resourceVersion": "1"},
            "spec": {"volume": VOLUME, "node": "n1", "accessMode": "ReadWriteOnce"},
            "status": {
                "nqn": NQN, "address": "192.0.2.1", "port": 4420, "exportGeneration": 1,
                "conditions": [{"type": "Admitted", "status": "True", "reason": "Admitted", "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}],
                "agent": {"intent": {"bootID": "b", "systemUUID": "s", "machineID": "m", "nodeUID": "u", "generation": 1},
                    "namespace": {"generation": 1, "identity": IDENTITY, "bootID": "b", "connection": CONNECTION}},
            },
        });
        Self(Arc::new(Mutex::new(Stored {
            volume,
            attachment: Some(attachment),
            operator: true,
            down: false,
            version: 1,
        })))
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Stored)) {
        change(&mut self.0.lock().unwrap());
    }

    /// A field of the stored attachment's `status.agent`.
    pub(super) fn agent(&self, pointer: &str) -> Value {
        let stored = self.0.lock().unwrap();
        let attachment = stored.attachment.as_ref().unwrap();
        attachment["status"]["agent"]
            .pointer(pointer)
            .cloned()
            .unwrap_or_default()
    }

    /// `True Reason`, or nothing.
    pub(super) fn condition(&self, kind: &str) -> String {
        let all = self.agent("/conditions");
        let found = all.as_array().and_then(|all| all.iter().find(|c| c["type"] == kind));
        found.map_or_else(String::new, |c| {
            format!("{} {}", c["status"].as_str().unwrap(), c["reason"].as_str().unwrap())
        })
    }

    pub(super) fn client(&self) -> Client {
        let api = self.clone();
        let service = service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.map_err(tower::BoxError::from)?;
                let (code, answer) = api.answer(&parts.method, parts.uri.path(), &body);
                let response = Response::builder()
                    .status(code)
                    .header("content-type", "application/json")
                    .body(Body::from(serde_json::to_vec(&answer)?))?;
                Ok::<_, tower::BoxError>(response)
            }
        });
        Client::new(service, "rds-csi")
    }

    fn answer(&self, method: &Method, path: &str, body: &[u8]) -> (u16, Value) {
        let mut stored = self.0.lock().unwrap();
        let none = |code: u16, reason: &str| {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason,
                "reason": reason, "code": code});
            (code, status)
        };
        if stored.down {
            return none(503, "ServiceUnavailable");
        }
        let name = path.split('/').nth(5).unwrap_or_default().to_owned();
        if path.contains("/rdsvolumes/") {
            return if name == VOLUME {
                (200, stored.volume.clone())
            } else {
                none(404, "NotFound")
            };
        }
        assert!(path.contains("/rdsattachments/"), "{path}");
        let Some(mut attachment) = stored
            .attachment
            .clone()
            .filter(|a| a["metadata"]["name"] == name.as_str())
        else {
            return none(404, "NotFound");
        };
        if *method == Method::GET {
            return (200, attachment);
        }
        let sent: Value = serde_json::from_slice(body).unwrap();
        if sent["metadata"]["resourceVersion"] != attachment["metadata"]["resourceVersion"] {
            return none(409, "Conflict");
        }
        attachment["status"]["agent"] = sent["status"]["agent"].clone();
        stored.version += 1;
        attachment["metadata"]["resourceVersion"] = stored.version.to_string().into();
        if stored.operator {
            let said = attachment["status"]["agent"]["format"].clone();
            keep_ledger(&mut stored.volume, &said);
        }
        stored.attachment = Some(attachment.clone());
        (200, attachment)
    }
}

/// The operator's half of the handshake, for one attachment `a`.
fn keep_ledger(volume: &mut Value, said: &Value) {
    let ledger = &mut volume["status"]["format"];
    let state = ledger["state"].as_str().unwrap_or("Unknown").to_owned();
    let (fs, uuid) = (said["requested"].clone(), said["fsUUID"].clone());
    match state.as_str() {
        "Blank" | "Unknown" if said["usedAsBlock"] == true => *ledger = json!({"state": "UsedAsBlock"}),
        "Blank" if fs.is_string() => {
            *ledger = json!({"state": "Intent", "attachmentUID": "a", "node": "n1", "fsType": fs});
        }
        "Intent" | "Unknown" if uuid == UID => *ledger = json!({"state": "Formatted", "fsType": fs, "fsUUID": uuid}),
        _ => {}
    }
}
