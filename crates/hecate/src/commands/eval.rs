//! `hecate eval`: bits per byte on a text.

use super::{print_json, warn_of_leaks};
use crate::Failure;
use crate::cli::{AccessArg, Eval};
use crate::table::Table;
use hecate_core::ops::Cpu;
use hecate_model::Access;
use hecate_train::atomic;
use hecate_train::corpus::Corpus;
use hecate_train::eval::{Evaluation, evaluate};
use hecate_train::loaded::Loaded;
use hecate_train::stream::{Boundary, Stream};
use std::ops::ControlFlow;

pub fn run(args: &Eval) -> Result<(), Failure> {
    let loaded = Loaded::open(&args.model)?;
    warn_of_leaks(&loaded.model);
    let stream = match &args.text {
        Some(path) => {
            let corpus = Corpus::read(path)?;
            Stream::new(&corpus.origin, corpus.whole(), loaded.tokenizer, Boundary::Reset)
        }
        None => loaded.held_out()?,
    };
    if let (Some(file), AccessArg::Learn) = (&args.state, args.access) {
        atomic::check_replaceable(file)?;
    }
    let mut state = match &args.state {
        Some(file) => loaded.state(file, args.access == AccessArg::Learn)?,
        None => loaded.model.new_state(),
    };
    let piece = args.piece.map_or(2 * loaded.model.config().context, |n| n as usize);
    let (ops, access) = (Cpu::inference(), Access::from(args.access));
    let result = evaluate(&ops, &loaded.model, &loaded.params, &stream, &mut state, &access, piece, &mut |_| {
        ControlFlow::Continue(())
    })?;
    // Whoever reads the result may leave before its end; what cannot be kept is no reason not to say it.
    let kept = match (&args.state, args.access) {
        (Some(file), AccessArg::Learn) => loaded.save_state(&state, file),
        _ => Ok(()),
    };
    if args.json {
        print_json(&result)?;
    } else {
        print(&result);
    }
    Ok(kept?)
}

/// The two protocols, one after the other.
fn print(result: &Evaluation) {
    outln!("{:.4} bits per byte over {} bytes, state carried", result.bits_per_byte, result.bytes);
    outln!("\nby position, pieces of {} tokens from a new state:", result.piece_tokens);
    let mut table = Table::new(&[">tokens behind", ">bits per byte", ">tokens"]);
    for p in &result.by_position {
        table.row([format!("{}..{}", p.from, p.to), format!("{:.4}", p.bits_per_byte), p.tokens.to_string()]);
    }
    out!("{}", table.plain());
}
