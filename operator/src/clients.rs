//! The ways to the API server: how long each of them waits for an answer.
//!
//! kube waits without end for the answer to a request. An API server that lost its power after it took one would hold a pass over a
//! volume, and whoever waits for that, for ever. Invariant: each client has a bound for silence, and what is done with it fits that.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use tokio::sync::Notify;
use tower::service_fn;

/// Silence after which a read or a write counts as lost. Whether a write happened is not known then, as after every cut.
const ANSWER: Duration = Duration::from_secs(30);
/// The same for watches, which are silent while nothing changes. kube asks for an end after 290 s and goes on by itself 5 s later
/// (`kube_runtime::watcher`, `WATCH_IDLE_TIMEOUT_MARGIN`); this one ends what not even begins to answer.
const WATCH: Duration = Duration::from_secs(305);

/// One client for each kind of patience.
#[derive(Clone)]
pub struct Clients {
    /// For all that is not a watch.
    pub main: Client,
    /// For watches.
    pub watches: Client,
    /// For the Lease alone: gives up so soon that a second attempt fits into the grace.
    pub lease: Client,
}

impl Clients {
    /// As kubectl finds the API server.
    ///
    /// # Errors
    /// When there is neither a kubeconfig nor a service account.
    pub async fn infer(lease_grace: Duration) -> anyhow::Result<Self> {
        let inferred = kube::Config::infer()
            .await
            .context("no way to the API server, set KUBECONFIG or run in a pod")?;
        Ok(Self {
            main: Client::try_from(bounded(inferred.clone(), ANSWER))?,
            watches: Client::try_from(bounded(inferred.clone(), WATCH))?,
            lease: Client::try_from(impatient(inferred, lease_grace))?,
        })
    }
}

/// With an end to waiting. The timer of a connection runs while nothing comes in and begins anew with each byte, so that a long
/// answer or a busy watch is not cut; and with each request, as it would count the time before that in which the connection was idle.
fn bounded(mut config: kube::Config, silence: Duration) -> kube::Config {
    config.read_timeout = Some(silence);
    config.reset_reader_on_write = true;
    config
}

fn impatient(config: kube::Config, lease_grace: Duration) -> kube::Config {
    let patience = (lease_grace / 2).max(Duration::from_secs(1));
    let mut config = bounded(config, patience);
    config.connect_timeout = Some(patience);
    config.write_timeout = Some(patience);
    // kube repeats what was answered with 429, 503 or 504 inside the call, for minutes: no Lease lasts that long.
    config.default_retry = false;
    config
}

/// The same client; `answered` hears of each request that begins to be answered, other than with an error.
pub(crate) fn heard(client: Client, answered: Arc<Notify>) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = service_fn(move |request: Request<Body>| {
        let (client, answered) = (client.clone(), answered.clone());
        async move {
            let response: Response<Body> = client.send(request).await?;
            if response.status().is_success() {
                answered.notify_one();
            }
            Ok::<_, kube::Error>(response)
        }
    });
    Client::new(service, namespace)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Namespace;
    use kube::Api;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    fn local() -> kube::Config {
        kube::Config::new("http://127.0.0.1:1".parse().unwrap())
    }

    #[test]
    fn every_client_has_an_end_to_its_patience() {
        let (main, watches) = (bounded(local(), ANSWER), bounded(local(), WATCH));
        assert_eq!(main.read_timeout, Some(Duration::from_secs(30)));
        assert!(
            watches.read_timeout > Some(Duration::from_secs(290 + 5)),
            "the watch ends first"
        );
        assert!(main.reset_reader_on_write && watches.reset_reader_on_write);

        let lease = impatient(local(), Duration::from_secs(5));
        let half = Some(Duration::from_millis(2500));
        assert_eq!(
            [lease.connect_timeout, lease.write_timeout, lease.read_timeout],
            [half; 3]
        );
        assert!(!lease.default_retry, "no hidden repetitions");
    }

    #[tokio::test]
    async fn a_server_that_took_the_request_and_died_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mute = tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                open.push(connection);
            }
        });
        let config = bounded(kube::Config::new(url.parse().unwrap()), Duration::from_millis(100));
        let namespaces: Api<Namespace> = Api::all(Client::try_from(config).unwrap());
        let asked = timeout(Duration::from_secs(20), namespaces.get("kube-system")).await;
        assert!(asked.expect("it waits for ever").is_err());
        mute.abort();
    }
}
