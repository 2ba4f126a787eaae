//! The inner gradient and its transpose.
//!
//! ```text
//! G = sum_i gamma_i (dM/dW)(k_i)^T r(M(W, k_i), v_i)
//! ```
//!
//! over the tokens of the window (one without a window, gamma 1). Its transpose needs the second derivative of the
//! structure. That is the structure's own transpose on dual numbers: with `W + eps dG` and `r + eps dp`, the parts
//! behind `eps` are exactly what flows back to the weights and the key.

use super::bias::{Bias, with_bias};
use super::features::{Features, with_features};
use super::plan::{Plan, Slots};
use super::structure::{Structure, with_structure};
use super::{Miras, smooth};
use crate::rules::matrix::{add_scaled, dot};
use crate::scalar::{Dual, Scalar};

/// One association and how it counts.
#[derive(Clone, Copy)]
pub(crate) struct Pair<'a, F> {
    pub k: &'a [F],
    pub v: &'a [F],
    pub threshold: F,
    /// Its weight in the sum.
    pub gamma: F,
    /// The step size, one or per value channel, where the residual is that of an implicit step.
    pub implicit: Option<&'a [F]>,
}

/// Gradients of a [`Pair`].
#[derive(Clone, Debug)]
pub(crate) struct DPair<F> {
    pub k: Vec<F>,
    pub v: Vec<F>,
    pub threshold: F,
    pub gamma: F,
    /// As wide as the step size of an implicit step; empty without one.
    pub rate: Vec<F>,
}

/// What a gradient is made of on the way.
struct Parts<F> {
    phi: Vec<F>,
    p: Vec<F>,
    /// The residual before and after the clip.
    raw: Vec<F>,
    r: Vec<F>,
}

impl Miras {
    /// `M(W, phi(k))`, with the residual connection if the structure has one.
    pub(crate) fn predict<F: Scalar>(&self, plan: &Plan, w: &[F], phi: &[F], k: &[F]) -> Vec<F> {
        let mut p = vec![F::zero(); plan.d.dv];
        with_structure!(&self.structure, s => {
            s.forward(plan.inner, w, phi, &mut p);
            if s.residual() {
                add_scaled(&mut p, F::one(), k);
            }
        });
        p
    }

    pub(crate) fn features<F: Scalar>(&self, plan: &Plan, k: &[F], coefficients: &[F]) -> Vec<F> {
        let mut phi = vec![F::zero(); plan.inner.dk];
        with_features!(&self.features, f => f.forward(k, coefficients, &mut phi));
        phi
    }

    /// Transpose of [`Miras::features`] for input `i`, a key or a query: adds into its gradient and the coefficients'.
    pub(crate) fn features_backward<F: Scalar>(
        &self,
        plan: &Plan,
        slots: &Slots,
        x: &[&[F]],
        i: usize,
        dphi: &[F],
        dx: &mut [&mut [F]],
    ) {
        debug_assert_eq!(dphi.len(), plan.inner.dk);
        let coefficients = slots.coefficients.map_or(&[][..], |c| x[c]);
        let mut dcoefficients = vec![F::zero(); coefficients.len()];
        with_features!(&self.features, f => f.backward(x[i], coefficients, dphi, dx[i], &mut dcoefficients));
        if let Some(c) = slots.coefficients {
            add_scaled(dx[c], F::one(), &dcoefficients);
        }
    }

    fn parts<F: Scalar>(&self, plan: &Plan, w: &[F], x: &Pair<'_, F>, coefficients: &[F]) -> Parts<F> {
        let phi = self.features(plan, x.k, coefficients);
        let p = self.predict(plan, w, &phi, x.k);
        let mut raw = vec![F::zero(); p.len()];
        with_bias!(&self.bias, b => match x.implicit {
            None => b.residual(&p, x.v, x.threshold, &mut raw),
            // Such losses are sums over coordinates, each of which has its own step size.
            Some(rates) => for (j, r) in raw.iter_mut().enumerate() {
                let (at, s) = (j..j + 1, at_channel(rates, j) * dot(&phi, &phi));
                b.implicit(&p[at.clone()], &x.v[at], x.threshold, s, std::slice::from_mut(r));
            },
        });
        let mut r = raw.clone();
        if let Some(most) = self.clip {
            smooth::clip(F::from_f64(most), &mut r);
        }
        Parts { phi, p, raw, r }
    }

    /// Adds `gamma * (dM/dW)^T r` into `g`.
    pub(crate) fn add_gradient<F: Scalar>(
        &self,
        plan: &Plan,
        w: &[F],
        x: Pair<'_, F>,
        coefficients: &[F],
        g: &mut [F],
    ) {
        let Parts { phi, mut r, .. } = self.parts(plan, w, &x, coefficients);
        r.iter_mut().for_each(|r| *r *= x.gamma);
        let mut unused = vec![F::zero(); phi.len()];
        with_structure!(&self.structure, s => s.backward(plan.inner, w, &phi, &r, g, &mut unused));
    }

    /// Transpose of [`Miras::add_gradient`]: adds into `dw` and `dcoefficients`, gives the gradients of the pair.
    pub(crate) fn add_gradient_backward<F: Scalar>(
        &self,
        plan: &Plan,
        w: &[F],
        x: Pair<'_, F>,
        coefficients: &[F],
        dg: &[F],
        dw: &mut [F],
        dcoefficients: &mut [F],
    ) -> DPair<F> {
        let Parts { phi, p, raw, r } = self.parts(plan, w, &x, coefficients);
        let along = |x: &[F], eps: &[F]| x.iter().zip(eps).map(|(&x, &e)| Dual::new(x, e)).collect::<Vec<_>>();
        let still = |x: &[F]| x.iter().map(|&x| Dual::new(x, F::zero())).collect::<Vec<_>>();
        let (w_dual, phi_dual) = (along(w, dg), still(&phi));

        // What the gradient does to the residual: how the prediction moves along dG.
        let mut moved = vec![Dual::default(); p.len()];
        with_structure!(&self.structure, s => s.forward(plan.inner, &w_dual, &phi_dual, &mut moved));
        let moved: Vec<F> = moved.iter().map(|m| m.eps).collect();
        let dgamma = dot(&r, &moved);
        let mut dr: Vec<F> = moved.iter().map(|&m| m * x.gamma).collect();
        if let Some(most) = self.clip {
            smooth::clip_backward(F::from_f64(most), &raw, &mut dr);
        }
        let mut out = DPair {
            k: vec![F::zero(); x.k.len()],
            v: vec![F::zero(); x.v.len()],
            threshold: F::zero(),
            gamma: dgamma,
            rate: vec![F::zero(); x.implicit.map_or(0, <[F]>::len)],
        };
        let mut dp = vec![F::zero(); p.len()];
        let mut dphi = vec![F::zero(); phi.len()];
        with_bias!(&self.bias, b => match x.implicit {
            None => out.threshold = b.residual_backward(&p, x.v, x.threshold, &dr, &mut dp, &mut out.v),
            Some(rates) => {
                let length = dot(&phi, &phi);
                for (j, dr) in dr.iter().enumerate() {
                    let (at, rate) = (j..j + 1, at_channel(rates, j));
                    let (p, v, dr) = (&p[at.clone()], &x.v[at.clone()], std::slice::from_ref(dr));
                    let (dt, ds) = b.implicit_backward(
                        p, v, x.threshold, rate * length, dr, &mut dp[at.clone()], &mut out.v[at],
                    );
                    out.threshold += dt;
                    out.rate[j.min(rates.len() - 1)] += ds * length;
                    add_scaled(&mut dphi, F::from_f64(2.0) * ds * rate, &phi);
                }
            }
        });

        // Second order: the transpose once more, on dual numbers.
        let scaled: Vec<F> = r.iter().map(|&r| r * x.gamma).collect();
        let r_dual = along(&scaled, &dp);
        let mut dw_dual = vec![Dual::default(); w.len()];
        let mut dphi_dual = vec![Dual::default(); phi.len()];
        with_structure!(&self.structure, s => {
            s.backward(plan.inner, &w_dual, &phi_dual, &r_dual, &mut dw_dual, &mut dphi_dual);
            if s.residual() {
                add_scaled(&mut out.k, F::one(), &dp);
            }
        });
        dw.iter_mut().zip(&dw_dual).for_each(|(d, x)| *d += x.eps);
        dphi.iter_mut().zip(&dphi_dual).for_each(|(d, x)| *d += x.eps);
        with_features!(&self.features, f => f.backward(x.k, coefficients, &dphi, &mut out.k, dcoefficients));
        out
    }
}

/// The gate of channel `j`: the only one there is, or its own.
fn at_channel<F: Scalar>(gate: &[F], j: usize) -> F {
    gate[j.min(gate.len() - 1)]
}
