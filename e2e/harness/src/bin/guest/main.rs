//! What runs in the virtual machines of the tests, as root: scenarios on the real kernel, and the machines' other roles.
//!
//! It changes mounts, networks and NVMe sessions of whatever it runs on, so it refuses to run outside of such a machine.

mod fabric;
mod rig;
mod scenarios;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use e2e::vm::{SHARE, report};

#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Runs scenarios one after the other in this one boot.
    Scenarios {
        /// Only those whose names begin so; all if none is given.
        names: Vec<String>,
    },
    /// Lists the scenarios.
    List,
}

fn main() -> ExitCode {
    let done = match Options::parse().role {
        Role::List => {
            for scenario in scenarios::ALL {
                println!("{:<40} {}", scenario.name, scenario.about);
            }
            Ok(true)
        }
        Role::Scenarios { names } => in_a_guest().and_then(|()| run(&names)),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn in_a_guest() -> Result<()> {
    ensure!(
        Path::new(SHARE).exists(),
        "{SHARE} is not there: this runs in the virtual machines that the tests start, nowhere else"
    );
    Ok(())
}

/// Whether all of them were well.
fn run(names: &[String]) -> Result<bool> {
    let asked = |name: &str| names.is_empty() || names.iter().any(|asked| name.starts_with(asked.as_str()));
    let chosen: Vec<_> = scenarios::ALL.iter().filter(|scenario| asked(scenario.name)).collect();
    ensure!(!chosen.is_empty(), "no scenario is called {}", names.join(" or "));
    let rig = rig::Rig::start()?;
    let mut well = true;
    for scenario in chosen {
        println!("-- {}: {}", scenario.name, scenario.about);
        let start = Instant::now();
        let ended = (scenario.run)(&rig).and_then(|()| rig.clean());
        let outcome = report::Outcome {
            name: scenario.name.to_owned(),
            seconds: start.elapsed().as_secs_f32(),
            error: ended.err().map(|error| format!("{error:#}")),
        };
        println!(
            "   {:.1} s {}",
            outcome.seconds,
            outcome.error.as_deref().unwrap_or("ok")
        );
        well &= outcome.error.is_none();
        report::write(Path::new(SHARE), &outcome)?;
        if outcome.error.is_some() {
            // The next one is to begin with a clean kernel; what cannot be cleaned fails it by name.
            rig.sweep();
        }
    }
    Ok(well)
}
