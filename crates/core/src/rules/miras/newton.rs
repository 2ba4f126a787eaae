//! Recursive least squares: the exact minimiser of all squared errors so far, discounted [Mesa v1 sec.3].
//!
//! ```text
//! Pd = P / retain                      retain floored, so that P cannot grow without bound in one token
//! g  = Pd k / (1 + k . Pd k)
//! W' = W - (W k - v) g^T
//! P' = (Pd - g (Pd k)^T) shrunk to its largest trace
//! ```
//!
//! The bound on the trace keeps P finite when keys stop exciting some direction while old errors are discounted.

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
    pd: Vec<F>,
    pk: Vec<F>,
    /// `1 + k . Pd k`.
    divisor: F,
    g: Vec<F>,
    e: Vec<F>,
    /// P' before it is shrunk.
    p: Vec<F>,
}

impl Miras {
    fn newton<F: Scalar>(&self, plan: &Plan, slots: &Slots, x: &[&[F]], state: &[F]) -> Parts<F> {
        let coefficients = slots.coefficients.map_or(&[][..], |i| x[i]);
        let phi = self.features(plan, x[0], coefficients);
        let least = F::from_f64(LEAST_RETAIN);
        let retain = slots.retain.map_or(F::one(), |i| if x[i][0] > least { x[i][0] } else { least });
        let pd: Vec<F> = state[plan.at.p.clone()].iter().map(|&p| p / retain).collect();
        let pk = apply(&pd, &phi);
        let divisor = F::one() + dot(&phi, &pk);
        let g: Vec<F> = pk.iter().map(|&x| x / divisor).collect();
        let e = error(&state[plan.at.z.clone()], &phi, x[1]);
        let mut p = pd.clone();
        add_outer(&mut p, -F::one(), &g, &pk);
        Parts { retain, phi, pd, pk, divisor, g, e, p }
    }

    pub(super) fn write_newton<F: Scalar>(&self, plan: &Plan, slots: &Slots, x: &[&[F]], state: &mut [F]) {
        let parts = self.newton(plan, slots, x, state);
        add_outer(&mut state[plan.at.z.clone()], -F::one(), &parts.e, &parts.g);
        let by = shrink(&parts.p, plan.inner.dk).unwrap_or(F::one());
        for (p, &new) in state[plan.at.p.clone()].iter_mut().zip(&parts.p) {
            *p = new * by;
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
        let Parts { retain, phi, pd, pk, divisor, g, e, p } = self.newton(plan, slots, x, prev);
        let w = &prev[plan.at.z.clone()];
        let mut dp = dstate[plan.at.p.clone()].to_vec();
        if let Some(by) = shrink(&p, n) {
            // by = most / trace
            let dby = dot(&dp, &p);
            dp.iter_mut().for_each(|d| *d *= by);
            let dtrace = -dby * by * by / F::from_f64(MOST_TRACE);
            (0..n).for_each(|i| dp[i * n + i] += dtrace);
        }
        // P' = Pd - g (Pd k)^T
        let mut dg: Vec<F> = apply(&dp, &pk).iter().map(|&d| -d).collect();
        let mut dpk: Vec<F> = apply_transposed(&dp, &g).iter().map(|&d| -d).collect();
        let mut dpd = dp;
        // W' = W - e g^T
        let dw = dstate[plan.at.z.clone()].to_vec();
        let de: Vec<F> = apply(&dw, &g).iter().map(|&d| -d).collect();
        add_scaled(&mut dg, -F::one(), &apply_transposed(&dw, &e));
        // e = W k - v
        let mut dphi = apply_transposed(w, &de);
        add_outer(&mut dstate[plan.at.z.clone()], F::one(), &de, &phi);
        add_scaled(dx[1], -F::one(), &de);
        // g = Pd k / (1 + k . Pd k)
        add_scaled(&mut dpk, F::one() / divisor, &dg);
        let ddivisor = -dot(&dg, &g) / divisor;
        add_scaled(&mut dpk, ddivisor, &phi);
        add_scaled(&mut dphi, ddivisor, &pk);
        // Pd k
        add_outer(&mut dpd, F::one(), &dpk, &phi);
        add_scaled(&mut dphi, F::one(), &apply_transposed(&pd, &dpk));
        // Pd = P / retain
        if let Some(i) = slots.retain
            && x[i][0] > F::from_f64(LEAST_RETAIN)
        {
            dx[i][0] += -dot(&dpd, &pd) / retain;
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
