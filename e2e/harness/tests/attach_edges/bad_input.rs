//! Attaching as nobody should ask for it, on a real API server: the codes of the specification, and messages that name both
//! sides. The nodes' part is played by stand-ins.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use csi::controller_client::ControllerClient;
use csi::volume_capability::access_mode::Mode;
use csi_proto::csi::v1 as csi;
use e2e::appliance::Appliance;
use e2e::controller::connect;
use e2e::csi::{capability, create, publish, unpublish};
use e2e::lab::Options;
use e2e::machine::Machine;
use e2e::{Lab, wait_until};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use rds_crds::RdsAttachment;
use rds_crds::identity::attachment_name;
use routeros_sim::Knobs;
use serde_json::json;
use tokio::sync::OnceCell;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

const SERVER: &str = "bad-input";
/// For the operator's writes, and for a lost node's grace period.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longer than a call may take that the operator has to decide; shorter than csi-attacher waits.
const CALL: Duration = Duration::from_secs(10);

static WORLD: OnceCell<World> = OnceCell::const_new();

struct World {
    lab: Lab,
    client: ControllerClient<Channel>,
    _machines: Vec<Machine>,
    _appliance: Appliance,
}

async fn world() -> Result<&'static World> {
    WORLD
        .get_or_try_init(|| async {
            let env = [("ATTACHMENT_GRACE_PERIOD", "5s"), ("AGENT_LEASE_PERIOD", "10s")];
            let options = Options {
                // csi-attacher would look after what it finds, beside us.
                sidecars: Vec::new(),
                env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
                ..Options::default()
            };
            let lab = Lab::start("attach-bad-input", &options).await?;
            let fencing = json!({"fencing": "Assume"});
            let appliance = lab.appliance_with(SERVER, Knobs::default(), fencing).await?;
            let mut machines = Vec::new();
            for node in ["one", "two", "three"] {
                machines.push(Machine::boot(&lab, node).await?);
            }
            let client = connect(&lab.replicas[0].socket).await?;
            Ok(World {
                lab,
                client,
                _machines: machines,
                _appliance: appliance,
            })
        })
        .await
}

impl World {
    /// A volume for these uses.
    async fn volume(&self, capabilities: Vec<csi::VolumeCapability>) -> Result<String> {
        let name = format!("pvc-{}", uuid::Uuid::new_v4());
        let request = create(&name, SERVER, capabilities);
        self.client.clone().create_volume(request).await?;
        Ok(name)
    }

    async fn publish(
        &self,
        request: csi::ControllerPublishVolumeRequest,
    ) -> Result<csi::ControllerPublishVolumeResponse, Status> {
        let mut request = Request::new(request);
        request.set_timeout(CALL);
        let answer = self.client.clone().controller_publish_volume(request).await;
        answer.map(tonic::Response::into_inner)
    }

    async fn unpublish(&self, volume: &str, node: &str) -> Result<(), Status> {
        let mut request = Request::new(unpublish(volume, node));
        request.set_timeout(CALL);
        self.client.clone().controller_unpublish_volume(request).await.map(drop)
    }

    async fn attachment(&self, volume: &str, node: &str) -> Result<Option<RdsAttachment>> {
        let api: Api<RdsAttachment> = Api::all(self.lab.cluster.client());
        Ok(api.get_opt(&attachment_name(volume, node)).await?)
    }

    /// The nodes of ListVolumes.
    async fn listed(&self, volume: &str) -> Result<Vec<String>> {
        let all = self
            .client
            .clone()
            .list_volumes(csi::ListVolumesRequest::default())
            .await?
            .into_inner();
        let entry = all
            .entries
            .into_iter()
            .find(|e| e.volume.as_ref().is_some_and(|v| v.volume_id == volume));
        let status = entry.context("it is not listed")?.status.context("no status")?;
        Ok(status.published_node_ids)
    }

    /// Refused with this code and all of these words.
    async fn refused(
        &self,
        what: &str,
        request: csi::ControllerPublishVolumeRequest,
        code: Code,
        words: &[&str],
    ) -> Result<()> {
        match self.publish(request).await {
            Ok(context) => anyhow::bail!("{what}: it was attached, {context:?}"),
            Err(status) => {
                ensure!(status.code() == code, "{what}: {status:?}");
                for word in words {
                    ensure!(
                        status.message().contains(word),
                        "{what}: no `{word}` in `{}`",
                        status.message()
                    );
                }
                Ok(())
            }
        }
    }
}

fn files(mode: Mode) -> csi::VolumeCapability {
    capability(mode, false)
}

fn disk(mode: Mode) -> csi::VolumeCapability {
    capability(mode, true)
}

fn read_only(request: csi::ControllerPublishVolumeRequest) -> csi::ControllerPublishVolumeRequest {
    csi::ControllerPublishVolumeRequest {
        readonly: true,
        ..request
    }
}

#[test]
fn r48_r75_what_cannot_be_attached_is_refused_with_both_sides_named() -> Result<()> {
    e2e::run(async {
        let world = world().await?;
        let writer = || files(Mode::SingleNodeWriter);
        let volume = world.volume(vec![writer()]).await?;
        let name = volume.as_str();
        let none = csi::ControllerPublishVolumeRequest {
            volume_capability: None,
            ..publish(name, "one", writer())
        };
        let long = "n".repeat(300);
        for (what, request, code, words) in [
            (
                "no volume",
                publish("", "one", writer()),
                Code::InvalidArgument,
                &["volume_id is empty"][..],
            ),
            (
                "no node",
                publish(name, "", writer()),
                Code::InvalidArgument,
                &["node_id is empty"],
            ),
            (
                "no capability",
                none,
                Code::InvalidArgument,
                &["volume_capability is missing"],
            ),
            (
                "unknown mode",
                publish(name, "one", files(Mode::Unknown)),
                Code::InvalidArgument,
                &["access_mode"],
            ),
            (
                "unknown volume",
                publish("pvc-none", "one", writer()),
                Code::NotFound,
                &["volume pvc-none does not exist", "volumeHandle"],
            ),
            (
                "a volume that cannot be",
                publish("A/b\n", "one", writer()),
                Code::NotFound,
                &["volume A/b\\n does not"],
            ),
            (
                "unknown node",
                publish(name, "nowhere", writer()),
                Code::NotFound,
                &["node nowhere does not exist", "name of the Node"],
            ),
            (
                "a node that cannot be",
                publish(name, "One/two", writer()),
                Code::InvalidArgument,
                &["`One/two`"],
            ),
            (
                "a node without end",
                publish(name, &long, writer()),
                Code::InvalidArgument,
                &["cannot be the name"],
            ),
            (
                "a raw disk",
                publish(name, "one", disk(Mode::SingleNodeWriter)),
                Code::InvalidArgument,
                &[name, "volumeMode Filesystem, not Block"],
            ),
            (
                "a filesystem for many",
                publish(name, "one", files(Mode::MultiNodeMultiWriter)),
                Code::InvalidArgument,
                &["ReadWriteMany", "volumeMode: Block"],
            ),
        ] {
            world.refused(what, request, code, words).await?;
        }
        for node in ["one", "two", "three"] {
            let left = world.attachment(name, node).await?;
            ensure!(left.is_none(), "a bad request left {left:?}");
        }

        // The attacher really does call twice.
        let first = world.publish(publish(name, "one", writer())).await?;
        ensure!(
            world.publish(publish(name, "one", writer())).await? == first,
            "the second answer differs"
        );
        let other = publish(name, "one", files(Mode::SingleNodeSingleWriter));
        let has = "as ReadWriteOnce read-write already";
        world
            .refused(
                "another mode",
                other,
                Code::AlreadyExists,
                &[name, "node one", has, "not as ReadWriteOncePod read-write"],
            )
            .await?;
        let reads = read_only(publish(name, "one", writer()));
        world
            .refused(
                "read-only now",
                reads,
                Code::AlreadyExists,
                &[has, "not as ReadWriteOnce read-only"],
            )
            .await?;
        let second = || publish(name, "two", writer());
        for _ in 0..2 {
            world
                .refused(
                    "a second node",
                    second(),
                    Code::FailedPrecondition,
                    &[name, "node one", "node two"],
                )
                .await?;
        }
        let line = wait_until("the volume to say who waits", PATIENCE, async || {
            let status = world.lab.volumes().get(name).await?.status.unwrap_or_default();
            let line = status.explain.context("no explain")?;
            ensure!(line.contains("node two waits (Conflict)"), "{line}");
            Ok(line)
        });
        ensure!(line.await?.contains("used by node one"), "it does not say who has it");
        let table = world.lab.kubectl().run(&["get", "rdsattachments"]).await?;
        let header: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
        ensure!(
            header
                == [
                    "NAME",
                    "VOLUME",
                    "NODE",
                    "ROLE",
                    "ADMITTED",
                    "CONNECTED",
                    "HEALTHY",
                    "AGE"
                ],
            "{header:?}"
        );

        // Away it goes, in whatever order and how often.
        for (volume, node) in [
            (name, "two"),
            (name, "one"),
            (name, "one"),
            (name, "nowhere"),
            (name, "One/two"),
            ("pvc-none", "one"),
            ("A/b\n", "one"),
        ] {
            let done = world.unpublish(volume, node).await;
            done.with_context(|| format!("detach {volume:?} from {node}"))?;
        }
        let status = world.unpublish("", "one").await.err().context("no volume: detached")?;
        ensure!(status.code() == Code::InvalidArgument, "{status:?}");
        // Nothing of the former use is left: another one is fine now, on the other node too.
        world.publish(read_only(second())).await?;
        world.unpublish(name, "").await?;
        ensure!(
            world.attachment(name, "two").await?.is_none(),
            "an empty node means every node"
        );
        Ok(())
    })
}

#[test]
fn i3_readers_pods_alone_and_migrations_get_in_as_their_volume_says() -> Result<()> {
    e2e::run(async {
        let world = world().await?;
        let reader = || files(Mode::MultiNodeReaderOnly);
        let shared = world.volume(vec![files(Mode::SingleNodeWriter)]).await?;
        let name = shared.as_str();
        for node in ["one", "two"] {
            world.publish(publish(name, node, reader())).await?;
            let record = world.attachment(name, node).await?.context("no RdsAttachment")?;
            ensure!(record.spec.read_only == Some(true), "{node}: {:?}", record.spec);
            let role = record.status.and_then(|s| s.role).map(|role| format!("{role:?}"));
            ensure!(role.as_deref() == Some("Reader"), "{node}: {role:?}");
        }
        let writer = |node| publish(name, node, files(Mode::SingleNodeWriter));
        world
            .refused(
                "a writer beside readers",
                writer("three"),
                Code::FailedPrecondition,
                &["one", "two", "node three"],
            )
            .await?;
        world
            .refused(
                "a reader that writes",
                writer("two"),
                Code::AlreadyExists,
                &["ReadOnlyMany read-only", "ReadWriteOnce read-write"],
            )
            .await?;
        world.unpublish(name, "").await?;
        world.publish(writer("three")).await?;
        let late = publish(name, "one", reader());
        world
            .refused(
                "a reader beside a writer",
                late,
                Code::FailedPrecondition,
                &["node three", "node one"],
            )
            .await?;
        world.unpublish(name, "").await?;

        let pod = || files(Mode::SingleNodeSingleWriter);
        let alone = world.volume(vec![pod()]).await?;
        let more = publish(&alone, "one", files(Mode::SingleNodeMultiWriter));
        world
            .refused(
                "more than a pod",
                more,
                Code::InvalidArgument,
                &["made for ReadWriteOncePod, not for ReadWriteOnce"],
            )
            .await?;
        world.unpublish(&alone, "one").await?;
        world.publish(publish(&alone, "one", pod())).await?;
        let second = publish(&alone, "two", pod());
        world
            .refused(
                "a second pod",
                second,
                Code::FailedPrecondition,
                &["node one", "node two"],
            )
            .await?;
        world.unpublish(&alone, "").await?;
        world
            .publish(publish(&alone, "one", files(Mode::SingleNodeReaderOnly)))
            .await?;
        let record = world.attachment(&alone, "one").await?.context("no RdsAttachment")?;
        ensure!(record.spec.read_only == Some(true), "{:?}", record.spec);
        world.unpublish(&alone, "").await?;

        let many = || disk(Mode::MultiNodeMultiWriter);
        let machine = world.volume(vec![many()]).await?;
        for node in ["one", "two"] {
            world.publish(publish(&machine, node, many())).await?;
        }
        let third = publish(&machine, "three", many());
        let words = ["already attached to 2 nodes (migration limit)", "[one two]"];
        world
            .refused("a third node", third, Code::FailedPrecondition, &words)
            .await?;
        let nodes = wait_until("both to be listed", PATIENCE, async || {
            let nodes = world.listed(&machine).await?;
            ensure!(nodes.len() == 2, "{nodes:?}");
            Ok(nodes)
        });
        ensure!(nodes.await? == ["one", "two"]);
        world.unpublish(&machine, "").await?;
        Ok(())
    })
}

#[test]
fn i4_a_node_that_was_cut_is_not_listed_and_gets_nothing_before_it_has_said_so() -> Result<()> {
    e2e::run(async {
        let world = world().await?;
        let writer = || files(Mode::SingleNodeWriter);
        let volume = world.volume(vec![writer()]).await?;
        let dies = Machine::boot(&world.lab, "dies").await?;
        world.publish(publish(&volume, "dies", writer())).await?;
        wait_until("it to be listed", PATIENCE, async || {
            let nodes = world.listed(&volume).await?;
            ensure!(nodes == ["dies"], "{nodes:?}");
            Ok(())
        })
        .await?;
        drop(dies);
        let down = r#"{"status":{"conditions":[{"type":"Ready","status":"False","reason":"Off","message":"the plug was pulled"}]}}"#;
        let patch = ["patch", "node", "dies", "--subresource=status", "-p", down];
        world.lab.kubectl().run(&patch).await?;
        let early = world.unpublish(&volume, "dies").await.err();
        if let Some(status) = early {
            ensure!(
                status.code() == Code::Aborted && status.message().contains("dies"),
                "{status:?}"
            );
        }
        wait_until("the lost node to be cut", PATIENCE, async || {
            Ok(world.unpublish(&volume, "dies").await?)
        })
        .await?;
        let status = world.lab.volumes().get(&volume).await?.status.unwrap_or_default();
        ensure!(
            status.fenced.iter().any(|f| f.node == "dies"),
            "it was not cut: {status:?}"
        );
        ensure!(world.listed(&volume).await?.is_empty(), "it is listed");

        let words = ["node dies", "was cut and has not acknowledged it yet"];
        let again = publish(&volume, "dies", writer());
        world
            .refused("the node that was cut", again, Code::Aborted, &words)
            .await?;
        ensure!(world.listed(&volume).await?.is_empty(), "it is listed while it waits");
        world.publish(publish(&volume, "one", writer())).await?;
        let nodes = wait_until("the next one to be listed", PATIENCE, async || {
            let nodes = world.listed(&volume).await?;
            ensure!(!nodes.is_empty(), "nobody is");
            Ok(nodes)
        });
        ensure!(nodes.await? == ["one"]);
        for node in ["one", "dies"] {
            world.unpublish(&volume, node).await?;
        }
        let nodes: Api<Node> = Api::all(world.lab.cluster.client());
        nodes.delete("dies", &Default::default()).await?;
        Ok(())
    })
}
