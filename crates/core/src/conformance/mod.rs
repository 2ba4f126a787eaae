//! The suite that every memory rule must pass, ours and other people's: [`check`] takes any [`MemoryRule`](crate::MemoryRule).
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
mod threads;
mod transpose;

pub mod mutants;
pub mod ops;
pub mod random;
pub mod rounding;

pub use threads::{cost, side_by_side};

use crate::erased::{BoundKernel, ErasedRule};
use crate::rule::Dims;
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
    /// Derivatives that move by more than the tolerance under the last bits of their arguments, and were held to that.
    pub uncertain: usize,
}

impl Report {
    fn new(rule: &dyn ErasedRule) -> Self {
        Self { rule: rule.name(), failures: Vec::new(), skipped: Vec::new(), uncertain: 0 }
    }

    /// True if no promise was broken.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }

    /// True if rounding decided somewhere: a kernel was held to what the reference loses in `f32`, since `f32` cannot
    /// give 1e-5, or a transpose to how much the derivative moves.
    pub fn was_eased(&self) -> bool {
        self.uncertain > 0 || self.skipped.iter().any(|s| s.contains(kernels::EASED) || s.contains(kernels::CHAOTIC))
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
        if self.uncertain > 0 {
            writeln!(f, "  {} derivatives are uncertain in their last bits", self.uncertain)?;
        }
        Ok(())
    }
}

/// How much of a check is run. What holds, and to which tolerance, is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// All of it.
    Full,
    /// Small heads, short streams, and the reference alone: for settings by the hundred.
    Quick,
}

impl Extent {
    /// The kernels to be checked.
    fn kernels(self, rule: &dyn ErasedRule) -> Vec<Box<dyn BoundKernel + '_>> {
        if self == Extent::Full { rule.kernels() } else { Vec::new() }
    }
    /// Head sizes among those that the rule accepts: all of `full`, or the first two of `quick`.
    fn sizes(self, rule: &dyn ErasedRule, full: &[(usize, usize)], quick: &[(usize, usize)]) -> Vec<Dims> {
        match self {
            Extent::Full => sizes(rule, full),
            Extent::Quick => sizes(rule, quick).into_iter().take(2).collect(),
        }
    }
    /// The first where all is checked, else the second.
    fn pick<T>(self, full: T, quick: T) -> T {
        if self == Extent::Full { full } else { quick }
    }
}

/// Holds a rule, at its configuration, to every promise; its [brief](crate::MemoryRule::brief) form to those about short
/// streams.
///
/// # Panics
/// If the rule itself panics.
pub fn check(rule: &dyn ErasedRule) -> Report {
    let mut report = Report::new(rule);
    let shortened = rule.shortened();
    let brief = shortened.as_deref().unwrap_or(rule);
    check_reference(brief, Extent::Full, &mut report);
    kernels::check(rule, &mut report);
    recall::check(brief, &mut report);
    endurance::check(rule, endurance::TOKENS, &mut report);
    if let Some(brief) = &shortened {
        endurance::check(&**brief, endurance::TOKENS, &mut report);
    }
    report
}

/// Holds the reference of a rule to the promises of [`check`], on small heads and short streams: some hundredths of a
/// second, for settings by the hundred.
///
/// # Panics
/// If the rule itself panics.
pub fn quick(rule: &dyn ErasedRule) -> Report {
    let mut report = Report::new(rule);
    check_reference(rule, Extent::Quick, &mut report);
    recall::check(rule, &mut report);
    endurance::check_quick(rule, endurance::QUICK_TOKENS, &mut report);
    report
}

fn check_reference(rule: &dyn ErasedRule, extent: Extent, report: &mut Report) {
    transpose::check(rule, extent, report);
    halves::check(rule, extent, report);
    causal::check(rule, extent, report);
    cut::check(rule, extent, report);
    isolation::check(rule, extent, report);
    alive::check(rule, extent, report);
}

/// The endurance check alone, over streams of `tokens` tokens: [`check`] takes 2,000.
pub fn endurance(rule: &dyn ErasedRule, tokens: usize) -> Report {
    let mut report = Report::new(rule);
    endurance::check(rule, tokens, &mut report);
    report
}

/// The check of kernels alone: every kernel of the rule against its reference.
pub fn kernels(rule: &dyn ErasedRule) -> Report {
    let mut report = Report::new(rule);
    kernels::check(rule, &mut report);
    report
}

/// The endurance check of [`quick`] alone, over streams of `tokens` tokens: the reference, with all gates at the same
/// place.
pub fn quick_endurance(rule: &dyn ErasedRule, tokens: usize) -> Report {
    let mut report = Report::new(rule);
    endurance::check_quick(rule, tokens, &mut report);
    report
}

/// Most operations of a token, of a head size that checks run at.
const MOST_FLOPS: f64 = 1e6;

/// A size for rules that can afford none of a check's: square, as a memory with a residual wants it, and no multiple of
/// a vector.
const SMALL: (usize, usize) = (6, 6);

/// Head sizes for checks that are about more than one size, among those that the rule accepts: those that take no more
/// than [`MOST_FLOPS`] a token, or else the cheapest of them and [`SMALL`].
fn sizes(rule: &dyn ErasedRule, sizes: &[(usize, usize)]) -> Vec<Dims> {
    affordable(rule, sizes, MOST_FLOPS).unwrap_or_else(|_| {
        let small = [sizes, &[SMALL]].concat();
        affordable(rule, &small, MOST_FLOPS).unwrap_or_else(|cheapest| cheapest.into_iter().collect())
    })
}

/// The accepted sizes that take no more than `most` operations a token; the cheapest accepted one if there are none.
fn affordable(rule: &dyn ErasedRule, sizes: &[(usize, usize)], most: f64) -> Result<Vec<Dims>, Option<Dims>> {
    let all = sizes.iter().map(|&(dk, dv)| Dims::new(dk, dv)).filter(|&d| rule.check(d).is_ok());
    let (some, others): (Vec<Dims>, Vec<Dims>) = all.partition(|&d| rule.flops(d) <= most);
    let cheapest = others.into_iter().min_by(|&a, &b| rule.flops(a).total_cmp(&rule.flops(b)));
    if some.is_empty() { Err(cheapest) } else { Ok(some) }
}
