//! Operations on padded rows: lengths are multiples of the widest vector.

use crate::simd::Simd;

/// Runs `body` with the offset of each vector of `n` values. A macro and not a function of a closure, because a
/// closure is compiled without the instruction set of the function around it.
macro_rules! vectors {
    ($S:ident, $n:expr, |$at:ident| $body:expr) => {{
        let n: usize = $n;
        debug_assert!(n.is_multiple_of($S::LANES));
        let mut $at = 0;
        while $at + $S::LANES <= n {
            $body;
            $at += $S::LANES;
        }
    }};
}

/// `y = a x`.
#[inline(always)]
pub(super) fn scaled<S: Simd>(s: S, a: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    let (a, xp, yp) = (s.splat(a), x.as_ptr(), y.as_mut_ptr());
    // SAFETY: both rows hold a whole vector at each offset.
    vectors!(S, x.len(), |at| unsafe { s.store(yp.add(at), s.mul(a, s.load(xp.add(at)))) });
}

/// `y += a x`.
#[inline(always)]
pub(super) fn add_scaled<S: Simd>(s: S, a: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    let (a, xp, yp) = (s.splat(a), x.as_ptr(), y.as_mut_ptr());
    // SAFETY: both rows hold a whole vector at each offset.
    vectors!(S, x.len(), |at| unsafe { s.store(yp.add(at), s.fma(a, s.load(xp.add(at)), s.load(yp.add(at)))) });
}

/// `z = x y`, entry by entry.
#[inline(always)]
pub(super) fn times<S: Simd>(s: S, x: &[f32], y: &[f32], z: &mut [f32]) {
    assert!(x.len() == y.len() && x.len() == z.len());
    let (xp, yp, zp) = (x.as_ptr(), y.as_ptr(), z.as_mut_ptr());
    // SAFETY: all rows hold a whole vector at each offset.
    vectors!(S, x.len(), |at| unsafe { s.store(zp.add(at), s.mul(s.load(xp.add(at)), s.load(yp.add(at)))) });
}

/// `y *= x`, entry by entry.
#[inline(always)]
pub(super) fn scale_each<S: Simd>(s: S, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    let (xp, yp) = (x.as_ptr(), y.as_mut_ptr());
    // SAFETY: both rows hold a whole vector at each offset.
    vectors!(S, x.len(), |at| unsafe { s.store(yp.add(at), s.mul(s.load(xp.add(at)), s.load(yp.add(at)))) });
}

/// The transpose of `x y`, entry by entry, in `x` and `y` both: `dx = d y`, or `dx += d y` if `add`, and then `d *= x`.
#[inline(always)]
pub(super) fn times_backward<S: Simd>(s: S, x: &[f32], y: &[f32], add: bool, dx: &mut [f32], d: &mut [f32]) {
    assert!(x.len() == d.len() && y.len() == d.len() && dx.len() == d.len());
    let (xp, yp, dxp, dp) = (x.as_ptr(), y.as_ptr(), dx.as_mut_ptr(), d.as_mut_ptr());
    // SAFETY: all rows hold a whole vector at each offset.
    vectors!(S, d.len(), |at| unsafe {
        let (x, y, d) = (s.load(xp.add(at)), s.load(yp.add(at)), s.load(dp.add(at)));
        s.store(dxp.add(at), if add { s.fma(d, y, s.load(dxp.add(at))) } else { s.mul(d, y) });
        s.store(dp.add(at), s.mul(x, d));
    });
}

/// Sum of products, by lane first, then across.
#[inline(always)]
pub(super) fn dot<S: Simd>(s: S, x: &[f32], y: &[f32]) -> f32 {
    assert_eq!(x.len(), y.len());
    let mut sums = [s.splat(0.0); 4];
    let (xp, yp) = (x.as_ptr(), y.as_ptr());
    let mut at = 0;
    while at + 4 * S::LANES <= x.len() {
        for (j, sum) in sums.iter_mut().enumerate() {
            let at = at + j * S::LANES;
            // SAFETY: both rows hold four whole vectors here.
            *sum = unsafe { s.fma(s.load(xp.add(at)), s.load(yp.add(at)), *sum) };
        }
        at += 4 * S::LANES;
    }
    while at + S::LANES <= x.len() {
        // SAFETY: both rows hold a whole vector here.
        sums[0] = unsafe { s.fma(s.load(xp.add(at)), s.load(yp.add(at)), sums[0]) };
        at += S::LANES;
    }
    s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}

/// `to = a x + b y`.
#[inline(always)]
pub(super) fn combine<S: Simd>(s: S, a: f32, x: &[f32], b: f32, y: &[f32], to: &mut [f32]) {
    assert!(x.len() == to.len() && y.len() == to.len());
    let (a, b, xp, yp, tp) = (s.splat(a), s.splat(b), x.as_ptr(), y.as_ptr(), to.as_mut_ptr());
    // SAFETY: all rows hold a whole vector at each offset.
    vectors!(S, x.len(), |at| unsafe {
        s.store(tp.add(at), s.fma(b, s.load(yp.add(at)), s.mul(a, s.load(xp.add(at)))))
    });
}

/// Copies rows of `width` values into rows of `to` values; the space behind each, and the rows up to the end of
/// `dst`, become zero.
pub(crate) fn pad(src: &[f32], width: usize, dst: &mut [f32], to: usize) {
    if width == to {
        let (head, tail) = dst.split_at_mut(src.len());
        head.copy_from_slice(src);
        tail.fill(0.0);
        return;
    }
    dst.fill(0.0);
    if width > 0 {
        for (src, dst) in src.chunks_exact(width).zip(dst.chunks_exact_mut(to)) {
            dst[..width].copy_from_slice(src);
        }
    }
}

/// Copies the first `width` values of each row of `from` values into the rows of `dst`.
pub(crate) fn unpad(src: &[f32], from: usize, dst: &mut [f32], width: usize) {
    if width == 0 {
        return;
    }
    for (src, dst) in src.chunks_exact(from).zip(dst.chunks_exact_mut(width)) {
        dst.copy_from_slice(&src[..width]);
    }
}

/// Adds the first `width` values of each row of `from` values into the rows of `dst`.
pub(super) fn unpad_add(src: &[f32], from: usize, dst: &mut [f32], width: usize) {
    if width == 0 {
        return;
    }
    for (src, dst) in src.chunks_exact(from).zip(dst.chunks_exact_mut(width)) {
        for (dst, &src) in dst.iter_mut().zip(src) {
            *dst += src;
        }
    }
}
