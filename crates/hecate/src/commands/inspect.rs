//! `hecate inspect`: what is in a file, and what a config describes.

use super::train::open;
use super::{print_json, warn_of_leaks};
use crate::Failure;
use crate::cli::Inspect;
use crate::table::Table;
use hecate_model::tensorfile::{Summary, TensorFile};
use hecate_model::{Kind, Model, ModelConfig};
use hecate_train::run_config::RunConfig;
use hecate_train::{atomic, human};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A tensor file.
#[derive(Serialize)]
struct File {
    path: PathBuf,
    header: BTreeMap<String, String>,
    tensors: Vec<Summary>,
}

/// A model before any number.
#[derive(Serialize)]
struct Description {
    parameters: usize,
    read_parameters: usize,
    average_active_parameters: f64,
    worst_case_active_parameters: usize,
    parameters_by_kind: BTreeMap<String, usize>,
    weight_bytes: usize,
    state_bytes: usize,
    /// Of a token in a call of so many, behind as many others.
    call_tokens: usize,
    flops_per_token_forward: f64,
    flops_per_token_learning: f64,
    flops_per_token_training: f64,
    memories: Vec<MemoryRow>,
    continuum: Vec<LevelRow>,
}

/// One level of a continuum memory.
#[derive(Serialize)]
struct LevelRow {
    block: usize,
    level: usize,
    period: u64,
    parameters: usize,
    moves: &'static str,
}

/// One block's memory.
#[derive(Serialize)]
struct MemoryRow {
    block: usize,
    rule: String,
    heads: usize,
    key_width: usize,
    value_width: usize,
    state_bytes: usize,
}

pub fn run(args: &Inspect) -> Result<(), Failure> {
    if args.config {
        let description = describe(&model_config(&args.file)?)?;
        return if args.json { print_json(&description) } else { print_description(&description) };
    }
    let files = files(Path::new(&args.file))?;
    let mut seen = Vec::new();
    for path in files {
        let file = TensorFile::parse(atomic::read(&path)?, &path.display().to_string())?;
        seen.push(File { header: file.metadata().clone(), tensors: file.inspect(), path });
    }
    if args.json {
        return print_json(&seen);
    }
    seen.iter().for_each(print_file);
    Ok(())
}

/// The file itself, or all tensor files that lie in a folder.
fn files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?.path();
        if entry.extension().is_some_and(|e| e == "safetensors") {
            found.push(entry);
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(format!("{}: no .safetensors file in this folder", path.display()).into());
    }
    Ok(found)
}

fn print_file(file: &File) {
    outln!("{}", file.path.display());
    for (key, value) in &file.header {
        outln!("  {key}: {value}");
    }
    let mut table = Table::new(&["tensor", "shape", ">bytes", ">norm", ">largest", ">not finite"]);
    for t in &file.tensors {
        let stat = |f: fn(&hecate_model::tensorfile::Values) -> String| t.values.as_ref().map_or("?".into(), f);
        table.row([
            t.name.clone(),
            format!("{} {:?}", t.dtype, t.shape),
            t.bytes.to_string(),
            stat(|v| format!("{:.4}", v.norm)),
            stat(|v| format!("{:.4}", v.max_abs)),
            stat(|v| v.non_finite.to_string()),
        ]);
    }
    out!("{}", table.plain());
    let bytes: usize = file.tensors.iter().map(|t| t.bytes).sum();
    outln!("{} tensors, {}\n", file.tensors.len(), human::bytes(bytes as u64));
}

/// A `config.json`, a run folder, a preset or a run's TOML.
fn model_config(name: &str) -> Result<ModelConfig, Failure> {
    let path = Path::new(name);
    let json = if path.is_dir() { path.join("config.json") } else { path.to_path_buf() };
    if json.extension().is_some_and(|e| e == "json") {
        let bytes = atomic::read(&json)?;
        return Ok(serde_json::from_slice(&bytes).map_err(|e| format!("{}: {e}", json.display()))?);
    }
    let (name, table) = open(name)?;
    Ok(RunConfig::from_table(table, &name)?.model)
}

fn describe(config: &ModelConfig) -> Result<Description, Failure> {
    let model = Model::new(config)?;
    warn_of_leaks(&model);
    let mut kinds = BTreeMap::new();
    for spec in &model.params().specs {
        *kinds.entry(spec.kind.name().to_string()).or_insert(0) += spec.range.len();
    }
    let len = model.params().count();
    // A token looks up one row of an embedding that is not the head too.
    let table = |s: &&hecate_model::ParamSpec| s.kind == Kind::Embedding && s.name.starts_with("embedding");
    let rows: usize = model.params().specs.iter().filter(table).map(|s| s.range.len() - config.width).sum();
    let read = if config.tie_embeddings { len } else { len - rows };
    // A level of a continuum memory is active at the tokens at which it changes.
    let idle = |l: hecate_model::ContinuumLevel| l.parameters as f64 * (1.0 - 1.0 / l.period as f64);
    let level = |l: hecate_model::ContinuumLevel| LevelRow {
        block: l.block,
        level: l.level,
        period: l.period,
        parameters: l.parameters,
        moves: if l.in_context { "in the sequence" } else { "with the optimizer" },
    };
    let row = |(block, m): (usize, hecate_model::MemoryInfo)| MemoryRow {
        block,
        rule: m.rule.name().to_string(),
        heads: m.heads,
        key_width: m.dims.dk,
        value_width: m.dims.dv,
        state_bytes: 4 * m.state.len(),
    };
    // Where attention has no window, a token costs more the more there are before it.
    let flops = model.flops(config.context, config.context as u64);
    Ok(Description {
        parameters: len,
        read_parameters: read,
        average_active_parameters: read as f64 - model.levels().map(idle).sum::<f64>(),
        worst_case_active_parameters: read,
        parameters_by_kind: kinds,
        weight_bytes: 4 * len,
        state_bytes: 4 * model.state_layout().values(),
        call_tokens: config.context,
        flops_per_token_forward: flops,
        flops_per_token_learning: model.learning(false).flops,
        flops_per_token_training: 3.0 * flops + model.learning(true).flops,
        memories: model.memories().map(row).collect(),
        continuum: model.levels().map(level).collect(),
    })
}

fn print_description(d: &Description) -> Result<(), Failure> {
    outln!("parameters              {} ({} read for a token)", d.parameters, d.read_parameters);
    let average = d.average_active_parameters.round();
    outln!("active                  {average} on average, {} at most", d.worst_case_active_parameters);
    outln!("                        a level of a continuum memory is active at the tokens at which it changes");
    for (kind, n) in &d.parameters_by_kind {
        outln!("  {kind:<22}{n}");
    }
    outln!("weights                 {}", human::bytes(d.weight_bytes as u64));
    outln!("state of one sequence   {}", human::bytes(d.state_bytes as u64));
    let (forward, call) = (human::count(d.flops_per_token_forward), d.call_tokens);
    outln!("FLOPs per token         {forward} forward, in a call of {call} behind {call} others");
    if d.flops_per_token_learning > 0.0 {
        let learning = human::count(d.flops_per_token_learning);
        outln!("                        {learning} more where continuum memories learn from what is read");
    }
    outln!(
        "                        {} in training (forward, backward counted twice, and what sequences learn)",
        human::count(d.flops_per_token_training)
    );
    let mut table = Table::new(&[">block", "rule", ">heads", ">keys", ">values", ">state bytes"]);
    for m in &d.memories {
        let sizes = [m.heads, m.key_width, m.value_width, m.state_bytes].map(|n| n.to_string());
        table.row([m.block.to_string(), m.rule.clone()].into_iter().chain(sizes));
    }
    if !d.memories.is_empty() {
        out!("\n{}", table.plain());
    }
    let mut table = Table::new(&[">block", ">level", ">period", ">parameters", "in training it moves"]);
    for l in &d.continuum {
        let numbers = [l.block.to_string(), l.level.to_string(), l.period.to_string(), l.parameters.to_string()];
        table.row(numbers.into_iter().chain([l.moves.to_string()]));
    }
    if !d.continuum.is_empty() {
        out!("\n{}", table.plain());
    }
    Ok(())
}
