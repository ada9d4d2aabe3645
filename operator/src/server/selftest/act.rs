//! The writes of the self-test, one each. What is there already, or gone already, is no error.

use jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Resource, ResourceExt};
use rds_crds::attachment::RdsAttachmentSpec;
use rds_crds::condition::{Saying, kind, set_condition};
use rds_crds::identity::{attachment_name, canary_name};
use rds_crds::names::{
    ANNOTATION_FENCE_NOW, ANNOTATION_TEST_FENCING, DOMAIN, FINALIZER, LABEL_MADE_BY, MADE_BY_SELF_TEST, manager,
};
use rds_crds::volume::{AccessMode, Connection, DeletionPolicy, VolumeMode};
use rds_crds::{RdsAttachment, RdsServer, RdsVolume, RdsVolumeSpec, Size};
use serde_json::json;

use crate::crash;

use super::Context;
use super::model::{Step, Write};

/// Small, and large enough for any appliance to make.
const SIZE: Size = Size(16 * Size::MI);

pub(super) async fn perform(server: &RdsServer, step: &Step, cx: &Context) -> Result<(), kube::Error> {
    let client = &cx.world.client;
    let volumes: Api<RdsVolume> = Api::all(client.clone());
    let attachments: Api<RdsAttachment> = Api::all(client.clone());
    let canary = canary_name(server.metadata.uid.as_deref().unwrap_or_default());
    let create = PostParams {
        field_manager: Some(manager::SELF_TEST.to_owned()),
        ..PostParams::default()
    };
    match step {
        Step::Rest => Ok(()),
        Step::Write(write) => {
            record(server, write, cx).await?;
            crash::after("self-test-record");
            Ok(())
        }
        Step::DropRequest => {
            let patch =
                json!({"metadata": {"uid": server.metadata.uid, "annotations": {ANNOTATION_TEST_FENCING: null}}});
            let servers: Api<RdsServer> = Api::all(client.clone());
            servers
                .patch(&server.name_any(), &plain(), &Patch::Merge(&patch))
                .await
                .map(drop)
        }
        Step::MakeVolume => {
            quiet(
                volumes.create(&create, &volume(&canary, &server.name_any())).await,
                &[409],
            )?;
            crash::after("self-test-volume");
            Ok(())
        }
        Step::MakeAttachment(node) => {
            quiet(attachments.create(&create, &attachment(&canary, node)).await, &[409])?;
            crash::after("self-test-attachment");
            Ok(())
        }
        Step::AskCut(node) => {
            let patch = json!({"metadata": {"annotations": {ANNOTATION_FENCE_NOW: node}}});
            quiet(volumes.patch(&canary, &plain(), &Patch::Merge(&patch)).await, &[404])?;
            crash::after("self-test-cut");
            Ok(())
        }
        Step::RemoveAttachment(name) => {
            let known = cx.world.attachments.get(name);
            let known = known.as_ref().and_then(|a| a.meta().uid.as_deref());
            quiet(attachments.delete(name, &of_uid(known)).await, &[404, 409])?;
            crash::after("self-test-remove-attachment");
            Ok(())
        }
        Step::RemoveVolume => {
            let known = cx.world.volumes.get(&canary);
            let known = known.as_ref().and_then(|v| v.meta().uid.as_deref());
            quiet(volumes.delete(&canary, &of_uid(known)).await, &[404, 409])?;
            crash::after("self-test-remove-volume");
            // Its going lets a holder that is left be cut.
            let _ = cx.triggers.send(canary.into());
            Ok(())
        }
    }
}

async fn record(server: &RdsServer, write: &Write, cx: &Context) -> Result<(), kube::Error> {
    let mut conditions = server.status.as_ref().map(|s| s.conditions.clone()).unwrap_or_default();
    if let Some(word) = &write.word {
        let saying = Saying {
            kind: kind::FENCE_PROVEN,
            status: word.status,
            reason: &word.reason,
            message: word.message.clone(),
        };
        set_condition(&mut conditions, saying, server.metadata.generation, Timestamp::now());
    }
    conditions.retain(|c| c.type_ == kind::FENCE_PROVEN);
    let patch = json!({
        "apiVersion": format!("{DOMAIN}/v1alpha1"),
        "kind": "RdsServer",
        "metadata": {"name": server.name_any(), "uid": server.metadata.uid},
        "status": {"conditions": conditions, "fenceTest": write.record},
    });
    let servers: Api<RdsServer> = Api::all(cx.world.client.clone());
    let params = PatchParams::apply(manager::SELF_TEST).force();
    servers
        .patch_status(&server.name_any(), &params, &Patch::Apply(&patch))
        .await?;
    if let Some((result, reason, note)) = &write.event {
        cx.announcer.self_test(server, *result, *reason, note);
    }
    Ok(())
}

/// Raw, so that nothing formats it; the kernel of a node that does not come back gives the session up by itself.
fn volume(name: &str, server: &str) -> RdsVolume {
    let spec = RdsVolumeSpec {
        server: server.to_owned(),
        capacity: SIZE,
        volume_mode: Some(VolumeMode::Block),
        access_modes: vec![AccessMode::ReadWriteOnce],
        deletion_policy: Some(DeletionPolicy::Delete),
        connection: Some(Connection {
            ctrl_loss_tmo: Some(60),
            ..Connection::default()
        }),
        slot: None,
        path: None,
        nqn: None,
        request_name: None,
        fs_type: None,
        mkfs_options: Vec::new(),
        mount_options: Vec::new(),
        migration_timeout_seconds: None,
        migration_policy: None,
        circuit_breaker: None,
        source: None,
        adopt: None,
        claim: None,
    };
    let mut volume = RdsVolume::new(name, spec);
    volume
        .labels_mut()
        .insert(LABEL_MADE_BY.to_owned(), MADE_BY_SELF_TEST.to_owned());
    volume
}

fn attachment(volume: &str, node: &str) -> RdsAttachment {
    let spec = RdsAttachmentSpec {
        volume: volume.to_owned(),
        node: node.to_owned(),
        read_only: None,
        access_mode: AccessMode::ReadWriteOnce,
    };
    let mut attachment = RdsAttachment::new(&attachment_name(volume, node), spec);
    attachment.finalizers_mut().push(FINALIZER.to_owned());
    attachment
}

fn plain() -> PatchParams {
    PatchParams {
        field_manager: Some(manager::SELF_TEST.to_owned()),
        ..PatchParams::default()
    }
}

fn of_uid(uid: Option<&str>) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions {
            uid: uid.map(str::to_owned),
            resource_version: None,
        }),
        ..DeleteParams::default()
    }
}

fn quiet<T>(done: Result<T, kube::Error>, codes: &[u16]) -> Result<(), kube::Error> {
    match done {
        Err(kube::Error::Api(status)) if codes.contains(&status.code) => Ok(()),
        other => other.map(drop),
    }
}
