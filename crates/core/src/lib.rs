//! The mathematics of Hecate: memory rules that learn while they run, their exact transposes, fused kernels,
//! and the suite that holds them all to one reference.
//!
//! **Invariant:** this crate never reads a clock, a file, an environment variable or a thread count. The caller
//! passes buffers and the parallelism.

mod error;
mod kernel;
mod rule;
mod scalar;

pub mod ops;
pub mod rules;
pub mod scan;
pub mod simd;

pub use error::{Error, Result, expect_len};
pub use kernel::{Cotangents, Kernel, KernelChoice, Scratch, Sequence};
pub use rule::{About, Activation, ChunkForm, Dims, Input, MemoryRule, StateTensor, Width, input, named, named_mut};
pub use rules::{AnyRule, RuleVisitor};
pub use scalar::{Dual, Scalar};
