//! What runs in the virtual machines of the tests, as root: scenarios on the real kernel, and the machines' other roles.
//!
//! It changes mounts, networks and NVMe sessions of whatever it runs on, so it refuses to run outside of such a machine.

mod bench;
mod control;
mod fabric;
mod node;
mod plane;
mod rig;
mod scenarios;
mod target;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use e2e::vm::{SHARE, report};

use crate::rig::Rig;

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
    /// Runs those that need an agent and the control plane of the host.
    AgentScenarios {
        #[command(flatten)]
        plane: plane::Options,
        /// Only those whose names begin so; all if none is given.
        names: Vec<String>,
    },
    /// Measures the agent; the numbers go into the shared folder.
    AgentBench {
        #[command(flatten)]
        plane: plane::Options,
    },
    /// Lists the scenarios.
    List,
    /// Is the appliance.
    Target,
    /// Is a node.
    Node(node::Options),
}

fn main() -> ExitCode {
    let done = match Options::parse().role {
        Role::List => {
            let all = scenarios::ALL.iter().map(|scenario| (scenario.name, scenario.about));
            let with_agent = scenarios::agent::ALL.iter().map(|s| (s.name, s.about));
            for (name, about) in all.chain(with_agent) {
                println!("{name:<40} {about}");
            }
            Ok(true)
        }
        Role::AgentBench { plane } => in_a_guest().and_then(|()| {
            // As on Debian: without huge pages an agent would seem smaller than it is.
            std::fs::write("/sys/kernel/mm/transparent_hugepage/enabled", "always")?;
            let rig = rig::Rig::start()?;
            let plane = plane::Plane::start(&rig, plane)?;
            bench::measure(&rig, &plane)
        }),
        Role::Target => in_a_guest().and_then(|()| target::run()),
        Role::Node(options) => in_a_guest().and_then(|()| node::run(options)),
        Role::Scenarios { names } => in_a_guest().and_then(|()| {
            let rig = rig::Rig::start()?;
            let all = scenarios::ALL.iter();
            through(&names, &rig, all.map(|s| (s.name, s.about, Box::new(s.run) as Run)))
        }),
        Role::AgentScenarios { plane, names } => in_a_guest().and_then(|()| {
            let rig = rig::Rig::start()?;
            let plane = plane::Plane::start(&rig, plane)?;
            let all = scenarios::agent::ALL.iter();
            through(
                &names,
                &rig,
                all.map(|s| (s.name, s.about, Box::new(|rig: &Rig| (s.run)(rig, &plane)) as Run)),
            )
        }),
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

/// A scenario with what it runs on.
type Run<'a> = Box<dyn Fn(&Rig) -> Result<()> + 'a>;

/// Runs those that are asked for; whether all of them were well.
fn through<'a>(names: &[String], rig: &Rig, all: impl Iterator<Item = (&'a str, &'a str, Run<'a>)>) -> Result<bool> {
    let asked = |name: &str| names.is_empty() || names.iter().any(|asked| name.starts_with(asked.as_str()));
    let chosen: Vec<_> = all.filter(|(name, ..)| asked(name)).collect();
    ensure!(!chosen.is_empty(), "no scenario is called {}", names.join(" or "));
    let mut well = true;
    for (name, about, run) in chosen {
        println!("-- {name}: {about}");
        let start = Instant::now();
        let ended = run(rig).and_then(|()| rig.clean());
        let outcome = report::Outcome {
            name: name.to_owned(),
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
