//! Generalised momentum: the momentum is what minimises a loss near its decayed self, with keys of its own or of a slower
//! level [NestedLearning v1 eq.59].
//!
//! ```text
//! m = argmin L(m) + |m - momentum m_t|^2 / (2 rate),   L(m) = <m, P g>, or that + forget/2 |m k^T|^2
//! W = W + m - rate decay W
//! ```
//!
//! With the loss `dot` it is [`Momentum`](super::Momentum), with `l2` an implicit
//! [`DeltaMomentum`](super::DeltaMomentum). Keys k are the gradient, or, with `level = "slow"`, the mean gradient of the
//! last period of `period` steps that has ended. The paper gives no algorithm;
//! [`prox::solve`](crate::optim::prox::solve) takes `iterations` steps.

use super::ggd::Bias;
use crate::error::Result;
use crate::optim::Preconditioner;
use crate::optim::elementwise::{advance, gather};
use crate::optim::matrix::Side;
use crate::optim::prox::{Dot, Error, Loss, Near, Problem, SquaredError, solve};
use crate::optim::step::{About, Optimizer, Shape, StateSpec, Step, counted, within};
use hecate_core::Scalar;
use hecate_core::ops::Ops;
use serde::{Deserialize, Serialize};

/// Whose gradients are the keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The step's own.
    #[default]
    Own,
    /// The mean of a slower level.
    Slow,
}

/// See the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GeneralisedMomentum {
    /// What is minimised.
    pub loss: Bias,
    /// Decay of the momentum.
    pub momentum: f64,
    /// Weight of what is forgotten along the keys, under the loss `l2`.
    pub forget: f64,
    /// Whose gradients the keys are, under the loss `l2`.
    pub level: Level,
    /// Steps of a period of the slow level.
    pub period: u64,
    /// Steps towards the minimiser, under the loss `l2`.
    pub iterations: usize,
    /// What gradients are multiplied by when they are taken.
    pub precondition: Preconditioner,
    /// Weight decay per unit of rate, on matrices and embeddings only.
    pub weight_decay: f64,
}

impl Default for GeneralisedMomentum {
    fn default() -> Self {
        Self {
            loss: Bias::L2,
            momentum: 0.9,
            forget: 1.0,
            level: Level::Slow,
            period: 8,
            iterations: 4,
            precondition: Preconditioner::default(),
            weight_decay: 1e-3,
        }
    }
}

impl GeneralisedMomentum {
    fn is_slow(&self) -> bool {
        self.loss == Bias::L2 && self.level == Level::Slow
    }

    /// Takes a gradient to the slow level; a period that has ended becomes the key before.
    fn slow_level<O: Ops>(&self, at: &Step<'_, O>, g: &[O::F], key: &mut [O::F], sum: &mut [O::F]) {
        let before = at.count - 1;
        if before > 0 && before.is_multiple_of(self.period) {
            gather(key, O::F::zero(), O::F::from_f64(1.0 / self.period as f64), sum);
            sum.fill(O::F::zero());
        }
        gather(sum, O::F::one(), O::F::one(), g);
    }
}

impl Optimizer for GeneralisedMomentum {
    fn about(&self) -> About {
        About {
            equation: "m' = argmin ⟨m, P g⟩ + forget/2 |m kᵀ|² + |m - momentum m_t|²/(2 rate); W' = W + m'",
            source: "[NestedLearning v1 eq.59]",
        }
    }
    fn check(&self) -> Result<()> {
        within("momentum", self.momentum, 0.0, 1.0)?;
        within("forget", self.forget, 0.0, 1e6)?;
        within("weight_decay", self.weight_decay, 0.0, 1e3)?;
        counted("period", usize::try_from(self.period).unwrap_or(usize::MAX), 1, 1 << 30)?;
        counted("iterations", self.iterations, 1, 1000)?;
        self.precondition.check()
    }
    fn state(&self, s: Shape) -> Vec<StateSpec> {
        let slow: &[&'static str] = if self.is_slow() { &["m", "key", "sum"] } else { &["m"] };
        slow.iter().map(|name| StateSpec::like(name, s)).chain(self.precondition.state(s)).collect()
    }
    fn scratch(&self, s: Shape) -> usize {
        self.precondition.scratch(s) + 4 * s.len() + 2 * s.short() * s.short()
    }

    fn step<O: Ops>(&self, at: &Step<'_, O>, p: &mut [O::F], g: &[O::F], state: &mut [&mut [O::F]]) {
        let (m, rest) = state.split_first_mut().expect("a momentum");
        let (slow, scale) = rest.split_at_mut(if self.is_slow() { 2 } else { 0 });
        if let [key, sum] = slow {
            self.slow_level(at, g, key, sum);
        }
        let n = at.shape.short();
        let (side, mut keys) = (Side::short(at.shape), vec![O::F::zero(); n * n]);
        if self.loss == Bias::L2 {
            side.add_gram(at.ops, at.shape, slow.first().map_or(g, |key| key), &mut keys);
        }
        let taken = self.precondition.apply(at, g, scale.first_mut());
        m.iter_mut().for_each(|m| *m *= O::F::from_f64(self.momentum));
        let problem = Problem {
            ops: at.ops,
            shape: at.shape,
            rate: at.rate,
            start: m,
            gradient: &taken,
            keys: Some((side, &keys)),
        };
        let l2 = SquaredError { share: self.forget };
        let loss: &dyn Loss<O> = if self.loss == Bias::L2 { &l2 } else { &Dot };
        let near = Near { centre: &m[..], sparsity: 0.0 };
        let next = solve(&problem, loss, &Error, &near, self.iterations);
        m.copy_from_slice(&next);
        advance(p, at.keep(self.weight_decay), O::F::one(), m);
    }
}
