//! The non-linearity of an MLP.

use super::MlpKind;
use crate::scalar::Scalar;

/// `y [T, hidden]` of `x [T, kind.input_width(hidden)]`: `silu(a) * b` of the pair `a | b` in each row, or `gelu(x)`.
pub fn mlp_forward<F: Scalar>(kind: MlpKind, hidden: usize, x: &[F], y: &mut [F]) {
    let width = kind.input_width(hidden);
    debug_assert_eq!((y.len() % hidden, x.len()), (0, y.len() / hidden * width));
    for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(hidden)) {
        for i in 0..hidden {
            y[i] = match kind {
                MlpKind::Gated => x[i].silu() * x[hidden + i],
                MlpKind::Gelu => gelu(x[i]),
            };
        }
    }
}

/// Transpose of [`mlp_forward`]: `dy [T, hidden]`; adds into `dx`, shaped like `x`.
pub fn mlp_backward<F: Scalar>(kind: MlpKind, hidden: usize, x: &[F], dy: &[F], dx: &mut [F]) {
    let width = kind.input_width(hidden);
    debug_assert_eq!((dy.len() % hidden, x.len(), dx.len()), (0, dy.len() / hidden * width, x.len()));
    for ((x, dy), dx) in x.chunks_exact(width).zip(dy.chunks_exact(hidden)).zip(dx.chunks_exact_mut(width)) {
        for i in 0..hidden {
            match kind {
                MlpKind::Gated => {
                    dx[i] += dy[i] * x[i].silu_slope() * x[hidden + i];
                    dx[hidden + i] += dy[i] * x[i].silu();
                }
                MlpKind::Gelu => dx[i] += dy[i] * gelu_slope(x[i]),
            }
        }
    }
}

/// The cubic term of the tanh form of GELU.
const GELU_CUBIC: f64 = 0.044_715;

/// `tanh(sqrt(2 / pi) (x + 0.044715 x^3))`.
fn gelu_tanh<F: Scalar>(x: F) -> F {
    let inner = x + F::from_f64(GELU_CUBIC) * x * x * x;
    (F::from_f64((2.0 / std::f64::consts::PI).sqrt()) * inner).tanh()
}

/// `x / 2 (1 + tanh(..))`, with [`gelu_tanh`].
fn gelu<F: Scalar>(x: F) -> F {
    F::from_f64(0.5) * x * (F::one() + gelu_tanh(x))
}

/// The derivative of [`gelu`].
fn gelu_slope<F: Scalar>(x: F) -> F {
    let (half, tanh) = (F::from_f64(0.5), gelu_tanh(x));
    let inner_slope = F::one() + F::from_f64(3.0 * GELU_CUBIC) * x * x;
    let dtanh = (F::one() - tanh * tanh) * F::from_f64((2.0 / std::f64::consts::PI).sqrt()) * inner_slope;
    half * (F::one() + tanh) + half * x * dtanh
}
