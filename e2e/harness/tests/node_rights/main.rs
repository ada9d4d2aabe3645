//! What the agent of a node may do, on a real API server, with tokens of pods on two nodes; what the refusals say. No operator
//! and no agent run here.
//!
//! RBAC refuses most before a policy is asked. That the policies hold by themselves, should somebody widen the rights, is
//! shown with the agent's name, the node's claim and the group system:masters impersonated.

mod rig;

use anyhow::{Context, Result, ensure};
use rds_crds::names::{self, manager};
use serde_json::{Value, json};

use crate::rig::{
    Call, LEASES, Mighty, OPERATOR, OURS, Token, User, Who, admitted, apply_as, attachment, delete, get, gone, lease,
    leases, merge, of_attachment, renew, say, status_of, with, world,
};

/// An agent speaks for its own node, and says nothing that is the operator's to say.
#[test]
fn i4_no_node_says_of_another_that_it_let_go() -> Result<()> {
    const OTHER: &[&str] = &[
        "RdsAttachment a2 is of node n2",
        "this token is of node n1",
        "own node only",
    ];
    const NO_NODE: &[&str] = &[
        "RdsAttachment a1 is of node n1",
        "this token names no node",
        "kubelet mounts it",
    ];
    e2e::run(async {
        let world = world().await?;
        let a1 = status_of("a1");
        let word = json!({"agent": {"controllerState": "live", "conditions": gone()}});
        let as_operator = apply_as(
            manager::OPERATOR,
            &a1,
            of_attachment("a1", with(admitted(), word.clone())),
        );
        let mut rows: Vec<(Who, Call, &[&str])> = Vec::new();
        // The same with the token and the rights that ship, and with all rights.
        for who in [Token as fn(&'static str) -> Who, Mighty] {
            let own = who("n1");
            rows.extend([
                (own, say("a1", word.clone()), &[][..]),
                (own, merge(&a1, json!({"status": word})), &[]),
                (who("n2"), say("a2", word.clone()), &[]),
                (own, say("a2", word.clone()), OTHER),
                (own, merge(&status_of("a2"), json!({"status": word})), OTHER),
                (
                    who("n2"),
                    say("a1", word.clone()),
                    &["is of node n1", "this token is of node n2"],
                ),
                (who("-"), say("a1", word.clone()), NO_NODE),
                // All but status.agent is as it was.
                (
                    own,
                    say("a1", json!({"role": "Reader"})),
                    &["of node n1 may write status.agent", "and nothing else: status.role"],
                ),
                (
                    own,
                    merge(&a1, json!({"status": {"port": 1, "address": "192.0.2.9"}})),
                    &["status.port", "status.address"],
                ),
                (
                    own,
                    merge(&a1, json!({"status": {"conditions": gone()}})),
                    &["status.conditions belong"],
                ),
                (
                    own,
                    merge(&a1, json!({"status": {"nqn": null}})),
                    &["status.nqn belong"],
                ),
                (
                    own,
                    merge(&a1, json!({"status": null})),
                    &[
                        "status.conditions",
                        "status.exportGeneration",
                        "status.nqn",
                        "status.role",
                    ],
                ),
                (own, as_operator.clone(), &["field manager rds-operator"]),
            ]);
        }
        world.table(rows).await?;

        // The first word, and the next one over it, as the operator goes on saying its own.
        world.ask(Token("n1"), &say("a1", word).for_real()).await?;
        let next = apply_as(
            manager::OPERATOR,
            &a1,
            of_attachment("a1", with(admitted(), json!({"port": 4421}))),
        );
        world.ask(User(OPERATOR), &next.for_real()).await?;
        let said = world
            .ask(Token("n1"), &say("a1", json!({"agent": {"failures": 1}})).for_real())
            .await?;
        ensure!(said["status"]["agent"] == json!({"failures": 1}), "{said}");
        ensure!(
            said["status"]["port"] == 4421 && said["status"]["role"] == "Primary",
            "{said}"
        );
        Ok(())
    })
}

/// Spec and metadata do not change through /status, whatever the request holds.
#[test]
fn an_agent_cannot_change_what_an_attachment_is() -> Result<()> {
    e2e::run(async {
        let world = world().await?;
        let before = world.ask(Token("n2"), &get(&attachment("a2"))).await?;
        let change = json!({
            "metadata": {"finalizers": null, "managedFields": [{}], "labels": {"x": "y"}, "annotations": {"rds.csi.srvlab.io/confirm-delete": "a2"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n2", "uid": "1"}]},
            "spec": {"node": "n1", "volume": "w"},
        });
        let after = world
            .ask(Mighty("n2"), &merge(&status_of("a2"), change.clone()))
            .await?;
        for part in [
            "/spec",
            "/metadata/finalizers",
            "/metadata/labels",
            "/metadata/annotations",
            "/metadata/ownerReferences",
            "/metadata/managedFields",
        ] {
            ensure!(before.pointer(part) == after.pointer(part), "{part}: {after}");
        }
        let whole = "cannot patch resource \"rdsattachments\" in API group";
        world
            .table(vec![
                (Token("n2"), merge(&attachment("a2"), change), &[whole]),
                (
                    Token("n2"),
                    delete(&attachment("a2")),
                    &["cannot delete resource \"rdsattachments\""],
                ),
                (
                    Token("n2"),
                    delete(&format!("{OURS}/rdsattachments")),
                    &["cannot deletecollection"],
                ),
                (
                    Token("n2"),
                    Call::new("PUT", "application/json", &status_of("a2"), before),
                    &["cannot update resource"],
                ),
                (
                    Mighty("n2"),
                    delete(&attachment("a2")),
                    &["node n2 may use volume v", "confirm-delete=a2"],
                ),
            ])
            .await
    })
}

#[test]
fn an_agent_renews_its_own_lease_only() -> Result<()> {
    const OTHER: &[&str] = &[
        "Lease rds-csi/rds-node-n2 is not that of node n1",
        "its own Lease only, rds-csi/rds-node-n1",
    ];
    e2e::run(async {
        let world = world().await?;
        let post = |metadata: Value| {
            Call::new(
                "POST",
                "application/json",
                LEASES,
                with(lease("rds-csi", ""), json!({"metadata": metadata})),
            )
        };
        let (first, own) = (renew("rds-csi", "rds-node-n1"), Token("n1"));
        world.ask(own, &first.clone().for_real()).await.context("the first")?;
        world.ask(own, &first.clone().for_real()).await.context("the next")?;
        // A replacement needs the version that it replaces.
        let mut replaced = Vec::new();
        for name in ["rds-node-n1", "rds-node-n2"] {
            let path = leases("rds-csi", name);
            let now = world
                .ask(User("admin"), &renew("rds-csi", name).for_real())
                .await
                .context("as it is")?;
            replaced.push(Call::new("PUT", "application/json", &path, now));
        }
        let mighty = Mighty("n1");
        world
            .table(vec![
                (own, renew("rds-csi", "rds-node-n2"), OTHER),
                (
                    own,
                    renew("rds-csi", "rds-node-n1x"),
                    &["rds-node-n1x is not that of node n1"],
                ),
                (
                    own,
                    renew("rds-csi", "rds-operator"),
                    &["rds-operator is not that of node n1"],
                ),
                (
                    own,
                    post(json!({"name": "rds-node-n3"})),
                    &["rds-node-n3 is not that of node n1"],
                ),
                (
                    own,
                    post(json!({"generateName": "rds-node-n1"})),
                    &["is not that of node n1"],
                ),
                (Token("n2"), first.clone(), &["rds-node-n1 is not that of node n2"]),
                (
                    Token("-"),
                    first,
                    &["rds-csi/rds-node-n1 is asked for with a token that names no node"],
                ),
                (
                    own,
                    renew("default", "rds-node-n1"),
                    &["cannot patch resource \"leases\"", "\"default\""],
                ),
                (
                    own,
                    delete(&leases("rds-csi", "rds-node-n1")),
                    &["cannot delete resource \"leases\""],
                ),
                (mighty, replaced.remove(0), &[]),
                (mighty, delete(&leases("rds-csi", "rds-node-n1")), &[]),
                (mighty, replaced.remove(0), OTHER),
                (mighty, delete(&leases("rds-csi", "rds-node-n2")), OTHER),
                (mighty, delete(LEASES), OTHER),
                (
                    mighty,
                    renew("default", "rds-node-n1"),
                    &["default/rds-node-n1 is not that of node n1"],
                ),
                (User("admin"), delete(&leases("rds-csi", "rds-node-n2")), &[]),
            ])
            .await
    })
}

/// Rights to read: what it works with, one at a time.
#[test]
fn i16_an_agent_reads_no_secret_and_lists_no_volumes() -> Result<()> {
    e2e::run(async {
        let mut rows: Vec<(Who, Call, &[&str])> = Vec::new();
        for (path, words) in [
            (
                "/apis/rds.csi.srvlab.io/v1alpha1/rdsattachments?fieldSelector=spec.node%3Dn1",
                &[][..],
            ),
            ("/apis/rds.csi.srvlab.io/v1alpha1/rdsvolumes/v", &[]),
            ("/api/v1/nodes/n1", &[]),
            ("/apis/rds.csi.srvlab.io/v1alpha1/rdsvolumes", &["cannot list"]),
            ("/apis/rds.csi.srvlab.io/v1alpha1/rdsservers", &["cannot list"]),
            // It holds no secret, and the word that all attachments are there. None of that name is here: so it may be asked for.
            ("/apis/rds.csi.srvlab.io/v1alpha1/rdsservers/s", &["\"s\" not found"]),
            ("/api/v1/nodes", &["cannot list"]),
            ("/api/v1/pods", &["cannot list"]),
            ("/api/v1/secrets", &["cannot list"]),
            ("/api/v1/namespaces/rds-csi/secrets", &["cannot list"]),
            ("/api/v1/namespaces/rds-csi/secrets/rds-csi-secret", &["cannot get"]),
            ("/api/v1/namespaces/rds-csi/configmaps", &["cannot list"]),
            (LEASES, &["cannot list"]),
        ] {
            rows.push((Token("n1"), get(path), words));
        }
        let volume = format!("{OURS}/rdsvolumes/v");
        let holders = json!({"status": {"holders": []}});
        rows.extend([
            (
                Token("n1"),
                merge(&volume, json!({"spec": {"capacity": "2Gi"}})),
                &["cannot patch"][..],
            ),
            (
                Token("n1"),
                merge(&format!("{volume}/status"), holders),
                &["cannot patch"],
            ),
            (
                Token("n1"),
                merge("/api/v1/nodes/n1", json!({"metadata": {"labels": {"x": "y"}}})),
                &["cannot patch"],
            ),
        ]);
        world().await?.table(rows).await
    })
}

/// A person who strips the finalizer would give the volume to two nodes; who insists confirms it first.
#[test]
fn the_finalizer_of_an_attachment_is_the_operators() -> Result<()> {
    const WORDS: &[&str] = &[
        "the finalizers of RdsAttachment a3 belong to the operator",
        "node n1 still writes",
        "node-is-off=n1/",
        "confirm-delete=a3",
    ];
    e2e::run(async {
        let world = world().await?;
        world.attach("a3", "n1").await?;
        let (a3, admin) = (attachment("a3"), User("admin"));
        let finalizers = |list: Value| merge(&a3, json!({"metadata": {"finalizers": list}}));
        let confirmed = |name: &str| {
            let annotations = json!({names::ANNOTATION_CONFIRM_DELETE: name});
            merge(&a3, json!({"metadata": {"annotations": annotations}})).for_real()
        };
        let rows = || {
            vec![
                (admin, finalizers(json!(null)), WORDS),
                (admin, finalizers(json!([])), WORDS),
                (admin, finalizers(json!([names::FINALIZER, "example.com/mine"])), WORDS),
                (Mighty("n1"), finalizers(json!(null)), WORDS),
                (admin, merge(&a3, json!({"metadata": {"labels": {"x": "y"}}})), &[]),
                (
                    admin,
                    merge(&a3, json!({"spec": {"node": "n2"}})),
                    &["an RdsAttachment cannot change"],
                ),
                (User(OPERATOR), finalizers(json!(null)), &[]),
                (
                    User(OPERATOR),
                    merge(&a3, json!({"spec": {"node": "n2"}})),
                    &["an RdsAttachment cannot change"],
                ),
            ]
        };
        world.table(rows()).await?;
        // While it is being deleted it matters most.
        let deleted = world.ask(User(OPERATOR), &delete(&a3).for_real()).await?;
        ensure!(deleted["metadata"]["deletionTimestamp"].is_string(), "{deleted}");
        let mut rows = rows();
        rows.retain(|(_, call, _)| !call.body.to_string().contains("example.com/mine"));
        world.table(rows).await?;
        world.ask(admin, &confirmed("a1")).await?;
        world.table(vec![(admin, finalizers(json!(null)), WORDS)]).await?;
        world.ask(admin, &confirmed("a3")).await?;
        world.ask(admin, &finalizers(json!(null)).for_real()).await?;
        let left = world.ask(admin, &get(&a3)).await.err().context("it is still there")?;
        ensure!(format!("{left:#}").contains("not found"), "{left:#}");
        Ok(())
    })
}
