//! From heads back to tokens, and the gate with which memory meets attention.

use super::HeadShape;
use crate::scalar::Scalar;

impl HeadShape {
    /// Index of head `h` of token `t` in `[H, T, D]`.
    pub fn by_head(&self, h: usize, t: usize) -> usize {
        (h * self.tokens + t) * self.width
    }
    /// Index of head `h` of token `t` in `[T, H * D]`.
    pub fn by_token(&self, h: usize, t: usize) -> usize {
        (t * self.heads + h) * self.width
    }
}

/// Turns heads `x [H, T, D]` to tokens `y [T, H * D]`.
pub fn merge_forward<F: Scalar>(s: HeadShape, x: &[F], y: &mut [F]) {
    debug_assert_eq!((x.len(), y.len()), (s.len(), s.len()));
    for h in 0..s.heads {
        for t in 0..s.tokens {
            y[s.by_token(h, t)..][..s.width].copy_from_slice(&x[s.by_head(h, t)..][..s.width]);
        }
    }
}

/// Transpose of [`merge_forward`]: `dy [T, H * D]`; adds into `dx [H, T, D]`.
pub fn merge_backward<F: Scalar>(s: HeadShape, dy: &[F], dx: &mut [F]) {
    debug_assert_eq!((dx.len(), dy.len()), (s.len(), s.len()));
    for h in 0..s.heads {
        for t in 0..s.tokens {
            for c in 0..s.width {
                dx[s.by_head(h, t) + c] += dy[s.by_token(h, t) + c];
            }
        }
    }
}

/// `y = a * sigmoid(b)`, element by element; all of one length.
pub fn sigmoid_gate_forward<F: Scalar>(a: &[F], b: &[F], y: &mut [F]) {
    debug_assert_eq!((a.len(), b.len()), (y.len(), y.len()));
    for i in 0..y.len() {
        y[i] = a[i] * b[i].sigmoid();
    }
}

/// Transpose of [`sigmoid_gate_forward`]: adds into `da` and `db`.
pub fn sigmoid_gate_backward<F: Scalar>(a: &[F], b: &[F], dy: &[F], da: &mut [F], db: &mut [F]) {
    debug_assert_eq!((a.len(), b.len(), da.len(), db.len()), (dy.len(), dy.len(), dy.len(), dy.len()));
    for i in 0..dy.len() {
        let s = b[i].sigmoid();
        da[i] += dy[i] * s;
        db[i] += dy[i] * a[i] * s * (F::one() - s);
    }
}
