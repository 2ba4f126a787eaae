//! `hecate experiment`: small experiments whose outcome tells what a memory can do and where a formula fails.
//!
//! An experiment is one file here and one line in `experiments!`. It says what it asks and how it is asked, runs in
//! minutes on two cores, and gives a table, a figure and a verdict on each thing that must come out. A verdict is what
//! was measured: one that does not hold is reported like one that does. A memory alone is stepped through its reference in
//! double precision, so that an outcome is the rule's and not a kernel's; whole models are trained as a run trains them
//! (`sequences`).

mod dgd;
mod draw;
mod figure;
mod memory;
mod outcome;
mod residual;
mod sequences;
#[cfg(test)]
mod tests;

pub use figure::Figure;
pub use outcome::{Cell, Finding, Must, Outcome, Table};

use crate::error::{Error, Result};
use std::time::Instant;

/// Seeds of an experiment with chance in it, unless told otherwise.
pub const SEEDS: usize = 5;

/// One experiment.
#[derive(Clone, Copy, Debug)]
pub struct Experiment {
    /// Name on the command line and of its files.
    pub name: &'static str,
    /// What it asks, as a question.
    pub asks: &'static str,
    /// Where the claim or the formula comes from.
    pub source: &'static str,
    /// What is done, with sizes.
    pub protocol: &'static str,
    /// How many numbers of this kind are drawn; false where nothing is left to chance.
    pub random: bool,
    run: fn(usize) -> Result<Finding>,
}

impl Experiment {
    /// The experiment called `name`.
    ///
    /// # Errors
    /// [`Error::Core`] with the list of names.
    pub fn named(name: &str) -> Result<&'static Experiment> {
        let unknown = || hecate_core::Error::Unknown {
            what: "experiment",
            got: name.to_string(),
            known: ALL.iter().map(|e| e.name).collect::<Vec<_>>().join(", "),
        };
        ALL.iter().copied().find(|e| e.name == name).ok_or_else(|| Error::Core(unknown()))
    }

    /// Runs it with this many seeds.
    ///
    /// # Errors
    /// [`Error::Core`] where a rule cannot be made as the experiment asks, [`Error::Config`] where it does not know a
    /// setting.
    pub fn run(&self, seeds: usize) -> Result<Outcome> {
        let start = Instant::now();
        let finding = (self.run)(seeds.max(1))?;
        Ok(Outcome {
            name: self.name,
            asks: self.asks,
            source: self.source,
            protocol: self.protocol,
            seeds: if self.random { seeds.max(1) } else { 1 },
            finding,
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}

macro_rules! experiments {
    ($($module:ident),* $(,)?) => {
        $(mod $module;)*
        /// Every experiment, in the order of the list.
        pub static ALL: &[&Experiment] = &[$(&$module::EXPERIMENT),*];
        #[cfg(test)]
        const FILES: &[&str] = &[$(stringify!($module)),*];
    };
}

experiments! {
    capacity,
    overwriting,
    chunk_size,
    parity,
    parity_trained,
    regression,
    lq_decay,
    dead_mlp,
    uniform_memora,
    implicit_step,
    memora_chunks,
    newton_schulz,
    tnt_projection,
    delta_momentum,
    naive_cms,
    nested_cms,
    class_incremental,
    optimizers_on_digits,
    momentum_horizon,
    two_tasks,
    needle,
    mqar,
    formal_languages,
    memory_levels,
    components,
}
