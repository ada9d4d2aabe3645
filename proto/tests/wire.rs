//! Pins field numbers, wire types and enum values against bytes written by hand from the specification's tables.
//!
//! A key byte is `field number << 3 | wire type` (0 varint, 2 length-delimited), so every expected byte string below can be
//! checked with a pencil and shares nothing with the code generator.

#![allow(clippy::unwrap_used)] // helpers of tests outside a #[test] function are not excused by clippy.toml

use csi_proto::csi::v1 as csi;
use prost::Message;

/// One varint field below 128.
fn varint(field: u8, value: u8) -> Vec<u8> {
    vec![field << 3, value]
}

/// One length-delimited field.
fn bytes(field: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![field << 3 | 2, u8::try_from(value.len()).unwrap()];
    out.extend_from_slice(value);
    out
}

/// One entry of a `map<string, string>`.
fn entry(field: u8, key: &str, value: &str) -> Vec<u8> {
    bytes(field, &[bytes(1, key.as_bytes()), bytes(2, value.as_bytes())].concat())
}

fn map(key: &str, value: &str) -> std::collections::HashMap<String, String> {
    [(key.to_owned(), value.to_owned())].into()
}

fn holds<M: Message + Default + PartialEq + std::fmt::Debug>(message: &M, wire: &[Vec<u8>]) {
    let wire = wire.concat();
    assert_eq!(message.encode_to_vec(), wire, "encoding of {message:?}");
    assert_eq!(&M::decode(wire.as_slice()).unwrap(), message, "decoding");
}

fn range(required: i64, limit: i64) -> csi::CapacityRange {
    csi::CapacityRange {
        required_bytes: required,
        limit_bytes: limit,
    }
}

fn mount_capability() -> csi::VolumeCapability {
    csi::VolumeCapability {
        access_mode: Some(csi::volume_capability::AccessMode {
            mode: csi::volume_capability::access_mode::Mode::SingleNodeMultiWriter as i32,
        }),
        access_type: Some(csi::volume_capability::AccessType::Mount(
            csi::volume_capability::MountVolume {
                fs_type: "xfs".into(),
                mount_flags: vec!["ro".into()],
                volume_mount_group: "7".into(),
            },
        )),
    }
}

fn mount_capability_wire() -> Vec<u8> {
    let mount = [bytes(1, b"xfs"), bytes(2, b"ro"), bytes(3, b"7")].concat();
    [bytes(2, &mount), bytes(3, &varint(1, 7))].concat()
}

fn topology() -> csi::Topology {
    csi::Topology {
        segments: map("z", "a"),
    }
}

fn topology_wire() -> Vec<u8> {
    entry(1, "z", "a")
}

#[test]
fn identity() {
    holds(
        &csi::GetPluginInfoResponse {
            name: "n".into(),
            vendor_version: "v".into(),
            manifest: map("k", "w"),
        },
        &[bytes(1, b"n"), bytes(2, b"v"), entry(3, "k", "w")],
    );
    holds(&csi::ProbeResponse { ready: Some(true) }, &[bytes(1, &varint(1, 1))]);
    let service = csi::plugin_capability::Type::Service(csi::plugin_capability::Service {
        r#type: csi::plugin_capability::service::Type::VolumeAccessibilityConstraints as i32,
    });
    let expansion = csi::plugin_capability::Type::VolumeExpansion(csi::plugin_capability::VolumeExpansion {
        r#type: csi::plugin_capability::volume_expansion::Type::Online as i32,
    });
    holds(
        &csi::GetPluginCapabilitiesResponse {
            capabilities: [service, expansion]
                .map(|t| csi::PluginCapability { r#type: Some(t) })
                .into(),
        },
        &[bytes(1, &bytes(1, &varint(1, 2))), bytes(1, &bytes(2, &varint(1, 1)))],
    );
}

#[test]
fn create_volume() {
    let snapshot = csi::VolumeContentSource {
        r#type: Some(csi::volume_content_source::Type::Snapshot(
            csi::volume_content_source::SnapshotSource {
                snapshot_id: "s".into(),
            },
        )),
    };
    holds(
        &csi::CreateVolumeRequest {
            name: "n".into(),
            capacity_range: Some(range(1, 2)),
            volume_capabilities: vec![mount_capability()],
            parameters: map("p", "q"),
            secrets: map("s", "t"),
            volume_content_source: Some(snapshot),
            accessibility_requirements: Some(csi::TopologyRequirement {
                requisite: vec![topology()],
                preferred: vec![topology()],
            }),
            mutable_parameters: map("m", "o"),
        },
        &[
            bytes(1, b"n"),
            bytes(2, &[varint(1, 1), varint(2, 2)].concat()),
            bytes(3, &mount_capability_wire()),
            entry(4, "p", "q"),
            entry(5, "s", "t"),
            bytes(6, &bytes(1, &bytes(1, b"s"))),
            bytes(7, &[bytes(1, &topology_wire()), bytes(2, &topology_wire())].concat()),
            entry(8, "m", "o"),
        ],
    );
    let clone = csi::VolumeContentSource {
        r#type: Some(csi::volume_content_source::Type::Volume(
            csi::volume_content_source::VolumeSource { volume_id: "v".into() },
        )),
    };
    holds(
        &csi::CreateVolumeResponse {
            volume: Some(csi::Volume {
                capacity_bytes: 3,
                volume_id: "i".into(),
                volume_context: map("c", "d"),
                content_source: Some(clone),
                accessible_topology: vec![topology()],
            }),
        },
        &[bytes(
            1,
            &[
                varint(1, 3),
                bytes(2, b"i"),
                entry(3, "c", "d"),
                bytes(4, &bytes(2, &bytes(1, b"v"))),
                bytes(5, &topology_wire()),
            ]
            .concat(),
        )],
    );
}

#[test]
fn a_block_capability_is_an_empty_message_not_an_absent_one() {
    let block = csi::VolumeCapability {
        access_mode: Some(csi::volume_capability::AccessMode {
            mode: csi::volume_capability::access_mode::Mode::MultiNodeMultiWriter as i32,
        }),
        access_type: Some(csi::volume_capability::AccessType::Block(
            csi::volume_capability::BlockVolume {},
        )),
    };
    holds(&block, &[bytes(1, b""), bytes(3, &varint(1, 5))]);
}

#[test]
fn controller() {
    holds(
        &csi::DeleteVolumeRequest {
            volume_id: "i".into(),
            secrets: map("s", "t"),
        },
        &[bytes(1, b"i"), entry(2, "s", "t")],
    );
    holds(
        &csi::ControllerPublishVolumeRequest {
            volume_id: "i".into(),
            node_id: "n".into(),
            volume_capability: Some(mount_capability()),
            readonly: true,
            secrets: map("s", "t"),
            volume_context: map("c", "d"),
        },
        &[
            bytes(1, b"i"),
            bytes(2, b"n"),
            bytes(3, &mount_capability_wire()),
            varint(4, 1),
            entry(5, "s", "t"),
            entry(6, "c", "d"),
        ],
    );
    holds(
        &csi::ControllerPublishVolumeResponse {
            publish_context: map("c", "d"),
        },
        &[entry(1, "c", "d")],
    );
    holds(
        &csi::ControllerUnpublishVolumeRequest {
            volume_id: "i".into(),
            node_id: "n".into(),
            secrets: map("s", "t"),
        },
        &[bytes(1, b"i"), bytes(2, b"n"), entry(3, "s", "t")],
    );
    holds(
        &csi::ControllerExpandVolumeRequest {
            volume_id: "i".into(),
            capacity_range: Some(range(1, 0)),
            secrets: map("s", "t"),
            volume_capability: Some(mount_capability()),
        },
        &[
            bytes(1, b"i"),
            bytes(2, &varint(1, 1)),
            entry(3, "s", "t"),
            bytes(4, &mount_capability_wire()),
        ],
    );
    holds(
        &csi::ControllerExpandVolumeResponse {
            capacity_bytes: 9,
            node_expansion_required: true,
        },
        &[varint(1, 9), varint(2, 1)],
    );
    holds(
        &csi::ControllerModifyVolumeRequest {
            volume_id: "i".into(),
            secrets: map("s", "t"),
            mutable_parameters: map("m", "o"),
        },
        &[bytes(1, b"i"), entry(2, "s", "t"), entry(3, "m", "o")],
    );
}

#[test]
fn validate_list_and_capacity() {
    holds(
        &csi::ValidateVolumeCapabilitiesRequest {
            volume_id: "i".into(),
            volume_context: map("c", "d"),
            volume_capabilities: vec![mount_capability()],
            parameters: map("p", "q"),
            secrets: map("s", "t"),
            mutable_parameters: map("m", "o"),
        },
        &[
            bytes(1, b"i"),
            entry(2, "c", "d"),
            bytes(3, &mount_capability_wire()),
            entry(4, "p", "q"),
            entry(5, "s", "t"),
            entry(6, "m", "o"),
        ],
    );
    holds(
        &csi::ValidateVolumeCapabilitiesResponse {
            confirmed: Some(csi::validate_volume_capabilities_response::Confirmed {
                volume_context: map("c", "d"),
                volume_capabilities: vec![mount_capability()],
                parameters: map("p", "q"),
                mutable_parameters: map("m", "o"),
            }),
            message: "w".into(),
        },
        &[
            bytes(
                1,
                &[
                    entry(1, "c", "d"),
                    bytes(2, &mount_capability_wire()),
                    entry(3, "p", "q"),
                    entry(4, "m", "o"),
                ]
                .concat(),
            ),
            bytes(2, b"w"),
        ],
    );
    holds(
        &csi::ListVolumesRequest {
            max_entries: 5,
            starting_token: "t".into(),
        },
        &[varint(1, 5), bytes(2, b"t")],
    );
    holds(
        &csi::ListVolumesResponse {
            entries: vec![csi::list_volumes_response::Entry {
                volume: Some(csi::Volume {
                    volume_id: "i".into(),
                    ..Default::default()
                }),
                status: Some(csi::list_volumes_response::VolumeStatus {
                    published_node_ids: vec!["n".into()],
                    volume_condition: Some(csi::VolumeCondition {
                        abnormal: true,
                        message: "m".into(),
                    }),
                }),
            }],
            next_token: "t".into(),
        },
        &[
            bytes(
                1,
                &[
                    bytes(1, &bytes(2, b"i")),
                    bytes(
                        2,
                        &[bytes(1, b"n"), bytes(2, &[varint(1, 1), bytes(2, b"m")].concat())].concat(),
                    ),
                ]
                .concat(),
            ),
            bytes(2, b"t"),
        ],
    );
    holds(
        &csi::GetCapacityRequest {
            volume_capabilities: vec![mount_capability()],
            parameters: map("p", "q"),
            accessible_topology: Some(topology()),
        },
        &[
            bytes(1, &mount_capability_wire()),
            entry(2, "p", "q"),
            bytes(3, &topology_wire()),
        ],
    );
    holds(
        &csi::GetCapacityResponse {
            available_capacity: 3,
            maximum_volume_size: Some(4),
            minimum_volume_size: Some(1),
        },
        &[varint(1, 3), bytes(2, &varint(1, 4)), bytes(3, &varint(1, 1))],
    );
}

#[test]
fn node() {
    holds(
        &csi::NodeStageVolumeRequest {
            volume_id: "i".into(),
            publish_context: map("c", "d"),
            staging_target_path: "/s".into(),
            volume_capability: Some(mount_capability()),
            secrets: map("s", "t"),
            volume_context: map("v", "w"),
        },
        &[
            bytes(1, b"i"),
            entry(2, "c", "d"),
            bytes(3, b"/s"),
            bytes(4, &mount_capability_wire()),
            entry(5, "s", "t"),
            entry(6, "v", "w"),
        ],
    );
    holds(
        &csi::NodeUnstageVolumeRequest {
            volume_id: "i".into(),
            staging_target_path: "/s".into(),
        },
        &[bytes(1, b"i"), bytes(2, b"/s")],
    );
    holds(
        &csi::NodePublishVolumeRequest {
            volume_id: "i".into(),
            publish_context: map("c", "d"),
            staging_target_path: "/s".into(),
            target_path: "/t".into(),
            volume_capability: Some(mount_capability()),
            readonly: true,
            secrets: map("s", "t"),
            volume_context: map("v", "w"),
        },
        &[
            bytes(1, b"i"),
            entry(2, "c", "d"),
            bytes(3, b"/s"),
            bytes(4, b"/t"),
            bytes(5, &mount_capability_wire()),
            varint(6, 1),
            entry(7, "s", "t"),
            entry(8, "v", "w"),
        ],
    );
    holds(
        &csi::NodeUnpublishVolumeRequest {
            volume_id: "i".into(),
            target_path: "/t".into(),
        },
        &[bytes(1, b"i"), bytes(2, b"/t")],
    );
    holds(
        &csi::NodeGetVolumeStatsRequest {
            volume_id: "i".into(),
            volume_path: "/p".into(),
            staging_target_path: "/s".into(),
        },
        &[bytes(1, b"i"), bytes(2, b"/p"), bytes(3, b"/s")],
    );
    holds(
        &csi::VolumeUsage {
            available: 1,
            total: 3,
            used: 2,
            unit: csi::volume_usage::Unit::Inodes as i32,
        },
        &[varint(1, 1), varint(2, 3), varint(3, 2), varint(4, 2)],
    );
    holds(
        &csi::NodeExpandVolumeRequest {
            volume_id: "i".into(),
            volume_path: "/p".into(),
            capacity_range: Some(range(1, 2)),
            staging_target_path: "/s".into(),
            volume_capability: Some(mount_capability()),
            secrets: map("s", "t"),
        },
        &[
            bytes(1, b"i"),
            bytes(2, b"/p"),
            bytes(3, &[varint(1, 1), varint(2, 2)].concat()),
            bytes(4, b"/s"),
            bytes(5, &mount_capability_wire()),
            entry(6, "s", "t"),
        ],
    );
    holds(
        &csi::NodeGetInfoResponse {
            node_id: "n".into(),
            max_volumes_per_node: 9,
            accessible_topology: Some(topology()),
        },
        &[bytes(1, b"n"), varint(2, 9), bytes(3, &topology_wire())],
    );
}

#[test]
fn snapshots_and_groups() {
    let snapshot = csi::Snapshot {
        size_bytes: 1,
        snapshot_id: "s".into(),
        source_volume_id: "v".into(),
        creation_time: Some(prost_types::Timestamp { seconds: 5, nanos: 0 }),
        ready_to_use: true,
        group_snapshot_id: "g".into(),
    };
    let snapshot_wire = [
        varint(1, 1),
        bytes(2, b"s"),
        bytes(3, b"v"),
        bytes(4, &varint(1, 5)),
        varint(5, 1),
        bytes(6, b"g"),
    ]
    .concat();
    holds(
        &csi::CreateSnapshotResponse {
            snapshot: Some(snapshot.clone()),
        },
        &[bytes(1, &snapshot_wire)],
    );
    holds(
        &csi::ListSnapshotsRequest {
            max_entries: 1,
            starting_token: "t".into(),
            source_volume_id: "v".into(),
            snapshot_id: "s".into(),
            secrets: map("a", "b"),
        },
        &[
            varint(1, 1),
            bytes(2, b"t"),
            bytes(3, b"v"),
            bytes(4, b"s"),
            entry(5, "a", "b"),
        ],
    );
    holds(
        &csi::VolumeGroupSnapshot {
            group_snapshot_id: "g".into(),
            snapshots: vec![snapshot],
            creation_time: Some(prost_types::Timestamp { seconds: 5, nanos: 0 }),
            ready_to_use: true,
        },
        &[
            bytes(1, b"g"),
            bytes(2, &snapshot_wire),
            bytes(3, &varint(1, 5)),
            varint(4, 1),
        ],
    );
    holds(
        &csi::GetMetadataDeltaResponse {
            block_metadata_type: csi::BlockMetadataType::VariableLength as i32,
            volume_capacity_bytes: 9,
            block_metadata: vec![csi::BlockMetadata {
                byte_offset: 1,
                size_bytes: 2,
            }],
        },
        &[
            varint(1, 2),
            varint(2, 9),
            bytes(3, &[varint(1, 1), varint(2, 2)].concat()),
        ],
    );
}

#[test]
fn enum_values_of_the_capabilities() {
    use csi::{
        controller_service_capability::rpc::Type as Controller,
        group_controller_service_capability::rpc::Type as Group, node_service_capability::rpc::Type as Node,
        plugin_capability::service::Type as Service,
    };
    let controller = [
        Controller::Unknown,
        Controller::CreateDeleteVolume,
        Controller::PublishUnpublishVolume,
        Controller::ListVolumes,
        Controller::GetCapacity,
        Controller::CreateDeleteSnapshot,
        Controller::ListSnapshots,
        Controller::CloneVolume,
        Controller::PublishReadonly,
        Controller::ExpandVolume,
        Controller::ListVolumesPublishedNodes,
        Controller::VolumeCondition,
        Controller::GetVolume,
        Controller::SingleNodeMultiWriter,
        Controller::ModifyVolume,
        Controller::GetSnapshot,
    ];
    for (number, value) in controller.into_iter().enumerate() {
        assert_eq!(value as usize, number, "{}", value.as_str_name());
    }
    let node = [
        Node::Unknown,
        Node::StageUnstageVolume,
        Node::GetVolumeStats,
        Node::ExpandVolume,
        Node::VolumeCondition,
        Node::SingleNodeMultiWriter,
        Node::VolumeMountGroup,
    ];
    for (number, value) in node.into_iter().enumerate() {
        assert_eq!(value as usize, number, "{}", value.as_str_name());
    }
    assert_eq!(Service::ControllerService as i32, 1);
    assert_eq!(Service::GroupControllerService as i32, 3);
    assert_eq!(Service::SnapshotMetadataService as i32, 4);
    assert_eq!(Group::CreateDeleteGetVolumeGroupSnapshot as i32, 1);
}

#[test]
fn services_are_found_under_their_names_of_the_specification() {
    assert_eq!(csi::identity_server::SERVICE_NAME, "csi.v1.Identity");
    assert_eq!(csi::controller_server::SERVICE_NAME, "csi.v1.Controller");
    assert_eq!(csi::group_controller_server::SERVICE_NAME, "csi.v1.GroupController");
    assert_eq!(csi::snapshot_metadata_server::SERVICE_NAME, "csi.v1.SnapshotMetadata");
    assert_eq!(csi::node_server::SERVICE_NAME, "csi.v1.Node");
}
