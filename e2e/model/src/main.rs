//! `make model`: explores the protocol in larger bounds than `make test` and writes target/model/report.json. Exits with 1 when a
//! property is violated or a seeded fault goes unnoticed. An argument selects bounds or seeded faults by name; `--small` takes
//! the bounds of `make test`.

use std::process::ExitCode;

use model::runs::{Size, run};

fn main() -> ExitCode {
    let mut size = Size::Large;
    let mut only = None;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--small" => size = Size::Small,
            _ => only = Some(argument),
        }
    }
    let report = run(size, only.as_deref());
    if only.is_some() {
        return if report.violations.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    match report.write() {
        Ok(path) => println!("written: {}", path.display()),
        Err(error) => {
            eprintln!("cannot write the report: {error}");
            return ExitCode::FAILURE;
        }
    }
    if report.good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
