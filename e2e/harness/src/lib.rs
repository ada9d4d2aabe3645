//! End-to-end harness: a real control plane, real sidecars, the shipped manifests, and a simulated appliance behind real SSH.
//!
//! Nothing here fakes Kubernetes. Every component runs with a token of its own ServiceAccount and exactly the RBAC of
//! `config/`; cluster admin is for the tests' own hands. Invariant: whatever a test started is gone when its process is gone,
//! however it ended (`process`).

pub mod access;
pub mod agent;
pub mod appliance;
pub mod claims;
pub mod cluster;
pub mod controller;
pub mod csi;
pub mod kubectl;
pub mod kubelet;
pub mod lab;
pub mod machine;
pub mod manifest;
pub mod noop;
pub mod population;
pub mod process;
pub mod replica;
pub mod sanity;
pub mod scene;
pub mod supervisor;
pub mod tools;
pub mod vm;
pub mod wait;

use std::future::Future;
use std::sync::LazyLock;

pub use cluster::Cluster;
pub use lab::Lab;
pub use wait::wait_until;

#[expect(clippy::expect_used, reason = "without a runtime no test can say anything")]
static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .expect("a tokio runtime")
});

/// Runs a test body on the one runtime of this process.
///
/// One runtime, because tests of a binary share a cluster, and clients and in-process simulators live on the runtime that made
/// them: with `#[tokio::test]` they would die with the first test that ends.
pub fn run<F: Future>(body: F) -> F::Output {
    RUNTIME.block_on(body)
}
