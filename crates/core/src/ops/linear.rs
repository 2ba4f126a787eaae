//! Matrix products. Every output is summed over `inner` in rising order, so that it depends on its own row alone.

use super::LinearShape;
use crate::scalar::Scalar;

/// `y = x w`: `x [rows, inner]`, `w [inner, outer]`, `y [rows, outer]`.
pub fn linear_forward<F: Scalar>(s: LinearShape, x: &[F], w: &[F], y: &mut [F]) {
    check(s, x, w, y);
    y.fill(F::zero());
    for r in 0..s.rows {
        for i in 0..s.inner {
            for o in 0..s.outer {
                y[r * s.outer + o] += x[r * s.inner + i] * w[i * s.outer + o];
            }
        }
    }
}

/// Transpose of [`linear_forward`]: adds `dy w^T` into `dx [rows, inner]` and `x^T dy` into `dw [inner, outer]`.
pub fn linear_backward<F: Scalar>(
    s: LinearShape,
    x: &[F],
    w: &[F],
    dy: &[F],
    dx: Option<&mut [F]>,
    dw: Option<&mut [F]>,
) {
    debug_assert_eq!(dy.len(), s.rows * s.outer);
    if let Some(dx) = dx {
        debug_assert_eq!((w.len(), dx.len()), (s.inner * s.outer, s.rows * s.inner));
        for r in 0..s.rows {
            for i in 0..s.inner {
                let terms = (0..s.outer).map(|o| dy[r * s.outer + o] * w[i * s.outer + o]);
                dx[r * s.inner + i] += terms.sum();
            }
        }
    }
    if let Some(dw) = dw {
        debug_assert_eq!((x.len(), dw.len()), (s.rows * s.inner, s.inner * s.outer));
        for r in 0..s.rows {
            for i in 0..s.inner {
                for o in 0..s.outer {
                    dw[i * s.outer + o] += x[r * s.inner + i] * dy[r * s.outer + o];
                }
            }
        }
    }
}

/// `y = x w^T`: `x [rows, inner]`, `w [outer, inner]`, `y [rows, outer]`.
pub fn linear_transposed_forward<F: Scalar>(s: LinearShape, x: &[F], w: &[F], y: &mut [F]) {
    check(s, x, w, y);
    for r in 0..s.rows {
        for o in 0..s.outer {
            y[r * s.outer + o] = (0..s.inner).map(|i| x[r * s.inner + i] * w[o * s.inner + i]).sum();
        }
    }
}

/// Transpose of [`linear_transposed_forward`]: adds `dy w` into `dx [rows, inner]` and `dy^T x` into
/// `dw [outer, inner]`.
pub fn linear_transposed_backward<F: Scalar>(
    s: LinearShape,
    x: &[F],
    w: &[F],
    dy: &[F],
    dx: Option<&mut [F]>,
    dw: Option<&mut [F]>,
) {
    check(s, x, w, dy);
    if let Some(dx) = dx {
        for r in 0..s.rows {
            for o in 0..s.outer {
                for i in 0..s.inner {
                    dx[r * s.inner + i] += dy[r * s.outer + o] * w[o * s.inner + i];
                }
            }
        }
    }
    if let Some(dw) = dw {
        for r in 0..s.rows {
            for o in 0..s.outer {
                for i in 0..s.inner {
                    dw[o * s.inner + i] += dy[r * s.outer + o] * x[r * s.inner + i];
                }
            }
        }
    }
}

/// `out += x^T x`: `x [rows, width]`, `out [width, width]`.
pub fn add_gram<F: Scalar>(width: usize, x: &[F], out: &mut [F]) {
    for row in x.chunks_exact(width) {
        for i in 0..width {
            for j in 0..width {
                out[i * width + j] += row[i] * row[j];
            }
        }
    }
}

fn check<F>(s: LinearShape, x: &[F], w: &[F], y: &[F]) {
    debug_assert_eq!(x.len(), s.rows * s.inner);
    debug_assert_eq!(w.len(), s.inner * s.outer);
    debug_assert_eq!(y.len(), s.rows * s.outer);
}
