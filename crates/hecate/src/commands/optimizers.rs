//! `hecate optimizers`: the registered optimizers, from the registry itself.

use super::print_json;
use crate::Failure;
use crate::cli::Optimizers;
use crate::table::Table;
use hecate_model::optim::{AnyOptimizer, Shape};
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
    let rows = AnyOptimizer::all().iter().map(row).collect::<Result<Vec<Row>, Failure>>()?;
    if args.json {
        return print_json(&rows);
    }
    let mut table = Table::new(&["optimizer", "step", "source", "treats", "state", ">numbers", "settings"]);
    for r in &rows {
        let treats = if r.matrices_only { "matrices" } else { "all" };
        let cells = [r.name, r.equation, r.source, treats].map(String::from);
        table.row(cells.into_iter().chain([r.state.join(" "), r.state_floats.to_string(), settings(&r.settings)]));
    }
    out!("{}", if args.markdown { table.markdown() } else { table.plain() });
    outln!(
        "\nState in numbers is for a matrix of {} x {}. What is no matrix gets AdamW under `rest`.",
        SHAPE.rows,
        SHAPE.columns
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
fn settings(table: &Value) -> String {
    let own = table.as_object().into_iter().flatten().filter(|(key, _)| !["name", "rest"].contains(&key.as_str()));
    let word = |value: &Value| match value {
        Value::String(word) => word.clone(),
        Value::Object(inner) => inner.get("name").and_then(Value::as_str).unwrap_or_default().to_string(),
        other => other.to_string(),
    };
    own.map(|(key, value)| format!("{key} {}", word(value))).collect::<Vec<_>>().join(", ")
}
