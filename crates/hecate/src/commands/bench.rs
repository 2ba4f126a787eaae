//! `hecate bench`: the machine first, then every row, verified before it is timed.

use super::print_json;
use crate::Failure;
use crate::cli::Bench;
use hecate_train::bench::Options;

pub fn run(args: &Bench) -> Result<(), Failure> {
    let options = Options { threads: rayon::current_num_threads(), ..Options::default() };
    let report = hecate_train::bench::run(args.filter.as_deref(), options);
    if args.json {
        return print_json(&report);
    }
    report.print();
    Ok(())
}
