//! The suite that every memory rule must pass, ours and other people's: [`check`] takes any [`MemoryRule`].
//!
//! One file per kind of promise, and [`mutants`] holds deliberately wrong rules that the suite must reject: the
//! tester is tested. Everything is drawn from fixed seeds, so a failure repeats.
//!
//! ```
//! use hecate_core::{conformance, rules::Delta};
//! let report = conformance::check(&Delta::default());
//! assert!(report.passed(), "{report}");
//! ```

mod alive;
mod causal;
mod cut;
mod endurance;
mod halves;
mod isolation;
mod kernels;
mod recall;
mod stream;
mod transpose;

pub mod mutants;
pub mod ops;
pub mod random;

use crate::rule::{Dims, MemoryRule};
use std::fmt;

/// A kind of promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Check {
    /// Backward is the exact transpose of forward.
    Transpose,
    /// A step is its write, then its read; forward overwrites, backward adds.
    Halves,
    /// A token reaches no output before it, and some output from it on.
    Causal,
    /// Cutting a stream changes nothing.
    Cut,
    /// Streams side by side do not touch each other, whatever the threads.
    Isolation,
    /// Every kernel is the reference.
    Kernels,
    /// Every input and state tensor matters at the default gates.
    Alive,
    /// What was written can be read, and fades as `retain` says.
    Recall,
    /// Through the mixer's activations the memory stays finite.
    Endurance,
}

/// One broken promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The rule.
    pub rule: &'static str,
    /// The promise.
    pub check: Check,
    /// What was seen, where, and what was expected.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}: {}", self.rule, self.check, self.what)
    }
}

/// What the suite found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The rule.
    pub rule: &'static str,
    /// Broken promises; empty if the rule passes.
    pub failures: Vec<Failure>,
    /// What could not be checked here, and why: kernels that this machine or size does not have.
    pub skipped: Vec<String>,
}

impl Report {
    fn new<R: MemoryRule>() -> Self {
        Self { rule: R::NAME, failures: Vec::new(), skipped: Vec::new() }
    }

    /// True if no promise was broken.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }

    /// True if that promise was broken.
    pub fn fails(&self, check: Check) -> bool {
        self.failures.iter().any(|f| f.check == check)
    }

    fn fail(&mut self, check: Check, what: String) {
        self.failures.push(Failure { rule: self.rule, check, what });
    }

    fn expect(&mut self, check: Check, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fail(check, what());
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} failures, {} skipped", self.rule, self.failures.len(), self.skipped.len())?;
        // One mistake shows in many draws; the first few say it all.
        for failure in self.failures.iter().take(12) {
            writeln!(f, "  {failure}")?;
        }
        for skipped in &self.skipped {
            writeln!(f, "  skipped: {skipped}")?;
        }
        Ok(())
    }
}

/// Holds a rule, at its configuration, to every promise.
///
/// # Panics
/// If the rule itself panics.
pub fn check<R: MemoryRule>(rule: &R) -> Report {
    let mut report = Report::new::<R>();
    transpose::check(rule, &mut report);
    halves::check(rule, &mut report);
    causal::check(rule, &mut report);
    cut::check(rule, &mut report);
    isolation::check(rule, &mut report);
    kernels::check(rule, &mut report);
    alive::check(rule, &mut report);
    recall::check(rule, &mut report);
    endurance::check(rule, endurance::TOKENS, &mut report);
    report
}

/// The endurance check alone, over streams of `tokens` tokens: [`check`] takes 2,000.
pub fn endurance<R: MemoryRule>(rule: &R, tokens: usize) -> Report {
    let mut report = Report::new::<R>();
    endurance::check(rule, tokens, &mut report);
    report
}

/// Head sizes for checks that are about more than one size, among those that the rule accepts.
fn sizes<R: MemoryRule>(rule: &R, sizes: &[(usize, usize)]) -> Vec<Dims> {
    sizes.iter().map(|&(dk, dv)| Dims::new(dk, dv)).filter(|&d| rule.check(d).is_ok()).collect()
}
