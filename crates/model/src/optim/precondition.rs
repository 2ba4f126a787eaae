//! What a gradient is multiplied by before a momentum takes it: the P of [NestedLearning v1 eq.47].

use super::elementwise::each;
use super::matrix::{Side, inverse_root};
use super::step::{Shape, StateSpec, Step, within};
use crate::error::Result;
use hecate_core::Scalar;
use hecate_core::ops::Ops;
use serde::{Deserialize, Serialize};

/// A preconditioner, in configs a table with `name`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Preconditioner {
    /// `P g = g`.
    None(Plain),
    /// Divided by the root of the sum of squares.
    Adagrad(Adagrad),
    /// Divided by the root of the mean of squares.
    Adam(AdamScale),
    /// Multiplied by the inverse root of the sum of `g g^T`, on the shorter side.
    Outer(Outer),
}

impl Default for Preconditioner {
    fn default() -> Self {
        Preconditioner::None(Plain {})
    }
}

/// No settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plain {}

/// `s = s + g^2;  P g = g / (sqrt s + eps)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Adagrad {
    /// Keeps the quotient finite.
    pub eps: f64,
}

impl Default for Adagrad {
    fn default() -> Self {
        Self { eps: 1e-8 }
    }
}

/// `s = beta s + (1 - beta) g^2;  P g = g / (sqrt(s / (1 - beta^t)) + eps)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamScale {
    /// Decay of the mean of squares.
    pub beta: f64,
    /// Keeps the quotient finite.
    pub eps: f64,
}

impl Default for AdamScale {
    fn default() -> Self {
        // As in the optimizer AdamW.
        Self { beta: 0.98, eps: 1e-8 }
    }
}

/// `S = S + g g^T;  P g = (S + ridge tr(S) / n)^(-1/2) g` [NestedLearning v1 eq.111]; a vector is one row, so that S is the
/// sum of its squared lengths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Outer {
    /// What is added to the eigenvalues, over their mean.
    pub ridge: f64,
}

impl Default for Outer {
    fn default() -> Self {
        // Directions that gradients hardly ever took are lengthened at most thirty times as much as the others.
        Self { ridge: 1e-3 }
    }
}

impl Preconditioner {
    pub(super) fn check(&self) -> Result<()> {
        match self {
            Preconditioner::None(_) => Ok(()),
            Preconditioner::Adagrad(c) => within("precondition.eps", c.eps, 0.0, 1.0),
            Preconditioner::Adam(c) => {
                within("precondition.beta", c.beta, 0.0, 1.0)?;
                within("precondition.eps", c.eps, 0.0, 1.0)
            }
            Preconditioner::Outer(c) => within("precondition.ridge", c.ridge, 1e-6, 1.0),
        }
    }

    /// Its state, last among that of the optimizer.
    pub(super) fn state(&self, s: Shape) -> Option<StateSpec> {
        match self {
            Preconditioner::None(_) => None,
            Preconditioner::Adagrad(_) | Preconditioner::Adam(_) => Some(StateSpec::like("scale", s)),
            Preconditioner::Outer(_) => Some(StateSpec::zeros("scale", vec![s.short(), s.short()])),
        }
    }

    /// Values that [`Preconditioner::apply`] holds, its result included.
    pub(super) fn scratch(&self, s: Shape) -> usize {
        let squares = if matches!(self, Preconditioner::Outer(_)) { 5 } else { 0 };
        s.len() + squares * s.short() * s.short()
    }

    /// `P g`; `state` is what [`Preconditioner::state`] says, if anything.
    pub(super) fn apply<O: Ops>(&self, at: &Step<'_, O>, g: &[O::F], state: Option<&mut &mut [O::F]>) -> Vec<O::F> {
        let mut out = g.to_vec();
        let Some(s) = state else { return out };
        match self {
            Preconditioner::None(_) => {}
            Preconditioner::Adagrad(c) => {
                let eps = O::F::from_f64(c.eps);
                each(&mut out, g, [s], |out, g, [s]| {
                    for i in 0..g.len() {
                        s[i] += g[i] * g[i];
                        out[i] = if s[i] > O::F::zero() { g[i] / (s[i].sqrt() + eps) } else { g[i] };
                    }
                });
            }
            Preconditioner::Adam(c) => {
                let (beta, eps, correct) = (O::F::from_f64(c.beta), O::F::from_f64(c.eps), at.correction(c.beta));
                each(&mut out, g, [s], |out, g, [s]| {
                    for i in 0..g.len() {
                        s[i] = beta * s[i] + (O::F::one() - beta) * g[i] * g[i];
                        out[i] = if s[i] > O::F::zero() { g[i] / ((s[i] * correct).sqrt() + eps) } else { g[i] };
                    }
                });
            }
            Preconditioner::Outer(c) => {
                let side = Side::short(at.shape);
                side.add_gram(at.ops, at.shape, g, s);
                let root = inverse_root(at.ops, at.shape.short(), s, c.ridge);
                side.apply(at.ops, at.shape, &root, g, &mut out);
            }
        }
        out
    }
}
