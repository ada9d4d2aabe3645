//! Which bounds are explored, with what result.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use stateright::{Checker, HasDiscoveries, Model};

use crate::properties::{REACHED, SAFETY};
use crate::{Kind, Mutation, Protocol};

/// Longest search for one seeded fault.
const PATIENCE: Duration = Duration::from_secs(120);

/// How much is explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// As in `make test`: about a minute.
    Small,
    /// As in `make model`: some minutes.
    Large,
}

/// What an exploration of all bounds has shown.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// States that were seen.
    pub states: usize,
    /// How long it took.
    pub seconds: f64,
    /// Violations of the protocol as it ships: property, bounds, the way there.
    pub violations: Vec<String>,
    /// Properties that have to be reached and were not.
    pub unreached: Vec<&'static str>,
    /// Seeded faults that were noticed.
    pub found: Vec<Mutation>,
    /// Seeded faults that were not.
    pub missed: Vec<Mutation>,
}

impl Report {
    /// All holds, all is reached, all seeded faults are noticed.
    #[must_use]
    pub fn good(&self) -> bool {
        self.violations.is_empty() && self.unreached.is_empty() && self.missed.is_empty()
    }

    /// Writes `target/model/report.json`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self) -> std::io::Result<PathBuf> {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
            PathBuf::from,
        );
        let folder = target.join("model");
        std::fs::create_dir_all(&folder)?;
        let path = folder.join("report.json");
        let names = |all: &[Mutation]| all.iter().map(|m| format!("{m:?}")).collect::<Vec<_>>();
        let report = json!({
            "states": self.states,
            "seconds": (self.seconds * 10.0).round() / 10.0,
            "violations": self.violations.len(),
            "mutations": self.found.len() + self.missed.len(),
            "mutations_found": self.found.len(),
            "mutations_found_names": names(&self.found),
            "mutations_missed_names": names(&self.missed),
            "unreached": self.unreached,
        });
        std::fs::write(&path, format!("{report:#}\n"))?;
        Ok(path)
    }
}

fn bounds(name: &'static str, budget: &[(Kind, u8)], faults: u8) -> Protocol {
    Protocol {
        name,
        shared: false,
        readers: false,
        pods: false,
        attachments: 2,
        leaders: 2,
        proven: true,
        budget: budget.to_vec(),
        faults,
        mutation: None,
    }
}

/// What is explored.
#[must_use]
pub fn all(size: Size) -> Vec<Protocol> {
    use Kind::{
        AgentDies, AgentStalls, CutOff, Delete, Edit, Exec, ExportLost, FenceNow, Force, Grow, LeaderDies, NodeIsOff,
        OldCaches, Reboot, Replace, Restore, Taint,
    };
    let more = u8::from(size == Size::Large);
    let shared = |p: Protocol| Protocol { shared: true, ..p };
    let readers = |p: Protocol| Protocol { readers: true, ..p };
    let pods = |p: Protocol| Protocol { pods: true, ..p };
    let alone = |p: Protocol| Protocol { leaders: 1, ..p };
    let unproven = |p: Protocol| Protocol { proven: false, ..p };
    vec![
        alone(bounds(
            "late commands",
            &[(Taint, 1), (Exec, 2), (LeaderDies, 1)],
            3 + more,
        )),
        bounds("two leaders", &[(Taint, 1), (Exec, 1), (CutOff, 1)], 2 + more),
        bounds("old caches", &[(OldCaches, 1), (CutOff, 1)], 1 + more),
        // All three together are more states than all else: not in a size that ends while one waits.
        bounds("an old cache, a reboot", &[(OldCaches, 1), (Reboot, 1), (CutOff, 1)], 2),
        shared(bounds(
            "a migration, old caches",
            &[(OldCaches, 1), (Taint, 1)],
            1 + more,
        )),
        alone(bounds(
            "reboots",
            &[(Reboot, 2), (AgentStalls, 1), (AgentDies, 1), (CutOff, 1)],
            2 + more,
        )),
        alone(bounds(
            "a replacement",
            &[(CutOff, 1), (Replace, 1), (Reboot, 1), (AgentStalls, 1)],
            2 + more,
        )),
        alone(bounds(
            "drift",
            &[(ExportLost, 1), (Exec, 1), (Taint, 1), (LeaderDies, 1)],
            3 + more,
        )),
        alone(bounds(
            "growth and deletion",
            &[(Grow, 1), (Delete, 1), (Exec, 1), (OldCaches, 1)],
            2 + more,
        )),
        alone(bounds(
            "a lost status",
            &[(Restore, 1), (Taint, 1), (Exec, 1)],
            2 + more,
        )),
        alone(bounds(
            "an object removed by force",
            &[(Force, 1), (CutOff, 1), (FenceNow, 1)],
            2 + more,
        )),
        alone(bounds(
            "a record edited by hand",
            &[(Edit, 1), (CutOff, 1), (AgentStalls, 1), (NodeIsOff, 1)],
            2 + more,
        )),
        readers(alone(bounds(
            "readers",
            &[(CutOff, 1), (Taint, 1), (OldCaches, 1)],
            1 + more,
        ))),
        unproven(alone(bounds(
            "no proof of a fence",
            &[(CutOff, 1), (NodeIsOff, 1), (Reboot, 1)],
            2 + more,
        ))),
        shared(pods(alone(bounds(
            "a live peer",
            &[(CutOff, 1), (Taint, 1), (FenceNow, 1)],
            1 + more,
        )))),
    ]
}

/// Where each seeded fault shows.
fn seeded(mutation: Mutation) -> Protocol {
    use Kind::{AgentStalls, CutOff, Edit, Exec, ExportLost, OldCaches, Reboot, Replace, Taint};
    let shared = |p: Protocol| Protocol { shared: true, ..p };
    let pods = |p: Protocol| Protocol { pods: true, ..p };
    let bounds = |budget, faults| bounds("seeded", budget, faults);
    let alone = |p: Protocol| Protocol { leaders: 1, ..p };
    let protocol = match mutation {
        Mutation::SkipVerify => alone(bounds(&[(Taint, 1), (Exec, 2)], 3)),
        Mutation::DropCompareAndSwap => bounds(&[(OldCaches, 1)], 1),
        Mutation::TrustStaleCache => bounds(&[(OldCaches, 1), (Reboot, 1)], 2),
        Mutation::ReleaseOnUnknown => alone(bounds(&[], 0)),
        Mutation::AdmitBesideLost => shared(alone(bounds(&[(Taint, 1)], 1))),
        Mutation::RepairWithoutToken => alone(bounds(&[(ExportLost, 1), (Exec, 1), (Taint, 1)], 3)),
        Mutation::BootIdWithoutIntent => alone(bounds(&[(Reboot, 1)], 1)),
        Mutation::ConnectFromCache => alone(bounds(&[(AgentStalls, 1)], 1)),
        Mutation::NewPodOnLivePeer => shared(pods(alone(bounds(&[(Taint, 1)], 1)))),
        Mutation::BelieveTheRecord => alone(bounds(&[(Edit, 1)], 1)),
        Mutation::BootIdAlone | Mutation::TrustTheName => alone(bounds(&[(CutOff, 1), (Replace, 1)], 2)),
    };
    Protocol {
        mutation: Some(mutation),
        ..protocol
    }
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::SkipVerify,
        Self::DropCompareAndSwap,
        Self::TrustStaleCache,
        Self::ReleaseOnUnknown,
        Self::AdmitBesideLost,
        Self::RepairWithoutToken,
        Self::BootIdWithoutIntent,
        Self::ConnectFromCache,
        Self::NewPodOnLivePeer,
        Self::BootIdAlone,
        Self::TrustTheName,
        Self::BelieveTheRecord,
    ];
}

/// What one exploration has seen.
#[derive(Debug)]
pub struct Seen {
    /// States.
    pub states: usize,
    /// Violated properties, with the shortest way there.
    pub violated: Vec<String>,
    /// Properties of [`REACHED`] that were reached.
    pub reached: Vec<&'static str>,
    /// Nothing is left to see.
    pub whole: bool,
}

/// Explores one set of bounds; ends at the first violation.
#[must_use]
pub fn explore(protocol: &Protocol, patience: Duration) -> Seen {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let start = Instant::now();
    let checker = protocol
        .clone()
        .checker()
        .threads(threads)
        .timeout(patience)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let mut seen = Seen {
        states: checker.unique_state_count(),
        violated: vec![],
        reached: vec![],
        whole: start.elapsed() < patience,
    };
    for (name, path) in checker.discoveries() {
        if SAFETY.contains(&name) {
            seen.violated.push(told(protocol, name, path));
        } else {
            seen.reached.push(name);
        }
    }
    seen
}

fn told(protocol: &Protocol, name: &str, path: stateright::Path<crate::World, crate::Action>) -> String {
    let last = path.last_state().clone();
    let actions: Vec<String> = path.into_actions().iter().map(|a| format!("  {a:?}")).collect();
    let end = crate::properties::comes_to_its_end(protocol, &last).err();
    format!(
        "{name}\nin {protocol:?}\nafter {} steps:\n{}\nthen {last:?}\n{}",
        actions.len(),
        actions.join("\n"),
        end.unwrap_or_default()
    )
}

/// Explores all: first what ships, then with one seeded fault at a time. Prints what it does.
#[must_use]
pub fn run(size: Size, only: Option<&str>) -> Report {
    let start = Instant::now();
    let mut report = Report::default();
    let wanted = |name: &str| only.is_none_or(|o| name.contains(o));
    let patience = match size {
        Size::Small => Duration::from_secs(240),
        Size::Large => Duration::from_secs(3600),
    };
    let mut reached = BTreeSet::new();
    for protocol in all(size).iter().filter(|p| wanted(p.name)) {
        let begin = Instant::now();
        let seen = explore(protocol, patience);
        println!(
            "{:24} {:9} states, {:5.1} s{}",
            protocol.name,
            seen.states,
            begin.elapsed().as_secs_f64(),
            if seen.whole || !seen.violated.is_empty() {
                ""
            } else {
                ", not all of them"
            },
        );
        for violation in &seen.violated {
            println!("VIOLATED: {violation}");
        }
        report.states += seen.states;
        reached.extend(seen.reached);
        report.violations.extend(seen.violated);
    }
    if only.is_none() {
        report.unreached = REACHED.into_iter().filter(|r| !reached.contains(r)).collect();
    }
    for mutation in Mutation::ALL.into_iter().filter(|m| wanted(&format!("{m:?}"))) {
        let begin = Instant::now();
        let seen = explore(&seeded(mutation), PATIENCE);
        report.states += seen.states;
        let first = seen.violated.first().and_then(|v| v.lines().next());
        println!(
            "{:24} {:9} states, {:5.1} s: {}",
            format!("{mutation:?}"),
            seen.states,
            begin.elapsed().as_secs_f64(),
            first.unwrap_or("NOT NOTICED")
        );
        match first {
            Some(_) => report.found.push(mutation),
            None => report.missed.push(mutation),
        }
        if only.is_some() {
            seen.violated.iter().for_each(|v| println!("{v}"));
        }
    }
    for name in &report.unreached {
        println!("NOT REACHED: {name}");
    }
    report.seconds = start.elapsed().as_secs_f64();
    println!(
        "{} states in {:.0} s, {} violations, {} of {} seeded faults noticed",
        report.states,
        report.seconds,
        report.violations.len(),
        report.found.len(),
        report.found.len() + report.missed.len()
    );
    report
}
