//! Matrix memories `W: [dv, dk]`, row-major, and the few pieces that their references are made of: an error,
//! a correction of rank one, a read, and the transpose of each.

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

/// The error of a prediction, `e = W k - v`: `[dv]`.
pub(crate) fn error<F: Scalar>(w: &[F], k: &[F], v: &[F]) -> Vec<F> {
    let mut e = apply(w, k);
    add_scaled(&mut e, -F::one(), v);
    e
}

/// Transpose of [`error`]; adds into `dw`, `dk` and `dv`.
pub(crate) fn error_backward<F: Scalar>(w: &[F], k: &[F], de: &[F], dw: &mut [F], dk: &mut [F], dv: &mut [F]) {
    add_outer(dw, F::one(), de, k);
    add_scaled(dk, F::one(), &apply_transposed(w, de));
    add_scaled(dv, -F::one(), de);
}

/// The step of gradient descent on the error, `W -= rate e k^T`.
pub(crate) fn correct<F: Scalar>(w: &mut [F], rate: F, e: &[F], k: &[F]) {
    add_outer(w, -rate, e, k);
}

/// Transpose of [`correct`] in all but `W`, whose gradient `dw` passes through unchanged: adds into `drate` and
/// `dk`, returns `de`.
pub(crate) fn correct_backward<F: Scalar>(dw: &[F], rate: F, e: &[F], k: &[F], drate: &mut F, dk: &mut [F]) -> Vec<F> {
    let mut de = apply(dw, k);
    *drate -= dot(&de, e);
    add_scaled(dk, -rate, &apply_transposed(dw, e));
    scale(&mut de, -rate);
    de
}

/// The decay `W *= retain`.
pub(crate) fn decay<F: Scalar>(w: &mut [F], retain: F) {
    scale(w, retain);
}

/// Transpose of [`decay`]; `w` is the memory before it. Adds into `dretain`.
pub(crate) fn decay_backward<F: Scalar>(w: &[F], retain: F, dretain: &mut F, dw: &mut [F]) {
    *dretain += dot(dw, w);
    scale(dw, retain);
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
