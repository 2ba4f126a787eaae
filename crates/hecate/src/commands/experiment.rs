//! `hecate experiment`: what memories can do, measured; the list of experiments, one of them, or all.

mod document;

use super::print_json;
use crate::Failure;
use crate::cli;
use crate::table::Table;
use hecate_train::experiment::{ALL, Cell, Experiment, Outcome};
use hecate_train::{atomic, human};
use serde::Serialize;
use std::path::PathBuf;

/// Asks for every experiment.
const EVERY: &str = "all";

/// One experiment, as `--json` lists it.
#[derive(Serialize)]
struct Listed {
    name: &'static str,
    asks: &'static str,
    source: &'static str,
    protocol: &'static str,
}

/// An outcome and its figure, as `--json` prints it.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    outcome: Outcome,
    threads: usize,
    figure: PathBuf,
}

pub fn run(args: &cli::Experiment) -> Result<(), Failure> {
    let Some(name) = &args.name else { return list(args.json) };
    let chosen = if name == EVERY { ALL.to_vec() } else { vec![Experiment::named(name)?] };
    // Before anything runs for minutes; and once more behind it, since another run may have updated the file meanwhile.
    let before = args.update.as_deref().map(document::read).transpose()?;
    std::fs::create_dir_all(&args.out).map_err(|e| format!("cannot create {}: {e}", args.out.display()))?;
    let mut all = Vec::new();
    for experiment in chosen {
        let outcome = experiment.run(usize::from(args.seeds))?;
        let figure = args.out.join(format!("{}.svg", outcome.name));
        atomic::write(&figure, outcome.svg().as_bytes())?;
        let shown = Shown { outcome, threads: rayon::current_num_threads(), figure };
        if args.markdown || args.json || args.update.is_some() {
            errln!("{}: {}", experiment.name, human::secs(shown.outcome.seconds));
        } else {
            print(&shown);
        }
        all.push(shown);
    }
    if let (Some(file), Some(before)) = (&args.update, before) {
        let now = document::read(file).unwrap_or(before);
        atomic::write(file, document::updated(&now, &all).as_bytes())?;
    }
    match () {
        () if args.update.is_some() => (),
        () if args.markdown => out!("{}", document::document(&all)),
        () if !args.json => (),
        () if name == EVERY => print_json(&all)?,
        () => print_json(&all[0])?,
    }
    Ok(())
}

fn list(json: bool) -> Result<(), Failure> {
    if json {
        let listed = |e: &&Experiment| Listed { name: e.name, asks: e.asks, source: e.source, protocol: e.protocol };
        return print_json(&ALL.iter().map(listed).collect::<Vec<_>>());
    }
    let mut table = Table::new(&["experiment", "asks"]);
    for e in ALL {
        table.row([e.name, e.asks].map(String::from));
    }
    out!("{}", table.plain());
    outln!("\nRun one with `hecate experiment NAME`, or `{EVERY}` of them.");
    Ok(())
}

/// The numbers of an outcome: text to the left, numbers to the right.
fn table(outcome: &Outcome) -> Table {
    let numbers = &outcome.finding.table;
    let is_text = |c: usize| numbers.rows.iter().all(|row| matches!(row[c], Cell::Text(_)));
    let head = |(c, name): (usize, &String)| format!("{}{name}", if is_text(c) { "" } else { ">" });
    let heads: Vec<String> = numbers.columns.iter().enumerate().map(head).collect();
    let mut table = Table::new(&heads.iter().map(String::as_str).collect::<Vec<_>>());
    for row in &numbers.rows {
        table.row(row.iter().map(Cell::to_string));
    }
    table
}

fn print(shown: &Shown) {
    let o = &shown.outcome;
    outln!("{}: {}\n{}\n", o.name, o.asks, o.protocol);
    out!("{}", table(o).plain());
    outln!("");
    for must in &o.finding.musts {
        outln!("{}: {}\n    {}", must.verdict(), must.claim, must.measured);
    }
    outln!("\n{}\n{}, {}; figure: {}\n", o.finding.caption, run_line(o), cost(shown), shown.figure.display());
}

/// How often it was run.
fn run_line(o: &Outcome) -> String {
    if o.seeds == 1 { "once".to_string() } else { format!("{} seeds", o.seeds) }
}

fn cost(shown: &Shown) -> String {
    let threads = shown.threads;
    let unit = if threads == 1 { "thread" } else { "threads" };
    format!("{} on {threads} {unit}", human::secs(shown.outcome.seconds))
}
