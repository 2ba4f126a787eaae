//! `hecate rules`: the registered memory rules, from the registry itself.

use super::{print_json, settings};
use crate::Failure;
use crate::cli::Rules;
use crate::table::Table;
use hecate_core::{AnyRule, ChunkForm, Dims};
use serde::Serialize;

/// The size at which state, operations and kernels are shown.
const DIMS: Dims = Dims { dk: 64, dv: 64 };

/// One rule, as `--json` prints it.
#[derive(Serialize)]
struct Row {
    name: &'static str,
    equation: &'static str,
    source: &'static str,
    structure: &'static str,
    features: &'static str,
    bias: &'static str,
    retention: &'static str,
    algorithm: &'static str,
    inputs: Vec<&'static str>,
    state: Vec<String>,
    state_floats: usize,
    flops_per_token: f64,
    chunk: &'static str,
    kernels: Vec<&'static str>,
    /// With the name, as a config has them.
    settings: AnyRule,
}

pub fn run(args: &Rules) -> Result<(), Failure> {
    if let Some(name) = &args.name {
        let rule = AnyRule::named(name).map_err(|e| hecate_train::settings::explain(".", &e.to_string()))?;
        let row = row(&rule);
        return if args.json { print_json(&row) } else { print(&row) };
    }
    let rows: Vec<Row> = AnyRule::all().iter().map(row).collect();
    if args.json {
        return print_json(&rows);
    }
    let mut table = Table::new(&[
        "rule",
        "equation",
        "source",
        "structure",
        "features",
        "bias",
        "retention",
        "algorithm",
        "inputs",
        ">state",
        ">FLOPs/token",
        "chunk form",
        "kernels",
    ]);
    for r in &rows {
        let list = [r.name, r.equation, r.source, r.structure, r.features, r.bias, r.retention, r.algorithm];
        let numbers = [r.inputs.join(" "), r.state_floats.to_string(), format!("{}", r.flops_per_token)];
        let rest = [r.chunk.to_string(), r.kernels.join(" ")];
        table.row(list.map(String::from).into_iter().chain(numbers).chain(rest));
    }
    out!("{}", if args.markdown { table.markdown() } else { table.plain() });
    outln!("\nState in numbers and FLOPs are for one head with keys and values of width {}.", DIMS.dk);
    Ok(())
}

/// All about one rule.
fn print(r: &Row) -> Result<(), Failure> {
    outln!("{} {}\n{}\n", r.name, r.source, r.equation);
    let knobs = [
        ("structure", r.structure),
        ("features", r.features),
        ("bias", r.bias),
        ("retention", r.retention),
        ("algorithm", r.algorithm),
        ("chunk form", r.chunk),
    ];
    outln!("{}", knobs.map(|(knob, value)| format!("{knob}: {value}")).join("; "));
    outln!("kernels: {}\n", r.kernels.join(", "));
    let settings = settings::table(&r.settings, settings::as_rule)?;
    out!("{}", settings.plain());
    outln!("\ninputs of a token: {}", r.inputs.join(", "));
    outln!("state of a head of width {}: {} numbers, {}", DIMS.dk, r.state_floats, r.state.join(", "));
    Ok(())
}

fn row(rule: &AnyRule) -> Row {
    let about = rule.about();
    Row {
        name: rule.name(),
        equation: about.equation,
        source: about.source,
        structure: about.structure,
        features: about.features,
        bias: about.bias,
        retention: about.retention,
        algorithm: about.algorithm,
        inputs: rule.inputs().iter().map(|i| i.name).collect(),
        state: rule.state(DIMS).iter().map(|t| format!("{} {:?}", t.name, t.shape)).collect(),
        state_floats: rule.state_len(DIMS),
        flops_per_token: rule.flops(DIMS),
        chunk: match about.chunk {
            ChunkForm::Exact => "exact",
            ChunkForm::Frozen => "frozen",
            ChunkForm::Sequential => "sequential only",
        },
        kernels: kernels(rule),
        settings: rule.clone(),
    }
}

/// Names of the kernels that run it here; `reference` alone where there are none.
fn kernels(rule: &AnyRule) -> Vec<&'static str> {
    let list: Vec<_> = rule.kernels(DIMS).iter().filter(|k| k.available).map(|k| k.name).collect();
    if list.is_empty() { vec!["reference"] } else { list }
}
