//! Codes, the gradient of a code's squared error, and the transposes of both. Lists hold a value per slot, without
//! padding.
//!
//! With s = silu(z), J the symmetric derivative of the normalisation at s, and e = phi(z) - target:
//!
//! ```text
//! u  = silu'(z) J e                       dg = silu'(z) du,   de = J dg = -dtarget
//! dz = silu'(z) ds + silu''(z) (J e) du   ds = J de + what J itself moves, between e and dg
//! ```

use crate::kernels::miras::pointwise::{activation, along, moments, total};
use crate::kernels::vector::{dot, get, put};
use crate::rules::miras::HiddenActivation;
use crate::rules::trellis::Code;
use crate::simd::Simd;

/// Inside the root of a unit code's length; that of the reference.
const LENGTH: f32 = 1e-6;

/// Lists that the transposes are made in.
pub(super) const LISTS: usize = 6;

/// What a normalisation does at s: mean, and one over deviation or length.
#[derive(Clone, Copy)]
struct At {
    mean: f32,
    inverse: f32,
}

impl At {
    #[inline(always)]
    fn of<S: Simd>(s: S, code: Code, x: &[f32]) -> Self {
        if code == Code::LnSilu {
            let (mean, inverse) = moments(s, x);
            Self { mean, inverse }
        } else {
            Self { mean: 0.0, inverse: 1.0 / (dot(s, x, x) + LENGTH).sqrt() }
        }
    }
    /// `n = (x - mean) inverse`, less `target` where there is one.
    #[inline(always)]
    fn unit<S: Simd>(self, s: S, x: &[f32], target: Option<&[f32]>, n: &mut [f32]) {
        for c in (0..n.len()).step_by(S::LANES) {
            let mut unit = s.mul(s.sub(get(s, x, c), s.splat(self.mean)), s.splat(self.inverse));
            if let Some(target) = target {
                unit = s.sub(unit, get(s, target, c));
            }
            put(s, n, c, unit);
        }
    }
    /// `to = J y`.
    #[inline(always)]
    fn slope<S: Simd>(self, s: S, code: Code, x: &[f32], y: &[f32], to: &mut [f32]) {
        let inner = along(s, x, (self.mean, self.inverse), y);
        let (mean, inner) = if code == Code::LnSilu {
            let count = x.len() as f32;
            (total(s, y) / count, inner / count)
        } else {
            (0.0, inner)
        };
        for c in (0..to.len()).step_by(S::LANES) {
            let unit = s.mul(s.sub(get(s, x, c), s.splat(self.mean)), s.splat(self.inverse));
            let rest = s.sub(s.sub(get(s, y, c), s.splat(mean)), s.mul(unit, s.splat(inner)));
            put(s, to, c, s.mul(s.splat(self.inverse), rest));
        }
    }
    /// Adds to `dx` what `y . J e` moves by with x, for `g = J e` and `d = J y`.
    #[inline(always)]
    fn bend<S: Simd>(self, s: S, code: Code, x: &[f32], [e, g, y, d]: [&[f32]; 4], dx: &mut [f32]) {
        let at = (self.mean, self.inverse);
        let count = if code == Code::LnSilu { x.len() as f32 } else { 1.0 };
        let (of_e, of_y) = (along(s, x, at, e) / count, along(s, x, at, y) / count);
        let means = if code == Code::LnSilu { total(s, e) * total(s, y) / count } else { 0.0 };
        let both = (dot(s, e, y) - means) / count - of_e * of_y;
        let by = s.splat(-both * self.inverse * self.inverse);
        let (of_e, of_y) = (s.splat(-of_e * self.inverse), s.splat(-of_y * self.inverse));
        for c in (0..dx.len()).step_by(S::LANES) {
            let unit = s.mul(s.sub(get(s, x, c), s.splat(self.mean)), s.splat(self.inverse));
            let moved = s.fma(by, unit, s.fma(of_e, get(s, d, c), s.mul(of_y, get(s, g, c))));
            put(s, dx, c, s.add(get(s, dx, c), moved));
        }
    }
}

/// The first `n` values of each list. No closure: it would be compiled without the instructions of its kernel.
#[inline(always)]
fn cut<'a>([a, b, c, d, e, f]: &'a mut [&mut [f32]; LISTS], n: usize) -> [&'a mut [f32]; LISTS] {
    [&mut a[..n], &mut b[..n], &mut c[..n], &mut d[..n], &mut e[..n], &mut f[..n]]
}

/// silu(z), and its slope in `slope` unless that is empty.
#[inline(always)]
fn silu<S: Simd>(s: S, z: &[f32], value: &mut [f32], slope: &mut [f32]) {
    for c in (0..z.len()).step_by(S::LANES) {
        let [x, dx, _] = activation(s, HiddenActivation::Silu, get(s, z, c));
        put(s, value, c, x);
        put(s, slope, c, dx);
    }
}

/// `out = code(z)`.
#[inline(always)]
pub(super) fn apply<S: Simd>(s: S, code: Code, z: &[f32], out: &mut [f32], lists: &mut [&mut [f32]; LISTS]) {
    if code == Code::Identity {
        return out.copy_from_slice(z);
    }
    let [x, ..] = cut(lists, z.len());
    silu(s, z, x, &mut []);
    At::of(s, code, x).unit(s, x, None, out);
}

/// Transpose of [`apply`]: the gradient of z, overwritten.
#[inline(always)]
pub(super) fn apply_backward<S: Simd>(
    s: S,
    code: Code,
    z: &[f32],
    dout: &[f32],
    dz: &mut [f32],
    lists: &mut [&mut [f32]; LISTS],
) {
    if code == Code::Identity {
        return dz.copy_from_slice(dout);
    }
    let [x, slope, ..] = cut(lists, z.len());
    silu(s, z, x, slope);
    At::of(s, code, x).slope(s, code, x, dout, dz);
    times(s, slope, dz);
}

/// The gradient `u` of half the squared error of a code with respect to z.
#[inline(always)]
pub(super) fn error<S: Simd>(
    s: S,
    code: Code,
    z: &[f32],
    target: &[f32],
    u: &mut [f32],
    lists: &mut [&mut [f32]; LISTS],
) {
    if code == Code::Identity {
        for c in (0..z.len()).step_by(S::LANES) {
            put(s, u, c, s.sub(get(s, z, c), get(s, target, c)));
        }
        return;
    }
    let [x, slope, e, ..] = cut(lists, z.len());
    silu(s, z, x, slope);
    let at = At::of(s, code, x);
    at.unit(s, x, Some(target), e);
    at.slope(s, code, x, e, u);
    times(s, slope, u);
}

/// Transpose of [`error`]: overwrites `dz`, adds into `dtarget`.
#[inline(always)]
pub(super) fn error_backward<S: Simd>(
    s: S,
    code: Code,
    [z, target, du]: [&[f32]; 3],
    dz: &mut [f32],
    dtarget: &mut [f32],
    lists: &mut [&mut [f32]; LISTS],
) {
    if code == Code::Identity {
        dz.copy_from_slice(du);
        return less(s, du, dtarget);
    }
    let [x, slope, e, g, dg, de] = cut(lists, z.len());
    silu(s, z, x, slope);
    let at = At::of(s, code, x);
    at.unit(s, x, Some(target), e);
    at.slope(s, code, x, e, g);
    dg.copy_from_slice(du);
    times(s, slope, dg);
    at.slope(s, code, x, dg, de);
    less(s, de, dtarget);
    at.slope(s, code, x, de, dz);
    at.bend(s, code, x, [e, g, dg, de], dz);
    for c in (0..z.len()).step_by(S::LANES) {
        let [_, slope, bend] = activation(s, HiddenActivation::Silu, get(s, z, c));
        let bent = s.mul(bend, s.mul(get(s, g, c), get(s, du, c)));
        put(s, dz, c, s.fma(slope, get(s, dz, c), bent));
    }
}

/// `y *= x`.
#[inline(always)]
fn times<S: Simd>(s: S, x: &[f32], y: &mut [f32]) {
    for c in (0..x.len()).step_by(S::LANES) {
        put(s, y, c, s.mul(get(s, x, c), get(s, y, c)));
    }
}

/// `y -= x`.
#[inline(always)]
fn less<S: Simd>(s: S, x: &[f32], y: &mut [f32]) {
    for c in (0..x.len()).step_by(S::LANES) {
        put(s, y, c, s.sub(get(s, y, c), get(s, x, c)));
    }
}
