//! Root-mean-square norms: of a row, and of each head on the memory's way out.

use super::{HeadShape, NORM_EPS};
use crate::scalar::Scalar;

/// `1 / sqrt(mean(x^2) + NORM_EPS)`.
fn inverse_rms<F: Scalar>(x: &[F]) -> F {
    let squares: F = x.iter().map(|&x| x * x).sum();
    F::one() / (squares / F::from_f64(x.len() as f64) + F::from_f64(NORM_EPS)).sqrt()
}

/// Transpose of `n = x r(x)` with `r` = [`inverse_rms`]: adds `r (dn - n mean(n dn))` into `dx`.
fn inverse_rms_backward<F: Scalar>(x: &[F], r: F, dn: &[F], dx: &mut [F]) {
    let along: F = x.iter().zip(dn).map(|(&x, &dn)| x * r * dn).sum();
    let mean = along / F::from_f64(x.len() as f64);
    for ((dx, &x), &dn) in dx.iter_mut().zip(x).zip(dn) {
        *dx += r * (dn - x * r * mean);
    }
}

/// `y = scale * x / sqrt(mean(x^2) + NORM_EPS)` per row: `x, y [T, width]`, `scale [width]`.
pub fn rms_norm_forward<F: Scalar>(width: usize, x: &[F], scale: &[F], y: &mut [F]) {
    debug_assert_eq!((x.len() % width, scale.len(), y.len()), (0, width, x.len()));
    for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
        let r = inverse_rms(x);
        for c in 0..width {
            y[c] = scale[c] * x[c] * r;
        }
    }
}

/// Transpose of [`rms_norm_forward`]: adds into `dx [T, width]` and `dscale [width]`.
pub fn rms_norm_backward<F: Scalar>(width: usize, x: &[F], scale: &[F], dy: &[F], dx: &mut [F], dscale: &mut [F]) {
    debug_assert_eq!((dy.len(), dx.len(), dscale.len()), (x.len(), x.len(), width));
    let mut dn = vec![F::zero(); width];
    for ((x, dy), dx) in x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
        let r = inverse_rms(x);
        for c in 0..width {
            dscale[c] += dy[c] * x[c] * r;
            dn[c] = dy[c] * scale[c];
        }
        inverse_rms_backward(x, r, &dn, dx);
    }
}

/// `y = scale * rms(x) * silu(g)`, the norm over each head of each token:
/// `x [H, T, D]`, `scale [H * D]`, `g, y [T, H * D]`.
pub fn gated_norm_forward<F: Scalar>(s: HeadShape, x: &[F], scale: &[F], g: &[F], y: &mut [F]) {
    debug_assert_eq!((x.len(), g.len(), y.len(), scale.len()), (s.len(), s.len(), s.len(), s.heads * s.width));
    for h in 0..s.heads {
        let scale = &scale[h * s.width..][..s.width];
        for t in 0..s.tokens {
            let x = &x[s.by_head(h, t)..][..s.width];
            let at = s.by_token(h, t);
            let r = inverse_rms(x);
            for c in 0..s.width {
                y[at + c] = scale[c] * x[c] * r * g[at + c].silu();
            }
        }
    }
}

/// Transpose of [`gated_norm_forward`]: adds into `dx [H, T, D]`, `dscale [H * D]` and `dg [T, H * D]`.
pub fn gated_norm_backward<F: Scalar>(
    s: HeadShape,
    x: &[F],
    scale: &[F],
    g: &[F],
    dy: &[F],
    dx: &mut [F],
    dscale: &mut [F],
    dg: &mut [F],
) {
    debug_assert_eq!((dy.len(), dx.len(), dg.len(), dscale.len()), (s.len(), s.len(), s.len(), s.heads * s.width));
    let mut dn = vec![F::zero(); s.width];
    for h in 0..s.heads {
        for t in 0..s.tokens {
            let x = &x[s.by_head(h, t)..][..s.width];
            let at = s.by_token(h, t);
            let r = inverse_rms(x);
            for c in 0..s.width {
                let (scale, gate) = (scale[h * s.width + c], g[at + c].silu());
                dscale[h * s.width + c] += dy[at + c] * x[c] * r * gate;
                dg[at + c] += dy[at + c] * scale * x[c] * r * g[at + c].silu_slope();
                dn[c] = dy[at + c] * scale * gate;
            }
            inverse_rms_backward(x, r, &dn, &mut dx[s.by_head(h, t)..][..s.width]);
        }
    }
}
