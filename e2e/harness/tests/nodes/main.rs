//! Real pods on two nodes with a real kubelet, against real exports: see docs/vm-tests.md.

use anyhow::Result;
use e2e::Lab;
use e2e::lab::Options;
use e2e::vm::pair::Pair;

fn say(what: &str) {
    println!("{what}");
}

#[test]
fn stories() -> Result<()> {
    e2e::run(async {
        let lab = Lab::start("nodes", &Options::default()).await?;
        let pair = Pair::boot(&lab, "vm", say).await?;
        let moved = pair.move_data(&lab, "data", say).await?;
        println!("{moved}");
        lab.delete_claim("data").await?;
        pair.target.assert_empty().await?;
        pair.leave(&lab).await
    })
}
