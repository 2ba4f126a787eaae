//! Matrix memories `W: [dv, dk]`, row-major, and the three products that their references are made of.

use crate::rule::{Dims, StateTensor};
use crate::scalar::Scalar;

/// The state tensor of a matrix memory.
pub(crate) fn tensor(name: &'static str, d: Dims) -> StateTensor {
    StateTensor::matrix(name, d.dv, d.dk)
}

/// `W x`: `[dv]`.
pub(crate) fn apply<F: Scalar>(w: &[F], x: &[F]) -> Vec<F> {
    w.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(&a, &b)| a * b).sum()).collect()
}

/// `W^T e`: `[dk]`, the transpose of [`apply`] in its vector.
pub(crate) fn apply_transposed<F: Scalar>(w: &[F], e: &[F]) -> Vec<F> {
    let dk = w.len() / e.len();
    let mut out = vec![F::zero(); dk];
    for (row, &e) in w.chunks_exact(dk).zip(e) {
        add_scaled(&mut out, e, row);
    }
    out
}

/// `W += s * a b^T`.
pub(crate) fn add_outer<F: Scalar>(w: &mut [F], s: F, a: &[F], b: &[F]) {
    for (row, &a) in w.chunks_exact_mut(b.len()).zip(a) {
        add_scaled(row, s * a, b);
    }
}

/// `y += s * x`.
pub(crate) fn add_scaled<F: Scalar>(y: &mut [F], s: F, x: &[F]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += s * x;
    }
}

/// `x *= s`.
pub(crate) fn scale<F: Scalar>(x: &mut [F], s: F) {
    for x in x {
        *x *= s;
    }
}

/// Sum of products.
pub(crate) fn dot<F: Scalar>(a: &[F], b: &[F]) -> F {
    a.iter().zip(b).map(|(&a, &b)| a * b).sum()
}

/// The read `y = W q` that all matrix memories share.
pub(crate) fn read<F: Scalar>(w: &[F], q: &[F], y: &mut [F]) {
    y.copy_from_slice(&apply(w, q));
}

/// Transpose of [`read`]; adds into `dq` and `dw`.
pub(crate) fn read_backward<F: Scalar>(w: &[F], q: &[F], dy: &[F], dq: &mut [F], dw: &mut [F]) {
    add_scaled(dq, F::one(), &apply_transposed(w, dy));
    add_outer(dw, F::one(), dy, q);
}
