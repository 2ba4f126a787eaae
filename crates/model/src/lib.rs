//! Models whose memories keep learning: blocks, state, optimizers, generation. No I/O: bytes in, bytes out.
//!
//! Three lifetimes, three types: [`Params`] (learned by the optimizer, immutable while serving), [`State`] (one per
//! sequence) and [`Workspace`] or [`Tape`] (inside a call).
//!
//! **Invariant:** this crate opens no file and reads no clock.

mod access;
mod block;
mod buffer;
pub mod classifier;
pub mod config;
mod cost;
mod decode;
mod error;
mod generate;
mod grow;
mod model;
pub mod optim;
mod params;
mod pool;
pub mod rng;
mod slices;
pub mod state;
mod targets;
pub mod tensorfile;
mod trunk;
mod unroll;
pub mod weights;

pub use access::{Access, Parts};
pub use block::MemoryInfo;
pub use buffer::Buffer;
pub use config::{BlockConfig, MixerConfig, ModelConfig};
pub use cost::LearningCost;
pub use decode::{FIRST_TOKEN, generate};
pub use error::{Error, Result};
pub use generate::{GenerationConfig, Sampler};
pub use grow::{Growth, GrowthStart, grow};
pub use model::{Logits, Model, Tape, Workspace};
pub use params::{Init, Kind, ParamLayout, ParamSpec, Params};
pub use slices::ContinuumLevel;
pub use state::{LevelSchedule, Lineage, State, StateLayout};
pub use targets::IGNORED;
