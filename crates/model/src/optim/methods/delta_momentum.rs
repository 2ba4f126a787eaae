//! Delta momentum: a momentum that forgets along the gradient before it takes it [NestedLearning v1 eq.49].
//!
//! ```text
//! elementwise   m = clip(momentum - forget g^2, -1, 1) m - rate P g
//! matrix        m = momentum m - f G m - rate P g;   G = g g^T on the shorter side, f = forget, at most (1 + momentum) / tr G
//! W = W + m - rate decay W
//! ```
//!
//! Unlike the paper, `forget` is a setting (it prints 1, which is unstable for gradients longer than that), what is added
//! descends (the printed sign ascends), and no factor leaves [-1, 1]. With `forget` at 0 it is [`Momentum`](super::Momentum).

use crate::error::Result;
use crate::optim::Preconditioner;
use crate::optim::elementwise::{advance, each, gather};
use crate::optim::matrix::{Side, trace};
use crate::optim::step::{About, Optimizer, Shape, StateSpec, Step, within};
use hecate_core::Scalar;
use hecate_core::ops::Ops;
use serde::{Deserialize, Serialize};

/// What forgets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Every number by its own gradient.
    #[default]
    Elementwise,
    /// Rows or columns, whichever are shorter, along those of the gradient.
    Matrix,
}

/// See the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeltaMomentum {
    /// What forgets.
    pub form: Form,
    /// Decay of the momentum.
    pub momentum: f64,
    /// How much is forgotten per square of the gradient.
    pub forget: f64,
    /// What gradients are multiplied by when they are taken.
    pub precondition: Preconditioner,
    /// Weight decay per unit of rate, on matrices and embeddings only.
    pub weight_decay: f64,
}

impl Default for DeltaMomentum {
    fn default() -> Self {
        // In the middle of what helped in `hecate experiment delta_momentum`; no one value does everywhere.
        Self {
            form: Form::Elementwise,
            momentum: 0.9,
            forget: 1e-3,
            precondition: Preconditioner::default(),
            weight_decay: 1e-3,
        }
    }
}

impl DeltaMomentum {
    /// `m = momentum m`, less what is forgotten.
    fn forget<O: Ops>(&self, at: &Step<'_, O>, m: &mut [O::F], g: &[O::F]) {
        let (one, momentum, forget) = (O::F::one(), O::F::from_f64(self.momentum), O::F::from_f64(self.forget));
        match self.form {
            Form::Elementwise => each(m, g, [], |m, g, []| {
                for (m, &g) in m.iter_mut().zip(g) {
                    let factor = momentum - forget * g * g;
                    *m *= if factor < -one { -one } else { factor };
                }
            }),
            Form::Matrix => {
                let (side, n) = (Side::short(at.shape), at.shape.short());
                let mut gram = vec![O::F::zero(); n * n];
                side.add_gram(at.ops, at.shape, g, &mut gram);
                let size = trace(n, &gram);
                let most = if size > 0.0 { (1.0 + self.momentum) / size } else { 0.0 };
                let mut along = vec![O::F::zero(); m.len()];
                side.apply(at.ops, at.shape, &gram, m, &mut along);
                gather(m, momentum, O::F::from_f64(-self.forget.min(most)), &along);
            }
        }
    }
}

impl Optimizer for DeltaMomentum {
    fn about(&self) -> About {
        About {
            equation: "m' = (momentum - forget g²) m - rate P g; W' = W + m'",
            source: "[NestedLearning v1 eq.49]",
        }
    }
    fn check(&self) -> Result<()> {
        within("momentum", self.momentum, 0.0, 1.0)?;
        within("forget", self.forget, 0.0, 1e6)?;
        within("weight_decay", self.weight_decay, 0.0, 1e3)?;
        self.precondition.check()
    }
    fn state(&self, s: Shape) -> Vec<StateSpec> {
        [StateSpec::like("m", s)].into_iter().chain(self.precondition.state(s)).collect()
    }
    fn scratch(&self, s: Shape) -> usize {
        self.precondition.scratch(s) + s.len() + 2 * s.short() * s.short()
    }

    fn step<O: Ops>(&self, at: &Step<'_, O>, p: &mut [O::F], g: &[O::F], state: &mut [&mut [O::F]]) {
        let [m, scale @ ..] = state else { unreachable!("a momentum") };
        self.forget(at, m, g);
        let g = self.precondition.apply(at, g, scale.first_mut());
        gather(m, O::F::one(), O::F::from_f64(-at.rate), &g);
        advance(p, at.keep(self.weight_decay), O::F::one(), m);
    }
}
