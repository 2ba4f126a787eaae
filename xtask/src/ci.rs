//! `cargo xtask ci`: everything that must hold besides the tests.

use crate::repo::{cargo, run as run_command};
use crate::{Result, citations, docs, lint, python, readme};
use std::time::Instant;

/// A step: its name, what it checks, how.
struct Step {
    name: &'static str,
    about: &'static str,
    run: fn() -> Result<()>,
}

/// From the quickest to the slowest.
const STEPS: &[Step] = &[
    Step { name: "fmt", about: "formatting", run: || run_command(cargo().args(["fmt", "--all", "--check"])) },
    Step { name: "lint", about: "lengths, unsafe code, leftovers", run: || lint::run(&[]) },
    Step { name: "cite", about: "citations", run: || citations(&[]) },
    Step { name: "clippy", about: "lints of the compiler and of clippy", run: clippy },
    Step { name: "rustdoc", about: "documentation without warnings", run: rustdoc },
    Step { name: "docs", about: "generated tables are current", run: || docs::run(&["--check".to_string()]) },
    Step { name: "python", about: "the Python package and its tests", run: || python::run(&[]) },
    Step { name: "readme", about: "the README's commands as written", run: || readme::run(&[]) },
];

/// Runs all steps, or those named, to the end, and lists those that failed.
///
/// # Errors
/// Where a step failed or is unknown.
pub fn run(arguments: &[String]) -> Result<()> {
    for name in arguments {
        if !STEPS.iter().any(|step| step.name == name) {
            let known: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
            return Err(format!("unknown step `{name}`, expected some of {}", known.join(", ")).into());
        }
    }
    let mut failed = Vec::new();
    for step in STEPS.iter().filter(|step| arguments.is_empty() || arguments.iter().any(|name| name == step.name)) {
        println!("\n== {}: {}", step.name, step.about);
        let start = Instant::now();
        let result = (step.run)();
        let seconds = start.elapsed().as_secs();
        match result {
            Ok(()) => println!("== {}: fine, {seconds} s", step.name),
            Err(error) => {
                println!("error: {error}\n== {}: FAILED, {seconds} s", step.name);
                failed.push(step.name);
            }
        }
    }
    if failed.is_empty() {
        println!("\nAll steps are fine.");
        return Ok(());
    }
    Err(format!("failed steps: {}", failed.join(", ")).into())
}

fn clippy() -> Result<()> {
    run_command(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn rustdoc() -> Result<()> {
    run_command(cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}
