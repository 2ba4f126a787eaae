//! `cargo xtask COMMAND`: what cargo alone cannot do.

mod ci;
mod cite;
mod docs;
mod lint;
mod python;
mod readme;
mod repo;

use std::process::ExitCode;

/// Whatever went wrong: printed as it is.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A command: its name, its arguments, what it does.
struct Command {
    name: &'static str,
    arguments: &'static str,
    about: &'static str,
    run: fn(&[String]) -> Result<()>,
}

const COMMANDS: &[Command] = &[
    Command {
        name: "ci",
        arguments: "[STEP...]",
        about: "formatting, clippy, docs and every command below; or the steps named",
        run: ci::run,
    },
    Command { name: "cite", arguments: "", about: "check that every citation names a known paper", run: citations },
    Command {
        name: "docs",
        arguments: "[--check]",
        about: "write the generated tables into the documents, or check that they are current",
        run: docs::run,
    },
    Command { name: "lint", arguments: "", about: "lengths, unsafe code and leftovers", run: lint::run },
    Command {
        name: "python",
        arguments: "",
        about: "build the Python package into a fresh virtual environment and test it there",
        run: python::run,
    },
    Command { name: "readme", arguments: "", about: "run the README's commands as written", run: readme::run },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((command, rest)) =
        arguments.split_first().and_then(|(name, rest)| Some((COMMANDS.iter().find(|c| c.name == name)?, rest)))
    else {
        eprintln!("{}", usage());
        return ExitCode::FAILURE;
    };
    match (command.run)(rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// See [`cite`].
fn citations(arguments: &[String]) -> Result<()> {
    Ok(cite::run(&repo::root(), arguments)?)
}

fn usage() -> String {
    let row = |c: &Command| format!("\n  {:<14} {}", format!("{} {}", c.name, c.arguments), c.about);
    format!("usage: cargo xtask COMMAND\n{}", COMMANDS.iter().map(row).collect::<String>())
}

/// Refuses arguments of a command that takes none.
fn no_arguments(arguments: &[String]) -> Result<()> {
    match arguments.first() {
        None => Ok(()),
        Some(argument) => Err(format!("unknown argument `{argument}`\n{}", usage()).into()),
    }
}
