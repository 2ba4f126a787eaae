//! What the machine can do and how much of it each operation uses.
//!
//! Every row is first compared with a slower, independent computation and only then timed, on one thread and on
//! all, in turns with the other rows and with the measurement of the machine's own peak. FLOPs come from a closed
//! formula; recomputation and padding do not count.

mod decoding;
mod harness;
mod hope;
mod inputs;
mod machine;
mod memory;
mod models;
mod ops;
mod products;
mod step;

pub use harness::{Options, Report, Row, Timing};
pub use machine::{Machine, peak};

/// Runs every row whose name contains `filter`.
pub fn run(filter: Option<&str>, options: Options) -> Report {
    let models = models::cases().into_iter().chain(hope::cases());
    let cases = products::cases().into_iter().chain(memory::cases()).chain(ops::cases()).chain(models);
    let chosen = |name: &str| filter.is_none_or(|part| name.contains(part));
    harness::measure(cases.filter(|case| chosen(&case.name)).collect(), options)
}

impl Report {
    /// The table for a terminal.
    pub fn table(&self) -> String {
        let m = &self.machine;
        let mut out = format!(
            "{}: f32 multiply-add peak {:.1} GFLOP/s on one thread, {:.1} on {}; copy {:.1} GB/s\n",
            m.isa, m.peak_one_gflops, m.peak_all_gflops, m.threads, m.copy_gbytes
        );
        let names = self.rows.iter().map(|row| &row.name).chain(self.wrong.iter().map(|(name, _)| name));
        let width = names.map(|name| name.chars().count()).max().unwrap_or(0);
        out += &format!(
            "{:<width$} {:>34} {:>34}\n",
            "", "one thread: time, GFLOP/s, share", "all threads: time, GFLOP/s, share"
        );
        for row in &self.rows {
            out += &format!("{:<width$} {} {}   {}\n", row.name, cells(&row.one), cells(&row.all), row.formula);
            if let (Some(bytes), Some(bound), Some(share)) = (row.bytes, row.bound_gflops, row.share_of_bound) {
                let intensity = row.flops / bytes;
                out += &format!(
                    "{:<width$} {:.1} % of {bound:.1} GFLOP/s = min(peak, {intensity:.1} FLOP/B x copy), one thread\n",
                    "",
                    100.0 * share
                );
            }
        }
        for (name, reason) in &self.wrong {
            out += &format!("{name:<width$} WRONG, not timed: {reason}\n");
        }
        out
    }
}

fn cells(t: &Timing) -> String {
    let (ns, unit) = t.ns_per_token.map_or((t.ns_per_call, "call"), |ns| (ns, "token"));
    format!("{ns:>12.1} ns/{unit:<5} {:>7.1} {:>4.1} %", t.gflops, 100.0 * t.share_of_peak)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_chosen_by_name_and_verified() {
        let report = run(Some("1x"), Options { turns: 1, least_ms: 0.0, ..Options::default() });
        assert!(report.wrong.is_empty(), "{:?}", report.wrong);
        assert!(!report.rows.is_empty() && report.rows.iter().all(|row| row.name.contains("1x")));
    }
}
