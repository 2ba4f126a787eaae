//! One row times a matrix whose rows are contiguous: what decoding does with every weight.
//!
//! The matrix passes by once, so its speed is that of the cache that holds it: strips are as wide as the registers
//! allow, for the longest runs of memory and the most sums at a time.

use super::{Product, Start, even_parts};
use crate::simd::{Simd, Vectorized};

/// Rows between the one at work and the one that is asked for.
const AHEAD: usize = 8;

/// Most vectors of a strip: half of the registers for its sums.
const fn widest<S: Simd>() -> usize {
    S::REGISTERS / 2
}

/// Computes a product with `m` = 1, `k` > 0 and a right operand of contiguous rows.
///
/// # Safety
/// The three matrices must be valid for their extents, and `c` must overlap neither operand.
#[inline(always)]
pub(super) unsafe fn run<S: Simd>(s: S, p: Product) {
    debug_assert!(p.m == 1 && p.b.col_stride == 1);
    for (first, vectors) in even_parts(p.n.div_ceil(S::LANES), widest::<S>()) {
        let j = first * S::LANES;
        let columns = (vectors * S::LANES).min(p.n - j);
        let part = Product { n: columns, b: p.b.at(0, j), c: p.c.wrapping_add(j), ..p };
        strip(s, vectors, part);
    }
}

macro_rules! dispatch {
    ($s:ident, $vectors:ident, $p:ident: $($V:literal)*) => {
        match ($vectors, $p.n < $vectors * S::LANES) {
            $(
                ($V, false) if const { $V <= widest::<S>() } => {
                    if const { $V <= widest::<S>() } { $s.outline(Strip::<$V, false>($p)) }
                }
                ($V, true) if const { $V <= widest::<S>() } => {
                    if const { $V <= widest::<S>() } { $s.outline(Strip::<$V, true>($p)) }
                }
            )*
            _ => unreachable!("a strip of {} vectors does not fit into registers", $vectors),
        }
    };
}

#[inline(always)]
fn strip<S: Simd>(s: S, vectors: usize, p: Product) {
    dispatch!(s, vectors, p: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16)
}

/// A strip of `V` vectors, of which the last reaches past the columns if `CUT`.
struct Strip<const V: usize, const CUT: bool>(Product);

impl<const V: usize, const CUT: bool> Vectorized for Strip<V, CUT> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self(p) = self;
        let last = p.n - (V - 1) * S::LANES;
        let cut = |v: usize| CUT && v == V - 1;
        // SAFETY: whoever called `run` above vouches for the matrices; the last vector is cut where they end.
        unsafe {
            let mut sums = [s.splat(0.0); V];
            if p.start == Start::Current {
                for (v, sum) in sums.iter_mut().enumerate() {
                    let c = p.c.add(v * S::LANES);
                    *sum = if cut(v) { s.load_first(c, last) } else { s.load(c) };
                }
            }
            // Contiguous strips come by themselves.
            let far = p.b.row_stride > V * S::LANES;
            let (mut a, mut b) = (p.a.data, p.b.data);
            for _ in 0..p.k {
                let x = s.splat(*a);
                if far {
                    for v in 0..V {
                        s.prefetch(b.wrapping_add(AHEAD * p.b.row_stride + v * S::LANES));
                    }
                }
                for (v, sum) in sums.iter_mut().enumerate() {
                    let b = b.add(v * S::LANES);
                    *sum = s.fma(x, if cut(v) { s.load_first(b, last) } else { s.load(b) }, *sum);
                }
                a = a.wrapping_add(p.a.col_stride);
                b = b.wrapping_add(p.b.row_stride);
            }
            for (v, &sum) in sums.iter().enumerate() {
                let c = p.c.add(v * S::LANES);
                if cut(v) { s.store_first(c, last, sum) } else { s.store(c, sum) }
            }
        }
    }
}
