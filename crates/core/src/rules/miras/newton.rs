//! Recursive least squares: the exact minimiser of all squared errors so far, discounted [Mesa v1 sec.3].
//!
//! ```text
//! Pd = P / retain, shrunk to its largest trace          retain floored, so that P is never divided by nothing
//! g  = Pd k / (1 + k . Pd k)
//! W' = W - (W k - v) g^T
//! P' = Pd - (Pd k) (Pd k)^T / (1 + k . Pd k)
//! ```
//!
//! The bound on the trace keeps P finite when keys stop exciting some direction while old errors are discounted. It comes
//! before the update, whose difference would otherwise be lost among the last bits of a large P, and P stays symmetric to
//! the bit. Where rounding has made `k . Pd k` negative all the same, P says nothing about k, and the token writes nothing.

use super::Miras;
use super::plan::{Plan, Slots};
use crate::rules::matrix::{add_outer, add_scaled, apply, apply_transposed, dot, error};
use crate::scalar::Scalar;

/// Smallest discount of one token.
const LEAST_RETAIN: f64 = 1e-3;
/// Largest trace of P.
const MOST_TRACE: f64 = 1e3;

/// What a write is made of on the way.
struct Parts<F> {
    retain: F,
    phi: Vec<F>,
    /// `P / retain`, and what it is shrunk by, if it is.
    raw: Vec<F>,
    by: Option<F>,
    pd: Vec<F>,
    pk: Vec<F>,
    /// True if rounding has made `k . Pd k` negative: `Pd k` is then left out.
    lost: bool,
    /// `1 + k . Pd k`.
    divisor: F,
    g: Vec<F>,
    e: Vec<F>,
}

impl Miras {
    fn newton<F: Scalar>(&self, plan: &Plan, slots: &Slots, x: &[&[F]], state: &[F]) -> Parts<F> {
        let coefficients = slots.coefficients.map_or(&[][..], |i| x[i]);
        let phi = self.features(plan, x[0], coefficients);
        let least = F::from_f64(LEAST_RETAIN);
        let retain = slots.retain.map_or(F::one(), |i| if x[i][0] > least { x[i][0] } else { least });
        let raw: Vec<F> = state[plan.at.p.clone()].iter().map(|&p| p / retain).collect();
        let by = shrink(&raw, plan.inner.dk);
        let pd: Vec<F> = raw.iter().map(|&p| p * by.unwrap_or(F::one())).collect();
        let mut pk = apply(&pd, &phi);
        let lost = dot(&phi, &pk) < F::zero();
        if lost {
            pk.fill(F::zero());
        }
        let divisor = F::one() + dot(&phi, &pk);
        let g: Vec<F> = pk.iter().map(|&x| x / divisor).collect();
        let e = error(&state[plan.at.z.clone()], &phi, x[1]);
        Parts { retain, phi, raw, by, pd, pk, lost, divisor, g, e }
    }

    pub(super) fn write_newton<F: Scalar>(&self, plan: &Plan, slots: &Slots, x: &[&[F]], state: &mut [F]) {
        let Parts { pd, pk, divisor, g, e, .. } = self.newton(plan, slots, x, state);
        add_outer(&mut state[plan.at.z.clone()], -F::one(), &e, &g);
        let n = plan.inner.dk;
        for (i, p) in state[plan.at.p.clone()].iter_mut().enumerate() {
            *p = pd[i] - pk[i / n] * pk[i % n] / divisor;
        }
    }

    /// Transpose of [`Miras::write_newton`].
    pub(super) fn write_newton_backward<F: Scalar>(
        &self,
        plan: &Plan,
        slots: &Slots,
        x: &[&[F]],
        prev: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    ) {
        let n = plan.inner.dk;
        let Parts { retain, phi, raw, by, pd, pk, lost, divisor, g, e } = self.newton(plan, slots, x, prev);
        let w = &prev[plan.at.z.clone()];
        // P' = Pd - (Pd k) (Pd k)^T / divisor
        let mut dpd = dstate[plan.at.p.clone()].to_vec();
        let ahead = apply(&dpd, &pk);
        let mut dpk = vec![F::zero(); n];
        add_scaled(&mut dpk, -(F::one() / divisor), &ahead);
        add_scaled(&mut dpk, -(F::one() / divisor), &apply_transposed(&dpd, &pk));
        let mut ddivisor = dot(&pk, &ahead) / (divisor * divisor);
        // W' = W - e g^T
        let dw = dstate[plan.at.z.clone()].to_vec();
        let de: Vec<F> = apply(&dw, &g).iter().map(|&d| -d).collect();
        let dg: Vec<F> = apply_transposed(&dw, &e).iter().map(|&d| -d).collect();
        // e = W k - v
        let mut dphi = apply_transposed(w, &de);
        add_outer(&mut dstate[plan.at.z.clone()], F::one(), &de, &phi);
        add_scaled(dx[1], -F::one(), &de);
        // g = Pd k / divisor, divisor = 1 + k . Pd k
        add_scaled(&mut dpk, F::one() / divisor, &dg);
        ddivisor += -(dot(&dg, &g) / divisor);
        add_scaled(&mut dpk, ddivisor, &phi);
        add_scaled(&mut dphi, ddivisor, &pk);
        // Pd k
        if !lost {
            add_outer(&mut dpd, F::one(), &dpk, &phi);
            add_scaled(&mut dphi, F::one(), &apply_transposed(&pd, &dpk));
        }
        // Pd = P / retain * by, by = most / trace
        if let Some(by) = by {
            let dby = dot(&dpd, &raw);
            dpd.iter_mut().for_each(|d| *d *= by);
            let dtrace = -(dby * by * by) / F::from_f64(MOST_TRACE);
            (0..n).for_each(|i| dpd[i * n + i] += dtrace);
        }
        if let Some(i) = slots.retain
            && x[i][0] > F::from_f64(LEAST_RETAIN)
        {
            dx[i][0] += -(dot(&dpd, &raw) / retain);
        }
        for (d, &dpd) in dstate[plan.at.p.clone()].iter_mut().zip(&dpd) {
            *d = dpd / retain;
        }
        self.features_backward(plan, slots, x, 0, &dphi, dx);
    }
}

/// What brings the trace down to its bound, if it lies above.
fn shrink<F: Scalar>(p: &[F], n: usize) -> Option<F> {
    let trace: F = (0..n).map(|i| p[i * n + i]).sum();
    let most = F::from_f64(MOST_TRACE);
    (trace > most).then(|| most / trace)
}
