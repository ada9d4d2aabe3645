//! Bindings of the Container Storage Interface, wire-compatible with specification 1.12.
//!
//! Owns `csi.proto`, `pluginregistration.proto` and what is generated from them; the module tree mirrors the packages: [`csi::v1`] holds
//! the messages, and one client and one server module for each service. [`server`] has what both of our servers need around them.

pub mod server;

/// The name under which every CSI message carries credentials. Code that logs a request must leave this field out.
pub const SECRET_FIELDS: &[&str] = &["secrets"];

/// Package `csi`.
pub mod csi {
    /// Package `csi.v1`.
    #[allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::wildcard_enum_match_arm
    )]
    pub mod v1 {
        tonic::include_proto!("csi.v1");
    }
}

/// How a plugin introduces itself to kubelet.
pub mod pluginregistration {
    /// Package `pluginregistration`.
    #[allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::wildcard_enum_match_arm
    )]
    pub mod v1 {
        tonic::include_proto!("pluginregistration");
    }
}
