//! Retentions that stay near the last memory by an f-divergence [Miras v1 eq.18]: what a step does to a row of weights
//! that sums to its length.
//!
//! ```text
//! argmin over W of <W, -step> + D_f(W, Wd) with sum W = n        gives        W' = Wd g(step - zeta)
//! ```
//!
//! with `g` the inverse of `f'` and one `zeta` per row, such that the row sums to `n`. The sum falls as zeta grows, so
//! bisection finds zeta, in f64, and one Newton step from there has its derivative. A tiny weight under a large step brings
//! zeta as near to that step as the weight is small, so what is found is the distance to the largest step. KL has a closed
//! form, and a file of its own.

use crate::scalar::Scalar;

/// The function `g` of a divergence.
pub(super) trait Divergence {
    /// The inverse of `f'`.
    fn g<F: Scalar>(y: F) -> F;
    /// Its derivative.
    fn slope<F: Scalar>(y: F) -> F;
    /// Where zeta lies: at the lower end the row sums to at least `mass`, at the upper one to at most that. `row` holds
    /// live weights and their steps.
    fn bracket(row: &[(f64, f64)], mass: f64) -> (f64, f64);
}

/// Weights of a row and how each came from the state: a learned start may hold any number, of which the size counts.
fn weights<F: Scalar>(z: &[F]) -> Vec<F> {
    let all: Vec<F> = z.iter().map(|&z| if z.value() < 0.0 { -z } else { z }).collect();
    // A row of nothing cannot be multiplied into something; it starts anew.
    if all.iter().all(|w| w.value() <= LEAST) { vec![F::one(); z.len()] } else { all }
}

/// Smallest weight that is not zero: the square of its root is a number in `f32`.
const LEAST: f64 = 1e-30;

/// `step - zeta` for every weight of a row; only of use where the weight is live.
fn below_zeta<D: Divergence, F: Scalar>(w: &[F], step: &[F]) -> Vec<F> {
    let mass = w.len() as f64;
    let live = |i: &usize| w[*i].value() > LEAST;
    let most = (0..w.len()).filter(live).fold(f64::NEG_INFINITY, |m, i| m.max(step[i].value()));
    let below: Vec<F> = step.iter().map(|&s| s - F::from_f64(most)).collect();
    let row: Vec<(f64, f64)> = (0..w.len()).filter(live).map(|i| (w[i].value(), below[i].value())).collect();
    let (mut low, mut high) = D::bracket(&row, mass);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            break;
        }
        let sum: f64 = row.iter().map(|&(w, s)| w * D::g(s - middle)).sum();
        if sum > mass {
            low = middle;
        } else {
            high = middle;
        }
    }
    let at = F::from_f64(0.5 * (low + high));
    let sum = (0..w.len()).filter(live).map(|i| w[i] * D::g(below[i] - at)).sum::<F>();
    let slope = (0..w.len()).filter(live).map(|i| w[i].detach() * D::slope(below[i].detach() - at)).sum::<F>();
    let zeta = at + (sum - F::from_f64(mass)) / slope;
    below.iter().map(|&b| b - zeta).collect()
}

/// Settles the rows of `z`, `columns` wide, under the gathered `step`.
pub(super) fn settle<D: Divergence, F: Scalar>(columns: usize, z: &mut [F], step: &[F]) {
    for (z, step) in z.chunks_exact_mut(columns).zip(step.chunks_exact(columns)) {
        let w = weights(z);
        let below = below_zeta::<D, F>(&w, step);
        for ((z, &w), &below) in z.iter_mut().zip(&w).zip(&below) {
            *z = if w.value() > LEAST { w * D::g(below) } else { F::zero() };
        }
    }
}

/// Transpose of [`settle`] at `z` before it: `dz` in place, adds into `dstep`.
pub(super) fn settle_backward<D: Divergence, F: Scalar>(
    columns: usize,
    z: &[F],
    step: &[F],
    dz: &mut [F],
    dstep: &mut [F],
) {
    let rows = z.chunks_exact(columns).zip(step.chunks_exact(columns));
    for ((z, step), (dz, dstep)) in rows.zip(dz.chunks_exact_mut(columns).zip(dstep.chunks_exact_mut(columns))) {
        let w = weights(z);
        let below = below_zeta::<D, F>(&w, step);
        let live = |i: usize| w[i].value() > LEAST;
        let slopes: Vec<F> =
            (0..columns).map(|i| if live(i) { w[i] * D::slope(below[i]) } else { F::zero() }).collect();
        let dzeta = -slopes.iter().zip(&*dz).map(|(&s, &d)| s * d).sum::<F>();
        // sum w g(step - zeta) = n ties zeta to the weights and the steps.
        let share = dzeta / slopes.iter().copied().sum::<F>();
        for i in 0..columns {
            let d = dz[i];
            dstep[i] += (d + share) * slopes[i];
            let dw = if live(i) { (d + share) * D::g(below[i]) } else { F::zero() };
            dz[i] = match z[i].value() {
                v if v > 0.0 => dw,
                v if v < 0.0 => -dw,
                _ => F::zero(),
            };
        }
    }
}

/// `psi`: the size of the state; after it has settled, the state itself.
pub(super) fn size<F: Scalar>(z: &[F], w: &mut [F]) {
    for (w, &z) in w.iter_mut().zip(z) {
        *w = if z.value() < 0.0 { -z } else { z };
    }
}

/// Transpose of [`size`]; adds into `dz`.
pub(super) fn size_backward<F: Scalar>(z: &[F], dw: &[F], dz: &mut [F]) {
    for ((dz, &dw), &z) in dz.iter_mut().zip(dw).zip(z) {
        *dz += if z.value() < 0.0 { -dw } else { dw };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::miras::retention::{Chi2, Hellinger, ReverseKl};

    /// A weight far below the last bit of the others, under a step far above theirs, takes the whole row in `f32`.
    #[test]
    fn a_tiny_weight_under_a_large_step_is_found_in_single_precision() {
        fn row<D: Divergence>() -> [f32; 3] {
            let mut z = [1e-24_f32, 1.0, 2.0];
            settle::<D, f32>(3, &mut z, &[40.0, -30.0, 0.0]);
            z
        }
        for (name, z) in [("reverse_kl", row::<ReverseKl>()), ("hellinger", row::<Hellinger>())] {
            let sum: f32 = z.iter().sum();
            assert!((sum - 3.0).abs() < 1e-5 && z[0] > 2.5, "{name}: {z:?}");
        }
        // Chi-square multiplies by a bounded amount, so the row stays with those that had it.
        let z = row::<Chi2>();
        assert!((z.iter().sum::<f32>() - 3.0).abs() < 1e-5 && z[0] < 1e-20, "{z:?}");
    }
}
