//! Generalised gradient descent with parts that have names; AdamW for the rest [NestedLearning v1 eq.59].
//!
//! ```text
//! W' = argmin L(W x, u) + mean of |W - W_i|^2 / (2 rate) over the last `window` weights + sparsity |W|_1
//! dot   L = -<W x, u>;      l2   L = decay_scale/2 |W x|^2 - <W x, u>
//! error   u = -dL/dy;       corrected   u = decay_scale W_t x - dL/dy
//! ```
//!
//! `dot` with `error` is gradient descent, `l2` with `error` delta gradient descent, solved in `iterations` steps, and
//! `l2` with `corrected` a step that is damped along common inputs and rests where the error is zero. Other parts are
//! callbacks of [`prox::solve`](crate::optim::prox::solve).

use crate::error::{Error, Result};
use crate::optim::Rest;
use crate::optim::elementwise::gather;
use crate::optim::matrix::Side;
use crate::optim::prox::{self, Corrected, Dot, Loss, Near, Problem, SquaredError, Values, solve};
use crate::optim::step::{About, Optimizer, Shape, StateSpec, Step, counted, within};
use hecate_core::Scalar;
use hecate_core::ops::Ops;
use serde::{Deserialize, Serialize};

/// What is minimised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bias {
    /// An inner product.
    Dot,
    /// A squared error.
    #[default]
    L2,
}

/// What the inputs are to map to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// The layer's own error.
    Error,
    /// Its output, corrected by its error.
    #[default]
    Corrected,
}

/// See the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ggd {
    /// What is minimised.
    pub loss: Bias,
    /// What the inputs are to map to.
    pub value: Value,
    /// Weight of the squared outputs, under the loss `l2`.
    pub decay_scale: f64,
    /// Weights that it stays near to, the current ones included.
    pub window: usize,
    /// Weight of absolute values.
    pub sparsity: f64,
    /// Steps towards the minimiser, under the loss `l2`.
    pub iterations: usize,
    /// All other tensors.
    pub rest: Rest,
}

impl Default for Ggd {
    fn default() -> Self {
        Self {
            loss: Bias::L2,
            value: Value::Corrected,
            decay_scale: 1.0,
            window: 1,
            sparsity: 0.0,
            iterations: 4,
            rest: Rest::default(),
        }
    }
}

impl Ggd {
    /// The mean of the weights in the window; `past` then holds the current ones too.
    fn centre<O: Ops>(&self, at: &Step<'_, O>, p: &[O::F], past: &mut [O::F]) -> Vec<O::F> {
        let (mut centre, slots) = (p.to_vec(), self.window - 1);
        let known = slots.min(usize::try_from(at.count - 1).unwrap_or(usize::MAX));
        past.chunks_exact(p.len()).take(known).for_each(|w| gather(&mut centre, O::F::one(), O::F::one(), w));
        let by = O::F::from_f64(1.0 / (known + 1) as f64);
        centre.iter_mut().for_each(|c| *c *= by);
        let slot = ((at.count - 1) % slots as u64) as usize;
        past[slot * p.len()..][..p.len()].copy_from_slice(p);
        centre
    }
}

impl Optimizer for Ggd {
    fn about(&self) -> About {
        About {
            equation: "W' = argmin L(W x, u) + mean |W - W_i|²/(2 rate) + sparsity |W|₁, u made by W",
            source: "[NestedLearning v1 eq.59]",
        }
    }
    fn check(&self) -> Result<()> {
        within("decay_scale", self.decay_scale, 0.0, 1e3)?;
        within("sparsity", self.sparsity, 0.0, 1e3)?;
        counted("window", self.window, 1, 1000)?;
        counted("iterations", self.iterations, 1, 1000)?;
        if self.loss == Bias::Dot && self.value == Value::Corrected {
            return Err(Error::config("optimizer.value", "under the loss `dot` corrected outputs grow without bound"));
        }
        self.rest.check()
    }
    fn rest(&self) -> Option<&Rest> {
        Some(&self.rest)
    }
    fn needs_inputs(&self) -> bool {
        self.loss == Bias::L2
    }
    fn state(&self, s: Shape) -> Vec<StateSpec> {
        let past = self.window - 1;
        if past == 0 { Vec::new() } else { vec![StateSpec::zeros("past", vec![past, s.rows, s.columns])] }
    }
    fn scratch(&self, s: Shape) -> usize {
        4 * s.len() + s.rows * s.rows
    }

    fn step<O: Ops>(&self, at: &Step<'_, O>, p: &mut [O::F], g: &[O::F], state: &mut [&mut [O::F]]) {
        let centre = match state {
            [past] => self.centre(at, p, past),
            _ => p.to_vec(),
        };
        let keys = at.inputs.map(|inputs| (Side::Left, inputs));
        let problem = Problem { ops: at.ops, shape: at.shape, rate: at.rate, start: p, gradient: g, keys };
        let (l2, corrected) = (SquaredError { share: self.decay_scale }, Corrected { share: self.decay_scale });
        let loss: &dyn Loss<O> = if self.loss == Bias::L2 { &l2 } else { &Dot };
        let values: &dyn Values<O> = if self.value == Value::Corrected { &corrected } else { &prox::Error };
        let near = Near { centre: &centre, sparsity: self.sparsity };
        let next = solve(&problem, loss, values, &near, self.iterations);
        p.copy_from_slice(&next);
    }
}
