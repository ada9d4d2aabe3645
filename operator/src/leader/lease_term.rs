//! Until when this process may lead, as the API server's answers about the Lease say.
//!
//! `kube-lease-manager` tells that the Lease came or went. It tells neither that a renewal went well, nor how old the last one is while
//! requests fail or hang, nor that the Lease it found in our name ended long ago. So the answers to its requests are read on their way.
//!
//! The arithmetic: others may take the Lease at `renewTime` + `leaseDurationSeconds`. Our clock stamped `renewTime` before the request
//! was sent, so its age now is what our clock has counted since, and the lead ends [`MARGIN`] before the rest of the duration has passed,
//! whatever the requests do. With 15 s and 5 s of grace the renewal is due at 10 s; a partition lets a connect end at 12.5 s, and after
//! half a second another begins, which ends at 15.5 s: too late, so that the lead is given up at 14 s, in its middle.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::client::Body;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tower::service_fn;

/// So long before the end of its Lease the lead ends.
const MARGIN: Duration = Duration::from_secs(1);

/// The time for which the Lease is ours; clones share it.
#[derive(Clone)]
pub(super) struct LeaseTerm {
    identity: Arc<str>,
    end: watch::Sender<Option<Instant>>,
}

impl LeaseTerm {
    /// None yet, of the holder with that name.
    pub(super) fn new(identity: &str) -> Self {
        Self {
            identity: identity.into(),
            end: watch::Sender::new(None),
        }
    }

    /// The same client; the Leases that it is answered with are noted here.
    pub(super) fn listen(&self, client: Client) -> Client {
        let namespace = client.default_namespace().to_owned();
        let lease_term = self.clone();
        let service = service_fn(move |request: Request<Body>| {
            let (client, lease_term) = (client.clone(), lease_term.clone());
            async move {
                let (head, body) = client.send(request).await?.into_parts();
                let body = body.collect_bytes().await?;
                if head.status.is_success()
                    && let Ok(lease) = serde_json::from_slice::<Lease>(&body)
                {
                    lease_term.note(&lease, Timestamp::now());
                }
                Ok::<_, kube::Error>(Response::from_parts(head, Body::from(body)))
            }
        });
        Client::new(service, namespace)
    }

    fn note(&self, lease: &Lease, now: Timestamp) {
        let ours = lease
            .spec
            .as_ref()
            .filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity));
        let end = ours.and_then(|spec| {
            let duration = Duration::from_secs(spec.lease_duration_seconds?.try_into().ok()?);
            // A clock that was set back makes it younger than it is; younger than new it cannot be.
            let age = Duration::try_from(now.duration_since(spec.renew_time.as_ref()?.0)).unwrap_or_default();
            Some(Instant::now() + duration.saturating_sub(MARGIN).saturating_sub(age))
        });
        self.end.send_replace(end);
    }

    /// Whether this process may lead now.
    pub(super) fn lasts(&self) -> bool {
        self.end.borrow().is_some_and(|end| end > Instant::now())
    }

    /// Waits until it may.
    pub(super) async fn begun(&self) {
        let mut ends = self.end.subscribe();
        while !self.lasts() {
            // The sender is ours, so that this does not fail.
            let _ = ends.changed().await;
        }
    }

    /// Waits until it may not any more.
    pub(super) async fn over(&self) {
        let mut ends = self.end.subscribe();
        loop {
            let end = *ends.borrow_and_update();
            let Some(end) = end.filter(|end| *end > Instant::now()) else {
                return;
            };
            tokio::select! {
                () = sleep_until(end) => {}
                _ = ends.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    use super::*;

    fn lease(holder: &str, renewed: Timestamp) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            renew_time: Some(MicroTime(renewed)),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        };
        Lease {
            spec: Some(spec),
            ..Lease::default()
        }
    }

    fn left(lease_term: &LeaseTerm) -> Option<Duration> {
        lease_term.end.borrow().map(|end| end.duration_since(Instant::now()))
    }

    #[tokio::test(start_paused = true)]
    async fn the_lead_ends_before_the_lease_by_the_age_of_its_renewal() {
        let (lease_term, now) = (LeaseTerm::new("me"), Timestamp::now());
        let ago = |seconds: i64| now - jiff::SignedDuration::from_secs(seconds);
        assert!(!lease_term.lasts(), "nothing is known");
        lease_term.note(&lease("me", ago(0)), now);
        assert_eq!(left(&lease_term), Some(Duration::from_secs(14)));
        lease_term.note(&lease("me", ago(9)), now);
        assert_eq!(
            left(&lease_term),
            Some(Duration::from_secs(5)),
            "an answer that took long"
        );
        lease_term.note(&lease("me", ago(-60)), now);
        assert_eq!(
            left(&lease_term),
            Some(Duration::from_secs(14)),
            "the clock was set back"
        );
        lease_term.note(&lease("me", ago(3600)), now);
        assert!(!lease_term.lasts(), "found in our name, of a former life");
        lease_term.note(&lease("me", ago(0)), now);
        lease_term.note(&lease("other", ago(0)), now);
        assert!(!lease_term.lasts(), "somebody else has it");
    }
}
