//! A guest that is the appliance: SSH at port 22, real exports, its control interface at port 80.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::Result;
use routeros_sim::{Config, Nvmet, Simulator};

use crate::control;

/// Runs until the machine ends.
pub(crate) fn run() -> Result<bool> {
    e2e::run(async {
        let sim = Simulator::start(Config {
            listen: ([0, 0, 0, 0], 22).into(),
            nvmet: Some(Nvmet {
                address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                images: "/run/images".into(),
                netns: None,
            }),
            ..Config::default()
        })
        .await?;
        println!("the appliance is up");
        let router = control::router().merge(routeros_sim::control::router(Arc::new(sim)));
        control::serve(router).await
    })?;
    Ok(true)
}
