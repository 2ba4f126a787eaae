//! AdaMuon: orthogonal steps divided by the root of their own mean squares, for matrices; AdamW for the rest
//! [AdaMuon v3 sec.3].
//!
//! ```text
//! M = momentum M + g;   O = NS(sign M);   V = beta2 V + (1 - beta2) O^2;   A = O / (sqrt V + eps)
//! W = W - rate (0.2 sqrt(in out) A / |A| + decay W)
//! ```
//!
//! The mean square needs no correction for its start, since A is scaled to a fixed length.

use crate::error::Result;
use crate::optim::Rest;
use crate::optim::elementwise::{advance, each, gather};
use crate::optim::matrix::norm;
use crate::optim::step::{About, Optimizer, Shape, StateSpec, Step, counted, within};
use hecate_core::Scalar;
use hecate_core::ops::{Ops, Polynomial};
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdaMuon {
    /// Decay of the sum of gradients.
    pub momentum: f64,
    /// Decay of the mean of squares.
    pub beta2: f64,
    /// Keeps the quotient finite.
    pub eps: f64,
    /// Take the momentum's signs alone; false takes the momentum itself.
    pub sign: bool,
    /// The polynomial of the iteration.
    pub polynomial: Polynomial,
    /// How often it is applied, 1 to 50.
    pub iterations: usize,
    /// Weight decay per unit of rate.
    pub weight_decay: f64,
    /// All other tensors.
    pub rest: Rest,
}

impl Default for AdaMuon {
    fn default() -> Self {
        // The paper has one decay for both.
        Self {
            momentum: 0.95,
            beta2: 0.95,
            eps: 1e-8,
            sign: true,
            polynomial: Polynomial::Muon,
            iterations: 5,
            weight_decay: 0.1,
            rest: Rest::default(),
        }
    }
}

impl Optimizer for AdaMuon {
    fn about(&self) -> About {
        About {
            equation: "O = NS(sign M'); V' = beta2 V + (1 - beta2) O²; W' = W - rate 0.2 √(in out) unit(O/√V')",
            source: "[AdaMuon v3 sec.3]",
        }
    }
    fn check(&self) -> Result<()> {
        within("momentum", self.momentum, 0.0, 1.0)?;
        within("beta2", self.beta2, 0.0, 1.0)?;
        within("eps", self.eps, 1e-30, 1.0)?;
        within("weight_decay", self.weight_decay, 0.0, 1e3)?;
        counted("iterations", self.iterations, 1, 50)?;
        self.rest.check()
    }
    fn rest(&self) -> Option<&Rest> {
        Some(&self.rest)
    }
    fn state(&self, s: Shape) -> Vec<StateSpec> {
        ["m", "v"].map(|name| StateSpec::like(name, s)).into()
    }
    fn scratch(&self, s: Shape) -> usize {
        super::muon::scratch(s)
    }

    fn step<O: Ops>(&self, at: &Step<'_, O>, p: &mut [O::F], g: &[O::F], state: &mut [&mut [O::F]]) {
        let [m, v] = state else { unreachable!("a momentum and a mean") };
        let [momentum, beta2, eps] = [self.momentum, self.beta2, self.eps].map(O::F::from_f64);
        let (zero, one) = (O::F::zero(), O::F::one());
        gather(m, momentum, one, g);
        let sign = |m: &O::F| if *m > zero { one } else if *m < zero { -one } else { zero };
        let d: Vec<O::F> = if self.sign { m.iter().map(sign).collect() } else { m.to_vec() };
        let mut o = vec![zero; p.len()];
        at.ops.orthogonal(self.polynomial, self.iterations, at.shape.columns, &d, &mut o);
        let mut a = d;
        each(&mut a, &o, [v], |a, o, [v]| {
            for i in 0..a.len() {
                v[i] = beta2 * v[i] + (one - beta2) * o[i] * o[i];
                a[i] = o[i] / (v[i].sqrt() + eps);
            }
        });
        let size = norm(&a);
        let by = if size > 0.0 { -at.rate * 0.2 * (p.len() as f64).sqrt() / size } else { 0.0 };
        advance(p, at.keep(self.weight_decay), O::F::from_f64(by), &a);
    }
}
