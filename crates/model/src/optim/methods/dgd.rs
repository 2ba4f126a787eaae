//! Delta gradient descent: a step that forgets along a layer's own inputs, for matrices; AdamW for the rest
//! [NestedLearning v1 eq.57].
//!
//! ```text
//! W' = argmin 1/2 mean |W x - u|^2 + |W - W_t|^2 / (2 rate),   u = -dL/dy the layer's own error
//! first_order   W' = W - r (s C W + g),   C = mean x x^T,   r = rate / (1 + rate s tr C),   g = mean x (dL/dy)^T
//! exact         (1 + rate s C) W' = W - rate g
//! ```
//!
//! Weights are `[in, out]`, so C stands on the left. The two forms agree for a single input. Where they rest, `W x` is
//! `-dL/dy` and not `dL/dy` zero: with s = 1 a regression ends half way, and an outer optimizer wants a small
//! `decay_scale` s. Clipping shortens g and leaves C.

use crate::error::Result;
use crate::optim::Rest;
use crate::optim::elementwise::advance;
use crate::optim::matrix::{Side, solve, trace};
use crate::optim::step::{About, Optimizer, Shape, StateSpec, Step, within};
use hecate_core::Scalar;
use hecate_core::ops::Ops;
use serde::{Deserialize, Serialize};

/// How the minimiser is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// One product: right for a single input, first order in the rate for a batch.
    #[default]
    FirstOrder,
    /// The solution of the linear system.
    Exact,
}

/// See the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dgd {
    /// How the minimiser is found.
    pub form: Form,
    /// Share of the forgetting, s; 1 is as printed, 0 gradient descent.
    pub decay_scale: f64,
    /// All other tensors.
    pub rest: Rest,
}

impl Default for Dgd {
    fn default() -> Self {
        // So little that a regression ends within a hundredth of its target.
        Self { form: Form::FirstOrder, decay_scale: 0.01, rest: Rest::default() }
    }
}

impl Optimizer for Dgd {
    fn about(&self) -> About {
        About {
            equation: "W' = W - rate (decay_scale mean(x xᵀ) W + g) / (1 + rate decay_scale mean |x|²)",
            source: "[NestedLearning v1 eq.57]",
        }
    }
    fn check(&self) -> Result<()> {
        within("decay_scale", self.decay_scale, 0.0, 1e3)?;
        self.rest.check()
    }
    fn rest(&self) -> Option<&Rest> {
        Some(&self.rest)
    }
    fn needs_inputs(&self) -> bool {
        true
    }
    fn state(&self, _s: Shape) -> Vec<StateSpec> {
        Vec::new()
    }
    fn scratch(&self, s: Shape) -> usize {
        match self.form {
            Form::FirstOrder => s.len() + s.rows * s.rows,
            Form::Exact => 2 * s.rows * s.rows,
        }
    }

    fn step<O: Ops>(&self, at: &Step<'_, O>, p: &mut [O::F], g: &[O::F], _state: &mut [&mut [O::F]]) {
        let (s, c) = (at.shape, at.inputs.expect("it asked for inputs"));
        let (one, rate, scale) = (O::F::one(), O::F::from_f64(at.rate), O::F::from_f64(self.decay_scale));
        match self.form {
            Form::FirstOrder => {
                let mut d = vec![O::F::zero(); p.len()];
                Side::Left.apply(at.ops, s, c, p, &mut d);
                advance(&mut d, scale, one, g);
                let by = at.rate / (1.0 + at.rate * self.decay_scale * trace(s.rows, c));
                advance(p, one, O::F::from_f64(-by), &d);
            }
            Form::Exact => {
                let mut a: Vec<O::F> = c.iter().map(|&c| rate * scale * c).collect();
                (0..s.rows).for_each(|i| a[i * s.rows + i] += one);
                advance(p, one, -rate, g);
                solve(s.rows, &mut a, s.columns, p);
            }
        }
    }
}
