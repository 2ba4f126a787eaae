//! The flat buffers of parameters and states: every tensor starts at a cache line, so that decoding, which does
//! little more than read them, reads no line twice.

use aligned_vec::{AVec, ConstAlign};
use hecate_core::Scalar;
use std::ops::{Deref, DerefMut, Range};

/// Values of a cache line of `f32`.
const LINE: usize = 16;

/// A fixed number of values, aligned to 64 bytes. Gaps between tensors are zero.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer<F>(AVec<F, ConstAlign<64>>);

impl<F: Scalar> Buffer<F> {
    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        Self(AVec::from_iter(64, std::iter::repeat_n(F::zero(), len)))
    }
}

impl<F> Default for Buffer<F> {
    fn default() -> Self {
        Self(AVec::new(64))
    }
}

impl<F> From<Vec<F>> for Buffer<F> {
    fn from(values: Vec<F>) -> Self {
        Self(AVec::from_iter(64, values))
    }
}

impl<F> Deref for Buffer<F> {
    type Target = [F];
    fn deref(&self) -> &[F] {
        &self.0
    }
}

impl<F> DerefMut for Buffer<F> {
    fn deref_mut(&mut self) -> &mut [F] {
        &mut self.0
    }
}

/// The place of the next `n` values in a buffer of `len` so far.
pub(crate) fn place(len: usize, n: usize) -> Range<usize> {
    let start = len.next_multiple_of(LINE);
    start..start + n
}
