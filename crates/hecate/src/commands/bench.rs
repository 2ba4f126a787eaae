//! `hecate bench`: the machine first, then every row, verified before it is timed.

use super::print_json;
use crate::Failure;
use crate::cli::Bench;
use hecate_train::bench::Options;

pub fn run(args: &Bench) -> Result<(), Failure> {
    let options = Options { threads: rayon::current_num_threads(), ..Options::default() };
    let report = hecate_train::bench::run(args.filter.as_deref(), options);
    if let (Some(filter), [], []) = (&args.filter, &report.rows[..], &report.wrong[..]) {
        return Err(format!("no row of the bench has `{filter}` in its name").into());
    }
    if args.json {
        print_json(&report)?;
    } else {
        out!("{}", report.table());
    }
    match report.wrong.len() {
        0 => Ok(()),
        n => Err(format!("{n} rows compute something else than their reference").into()),
    }
}
