//! `hecate grow`: one more block or level for a trained model.

use super::print_json;
use crate::Failure;
use crate::cli::{Grow, StartArg};
use hecate_model::{Growth, GrowthStart};
use hecate_train::grow::{Grown, grow};

pub fn run(args: &Grow) -> Result<(), Failure> {
    let growth = match (args.block, args.level, args.memory_level) {
        (Some(block), ..) => Growth::Block(block),
        (_, Some(period), _) => Growth::Level(period),
        (_, _, Some(period)) => Growth::MemoryLevel(period),
        (None, None, None) => unreachable!("clap asks for one of them"),
    };
    let start = match args.start {
        StartArg::Cloned => GrowthStart::Cloned,
        StartArg::Random => GrowthStart::Random(args.seed),
    };
    let grown = grow(&args.model, &args.out, growth, start)?;
    if args.json {
        return print_json(&grown);
    }
    let Grown { parameters_before, parameters, logits_moved } = grown;
    let out = args.out.display();
    outln!("parameters      {parameters_before} before, {parameters} now");
    outln!("logits          moved by {logits_moved:.1e} at most");
    outln!("model           {out}");
    outln!("go on           hecate train {out}/run.toml");
    Ok(())
}
