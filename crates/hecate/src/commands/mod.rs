//! One file per command.

mod bench;
mod doctor;
mod eval;
mod experiment;
mod generate;
mod grow;
mod inspect;
mod optimizers;
mod rules;
mod settings;
mod train;

use crate::Failure;
use crate::cli::{AccessArg, Cli, Command};
use clap::CommandFactory;
use hecate_model::{Access, Model, Parts};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Runs the command on a thread pool of the size that was asked for.
pub fn run(cli: &Cli) -> Result<(), Failure> {
    let threads = cli.threads.map_or(0, usize::from);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    match &cli.command {
        Command::Train(args) => train::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Grow(args) => grow::run(args),
        Command::Rules(args) => rules::run(args),
        Command::Optimizers(args) => optimizers::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Experiment(args) => experiment::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "hecate", &mut script);
            out!("{}", String::from_utf8(script)?);
            Ok(())
        }
        Command::Man => {
            out!("{}", manual()?);
            Ok(())
        }
    }
}

/// Says on standard error that a model's scores are no measure of prediction.
fn warn_of_leaks(model: &Model) {
    if let Some(block) = model.sees_ahead() {
        errln!(
            "warning: mixer.causal = false in block {block}: a token sees those behind it, so that losses say nothing of \
             prediction, and the model cannot generate; the causal form is causal = true"
        );
    }
}

impl From<AccessArg> for Access {
    fn from(arg: AccessArg) -> Self {
        match arg {
            AccessArg::Learn => Access::Learn,
            AccessArg::Read => Access::Read,
            AccessArg::Frozen => Access::Frozen(Parts::all()),
        }
    }
}

/// The manual page: the command, then every subcommand with its options.
fn manual() -> Result<String, Failure> {
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    let mut text = String::from_utf8(page)?;
    for sub in command.get_subcommands().filter(|s| s.get_name() != "help") {
        let mut part = Vec::new();
        let man = clap_mangen::Man::new(sub.clone());
        man.render_synopsis_section(&mut part)?;
        man.render_description_section(&mut part)?;
        man.render_options_section(&mut part)?;
        text += &format!(".SH HECATE {}\n", sub.get_name().to_uppercase());
        text += &String::from_utf8(part)?.replace(".SH ", ".SS ");
    }
    Ok(text)
}

/// Prints a value as indented JSON.
fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    outln!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// The newest finished run under `runs/`.
fn newest_run() -> Result<PathBuf, Failure> {
    let missing = "no model given and no finished run under `runs/`: train one with `hecate train`, or name a run";
    let entries = std::fs::read_dir("runs").map_err(|_| missing)?;
    let finished = |path: &PathBuf| path.join("model.safetensors").is_file();
    let time = |path: &Path| path.join("model.safetensors").metadata().and_then(|m| m.modified()).ok();
    let paths = entries.filter_map(|e| Some(e.ok()?.path())).filter(finished);
    Ok(paths.max_by_key(|p| time(p)).ok_or(missing)?)
}
