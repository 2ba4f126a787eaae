//! `hecate train`: from a text to a model that carries its memory.

use super::{print_json, warn_of_leaks};
use crate::cli::Train;
use crate::table::Table;
use crate::{Failure, Stopped};
use hecate_train::interrupt::Interrupt;
use hecate_train::machine::Machine;
use hecate_train::run::{Options, Outcome, Plan, Run};
use hecate_train::run_config::{PRESETS, RunConfig};
use hecate_train::trainer::{Estimate, Trainer};
use hecate_train::{bench, human, overrides, settings};
use serde::Serialize;
use std::path::{Path, PathBuf};

pub fn run(args: &Train) -> Result<(), Failure> {
    let options = Options {
        tensorboard: args.tensorboard,
        quiet: args.json,
        peak_flops: Some(1e9 * bench::peak(rayon::current_num_threads())),
    };
    let mut run = match &args.resume {
        Some(folder) => Run::resume(folder, options)?,
        None => {
            let (name, config) = resolve(args)?;
            if args.dry_run {
                return show_plan(&config, args.json);
            }
            Run::create(&config, &name, args.out.as_deref(), options)?
        }
    };
    for damaged in run.passed_over()? {
        let (damaged, step) = (damaged.display(), run.trainer().step_count());
        errln!("warning: {damaged} is damaged and passed over; going on from step {step}");
    }
    warn(run.trainer());
    if !args.json {
        errln!("{}", run.folder().display());
        let estimate = run.estimate().map_err(|e| keep(&e, run.folder()))?;
        describe(run.trainer(), run.text(), &estimate);
    }
    let outcome = run.run(&Interrupt::install()?).map_err(|e| keep(&e, run.folder()))?;
    if args.json {
        print_json(&outcome)?;
    } else {
        summarize(&outcome);
    }
    if outcome.finished { Ok(()) } else { Err(Stopped.into()) }
}

/// The preset or file, with the changes of the command line: its name and the config.
pub fn resolve(args: &Train) -> Result<(String, RunConfig), Failure> {
    let (first, changes) = match args.config.split_first() {
        Some((first, rest)) if !first.contains('=') => (first.as_str(), rest),
        _ => ("default", args.config.as_slice()),
    };
    let (name, mut table) = open(first)?;
    overrides::apply_all(&mut table, changes)?;
    let mut config = RunConfig::from_table(table, &name)?;
    if let Some(path) = &args.data {
        config.data.path = Some(path.clone());
    }
    // A resumed run may start in another folder.
    config.data.path = config.data.path.map(|p| std::path::absolute(&p).unwrap_or(p));
    config.train.from = config.train.from.map(|p| std::path::absolute(&p).unwrap_or(p));
    config.check()?;
    Ok((name, config))
}

/// A preset by name, else a file.
pub fn open(name: &str) -> Result<(String, toml::Table), Failure> {
    if let Some((name, text)) = PRESETS.iter().find(|p| p.0 == name) {
        return Ok((name.to_string(), settings::parse(text, name)?));
    }
    let path = PathBuf::from(name);
    if !path.exists() {
        let known = PRESETS.iter().map(|p| p.0).collect::<Vec<_>>().join(", ");
        return Err(format!(
            "`{name}` is neither a preset ({known}) nor a file, nor a change such as `train.steps=200`"
        )
        .into());
    }
    let stem = path.file_stem().map_or("run".into(), |s| s.to_string_lossy().into_owned());
    Ok((stem, settings::read_file(&path)?))
}

/// The config on standard output, so that it can be kept as a file; what it will take beside it.
fn show_plan(config: &RunConfig, json: bool) -> Result<(), Failure> {
    let plan = Plan::new(config)?;
    warn(&plan.trainer);
    if json {
        let treatments = treatments(&plan.trainer);
        return print_json(&Shown { config, text: &plan.text, treatments, memory: plan.estimate });
    }
    out!("{}", toml::to_string(config)?);
    describe(&plan.trainer, &plan.text, &plan.estimate);
    Ok(())
}

/// What `--dry-run --json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    config: &'a RunConfig,
    text: &'a str,
    treatments: Vec<Treatment>,
    memory: Estimate,
}

/// Parameters that the optimizer treats alike.
#[derive(Serialize)]
struct Treatment {
    kind: &'static str,
    optimizer: &'static str,
    weight_decay: bool,
    parameters: usize,
    tensors: Vec<String>,
}

fn treatments(trainer: &Trainer) -> Vec<Treatment> {
    let mut all: Vec<Treatment> = Vec::new();
    for spec in &trainer.model().params().specs {
        let (kind, optimizer) = (spec.kind.name(), trainer.config().optimizer.treats_by(spec));
        let at = all.iter().position(|t| (t.kind, t.optimizer) == (kind, optimizer)).unwrap_or_else(|| {
            let (weight_decay, tensors) = (spec.kind.decays(), Vec::new());
            all.push(Treatment { kind, optimizer, weight_decay, parameters: 0, tensors });
            all.len() - 1
        });
        all[at].parameters += spec.range.len();
        all[at].tensors.push(spec.name.clone());
    }
    all
}

/// The names without the parts that many share: `blocks.0.mixer.memory.k.weight` is `memory.k`.
fn short_names(tensors: &[String]) -> String {
    let mut short: Vec<&str> = Vec::new();
    for name in tensors {
        let inner = name.strip_prefix("blocks.").and_then(|n| n.split_once('.')).map_or(name.as_str(), |n| n.1);
        let inner = inner.strip_prefix("mixer.").unwrap_or(inner);
        let inner = [".weight", ".scale"].iter().find_map(|end| inner.strip_suffix(end)).unwrap_or(inner);
        if !short.contains(&inner) {
            short.push(inner);
        }
    }
    short.join(" ")
}

/// A run that broke off says where its last good moment is.
fn keep(error: &hecate_train::Error, folder: &Path) -> Failure {
    let folder = folder.display();
    let how = match error {
        // The same steps would end in the same place.
        hecate_train::Error::Step { .. } => {
            format!(
                "lower `peak`, `clip` or the rates of levels in {folder}/run.toml, then `hecate train --resume {folder}` goes on from it"
            )
        }
        _ => format!("`hecate train --resume {folder}` goes on from it"),
    };
    format!("{error}; the last good checkpoint is kept: {how}").into()
}

/// Says on standard error what the user of such a run should know before it.
fn warn(trainer: &Trainer) {
    warn_of_leaks(trainer.model());
    let (schedule, steps) = (&trainer.config().schedule, trainer.config().train.steps);
    if schedule.warmup_steps > steps {
        errln!(
            "warning: the rate rises over schedule.warmup_steps = {}, and the run ends after train.steps = {steps}",
            schedule.warmup_steps
        );
    }
    let (rare, lanes) = (trainer.rarely_learned(), trainer.config().train.lanes);
    if rare > 0 {
        errln!(
            "warning: {} parameters are learned only where a sequence starts (what memories start from, rows before the \
             first token), and this text is read as one document: train.reset_every = {lanes} starts one lane anew in every step",
            human::count(rare as f64),
        );
    }
}

/// What is about to be trained, and what it will take.
fn describe(trainer: &Trainer, text: &str, estimate: &Estimate) {
    let (model, config) = (trainer.model(), trainer.config());
    let mut table = Table::new(&["treatment", "optimizer", "weight decay", ">tensors", ">parameters", "which"]);
    for t in treatments(trainer) {
        let decay = if t.weight_decay { "yes" } else { "no" };
        let numbers = [t.tensors.len(), t.parameters].map(|n| n.to_string());
        table.row(
            [t.kind, t.optimizer, decay].map(String::from).into_iter().chain(numbers).chain([short_names(&t.tensors)]),
        );
    }
    if !config.train.only.is_empty() {
        let trained = trainer.trained();
        let names: Vec<&str> = trained.specs.iter().map(|spec| spec.name.as_str()).collect();
        errln!("trained, {} parameters: {}", human::count(trained.count() as f64), names.join(", "));
    }
    err!("{}", table.plain());
    errln!("text: {text}");
    let threads = rayon::current_num_threads();
    errln!(
        "{} parameters, {} lanes x {} tokens a step, {} steps, {threads} thread{}",
        human::count(model.params().count() as f64),
        config.train.lanes,
        config.model.context,
        config.train.steps,
        if threads == 1 { "" } else { "s" },
    );
    errln!(
        "memory: {} (program and text {}, parameters and optimizer {}, activations {}, states {}, evaluation {})",
        human::bytes(estimate.total()),
        human::bytes(estimate.program),
        human::bytes(estimate.parameters),
        human::bytes(estimate.activations),
        human::bytes(estimate.states),
        human::bytes(estimate.evaluation),
    );
    if let Some(memory) = Machine::look_up().memory_bytes.filter(|&memory| memory < estimate.total()) {
        errln!(
            "warning: this machine has {} of memory: choose a smaller model, fewer lanes or threads",
            human::bytes(memory)
        );
    }
}

fn summarize(outcome: &Outcome) {
    let folder = outcome.folder.display();
    if !outcome.finished {
        outln!("stopped after step {}; go on with: hecate train --resume {folder}", outcome.step);
        return;
    }
    if let Some(sample) = &outcome.sample {
        outln!("{}\n", sample.trim());
    }
    if let Some(learn) = &outcome.learn {
        outln!("held-out bits per byte  {:.4}", learn.bits_per_byte);
    }
    if let Some(frozen) = &outcome.frozen {
        outln!("  with memory frozen    {:.4}", frozen.bits_per_byte);
    }
    if let Some(speed) = outcome.tokens_per_sec {
        let share = |s| format!(", {:.0} % of this machine's peak", 100.0 * s);
        let share = outcome.share_of_peak.map_or(String::new(), share);
        outln!("tokens per second       {}{share}", human::count(speed));
    }
    if let Some(bytes) = outcome.peak_memory {
        outln!("peak memory             {}", human::bytes(bytes));
    }
    outln!("run                     {folder} (look at {folder}/report.html)");
    outln!("try                     hecate generate {folder} --prompt \"Call me\"");
}
