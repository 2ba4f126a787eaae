//! Maps between state and weights over whole vectors, and their transposes: what [`crate::rules::miras::retention`]
//! says in single numbers.
//!
//! ```text
//! softmax    w = n softmax(z) per row                     dz = w (dw - mean), mean = sum w dw / n
//! power      w = z min(1, |z| / norm)^p                   dz = (1 + p) share dw, or dw beyond the norm
//! scale      w = z / max(norm, floor)^p                   dz = dw / max(norm, floor)^p
//! sigmoid    w = 1 / (1 + e^-z)                           dz = w (1 - w) dw
//! ```
//!
//! with `norm` the q-norm of a tensor and `p = q - 2`. Other maps, and exponents that are not whole, run in the rule's own
//! words. What a read settles before such a map moves no weight by as much as `f32` holds, so reads leave it out.

use super::pointwise::first;
use crate::kernels::vector::{add_to, get, kernel, put};
use crate::rules::Miras;
use crate::rules::miras::retention::AnyRetention;
use crate::simd::Simd;

/// The map of a setting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Map {
    /// The rule's own words.
    Own,
    /// Rows are distributions.
    Softmax,
    /// Powers of single entries, of this exponent `q`.
    Power(u32),
    /// A factor per tensor: `q` and the smallest norm that divides.
    Scale(u32, f32),
    /// Entry by entry.
    Sigmoid,
}

impl Map {
    pub fn of(rule: &Miras) -> Self {
        let whole = |q: f64| (q.fract() == 0.0).then_some(q as u32);
        match &rule.retention {
            AnyRetention::Kl(_) => Map::Softmax,
            AnyRetention::LqExact(r) => whole(r.q).map_or(Map::Own, Map::Power),
            AnyRetention::LqLiteral(r) => whole(r.q).map_or(Map::Own, |q| Map::Scale(q, r.floor as f32)),
            AnyRetention::Sigmoid(_) => Map::Sigmoid,
            _ => Map::Own,
        }
    }

    /// The exponent of the norm that it needs.
    pub fn exponent(self) -> Option<u32> {
        match self {
            Map::Power(q) | Map::Scale(q, _) => Some(q),
            Map::Own | Map::Softmax | Map::Sigmoid => None,
        }
    }
}

/// A gradient of the weights of one tensor.
#[derive(Clone, Copy)]
pub(super) struct DWeights<'a> {
    /// Entry by entry; empty where it is `rows` times `columns`.
    pub full: &'a [f32],
    pub rows: &'a [f32],
    pub columns: &'a [f32],
}

impl DWeights<'_> {
    #[inline(always)]
    fn get<S: Simd>(&self, s: S, width: usize, row: usize, c: usize) -> S::V {
        if self.full.is_empty() {
            s.mul(s.splat(self.rows[row]), get(s, self.columns, c))
        } else {
            get(s, &self.full[row * width..(row + 1) * width], c)
        }
    }
}

/// `x^p` for `p` up to 15.
#[inline(always)]
fn power<S: Simd>(s: S, x: S::V, p: u32) -> S::V {
    let mut y = if p & 1 == 0 { s.splat(1.0) } else { x };
    let (two, mut by) = (s.mul(x, x), x);
    if p & 2 != 0 {
        y = s.mul(y, two);
    }
    if p & 12 != 0 {
        by = s.mul(two, two);
    }
    if p & 4 != 0 {
        y = s.mul(y, by);
    }
    if p & 8 != 0 {
        y = s.mul(y, s.mul(by, by));
    }
    y
}

#[inline(always)]
fn magnitude<S: Simd>(s: S, x: S::V) -> S::V {
    s.max(x, s.sub(s.splat(0.0), x))
}

/// What to multiply with, one after the other, instead of dividing by `norm`: neither overflows, nor loses bits where the
/// norm is too small or too large for an inverse. Zeros for a norm of zero.
#[inline(always)]
fn inverse(norm: f32) -> [f32; 2] {
    let by = match norm {
        0.0 => return [0.0; 2],
        n if n < 1e-25 => 1e20,
        n if n > 1e25 => 1e-20,
        _ => 1.0,
    };
    [by, 1.0 / (norm * by)]
}

/// `x / norm`, with its [`inverse`].
#[inline(always)]
fn over<S: Simd>(s: S, x: S::V, inverse: [f32; 2]) -> S::V {
    s.mul(s.mul(x, s.splat(inverse[0])), s.splat(inverse[1]))
}

/// 1 where `x > 0`, else 0.
#[inline(always)]
fn above<S: Simd>(s: S, x: S::V) -> S::V {
    // The smallest number there is, times this twice, is more than one.
    s.max(s.splat(0.0), s.sign(s.mul(x, s.splat(1e30))))
}

/// The largest value of a row.
#[inline(always)]
fn largest<S: Simd>(s: S, x: &[f32]) -> f32 {
    let (mut most, mut c) = (s.splat(f32::NEG_INFINITY), 0);
    while c + S::LANES <= x.len() {
        most = s.max(most, get(s, x, c));
        c += S::LANES;
    }
    let mut most = s.max_lane(most);
    for &x in &x[c..] {
        most = if x > most { x } else { most };
    }
    most
}

/// The logarithm of the sum of the exponentials of a row.
#[inline(always)]
fn log_sum_exp<S: Simd>(s: S, x: &[f32]) -> f32 {
    let most = largest(s, x);
    let mut sum = s.splat(0.0);
    for c in (0..x.len()).step_by(S::LANES) {
        let e = s.exp(s.sub(get(s, x, c), s.splat(most)));
        sum = s.add(sum, first(s, e, x.len() - c));
    }
    s.sum(sum).ln() + most
}

/// Smallest logit of a settled row; that of the reference.
const LEAST: f32 = -80.0;

kernel! {
    /// Rows of `columns` logits to distributions of mass `columns`.
    pub(super) fn softmax(s: S, columns: usize, z: &'a [f32], w: &'a mut [f32]) {
        for (z, w) in z.chunks_exact(columns).zip(w.chunks_exact_mut(columns)) {
            let most = s.splat(largest(s, z));
            let mut sum = s.splat(0.0);
            for c in (0..columns).step_by(S::LANES) {
                let e = s.exp(s.sub(get(s, z, c), most));
                put(s, w, c, e);
                sum = s.add(sum, first(s, e, columns - c));
            }
            let by = s.splat(columns as f32 / s.sum(sum));
            for c in (0..columns).step_by(S::LANES) {
                put(s, w, c, s.mul(by, get(s, w, c)));
            }
        }
    }

    /// `out = softmax(z) g` row by row, without the weights.
    pub(super) fn softmax_dots(s: S, columns: usize, z: &'a [f32], g: &'a [f32], out: &'a mut [f32]) {
        for (z, out) in z.chunks_exact(columns).zip(out) {
            let most = s.splat(largest(s, z));
            let (mut sum, mut along) = (s.splat(0.0), s.splat(0.0));
            for c in (0..columns).step_by(S::LANES) {
                let e = s.exp(s.sub(get(s, z, c), most));
                along = s.fma(e, get(s, g, c), along);
                sum = s.add(sum, first(s, e, columns - c));
            }
            *out = s.sum(along) * (columns as f32 / s.sum(sum));
        }
    }

    /// Transpose of `softmax` with result `w`; adds.
    pub(super) fn softmax_backward(s: S, columns: usize, w: &'a [f32], dw: DWeights<'a>, dz: &'a mut [f32]) {
        for (r, (w, dz)) in w.chunks_exact(columns).zip(dz.chunks_exact_mut(columns)).enumerate() {
            let mut mean = s.splat(0.0);
            for c in (0..columns).step_by(S::LANES) {
                mean = s.fma(get(s, w, c), dw.get(s, columns, r, c), mean);
            }
            let mean = s.splat(s.sum(mean) / columns as f32);
            for c in (0..columns).step_by(S::LANES) {
                let d = s.mul(get(s, w, c), s.sub(dw.get(s, columns, r, c), mean));
                add_to(s, dz, c, d);
            }
        }
    }

    /// Rows of logits to logarithms of their shares, not below the least.
    pub(super) fn settle(s: S, columns: usize, z: &'a mut [f32]) {
        for z in z.chunks_exact_mut(columns) {
            let all = s.splat(log_sum_exp(s, z));
            for c in (0..columns).step_by(S::LANES) {
                put(s, z, c, s.max(s.sub(get(s, z, c), all), s.splat(LEAST)));
            }
        }
    }

    /// Transpose of `settle` at `z` before it; `dz` in place.
    pub(super) fn settle_backward(s: S, columns: usize, z: &'a [f32], dz: &'a mut [f32]) {
        for (z, dz) in z.chunks_exact(columns).zip(dz.chunks_exact_mut(columns)) {
            let all = s.splat(log_sum_exp(s, z));
            let mut sum = s.splat(0.0);
            for c in (0..columns).step_by(S::LANES) {
                let below = above(s, s.sub(s.splat(LEAST), s.sub(get(s, z, c), all)));
                let d = s.mul(get(s, dz, c), s.sub(s.splat(1.0), below));
                put(s, dz, c, d);
                sum = s.add(sum, d);
            }
            let back = s.splat(-s.sum(sum));
            for c in (0..columns).step_by(S::LANES) {
                let share = s.exp(s.sub(get(s, z, c), all));
                add_to(s, dz, c, s.mul(back, share));
            }
        }
    }

    /// `out = (sum |x|^q)^(1/q)`, without overflow.
    pub(super) fn norm(s: S, q: u32, x: &'a [f32], out: &'a mut f32) {
        let mut most = s.splat(0.0);
        for c in (0..x.len()).step_by(S::LANES) {
            most = s.max(most, magnitude(s, get(s, x, c)));
        }
        let most = s.max_lane(most);
        if most == 0.0 {
            *out = 0.0;
            return;
        }
        let (by, mut sums) = (inverse(most), [s.splat(0.0); 4]);
        for c in (0..x.len()).step_by(4 * S::LANES) {
            for (j, sum) in sums.iter_mut().enumerate() {
                let share = over(s, get(s, x, c + j * S::LANES), by);
                *sum = s.add(*sum, power(s, magnitude(s, share), q));
            }
        }
        let sum = s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])));
        // Rounding must not make it smaller than an entry.
        *out = (f64::from(sum).powf(1.0 / f64::from(q)) as f32 * most).max(most);
    }

    /// Transpose of `norm`, whose value is `norm`; adds into `dx`.
    pub(super) fn norm_backward(s: S, q: u32, norm: f32, dnorm: f32, x: &'a [f32], dx: &'a mut [f32]) {
        if norm == 0.0 {
            return;
        }
        let (by, scale) = (inverse(norm), s.splat(dnorm));
        for c in (0..x.len()).step_by(S::LANES) {
            let share = over(s, get(s, x, c), by);
            add_to(s, dx, c, s.mul(s.mul(scale, share), power(s, magnitude(s, share), q - 2)));
        }
    }

    /// `w = z min(1, |z| / norm)^(q - 2)`; zero if the norm is.
    pub(super) fn powers(s: S, q: u32, norm: f32, z: &'a [f32], w: &'a mut [f32]) {
        let by = inverse(norm);
        for c in (0..z.len()).step_by(S::LANES) {
            let x = get(s, z, c);
            let share = s.min(magnitude(s, over(s, x, by)), s.splat(1.0));
            put(s, w, c, s.mul(x, power(s, share, q - 2)));
        }
    }

    /// `out = powers(z) g` row by row, without the weights.
    pub(super) fn powers_dots(
        s: S,
        q: u32,
        norm: f32,
        columns: usize,
        z: &'a [f32],
        g: &'a [f32],
        out: &'a mut [f32],
    ) {
        let by = inverse(norm);
        for (z, out) in z.chunks_exact(columns).zip(out) {
            let mut sum = s.splat(0.0);
            for c in (0..columns).step_by(S::LANES) {
                let x = get(s, z, c);
                let share = s.min(magnitude(s, over(s, x, by)), s.splat(1.0));
                sum = s.fma(s.mul(x, get(s, g, c)), power(s, share, q - 2), sum);
            }
            *out = s.sum(sum);
        }
    }

    /// Transpose of `powers`: adds into `dz` and the gradient of the norm.
    pub(super) fn powers_backward(
        s: S,
        q: u32,
        norm: f32,
        columns: usize,
        z: &'a [f32],
        dw: DWeights<'a>,
        dz: &'a mut [f32],
        dnorm: &'a mut f32,
    ) {
        let (one, p) = (s.splat(1.0), s.splat((q - 2) as f32));
        let (by, norm) = (inverse(norm), s.splat(norm));
        let mut total = s.splat(0.0);
        for (r, (z, dz)) in z.chunks_exact(columns).zip(dz.chunks_exact_mut(columns)).enumerate() {
            for c in (0..columns).step_by(S::LANES) {
                let (x, d) = (get(s, z, c), dw.get(s, columns, r, c));
                let within = s.sub(one, above(s, s.sub(magnitude(s, x), norm)));
                let share = s.min(magnitude(s, over(s, x, by)), one);
                let d = s.mul(d, power(s, share, q - 2));
                let along = s.mul(s.mul(p, within), d);
                add_to(s, dz, c, s.add(d, along));
                total = s.fma(along, x, total);
            }
        }
        *dnorm -= s.sum(over(s, total, by));
    }

    /// Transpose of a tensor's scaling by `by`: adds into `dz`, and `dw . z` into `along`.
    pub(super) fn scale_backward(
        s: S,
        by: f32,
        columns: usize,
        z: &'a [f32],
        dw: DWeights<'a>,
        dz: &'a mut [f32],
        along: &'a mut f32,
    ) {
        let mut total = s.splat(0.0);
        for (r, (z, dz)) in z.chunks_exact(columns).zip(dz.chunks_exact_mut(columns)).enumerate() {
            for c in (0..columns).step_by(S::LANES) {
                let d = dw.get(s, columns, r, c);
                add_to(s, dz, c, s.mul(d, s.splat(by)));
                total = s.fma(d, get(s, z, c), total);
            }
        }
        *along += s.sum(total);
    }

    pub(super) fn sigmoid(s: S, z: &'a [f32], w: &'a mut [f32]) {
        for c in (0..z.len()).step_by(S::LANES) {
            put(s, w, c, s.sigmoid(get(s, z, c)));
        }
    }

    /// Transpose of `sigmoid` with result `w`; adds.
    pub(super) fn sigmoid_backward(s: S, columns: usize, w: &'a [f32], dw: DWeights<'a>, dz: &'a mut [f32]) {
        for (r, (w, dz)) in w.chunks_exact(columns).zip(dz.chunks_exact_mut(columns)).enumerate() {
            for c in (0..columns).step_by(S::LANES) {
                let x = get(s, w, c);
                add_to(s, dz, c, s.mul(dw.get(s, columns, r, c), s.mul(x, s.sub(s.splat(1.0), x))));
            }
        }
    }
}
