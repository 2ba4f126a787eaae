//! What local memories are asked: queries, brought to where keys were [TNT v1 eq.7].
//!
//! ```text
//! G' = G + k k^T / |k|^2        since the start of the shard, or of the chunk
//! ```
//!
//! That is a Gram matrix, not a projector: it lengthens a query by up to the number of similar keys, hundreds of times
//! in a long shard.

use crate::rules::matrix::{add_outer, add_scaled, apply, apply_transposed, dot};
use crate::rules::miras::smooth::{norm, norm_backward};
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// How queries of local memories are brought to where keys were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Projection {
    /// `G q` over the keys of the shard, as long as `q`. Unlike the paper, whose sum grows with the shard.
    #[default]
    Shard,
    /// `G q` over the keys of the shard [TNT v1 sec.C].
    ShardRaw,
    /// `G q` over the keys of the local memory's chunk; of the token alone, where that has one token [TNT v1 eq.7].
    Chunk,
    /// A projector: `K^T (K K^T + ridge I)^-1 K q` over the unit keys K of the shard, token by token. Unlike the paper,
    /// which says projection and sums.
    Orth,
    /// The query itself: an ablation.
    None,
}

/// What keeps the length of `G q` from zero: a query unlike every key so far has no direction there.
pub(crate) const FLOOR: f64 = 1e-3;
/// What keeps the projector smooth where a key repeats.
pub(crate) const RIDGE: f64 = 1e-3;

impl Projection {
    /// How many matrices the state holds for so many locals.
    pub(super) fn count(self, locals: usize) -> usize {
        match self {
            Projection::Shard | Projection::ShardRaw | Projection::Orth => 1,
            Projection::Chunk => locals,
            Projection::None => 0,
        }
    }

    /// Operations per entry of a matrix, its write and its read.
    pub(super) fn flops(self) -> f64 {
        if self == Projection::Orth { 6.0 } else { 4.0 }
    }

    /// Takes a key into the matrix.
    pub(super) fn see<F: Scalar>(self, g: &mut [F], k: &[F]) {
        let unit = unit(k);
        if self == Projection::Orth {
            let (e, c) = outside(g, &unit);
            add_outer(g, F::one() / c, &e, &e);
        } else {
            add_outer(g, F::one(), &unit, &unit);
        }
    }

    /// Transpose of [`Projection::see`]; `g` is the matrix before. In: `dg` = dL/dG'. Out: dL/dG. Adds into `dk`.
    pub(super) fn see_backward<F: Scalar>(self, g: &[F], k: &[F], dg: &mut [F], dk: &mut [F]) {
        let unit = unit(k);
        let both = |x: &[F], dg: &[F]| {
            let mut out = apply(dg, x);
            add_scaled(&mut out, F::one(), &apply_transposed(dg, x));
            out
        };
        let mut dunit;
        if self == Projection::Orth {
            // G' = G + e e^T / c,  c = u . e + ridge,  e = u - G u
            let (e, c) = outside(g, &unit);
            let mut de = both(&e, dg);
            de.iter_mut().for_each(|d| *d /= c);
            let dc = -dot(&apply(dg, &e), &e) / (c * c);
            add_scaled(&mut de, dc, &unit);
            dunit = de.clone();
            add_scaled(&mut dunit, dc, &e);
            add_scaled(&mut dunit, -F::one(), &apply_transposed(g, &de));
            add_outer(dg, -F::one(), &de, &unit);
        } else {
            dunit = both(&unit, dg);
        }
        let n = norm(k);
        norm_backward(k, -dot(&dunit, &unit) / n, dk);
        add_scaled(dk, F::one() / n, &dunit);
    }

    /// What a local memory is asked; `g` is there unless the projection has no matrix.
    pub(super) fn project<F: Scalar>(self, g: Option<&[F]>, q: &[F]) -> Vec<F> {
        let Some(g) = g else { return q.to_vec() };
        let mut u = apply(g, q);
        if self == Projection::Shard {
            let by = norm(q) / length(&u);
            u.iter_mut().for_each(|u| *u *= by);
        }
        u
    }

    /// Transpose of [`Projection::project`]; adds into `dg` and `dq`.
    pub(super) fn project_backward<F: Scalar>(
        self,
        g: Option<&[F]>,
        q: &[F],
        dout: &[F],
        dg: Option<&mut [F]>,
        dq: &mut [F],
    ) {
        let (Some(g), Some(dg)) = (g, dg) else { return add_scaled(dq, F::one(), dout) };
        let mut du = dout.to_vec();
        if self == Projection::Shard {
            let u = apply(g, q);
            let (s, n) = (norm(q), length(&u));
            let along = dot(dout, &u);
            norm_backward(q, along / n, dq);
            du.iter_mut().for_each(|d| *d *= s / n);
            add_scaled(&mut du, -along * s / (n * n * n), &u);
        }
        add_outer(dg, F::one(), &du, q);
        add_scaled(dq, F::one(), &apply_transposed(g, &du));
    }
}

fn unit<F: Scalar>(k: &[F]) -> Vec<F> {
    let n = norm(k);
    k.iter().map(|&k| k / n).collect()
}

/// The part of a unit key outside the projector, and what a step towards it is divided by.
fn outside<F: Scalar>(g: &[F], unit: &[F]) -> (Vec<F>, F) {
    let mut e = unit.to_vec();
    add_scaled(&mut e, -F::one(), &apply(g, unit));
    let c = dot(unit, &e) + F::from_f64(RIDGE);
    (e, c)
}

/// Length, with a floor.
fn length<F: Scalar>(u: &[F]) -> F {
    (dot(u, u) + F::from_f64(FLOOR * FLOOR)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn off(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).fold(0.0, |m, (a, b)| m.max((a - b).abs()))
    }

    #[test]
    fn the_projector_keeps_what_keys_span_and_drops_the_rest_however_often_they_repeat() {
        let mut g = vec![0.0_f64; 9];
        for t in 0..50 {
            Projection::Orth.see(&mut g, if t % 2 == 0 { &[2.0, 0.0, 0.0] } else { &[0.3, 0.3, 0.0] });
        }
        let got = Projection::Orth.project(Some(&g), &[0.5, -1.0, 2.0]);
        assert!(off(&got, &[0.5, -1.0, 0.0]) < 1e-3, "{got:?}");
    }

    #[test]
    fn the_sum_lengthens_queries_and_the_default_does_not() {
        let (mut g, k) = (vec![0.0_f64; 4], [0.6, 0.8]);
        for _ in 0..20 {
            Projection::Shard.see(&mut g, &k);
        }
        assert!(off(&Projection::ShardRaw.project(Some(&g), &k), &[12.0, 16.0]) < 1e-9);
        assert!(off(&Projection::Shard.project(Some(&g), &k), &k) < 1e-6);
        assert!(off(&Projection::None.project(None, &k), &k) == 0.0);
    }
}
