//! Ops that work element by element.
#![allow(unsafe_code)]

use super::parallel::{Shared, for_rows};
use super::vector::{add_to, get, kernel, put, silu, silu_slope};
use crate::ops::MlpKind;
use crate::simd::{Isa, Simd};

/// See [`crate::ops::Ops::sigmoid_gate_forward`].
pub(crate) fn sigmoid_gate_forward(isa: Isa, parallel: bool, a: &[f32], b: &[f32], y: &mut [f32]) {
    for_rows(parallel, 1, y, |at, y| gate(isa, &a[at..][..y.len()], &b[at..][..y.len()], y));
}

/// See [`crate::ops::Ops::sigmoid_gate_backward`].
pub(crate) fn sigmoid_gate_backward(isa: Isa, parallel: bool, [a, b, dy]: [&[f32]; 3], da: &mut [f32], db: &mut [f32]) {
    let db = Shared::new(db);
    for_rows(parallel, 1, da, |at, da| {
        let part = |x: &'_ [f32]| -> std::ops::Range<usize> { at..(at + da.len()).min(x.len()) };
        let (a, b, dy) = (&a[part(a)], &b[part(b)], &dy[part(dy)]);
        // SAFETY: the same part as that of `da`, so no other overlaps it.
        let db = unsafe { db.part(at, da.len()) };
        gate_backward(isa, a, b, dy, da, db);
    });
}

/// See [`crate::ops::Ops::mlp_forward`].
pub(crate) fn mlp_forward(isa: Isa, parallel: bool, kind: MlpKind, hidden: usize, x: &[f32], y: &mut [f32]) {
    let width = kind.input_width(hidden);
    for_rows(parallel, hidden, y, |row, y| {
        let x = &x[row * width..][..y.len() / hidden * width];
        match kind {
            MlpKind::Gated => gated_rows(isa, hidden, x, y),
            MlpKind::Gelu => gelu_rows(isa, x, y),
        }
    });
}

/// See [`crate::ops::Ops::mlp_backward`].
pub(crate) fn mlp_backward(
    isa: Isa,
    parallel: bool,
    kind: MlpKind,
    hidden: usize,
    x: &[f32],
    dy: &[f32],
    dx: &mut [f32],
) {
    let width = kind.input_width(hidden);
    for_rows(parallel, width, dx, |row, dx| {
        let (x, dy) = (&x[row * width..][..dx.len()], &dy[row * hidden..][..dx.len() / width * hidden]);
        match kind {
            MlpKind::Gated => gated_rows_backward(isa, hidden, x, dy, dx),
            MlpKind::Gelu => gelu_rows_backward(isa, x, dy, dx),
        }
    });
}

kernel! {
    /// `y = a sigmoid(b)`.
    fn gate(s: S, a: &'a [f32], b: &'a [f32], y: &'a mut [f32]) {
        for c in (0..y.len()).step_by(S::LANES) {
            put(s, y, c, s.mul(get(s, a, c), s.sigmoid(get(s, b, c))));
        }
    }

    fn gate_backward(s: S, a: &'a [f32], b: &'a [f32], dy: &'a [f32], da: &'a mut [f32], db: &'a mut [f32]) {
        for c in (0..dy.len()).step_by(S::LANES) {
            let (p, dy) = (s.sigmoid(get(s, b, c)), get(s, dy, c));
            let along = s.mul(dy, p);
            add_to(s, da, c, along);
            add_to(s, db, c, s.mul(s.mul(along, get(s, a, c)), s.sub(s.splat(1.0), p)));
        }
    }

    /// Rows `a | b` to `silu(a) b`.
    fn gated_rows(s: S, hidden: usize, x: &'a [f32], y: &'a mut [f32]) {
        for (x, y) in x.chunks_exact(2 * hidden).zip(y.chunks_exact_mut(hidden)) {
            let (a, b) = x.split_at(hidden);
            for c in (0..hidden).step_by(S::LANES) {
                put(s, y, c, s.mul(silu(s, get(s, a, c)), get(s, b, c)));
            }
        }
    }

    fn gated_rows_backward(s: S, hidden: usize, x: &'a [f32], dy: &'a [f32], dx: &'a mut [f32]) {
        for ((x, dy), dx) in x.chunks_exact(2 * hidden).zip(dy.chunks_exact(hidden)).zip(dx.chunks_exact_mut(2 * hidden)) {
            let ((a, b), (da, db)) = (x.split_at(hidden), dx.split_at_mut(hidden));
            for c in (0..hidden).step_by(S::LANES) {
                let (a, b, dy) = (get(s, a, c), get(s, b, c), get(s, dy, c));
                add_to(s, da, c, s.mul(s.mul(dy, b), silu_slope(s, a)));
                add_to(s, db, c, s.mul(dy, silu(s, a)));
            }
        }
    }

    fn gelu_rows(s: S, x: &'a [f32], y: &'a mut [f32]) {
        for c in (0..y.len()).step_by(S::LANES) {
            let x = get(s, x, c);
            put(s, y, c, s.mul(x, gelu_gate(s, x)));
        }
    }

    fn gelu_rows_backward(s: S, x: &'a [f32], dy: &'a [f32], dx: &'a mut [f32]) {
        for c in (0..dy.len()).step_by(S::LANES) {
            let (x, one) = (get(s, x, c), s.splat(1.0));
            let p = gelu_gate(s, x);
            let inner = s.fma(s.mul(s.splat((3.0 * GELU_CUBIC * GELU_FACTOR) as f32), x), x, s.splat(GELU_FACTOR as f32));
            let slope = s.mul(p, s.fma(s.mul(x, inner), s.sub(one, p), one));
            add_to(s, dx, c, s.mul(get(s, dy, c), slope));
        }
    }
}

/// The cubic term of the tanh form of GELU.
const GELU_CUBIC: f64 = 0.044_715;
/// `2 sqrt(2 / pi)`.
const GELU_FACTOR: f64 = 1.595_769_121_605_731;

/// `(1 + tanh(u)) / 2 = sigmoid(2 u)` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`: what GELU multiplies `x` with.
#[inline(always)]
fn gelu_gate<S: Simd>(s: S, x: S::V) -> S::V {
    let cubic = s.splat((GELU_CUBIC * GELU_FACTOR) as f32);
    s.sigmoid(s.mul(x, s.fma(s.mul(cubic, x), x, s.splat(GELU_FACTOR as f32))))
}
