//! The command templates of the RouterOS notes, over real SSH with the system's OpenSSH client.

mod common;
use common::{Bench, lines};

#[tokio::test]
async fn the_first_things_work() {
    let b = Bench::start().await;
    assert_eq!(
        b.ssh(":put [/system/resource/get version]").await,
        "7.24.4 (stable)\r\n"
    );
    assert_eq!(b.ssh("/system identity print").await, "  name: MikroTik\r\n\r\n");
    assert_eq!(
        b.ssh(
            ":put [:serialize to=json options=json.no-string-conversion [/disk/print detail as-value where slot=\"x\"]]"
        )
        .await,
        "[]\r\n"
    );
    let add =
        "/disk add type=file slot=vm-1 file-path=storage-pool/metal-csi/vm-1.img file-size=1G mount-filesystem=no";
    assert_eq!(b.ssh(add).await, "");
    assert_eq!(
        lines(&b.ssh(":put [/disk get [find slot=\"vm-1\"] size]").await),
        ["1073741824"]
    );
    assert_eq!(b.sim.file_disks().len(), 1);
    b.sim.stop().await;
}
