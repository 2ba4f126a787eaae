//! M3, several momenta at several speeds: a fast one made orthogonal at every step, a slow one at the end of every
//! period; AdamW for the rest [NestedLearning v1 eq.75].
//!
//! ```text
//! literal   every `period` steps, before the step:   M2 = M2 + beta3 sum of the period's g;   O2 = NS(M2)
//!           M1 = M1 + beta1 g;   V = V + beta2 g^2;   W = W - rate (NS(M1) + alpha O2) / (sqrt V + eps)
//! ema       M2 = beta3 M2 + (1 - beta3) mean of the period's g;   M1 = beta1 M1 + (1 - beta1) g
//!           W = W - rate (scale (NS(M1) + alpha O2) + decay W)
//! ema_v     the same, divided by sqrt(V / (1 - beta2^t)) + eps;   V = beta2 V + (1 - beta2) g^2
//! ```
//!
//! The printed sums never forget: V grows with time, and an orthogonal matrix divided by a root of the gradient's size has
//! no scale of its own. It hardly trains at any rate; `ema` is what does. Unlike the paper, a period's sum has as many
//! terms as the period. Where a period has not ended yet, O2 is zero.

use crate::error::Result;
use crate::optim::Rest;
use crate::optim::elementwise::{advance, each, gather};
use crate::optim::step::{About, Optimizer, Shape, StateSpec, Step, counted, within};
use hecate_core::Scalar;
use hecate_core::ops::{Ops, Polynomial};
use serde::{Deserialize, Serialize};

use super::Scale;

/// Sums as printed, or means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Means, without the second moment.
    #[default]
    Ema,
    /// Means, with the second moment.
    EmaV,
    /// Sums as printed: neither `scale` nor a correction for the start.
    Literal,
}

/// See the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct M3 {
    /// Sums or means.
    pub form: Form,
    /// Of the fast momentum.
    pub beta1: f64,
    /// Of the second moment, where the form has one.
    pub beta2: f64,
    /// Of the slow momentum.
    pub beta3: f64,
    /// Weight of the slow momentum.
    pub alpha: f64,
    /// Steps of a period.
    pub period: u64,
    /// Keeps the quotient finite, where the form has one.
    pub eps: f64,
    /// The polynomial of the iteration.
    pub polynomial: Polynomial,
    /// How often it is applied, 1 to 50.
    pub iterations: usize,
    /// The size of a step of the two forms of means.
    pub scale: Scale,
    /// Weight decay per unit of rate.
    pub weight_decay: f64,
    /// All other tensors.
    pub rest: Rest,
}

impl Default for M3 {
    fn default() -> Self {
        // The paper names no values.
        Self {
            form: Form::Ema,
            beta1: 0.9,
            beta2: 0.999,
            beta3: 0.9,
            alpha: 0.5,
            period: 10,
            eps: 1e-8,
            polynomial: Polynomial::Muon,
            iterations: 5,
            scale: Scale::Rms,
            weight_decay: 0.1,
            rest: Rest::default(),
        }
    }
}

impl M3 {
    /// Ends the period before this step, if one ends.
    fn end_period<O: Ops>(&self, at: &Step<'_, O>, m2: &mut [O::F], o2: &mut [O::F], sum: &mut [O::F]) {
        let before = at.count - 1;
        if before == 0 || !before.is_multiple_of(self.period) {
            return;
        }
        let (keep, by) = match self.form {
            Form::Literal => (1.0, self.beta3),
            _ => (self.beta3, (1.0 - self.beta3) / self.period as f64),
        };
        gather(m2, O::F::from_f64(keep), O::F::from_f64(by), sum);
        sum.fill(O::F::zero());
        at.ops.orthogonal(self.polynomial, self.iterations, at.shape.columns, m2, o2);
    }

    /// `d / (sqrt V + eps)`, where the form has that.
    fn divide<O: Ops>(&self, at: &Step<'_, O>, d: &mut [O::F], g: &[O::F], v: &mut [O::F]) {
        let (keep, by, correct) = match self.form {
            Form::Literal => (1.0, self.beta2, O::F::one()),
            _ => (self.beta2, 1.0 - self.beta2, at.correction(self.beta2)),
        };
        let [keep, by, eps] = [keep, by, self.eps].map(O::F::from_f64);
        each(d, g, [v], |d, g, [v]| {
            for i in 0..d.len() {
                v[i] = keep * v[i] + by * g[i] * g[i];
                d[i] /= (v[i] * correct).sqrt() + eps;
            }
        });
    }
}

impl Optimizer for M3 {
    fn about(&self) -> About {
        About {
            equation: "M1' = beta1 M1 + (1 - beta1) g, M2 once a period; W' = W - rate scale (NS(M1') + alpha NS(M2))",
            source: "[NestedLearning v1 eq.75]",
        }
    }
    fn check(&self) -> Result<()> {
        within("beta1", self.beta1, 0.0, 1.0)?;
        within("beta2", self.beta2, 0.0, 1.0)?;
        within("beta3", self.beta3, 0.0, 1.0)?;
        within("alpha", self.alpha, 0.0, 1e3)?;
        within("eps", self.eps, 1e-30, 1.0)?;
        within("weight_decay", self.weight_decay, 0.0, 1e3)?;
        counted("period", usize::try_from(self.period).unwrap_or(usize::MAX), 1, 1 << 30)?;
        counted("iterations", self.iterations, 1, 50)?;
        self.rest.check()
    }
    fn rest(&self) -> Option<&Rest> {
        Some(&self.rest)
    }
    fn state(&self, s: Shape) -> Vec<StateSpec> {
        let second = if self.form == Form::Ema { None } else { Some("v") };
        ["m1", "m2", "o2", "sum"].into_iter().chain(second).map(|name| StateSpec::like(name, s)).collect()
    }
    fn scratch(&self, s: Shape) -> usize {
        super::muon::scratch(s)
    }

    fn step<O: Ops>(&self, at: &Step<'_, O>, p: &mut [O::F], g: &[O::F], state: &mut [&mut [O::F]]) {
        let [m1, m2, o2, sum, v @ ..] = state else { unreachable!("four tensors or five") };
        self.end_period(at, m2, o2, sum);
        let (one, beta1) = (O::F::one(), O::F::from_f64(self.beta1));
        match self.form {
            Form::Literal => gather(m1, one, beta1, g),
            _ => gather(m1, beta1, one - beta1, g),
        }
        gather(sum, one, one, g);
        let mut d = vec![O::F::zero(); p.len()];
        at.ops.orthogonal(self.polynomial, self.iterations, at.shape.columns, m1, &mut d);
        gather(&mut d, one, O::F::from_f64(self.alpha), o2);
        if let [v] = v {
            self.divide(at, &mut d, g, v);
        }
        let scale = if self.form == Form::Literal { 1.0 } else { self.scale.factor(at.shape) };
        advance(p, at.keep(self.weight_decay), O::F::from_f64(-at.rate * scale), &d);
    }
}
