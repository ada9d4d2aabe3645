//! `make model`: explores the protocol, prints what it saw, writes target/model/report.json. Exits with 1 on a violation.
//!
//! Then it puts one thing wrong at a time and says whether the exploration notices within its time.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use model::{Mutation, Protocol};
use serde_json::json;
use stateright::{Checker, HasDiscoveries, Model};

/// Longest search for one seeded fault.
const PATIENCE: Duration = Duration::from_secs(120);

/// States seen, the safety properties that were violated with a way there, and whether all was seen.
fn explore(protocol: Protocol, patience: Duration) -> (usize, Vec<String>, bool) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = protocol
        .checker()
        .threads(threads)
        .timeout(patience)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let safety = Protocol::SAFETY;
    let violated = checker
        .discoveries()
        .into_iter()
        .filter(|(name, _)| safety.contains(name))
        .map(|(name, path)| format!("{name}\n{path}"))
        .collect();
    (checker.unique_state_count(), violated, checker.is_done())
}

fn main() -> ExitCode {
    let start = Instant::now();
    let (mut states, mut violations) = (0, Vec::new());
    for shared in [false, true] {
        let protocol = Protocol::small(shared);
        let (seen, violated, done) = explore(protocol.clone(), Duration::from_secs(3600));
        println!("{protocol:?}: {seen} states, all of them: {done}");
        states += seen;
        violations.extend(violated);
    }
    for violation in &violations {
        println!("VIOLATED {violation}");
    }
    let mut found = Vec::new();
    for mutation in Mutation::ALL {
        let noticed = [false, true].into_iter().any(|shared| {
            let mut protocol = Protocol::small(shared);
            (protocol.mutation, protocol.faults) = (Some(mutation), 2);
            let (seen, violated, _) = explore(protocol, PATIENCE);
            states += seen;
            !violated.is_empty()
        });
        println!("{mutation:?}: {}", if noticed { "found" } else { "not found" });
        found.extend(noticed.then(|| format!("{mutation:?}")));
    }
    let seconds = start.elapsed().as_secs_f64();
    let report = json!({
        "states": states, "seconds": seconds, "violations": violations.len(),
        "mutations": Mutation::ALL.len(), "mutations_found": found,
    });
    println!("{report:#}");
    let written = std::fs::create_dir_all("target/model")
        .and_then(|()| std::fs::write("target/model/report.json", format!("{report:#}\n")));
    match (written, violations.is_empty()) {
        (Ok(()), true) => ExitCode::SUCCESS,
        (Ok(()), false) => ExitCode::FAILURE,
        (Err(error), _) => {
            eprintln!("cannot write target/model/report.json: {error}");
            ExitCode::FAILURE
        }
    }
}
