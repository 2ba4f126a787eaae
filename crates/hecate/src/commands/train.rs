//! `hecate train`: from a text to a model that carries its memory.

use super::print_json;
use crate::Failure;
use crate::cli::Train;
use crate::table::Table;
use hecate_train::bench;
use hecate_train::human;
use hecate_train::interrupt::Interrupt;
use hecate_train::run::{Options, Outcome, Run};
use hecate_train::run_config::{PRESETS, RunConfig};
use hecate_train::{overrides, settings};
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
                print!("{}", toml_text(&config)?);
                return Ok(());
            }
            Run::create(&config, &name, args.out.as_deref(), options)?
        }
    };
    if !args.json {
        describe(&mut run)?;
    }
    let outcome = run.run(&Interrupt::install()?).map_err(|e| keep(&e, run.folder()))?;
    if args.json {
        return print_json(&outcome);
    }
    summarize(&outcome);
    Ok(())
}

/// The preset or file, with the changes of the command line: its name and the config.
pub fn resolve(args: &Train) -> Result<(String, RunConfig), Failure> {
    let (first, changes) = match args.config.split_first() {
        Some((first, rest)) if !first.contains('=') => (first.as_str(), rest),
        _ => ("default", args.config.as_slice()),
    };
    let (name, mut table) = open(first)?;
    overrides::apply_all(&mut table, changes)?;
    let mut config: RunConfig = settings::into(table, &name)?;
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

fn toml_text(config: &RunConfig) -> Result<String, Failure> {
    Ok(toml::to_string(config)?)
}

/// A run that broke off says where its last good moment is.
fn keep(error: &hecate_train::Error, folder: &Path) -> Failure {
    let folder = folder.display();
    format!("{error}\nthe last good checkpoint is kept; `hecate train --resume {folder}` goes on from it").into()
}

/// What is about to be trained, and what it will take.
fn describe(run: &mut Run) -> Result<(), Failure> {
    let estimate = run.estimate()?;
    let trainer = run.trainer();
    let (model, config) = (trainer.model(), trainer.config());
    let mut table = Table::new(&["treatment", ">tensors", ">parameters", "weight decay"]);
    let mut kinds: Vec<(hecate_model::Kind, usize, usize)> = Vec::new();
    for spec in &model.params().specs {
        match kinds.iter_mut().find(|k| k.0 == spec.kind) {
            Some(k) => (k.1, k.2) = (k.1 + 1, k.2 + spec.range.len()),
            None => kinds.push((spec.kind, 1, spec.range.len())),
        }
    }
    for (kind, tensors, parameters) in kinds {
        let decay = if kind.decays() { "yes" } else { "no" };
        table.row([format!("{kind:?}").to_lowercase(), tensors.to_string(), parameters.to_string(), decay.into()]);
    }
    eprintln!("{}", run.folder().display());
    if !config.train.only.is_empty() {
        let trained = trainer.trained();
        let names: Vec<&str> = trained.specs.iter().map(|spec| spec.name.as_str()).collect();
        eprintln!("trained, {} parameters: {}", human::count(trained.count() as f64), names.join(", "));
    }
    eprint!("{}", table.plain());
    eprintln!(
        "{} parameters, {} lanes x {} tokens a step, {} steps, {} threads",
        human::count(model.params().count() as f64),
        config.train.lanes,
        config.model.context,
        config.train.steps,
        rayon::current_num_threads(),
    );
    eprintln!(
        "memory: {} (program and text {}, parameters and optimizer {}, activations {}, states {}, evaluation {})",
        human::bytes(estimate.total()),
        human::bytes(estimate.program),
        human::bytes(estimate.parameters),
        human::bytes(estimate.activations),
        human::bytes(estimate.states),
        human::bytes(estimate.evaluation),
    );
    Ok(())
}

fn summarize(outcome: &Outcome) {
    let folder = outcome.folder.display();
    if !outcome.finished {
        println!("stopped after step {}; go on with: hecate train --resume {folder}", outcome.step);
        return;
    }
    if let Some(sample) = &outcome.sample {
        println!("{}\n", sample.trim());
    }
    if let Some(learn) = &outcome.learn {
        println!("held-out bits per byte  {:.4}", learn.bits_per_byte);
    }
    if let Some(frozen) = &outcome.frozen {
        println!("  with memory frozen    {:.4}", frozen.bits_per_byte);
    }
    let share = outcome.share_of_peak.map_or(String::new(), |s| format!(", {:.0} % of this machine's peak", 100.0 * s));
    println!("tokens per second       {}{share}", human::count(outcome.tokens_per_sec));
    if let Some(bytes) = outcome.peak_memory {
        println!("peak memory             {}", human::bytes(bytes));
    }
    println!("run                     {folder} (look at {folder}/report.html)");
    println!("try                     hecate generate {folder} --prompt \"Call me\"");
}
