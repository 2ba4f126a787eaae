//! The short causal convolution in front of a memory: convolution per channel, optional SiLU, optional unit length,
//! and the turn from tokens to heads.
//!
//! ```text
//! z_t = sum_j w_j * x_{t - taps + 1 + j}      without taps, z = x
//! a   = silu(z)                               without `silu`, a = z
//! y   = a / sqrt(sum_head a^2 + UNIT_EPS)      without `unit`, y = a
//! ```
//!
//! [Titans v1 sec.4.4] asks for the convolution, SiLU and unit length and gives no size; the inputs before a
//! call come from its tail, zeros before the first token of a stream.

use super::{ConvShape, HeadShape};
use crate::scalar::Scalar;

/// Small constant under the length that a key or query is divided by.
pub const UNIT_EPS: f64 = 1e-6;

/// `x [T, C]`, `w [taps, C]` (oldest tap first), `tail [taps - 1, C]` (the inputs before the call, oldest first),
/// `y [H, T, D]`, `C = H * D`. Without taps, `w` and `tail` are empty.
pub fn conv_forward<F: Scalar>(s: ConvShape, x: &[F], w: &[F], tail: &[F], y: &mut [F]) {
    check(s, x, w, tail, y);
    let HeadShape { tokens, heads, width } = s.heads;
    for h in 0..heads {
        for t in 0..tokens {
            let y = &mut y[s.heads.by_head(h, t)..][..width];
            for (c, y) in y.iter_mut().enumerate() {
                *y = activated(s, convolved(s, x, w, tail, t, h * width + c));
            }
            if s.unit {
                let r = inverse_length(y);
                for y in y {
                    *y *= r;
                }
            }
        }
    }
}

/// Transpose of [`conv_forward`]: adds into `dx [T, C]` and `dw [taps, C]`. The tail is a constant.
pub fn conv_backward<F: Scalar>(s: ConvShape, x: &[F], w: &[F], tail: &[F], dy: &[F], dx: &mut [F], dw: &mut [F]) {
    check(s, x, w, tail, dy);
    let HeadShape { tokens, heads, width } = s.heads;
    let channels = heads * width;
    for h in 0..heads {
        for t in 0..tokens {
            let dz = before_activation(s, x, w, tail, dy, h, t);
            for (c, &dz) in dz.iter().enumerate() {
                let channel = h * width + c;
                if s.taps == 0 {
                    dx[t * channels + channel] += dz;
                }
                for j in 0..s.taps {
                    dw[j * channels + channel] += dz * input(s, x, tail, t + j, channel);
                    // Inputs of the tail lie before the call: constants.
                    if let Some(at) = (t + j).checked_sub(s.taps - 1) {
                        dx[at * channels + channel] += dz * w[j * channels + channel];
                    }
                }
            }
        }
    }
}

/// [`conv_backward`] along the column of each token: adds into `dx [T, C]` what a token's input gives to its own
/// output, through the newest tap. The inputs before it and the taps are constants.
pub fn conv_column_backward<F: Scalar>(s: ConvShape, x: &[F], w: &[F], tail: &[F], dy: &[F], dx: &mut [F]) {
    check(s, x, w, tail, dy);
    let HeadShape { tokens, heads, width } = s.heads;
    let channels = heads * width;
    for h in 0..heads {
        for t in 0..tokens {
            let dz = before_activation(s, x, w, tail, dy, h, t);
            for (channel, &dz) in (h * width..).zip(&dz) {
                let tap = if s.taps == 0 { F::one() } else { w[(s.taps - 1) * channels + channel] };
                dx[t * channels + channel] += dz * tap;
            }
        }
    }
}

/// From the gradients of head `h` of token `t` of the result to those of the convolution's output, `[D]`.
fn before_activation<F: Scalar>(s: ConvShape, x: &[F], w: &[F], tail: &[F], dy: &[F], h: usize, t: usize) -> Vec<F> {
    let width = s.heads.width;
    let z: Vec<F> = (0..width).map(|c| convolved(s, x, w, tail, t, h * width + c)).collect();
    let mut d = dy[s.heads.by_head(h, t)..][..width].to_vec();
    if s.unit {
        let a: Vec<F> = z.iter().map(|&z| activated(s, z)).collect();
        unit_backward(&a, &mut d);
    }
    if s.silu {
        for (d, z) in d.iter_mut().zip(&z) {
            *d *= z.silu_slope();
        }
    }
    d
}

/// Makes the tail after a call from the tail before it and the call's inputs: `x [T, channels]`,
/// `tail [taps - 1, channels]`. Calls may be shorter than the tail.
pub fn push_tail<F: Scalar>(channels: usize, taps: usize, x: &[F], tail: &mut [F]) {
    debug_assert_eq!(tail.len(), taps.saturating_sub(1) * channels);
    let kept = tail.len().saturating_sub(x.len());
    tail.copy_within(tail.len() - kept.., 0);
    let new = tail.len() - kept;
    tail[kept..].copy_from_slice(&x[x.len() - new..]);
}

/// Row `i` of tail and call seen as one sequence.
fn input<F: Scalar>(s: ConvShape, x: &[F], tail: &[F], i: usize, channel: usize) -> F {
    let (channels, before) = (s.heads.heads * s.heads.width, s.taps - 1);
    if i < before { tail[i * channels + channel] } else { x[(i - before) * channels + channel] }
}

/// The convolution's output at token `t`, before any non-linearity.
fn convolved<F: Scalar>(s: ConvShape, x: &[F], w: &[F], tail: &[F], t: usize, channel: usize) -> F {
    let channels = s.heads.heads * s.heads.width;
    if s.taps == 0 {
        return x[t * channels + channel];
    }
    (0..s.taps).map(|j| w[j * channels + channel] * input(s, x, tail, t + j, channel)).sum()
}

/// What becomes of one value of the convolution's output.
fn activated<F: Scalar>(s: ConvShape, z: F) -> F {
    if s.silu { z.silu() } else { z }
}

/// `1 / sqrt(sum a^2 + UNIT_EPS)`.
fn inverse_length<F: Scalar>(a: &[F]) -> F {
    let squares: F = a.iter().map(|&a| a * a).sum();
    F::one() / (squares + F::from_f64(UNIT_EPS)).sqrt()
}

/// Transpose of `y = a r(a)` with `r` = [`inverse_length`]. In: dL/dy. Out: dL/da `= r (dy - y <y, dy>)`.
fn unit_backward<F: Scalar>(a: &[F], d: &mut [F]) {
    let r = inverse_length(a);
    let along: F = a.iter().zip(&*d).map(|(&a, &d)| a * r * d).sum();
    for (d, &a) in d.iter_mut().zip(a) {
        *d = r * (*d - a * r * along);
    }
}

fn check<F>(s: ConvShape, x: &[F], w: &[F], tail: &[F], y: &[F]) {
    let channels = s.heads.heads * s.heads.width;
    debug_assert_eq!((x.len(), y.len()), (s.heads.len(), s.heads.len()));
    debug_assert_eq!((w.len(), tail.len()), (s.taps * channels, s.taps.saturating_sub(1) * channels));
}
