//! The protocol in the bounds of `make test`: all must hold, and every seeded fault must be noticed. Without libtest, so that the
//! count of states is printed whatever the result.

use std::process::ExitCode;

use model::runs::{Size, run};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--list") {
        println!("protocol: test");
        return ExitCode::SUCCESS;
    }
    // A filter is for tests elsewhere, unless it names this one.
    if arguments
        .iter()
        .any(|a| !a.starts_with('-') && !"protocol".contains(a.as_str()))
    {
        return ExitCode::SUCCESS;
    }
    let report = run(Size::Small, None);
    if let Err(error) = report.write() {
        eprintln!("cannot write the report: {error}");
        return ExitCode::FAILURE;
    }
    if report.good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
