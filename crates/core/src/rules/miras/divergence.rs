//! Retentions that stay near the last memory by an f-divergence [Miras v1 eq.18]: what a step does to a row of weights
//! that sums to its length.
//!
//! ```text
//! argmin over W of <W, -step> + D_f(W, Wd) with sum W = n        gives        W' = Wd g(step - zeta)
//! ```
//!
//! with `g` the inverse of `f'` and one `zeta` per row, such that the row sums to `n`. The sum falls as zeta grows, so
//! bisection finds zeta, in f64, and one Newton step from there has its derivative. KL has a closed form, and a file of
//! its own.

use crate::scalar::Scalar;

/// The function `g` of a divergence.
pub(super) trait Divergence {
    /// The inverse of `f'`.
    fn g<F: Scalar>(y: F) -> F;
    /// Its derivative.
    fn slope<F: Scalar>(y: F) -> F;
    /// Where zeta lies: at the lower end the row sums to at least `mass`, at the upper one to at most that. `row` holds
    /// weights above zero and their steps.
    fn bracket(row: &[(f64, f64)], mass: f64) -> (f64, f64);
}

/// Weights of a row and how each came from the state: a learned start may hold any number, of which the size counts.
fn weights<F: Scalar>(z: &[F]) -> Vec<F> {
    let all: Vec<F> = z.iter().map(|&z| if z.value() < 0.0 { -z } else { z }).collect();
    // A row of nothing cannot be multiplied into something; it starts anew.
    if all.iter().all(|w| w.value() == 0.0) { vec![F::one(); z.len()] } else { all }
}

fn zeta<D: Divergence, F: Scalar>(w: &[F], step: &[F]) -> F {
    let mass = w.len() as f64;
    let live = || w.iter().zip(step).filter(|(w, _)| w.value() > 0.0);
    let row: Vec<(f64, f64)> = live().map(|(w, s)| (w.value(), s.value())).collect();
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
    let sum = live().map(|(&w, &s)| w * D::g(s - at)).sum::<F>();
    let slope = live().map(|(w, s)| w.detach() * D::slope(s.detach() - at)).sum::<F>();
    at + (sum - F::from_f64(mass)) / slope
}

/// Settles the rows of `z`, `columns` wide, under the gathered `step`.
pub(super) fn settle<D: Divergence, F: Scalar>(columns: usize, z: &mut [F], step: &[F]) {
    for (z, step) in z.chunks_exact_mut(columns).zip(step.chunks_exact(columns)) {
        let w = weights(z);
        let zeta = zeta::<D, F>(&w, step);
        for ((z, &w), &s) in z.iter_mut().zip(&w).zip(step) {
            *z = if w.value() > 0.0 { w * D::g(s - zeta) } else { F::zero() };
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
        let zeta = zeta::<D, F>(&w, step);
        let live = |i: usize| w[i].value() > 0.0;
        let slopes: Vec<F> =
            (0..columns).map(|i| if live(i) { w[i] * D::slope(step[i] - zeta) } else { F::zero() }).collect();
        let dzeta = -slopes.iter().zip(&*dz).map(|(&s, &d)| s * d).sum::<F>();
        // sum w g(step - zeta) = n ties zeta to the weights and the steps.
        let share = dzeta / slopes.iter().copied().sum::<F>();
        for i in 0..columns {
            let d = dz[i];
            dstep[i] += (d + share) * slopes[i];
            let dw = if live(i) { (d + share) * D::g(step[i] - zeta) } else { F::zero() };
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
