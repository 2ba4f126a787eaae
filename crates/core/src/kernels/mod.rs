//! The `f32` kernels behind [`crate::ops::Cpu`], written once over [`crate::simd::Simd`].
//!
//! **Invariant:** no result depends on the number of threads. Work is cut into parts by its shape alone, and parts
//! that add to the same value do so in a fixed order.
//!
//! **Invariant:** in a forward pass every row is computed in one order that depends on no other row, so it has the
//! same bits alone and among others.

pub(crate) mod attention;
pub(crate) mod channels;
pub(crate) mod conv;
pub(crate) mod embedding;
pub(crate) mod gates;
pub mod gemm;
pub(crate) mod loss;
pub(crate) mod memory;
pub(crate) mod miras;
pub(crate) mod norm;
pub(crate) mod oja;
mod parallel;
pub(crate) mod pointwise;
mod replay;
pub(crate) mod scratch;
pub(crate) mod slots;
pub(crate) mod tnt;
pub(crate) mod turn;
mod vector;
