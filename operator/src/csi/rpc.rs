//! The one place where every CSI call is logged and metered (B85): a tower layer around all services.
//!
//! The answer's code is read from the response head, where tonic puts that of a failed unary call; a head without one is a
//! success. A call whose future is dropped was given up by its caller and counts as Cancelled.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Instrument, Span, debug, field, info, info_span, warn};

use super::failure::shown;
use crate::telemetry::Telemetry;

/// How long after the last call of a stopping server its connections are left to the other side.
const LINGER: Duration = Duration::from_secs(1);

/// Methods by which series are labelled, and the operation on volumes that each is. Anything else is `other`.
const METHODS: [(&str, Option<&str>); 17] = [
    ("GetPluginInfo", None),
    ("GetPluginCapabilities", None),
    ("Probe", None),
    ("ControllerGetCapabilities", None),
    ("CreateVolume", Some("create")),
    ("DeleteVolume", Some("delete")),
    ("ControllerExpandVolume", Some("expand")),
    ("ValidateVolumeCapabilities", Some("validate")),
    ("ListVolumes", Some("list")),
    ("GetCapacity", Some("capacity")),
    ("ControllerPublishVolume", Some("attach")),
    ("ControllerUnpublishVolume", Some("detach")),
    ("CreateSnapshot", Some("create_snapshot")),
    ("DeleteSnapshot", Some("delete_snapshot")),
    ("ListSnapshots", Some("list_snapshots")),
    ("ControllerGetVolume", None),
    ("ControllerModifyVolume", None),
];

/// Wraps services.
#[derive(Clone)]
pub struct Metered {
    telemetry: Telemetry,
    calls: watch::Sender<usize>,
}

impl Metered {
    /// Counts into these series.
    #[must_use]
    pub fn new(telemetry: Telemetry) -> Self {
        Self {
            telemetry,
            calls: watch::channel(0).0,
        }
    }

    /// Ends when `stop` is cancelled and no call has been under way for a moment.
    pub async fn drained(self, stop: CancellationToken) {
        stop.cancelled().await;
        let mut calls = self.calls.subscribe();
        while calls.wait_for(|calls| *calls == 0).await.is_ok() {
            // The last answer is on its way to the socket still.
            if timeout(LINGER, calls.wait_for(|calls| *calls > 0)).await.is_err() {
                return;
            }
        }
    }
}

impl<S> Layer<S> for Metered {
    type Service = MeteredService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        MeteredService {
            inner,
            metered: self.clone(),
        }
    }
}

/// A wrapped service.
#[derive(Clone)]
pub struct MeteredService<S> {
    inner: S,
    metered: Metered,
}

impl<S> Service<Request<Body>> for MeteredService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let name = request.uri().path().rsplit('/').next().unwrap_or_default();
        let (method, operation) = METHODS
            .into_iter()
            .find(|(method, _)| *method == name)
            .unwrap_or(("other", None));
        let span = info_span!("rpc", method, volume = field::Empty);
        let entered = span.enter();
        let answer = self.inner.call(request);
        let running = Running::new(&self.metered, method, operation);
        drop(entered);
        Box::pin(
            async move {
                let answer = answer.await;
                running.ended(answer.as_ref().ok().and_then(|a| Status::from_header_map(a.headers())));
                answer
            }
            .instrument(span),
        )
    }
}

/// Says in the log of this call which volume it is about.
pub fn about(volume: &str) {
    Span::current().record("volume", shown(volume));
}

/// A call under way.
struct Running {
    telemetry: Telemetry,
    calls: watch::Sender<usize>,
    method: &'static str,
    operation: Option<&'static str>,
    started: Instant,
    code: Code,
    message: String,
}

impl Running {
    fn new(metered: &Metered, method: &'static str, operation: Option<&'static str>) -> Self {
        let Metered { telemetry, calls } = metered.clone();
        calls.send_modify(|calls| *calls += 1);
        telemetry.rpcs_in_flight.with_label_values(&[method]).inc();
        let message = "given up by the caller".to_owned();
        Self {
            telemetry,
            calls,
            method,
            operation,
            started: Instant::now(),
            code: Code::Cancelled,
            message,
        }
    }

    fn ended(mut self, status: Option<Status>) {
        self.code = status.as_ref().map_or(Code::Ok, Status::code);
        self.message = status.map_or_else(String::new, |s| s.message().to_owned());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let (method, seconds) = (self.method, self.started.elapsed().as_secs_f64());
        let code = format!("{:?}", self.code);
        self.calls.send_modify(|calls| *calls -= 1);
        self.telemetry.rpcs_in_flight.with_label_values(&[method]).dec();
        self.telemetry.rpcs.with_label_values(&[method, &code]).inc();
        if let Some(operation) = self.operation {
            let status = if self.code == Code::Ok { "success" } else { "failure" };
            self.telemetry
                .volume_operations
                .with_label_values(&[operation, status])
                .inc();
            self.telemetry
                .volume_operation_seconds
                .with_label_values(&[operation])
                .observe(seconds);
        }
        let changes = matches!(self.operation, Some(o) if !matches!(o, "validate" | "list" | "capacity"));
        match (self.code == Code::Ok, changes) {
            (true, true) => info!(seconds, "call answered"),
            (true, false) => debug!(seconds, "call answered"),
            (false, _) => warn!(code, seconds, reason = self.message, "call failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt;

    use super::*;

    async fn call(telemetry: &Telemetry, path: &str, status: Option<Status>) {
        let inner = tower::service_fn(move |_| {
            let answer = status
                .clone()
                .map_or_else(|| Response::new(Body::empty()), Status::into_http);
            std::future::ready(Ok::<_, std::convert::Infallible>(answer))
        });
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        Metered::new(telemetry.clone())
            .layer(inner)
            .oneshot(request)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn b85_every_call_is_metered_with_its_code() {
        let telemetry = Telemetry::new().unwrap();
        call(&telemetry, "/csi.v1.Controller/CreateVolume", None).await;
        call(
            &telemetry,
            "/csi.v1.Controller/CreateVolume",
            Some(Status::aborted("again")),
        )
        .await;
        call(&telemetry, "/csi.v1.Identity/Probe", None).await;
        call(&telemetry, "/some.Other/Thing", Some(Status::unimplemented("no"))).await;
        let text = telemetry.render().unwrap();
        for line in [
            r#"rds_csi_rpcs_total{code="Ok",method="CreateVolume"} 1"#,
            r#"rds_csi_rpcs_total{code="Aborted",method="CreateVolume"} 1"#,
            r#"rds_csi_rpcs_total{code="Ok",method="Probe"} 1"#,
            r#"rds_csi_rpcs_total{code="Unimplemented",method="other"} 1"#,
            r#"rds_csi_volume_operations_total{operation="create",status="success"} 1"#,
            r#"rds_csi_volume_operations_total{operation="create",status="failure"} 1"#,
            r#"rds_csi_volume_operation_duration_seconds_count{operation="create"} 2"#,
            r#"rds_csi_rpcs_in_flight{method="CreateVolume"} 0"#,
        ] {
            assert!(text.contains(line), "no {line} in\n{text}");
        }
    }

    #[tokio::test]
    async fn a_call_that_is_given_up_is_counted_too() {
        let telemetry = Telemetry::new().unwrap();
        let inner = tower::service_fn(|_| std::future::pending::<Result<_, std::convert::Infallible>>());
        let request = Request::builder()
            .uri("/csi.v1.Controller/DeleteVolume")
            .body(Body::empty())
            .unwrap();
        let mut service = Metered::new(telemetry.clone()).layer(inner);
        drop(service.call(request));
        assert!(
            telemetry
                .render()
                .unwrap()
                .contains(r#"rds_csi_rpcs_total{code="Cancelled",method="DeleteVolume"} 1"#)
        );
    }
}
