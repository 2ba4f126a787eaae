//! Everything around the model that touches files, threads and the terminal: text and its streams, run folders,
//! checkpoints, logs, progress.
//!
//! **Invariant:** no mathematics here. What a run computes comes from `hecate-model` and `hecate-core`; this crate
//! feeds it and keeps what it gives. Experiments alone have formulas of their own: those that they compare with.

pub mod atomic;
pub mod bench;
pub mod checkpoint;
pub mod classifier;
pub mod corpus;
pub mod digits;
pub mod error;
pub mod eval;
pub mod experiment;
pub mod grow;
pub mod human;
pub mod interrupt;
pub mod loaded;
pub mod log;
pub mod machine;
pub mod overrides;
pub mod progress;
pub mod report;
pub mod run;
pub mod run_config;
pub mod run_folder;
pub mod settings;
pub mod stream;
pub mod tensorboard;
pub mod tokenizer;
pub mod trainer;

pub use error::{Error, Result};
