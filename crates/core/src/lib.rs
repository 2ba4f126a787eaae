//! The mathematics of Hecate: memory rules that learn while they run, their exact transposes, fused kernels,
//! and the suite that holds them all to one reference.
//!
//! **Invariant:** this crate never reads a clock, a file, an environment variable or a thread count. The caller
//! passes buffers and the parallelism.

mod associative;
mod erased;
mod error;
mod kernel;
mod rule;
mod scalar;

pub mod conformance;
pub mod kernels;
pub mod ops;
pub mod rules;
pub mod scan;
pub mod simd;

pub use associative::{AssociativeMemory, PairMemory, gate_defaults, learned_starts, seeded_start};
pub use erased::{BoundKernel, ErasedRule, Number, Over};
pub use error::{Error, Result, expect_len};
pub use kernel::{Backward, Cotangents, Forward, Kernel, KernelChoice, ReadOnly, Scratch, Sequence};
pub use rule::{
    About, Activation, ChunkForm, Dims, HeadDecay, Holds, Input, MemoryRule, Start, StateTensor, Width, input, named,
    named_mut, start_state,
};
pub use rules::AnyRule;
pub use scalar::{Dual, Scalar};

#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct ReadmeExample;
