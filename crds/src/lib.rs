//! Custom resources of the RDS storage operator: the types, their validation rules, and the names we write.
//!
//! Nothing here talks to anything. `crdgen` writes the YAML under `config/crd` from these types.

#![allow(clippy::duplicated_attributes, reason = "printer columns repeat their types")]
#![allow(unreachable_pub, reason = "the derive of kube repeats our types in a private module")]

pub mod attachment;
pub mod condition;
pub mod definitions;
pub mod identity;
pub mod names;
pub mod reason;
pub mod server;
pub mod size;
pub mod volume;
pub mod volume_status;

pub use attachment::{RdsAttachment, RdsAttachmentSpec, RdsAttachmentStatus};
pub use reason::Reason;
pub use server::{RdsServer, RdsServerSpec, RdsServerStatus};
pub use size::Size;
pub use volume::{RdsVolume, RdsVolumeSpec, RdsVolumeStatus};
