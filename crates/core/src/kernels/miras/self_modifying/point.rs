//! What happens to rows between the products: unit length, bounded targets, and their transposes.

use crate::kernels::vector::{add_to, dot, get, kernel, put};

/// Under the root of a length; that of the reference.
const UNIT: f32 = 1e-6;

kernel! {
    /// Rows of unit length, and what each was multiplied with.
    pub(super) fn unit(s: S, width: usize, x: &'a [f32], y: &'a mut [f32], inverse: &'a mut [f32]) {
        for ((x, y), inverse) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)).zip(inverse) {
            *inverse = 1.0 / (dot(s, x, x) + UNIT).sqrt();
            let by = s.splat(*inverse);
            for c in (0..width).step_by(S::LANES) {
                put(s, y, c, s.mul(by, get(s, x, c)));
            }
        }
    }

    /// Transpose of `unit`; adds into `dx`.
    pub(super) fn unit_backward(
        s: S, width: usize, x: &'a [f32], inverse: &'a [f32], dy: &'a [f32], dx: &'a mut [f32],
    ) {
        let rows = x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
        for (((x, dy), dx), &inverse) in rows.zip(inverse) {
            let along = s.splat(-dot(s, x, dy) * inverse * inverse * inverse);
            let by = s.splat(inverse);
            for c in (0..width).step_by(S::LANES) {
                add_to(s, dx, c, s.fma(by, get(s, dy, c), s.mul(along, get(s, x, c))));
            }
        }
    }

    /// `t / sqrt(1 + |t|^2 / n)` for rows of n values.
    pub(super) fn soft(s: S, width: usize, t: &'a [f32], y: &'a mut [f32]) {
        for (t, y) in t.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let by = s.splat(1.0 / (1.0 + dot(s, t, t) / width as f32).sqrt());
            for c in (0..width).step_by(S::LANES) {
                put(s, y, c, s.mul(by, get(s, t, c)));
            }
        }
    }

    /// Transpose of `soft`; `d` in place.
    pub(super) fn soft_backward(s: S, width: usize, t: &'a [f32], d: &'a mut [f32]) {
        for (t, d) in t.chunks_exact(width).zip(d.chunks_exact_mut(width)) {
            let by = 1.0 / (1.0 + dot(s, t, t) / width as f32).sqrt();
            let along = s.splat(-dot(s, t, d) / width as f32 * by * by * by);
            for c in (0..width).step_by(S::LANES) {
                put(s, d, c, s.fma(s.splat(by), get(s, d, c), s.mul(along, get(s, t, c))));
            }
        }
    }

    /// Row by row the inner products of `x` and `y`, added to `out`.
    pub(super) fn dots(s: S, width: usize, x: &'a [f32], y: &'a [f32], out: &'a mut [f32]) {
        for ((x, y), out) in x.chunks_exact(width).zip(y.chunks_exact(width)).zip(out) {
            *out += dot(s, x, y);
        }
    }

    /// `p_t += sum_{j<t} m[t,j] c_j`, then `c_t = -rate_t (p_t + length_t b_t)`, token by token.
    pub(super) fn solve(
        s: S, width: usize, m: &'a [f32], rate: &'a [f32], length: &'a [f32], b: &'a [f32], p: &'a mut [f32],
        c: &'a mut [f32],
    ) {
        let n = rate.len();
        for t in 0..n {
            let (before, c) = c.split_at_mut(t * width);
            let (c, at) = (&mut c[..width], t * width..(t + 1) * width);
            let (p, b) = (&mut p[at.clone()], &b[at]);
            for i in (0..width).step_by(S::LANES) {
                let mut sum = get(s, p, i);
                for (before, &m) in before.chunks_exact(width).zip(&m[t * n..]) {
                    sum = s.fma(s.splat(m), get(s, before, i), sum);
                }
                put(s, p, i, sum);
                put(s, c, i, s.mul(s.splat(-rate[t]), s.fma(s.splat(length[t]), get(s, b, i), sum)));
            }
        }
    }

    /// Transpose of `solve` in p and c: `dc_t += sum_{i>t} m[i,t] dp_i`, `dp_t = -rate_t dc_t`.
    pub(super) fn solve_backward(
        s: S, width: usize, m: &'a [f32], rate: &'a [f32], dc: &'a mut [f32], dp: &'a mut [f32],
    ) {
        let n = rate.len();
        for t in (0..n).rev() {
            let (dp, after) = dp.split_at_mut((t + 1) * width);
            let (dp, dc) = (&mut dp[t * width..], &mut dc[t * width..(t + 1) * width]);
            for i in (0..width).step_by(S::LANES) {
                let mut sum = get(s, dc, i);
                for (j, after) in after.chunks_exact(width).enumerate() {
                    sum = s.fma(s.splat(m[(t + 1 + j) * n + t]), get(s, after, i), sum);
                }
                put(s, dc, i, sum);
                put(s, dp, i, s.mul(s.splat(-rate[t]), sum));
            }
        }
    }
}
