//! The `hecate` command: train, generate, evaluate and inspect models whose memories keep learning.

#[macro_use]
mod out;
mod cli;
mod commands;
mod table;

use clap::Parser;
use clap::error::ErrorKind;
use std::process::ExitCode;

/// Whatever went wrong: printed as one line.
type Failure = Box<dyn std::error::Error>;

/// What a command ends with that Ctrl-C or a signal stopped, when it has kept and said what there is.
#[derive(Debug)]
struct Stopped;

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("stopped")
    }
}

impl std::error::Error for Stopped {}

/// Its exit status, as shells expect: what comes next in a script must not begin.
const STOPPED: u8 = hecate_train::interrupt::EXIT_STATUS as u8;

/// Exit status of a command line that cannot be read, as clap has it.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        // Help and versions were asked for, or nothing was, and the help is the answer.
        Err(asked) if !asked.use_stderr() => asked.exit(),
        Err(nothing) if nothing.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => nothing.exit(),
        Err(error) => {
            errln!("{}", one_line(&error.to_string()));
            return ExitCode::from(USAGE);
        }
    };
    match commands::run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is::<Stopped>() => ExitCode::from(STOPPED),
        Err(failure) => {
            errln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// What clap says about a command line, on one line.
fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("; ").replace(":; ", ": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_that_cannot_be_read_is_one_line_that_names_the_remedy() {
        for (line, names) in [
            (&["hecate", "train", "--foo"][..], "--foo"),
            (&["hecate", "inspect"], "<FILE>"),
            (&["hecate", "grow", "run", "--out", "x", "--level", "many"], "many"),
            (&["hecate", "trane"], "train"),
        ] {
            let error = one_line(&cli::Cli::try_parse_from(line).expect_err("it cannot be read").to_string());
            assert!(error.starts_with("error: ") && !error.contains('\n'), "{error}");
            assert!(error.contains(names) && error.contains("--help"), "{error}");
        }
    }
}
