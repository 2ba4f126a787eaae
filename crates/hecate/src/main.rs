//! The `hecate` command: train, generate, evaluate and inspect models whose memories keep learning.

#[macro_use]
mod out;
mod cli;
mod commands;
mod table;

use clap::Parser;
use std::process::ExitCode;

/// Whatever went wrong: printed as one line.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match commands::run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}
