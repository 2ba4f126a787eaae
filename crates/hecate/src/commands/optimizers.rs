//! `hecate optimizers`: the registered optimizers, from the registry itself.

use super::{print_json, settings};
use crate::Failure;
use crate::cli::Optimizers;
use crate::table::Table;
use hecate_model::optim::{AnyOptimizer, Shape};
use hecate_train::run_config::RunConfig;
use serde::Serialize;
use serde_json::Value;

/// The matrix for which the state is shown.
const SHAPE: Shape = Shape { rows: 64, columns: 64 };

/// One optimizer, as `--json` prints it.
#[derive(Serialize)]
struct Row {
    name: &'static str,
    equation: &'static str,
    source: &'static str,
    matrices_only: bool,
    state: Vec<&'static str>,
    state_floats: usize,
    settings: Value,
}

pub fn run(args: &Optimizers) -> Result<(), Failure> {
    if let Some(name) = &args.name {
        let table = toml::Table::from_iter([("name".to_string(), name.as_str().into())]);
        let optimizer = RunConfig::from_table(settings::as_optimizer(table.into()), "optimizers")?.optimizer;
        let row = row(&optimizer)?;
        return if args.json { print_json(&row) } else { print(&row, &optimizer) };
    }
    let rows = AnyOptimizer::all().iter().map(row).collect::<Result<Vec<Row>, Failure>>()?;
    if args.json {
        return print_json(&rows);
    }
    let mut table = Table::new(&["optimizer", "step", "source", "treats", "state", ">numbers", "settings"]);
    for r in &rows {
        let treats = if r.matrices_only { "matrices" } else { "all" };
        let cells = [r.name, r.equation, r.source, treats].map(String::from);
        table.row(cells.into_iter().chain([r.state.join(" "), r.state_floats.to_string(), short(&r.settings)]));
    }
    out!("{}", if args.markdown { table.markdown() } else { table.plain() });
    outln!(
        "\nState in numbers is for a matrix of {} x {}. What is no matrix gets AdamW under `rest`.",
        SHAPE.rows,
        SHAPE.columns
    );
    Ok(())
}

/// All about one optimizer.
fn print(r: &Row, optimizer: &AnyOptimizer) -> Result<(), Failure> {
    outln!("{} {}\n{}\n", r.name, r.source, r.equation);
    out!("{}", settings::table(optimizer, settings::as_optimizer)?.plain());
    let treats = if r.matrices_only { "matrices; what is none gets AdamW under `rest`" } else { "all tensors" };
    outln!("\ntreats {treats}");
    outln!(
        "state of a matrix of {} x {}: {} numbers, {}",
        SHAPE.rows,
        SHAPE.columns,
        r.state_floats,
        if r.state.is_empty() { "none".to_string() } else { r.state.join(", ") }
    );
    Ok(())
}

fn row(optimizer: &AnyOptimizer) -> Result<Row, Failure> {
    let (about, state) = (optimizer.about(), optimizer.state(SHAPE));
    Ok(Row {
        name: optimizer.name(),
        equation: about.equation,
        source: about.source,
        matrices_only: optimizer.rest().is_some(),
        state: state.iter().map(|s| s.name).collect(),
        state_floats: state.iter().map(|s| s.len()).sum(),
        settings: serde_json::to_value(optimizer)?,
    })
}

/// The settings with their defaults on one line; those of the rest are AdamW's, and left out.
fn short(table: &Value) -> String {
    let own = table.as_object().into_iter().flatten().filter(|(key, _)| !["name", "rest"].contains(&key.as_str()));
    let word = |value: &Value| match value {
        Value::String(word) => word.clone(),
        Value::Object(inner) => inner.get("name").and_then(Value::as_str).unwrap_or_default().to_string(),
        other => other.to_string(),
    };
    own.map(|(key, value)| format!("{key} {}", word(value))).collect::<Vec<_>>().join(", ")
}
