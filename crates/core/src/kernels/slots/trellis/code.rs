//! Codes, the gradient of a code's squared error, and the transposes of both. Lists hold a value per slot, without
//! padding.
//!
//! With s = silu(z), n = phi(z) the normalised s, J the symmetric derivative of the normalisation at s, and
//! e = n - target:
//!
//! ```text
//! u  = silu'(z) J e                       dg = silu'(z) du,   de = J dg = -dtarget
//! dz = silu'(z) ds + silu''(z) (J e) du   ds = J de + what J itself moves, between e and dg
//! ```

use crate::kernels::miras::pointwise::{activation, moments};
use crate::kernels::vector::{dot, get, put};
use crate::rules::miras::HiddenActivation;
use crate::rules::trellis::Code;
use crate::simd::Simd;

/// Inside the root of a unit code's length; that of the reference.
const LENGTH: f32 = 1e-6;

/// Lists that the transposes are made in.
pub(super) const LISTS: usize = 7;

/// `n . y` and the sum of y, each over the number of values for a LayerNorm.
#[derive(Clone, Copy)]
struct Sums {
    along: f32,
    mean: f32,
}

/// What a normalisation does at s, beside the normalised s: one over deviation or length, and over the number of values
/// of a LayerNorm, else 1.
#[derive(Clone, Copy)]
struct At {
    inverse: f32,
    share: f32,
    centred: bool,
}

impl At {
    /// Leaves n, and the first two derivatives of silu unless their lists are empty.
    #[inline(always)]
    fn of<S: Simd>(s: S, code: Code, z: &[f32], n: &mut [f32], slope: &mut [f32], bend: &mut [f32]) -> Self {
        for c in (0..z.len()).step_by(S::LANES) {
            let [value, first, second] = activation(s, HiddenActivation::Silu, get(s, z, c));
            put(s, n, c, value);
            put(s, slope, c, first);
            put(s, bend, c, second);
        }
        let centred = code == Code::LnSilu;
        let (mean, inverse) = if centred { moments(s, n) } else { (0.0, 1.0 / (dot(s, n, n) + LENGTH).sqrt()) };
        for c in (0..z.len()).step_by(S::LANES) {
            let unit = s.mul(s.sub(get(s, n, c), s.splat(mean)), s.splat(inverse));
            put(s, n, c, unit);
        }
        Self { inverse, share: if centred { 1.0 / z.len() as f32 } else { 1.0 }, centred }
    }

    /// `to = J y`; gives the sums of y.
    #[inline(always)]
    fn slope<S: Simd>(self, s: S, n: &[f32], y: &[f32], to: &mut [f32]) -> Sums {
        let (mut along, mut total) = (s.splat(0.0), s.splat(0.0));
        for c in (0..n.len()).step_by(S::LANES) {
            along = s.fma(get(s, n, c), get(s, y, c), along);
            total = s.add(total, get(s, y, c));
        }
        let mean = if self.centred { s.sum(total) * self.share } else { 0.0 };
        let sums = Sums { along: s.sum(along) * self.share, mean };
        let (inner, mean, inverse) = (s.splat(-sums.along), s.splat(sums.mean), s.splat(self.inverse));
        for c in (0..n.len()).step_by(S::LANES) {
            let rest = s.fma(inner, get(s, n, c), s.sub(get(s, y, c), mean));
            put(s, to, c, s.mul(inverse, rest));
        }
        sums
    }

    /// What `y . J e` moves by with n, and with `J y` and `J e` each, for the sums of both and `e . y`.
    #[inline(always)]
    fn bend(self, of_e: Sums, of_y: Sums, both: f32) -> [f32; 3] {
        let means = if self.centred { of_e.mean * of_y.mean } else { 0.0 };
        let with_n = both * self.share - means - of_e.along * of_y.along;
        [-with_n * self.inverse * self.inverse, -of_e.along * self.inverse, -of_y.along * self.inverse]
    }
}

/// The first `n` values of each list. No closure: it would be compiled without the instructions of its kernel.
#[inline(always)]
fn cut<'a>([a, b, c, d, e, f, g]: &'a mut [&mut [f32]; LISTS], n: usize) -> [&'a mut [f32]; LISTS] {
    [&mut a[..n], &mut b[..n], &mut c[..n], &mut d[..n], &mut e[..n], &mut f[..n], &mut g[..n]]
}

/// `out = code(z)`.
#[inline(always)]
pub(super) fn apply<S: Simd>(s: S, code: Code, z: &[f32], out: &mut [f32]) {
    if code == Code::Identity {
        return out.copy_from_slice(z);
    }
    At::of(s, code, z, out, &mut [], &mut []);
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
    let [n, slope, ..] = cut(lists, z.len());
    At::of(s, code, z, n, slope, &mut []).slope(s, n, dout, dz);
    times(s, slope, dz);
}

/// `e = n - target`, or z for n.
#[inline(always)]
fn errors<S: Simd>(s: S, n: &[f32], target: &[f32], e: &mut [f32]) {
    for c in (0..n.len()).step_by(S::LANES) {
        put(s, e, c, s.sub(get(s, n, c), get(s, target, c)));
    }
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
        return errors(s, z, target, u);
    }
    let [n, slope, e, ..] = cut(lists, z.len());
    let at = At::of(s, code, z, n, slope, &mut []);
    errors(s, n, target, e);
    at.slope(s, n, e, u);
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
    let [n, slope, bend, e, g, dg, de] = cut(lists, z.len());
    let at = At::of(s, code, z, n, slope, bend);
    errors(s, n, target, e);
    let of_e = at.slope(s, n, e, g);
    dg.copy_from_slice(du);
    times(s, slope, dg);
    let of_dg = at.slope(s, n, dg, de);
    less(s, de, dtarget);
    at.slope(s, n, de, dz);
    let [with_n, with_de, with_g] = at.bend(of_e, of_dg, dot(s, e, dg));
    let (with_n, with_de, with_g) = (s.splat(with_n), s.splat(with_de), s.splat(with_g));
    for c in (0..z.len()).step_by(S::LANES) {
        let (de, g) = (get(s, de, c), get(s, g, c));
        let ds = s.fma(with_n, get(s, n, c), s.fma(with_de, de, s.fma(with_g, g, get(s, dz, c))));
        let bent = s.mul(get(s, bend, c), s.mul(g, get(s, du, c)));
        put(s, dz, c, s.fma(get(s, slope, c), ds, bent));
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
