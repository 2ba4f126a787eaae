//! Deep momentum: the momentum is a small perceptron over the gradient's vectors, and its weights are the state
//! [NestedLearning v1 eq.50].
//!
//! ```text
//! m(u) = silu(u (A + a)) B;   u = P g / size, as vectors along the shorter side of the tensor, of mean square length 1
//! a, B = momentum (a, B) - learn (1 - momentum) d/d(a, B) mean <m(u), t>,   t = u or ones of length 1
//! W = W + rate output(size m(u)) - rate decay W
//! ```
//!
//! A is drawn once. Unlike the paper, what decays is the difference a from A, because a perceptron that decays to zero is
//! dead for ever; and the target t is the gradient, because ones, as printed, push along all ones whatever the gradient
//! says and do not descend. The size is taken out and put back because the loss has no lower bound: with inputs of length 1
//! and `learn` below 0.9, what a and B add to each other in a step is less than what they forget, whatever the gradients.
//! `output = "orthogonal"` is [NestedLearning v1 eq.52]: Muon, were m linear.

use crate::error::Result;
use crate::optim::Preconditioner;
use crate::optim::elementwise::{advance, gather};
use crate::optim::matrix::norm;
use crate::optim::precondition::AdamScale;
use crate::optim::step::{About, Optimizer, Shape, StateSpec, Step, counted, within};
use hecate_core::Scalar;
use hecate_core::ops::{LinearShape, Ops, Polynomial};
use serde::{Deserialize, Serialize};

/// What the perceptron's outputs are to point against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The preconditioned gradient.
    #[default]
    Gradient,
    /// Ones, as printed.
    Ones,
}

/// What becomes of the perceptron's outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// Nothing.
    #[default]
    Linear,
    /// Five iterations of Newton and Schulz.
    Orthogonal,
}

/// See the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeepMomentum {
    /// Hidden units.
    pub hidden: usize,
    /// Decay of what the perceptron learned.
    pub momentum: f64,
    /// Its own learning rate over what it forgets in a step, below 0.9.
    pub learn: f64,
    /// What it learns to point against.
    pub target: Target,
    /// What its inputs are multiplied by.
    pub precondition: Preconditioner,
    /// What becomes of its outputs.
    pub output: Output,
    /// Weight decay per unit of rate, on matrices and embeddings only.
    pub weight_decay: f64,
}

impl Default for DeepMomentum {
    fn default() -> Self {
        // Half of what it could bear; inputs whose numbers are as large for every parameter, as under AdamW.
        Self {
            hidden: 16,
            momentum: 0.9,
            learn: 0.5,
            target: Target::Gradient,
            precondition: Preconditioner::Adam(AdamScale::default()),
            output: Output::Linear,
            weight_decay: 0.1,
        }
    }
}

/// `x [rows, columns]` as vectors along the shorter side, or back: the transpose where rows are the shorter side.
fn turn<F: Scalar>(rows: usize, columns: usize, x: &[F]) -> Vec<F> {
    (0..x.len()).map(|i| x[i % rows * columns + i / rows]).collect()
}

impl DeepMomentum {
    /// One step of the perceptron on `u [vectors, n]`, and what it then says of `u`.
    fn learn<O: Ops>(&self, ops: &O, n: usize, u: &[O::F], state: [&mut [O::F]; 3]) -> Vec<O::F> {
        let (zero, one) = (O::F::zero(), O::F::one());
        let [start, first, second] = state;
        let vectors = u.len() / n;
        let up = LinearShape { rows: vectors, inner: n, outer: self.hidden };
        let down = LinearShape { rows: vectors, inner: self.hidden, outer: n };
        let hidden = |first: &[O::F]| {
            let w: Vec<O::F> = start.iter().zip(first).map(|(&s, &f)| s + f).collect();
            let mut z = vec![zero; vectors * self.hidden];
            ops.linear_forward(up, u, &w, &mut z);
            (w, z)
        };
        let (w, z) = hidden(first);
        let silu = |z: &[O::F]| z.iter().map(|z| z.silu()).collect::<Vec<O::F>>();
        let weight = O::F::from_f64(1.0 / vectors as f64);
        let ones = O::F::from_f64((n as f64).powf(-0.5) / vectors as f64);
        let target = |&u: &O::F| if self.target == Target::Gradient { weight * u } else { ones };
        let dy: Vec<O::F> = u.iter().map(target).collect();
        let (mut dz, mut dfirst, mut dsecond) =
            (vec![zero; z.len()], vec![zero; first.len()], vec![zero; second.len()]);
        ops.linear_backward(down, &silu(&z), second, &dy, Some(&mut dz), Some(&mut dsecond));
        dz.iter_mut().zip(&z).for_each(|(d, z)| *d *= z.silu_slope());
        ops.linear_backward(up, u, &w, &dz, None, Some(&mut dfirst));
        let momentum = O::F::from_f64(self.momentum);
        let learn = O::F::from_f64(-self.learn * (1.0 - self.momentum));
        gather(first, momentum, learn, &dfirst);
        gather(second, momentum, learn, &dsecond);
        let (_, z) = hidden(first);
        let mut y = vec![zero; u.len()];
        ops.linear_forward(down, &silu(&z), second, &mut y);
        if self.output == Output::Linear {
            return y;
        }
        let mut o = vec![one; u.len()];
        ops.orthogonal(Polynomial::Muon, 5, n, &y, &mut o);
        o
    }
}

impl Optimizer for DeepMomentum {
    fn about(&self) -> About {
        About {
            equation: "m' = momentum m - learn ∇⟨m(u), u⟩, m a perceptron, u = P g; W' = W + rate m'(u)",
            source: "[NestedLearning v1 eq.50]",
        }
    }
    fn check(&self) -> Result<()> {
        counted("hidden", self.hidden, 1, 1 << 16)?;
        within("momentum", self.momentum, 0.0, 1.0)?;
        within("learn", self.learn, 0.0, 0.9)?;
        within("weight_decay", self.weight_decay, 0.0, 1e3)?;
        self.precondition.check()
    }
    fn state(&self, s: Shape) -> Vec<StateSpec> {
        let (n, h) = (s.short(), self.hidden);
        let start = StateSpec { deviation: (n as f64).powf(-0.5), ..StateSpec::zeros("start", vec![n, h]) };
        let own = [start, StateSpec::zeros("first", vec![n, h]), StateSpec::zeros("second", vec![h, n])];
        own.into_iter().chain(self.precondition.state(s)).collect()
    }
    fn scratch(&self, s: Shape) -> usize {
        self.precondition.scratch(s) + 4 * s.len() + 5 * s.long() * self.hidden + 3 * s.short() * self.hidden
    }

    fn step<O: Ops>(&self, at: &Step<'_, O>, p: &mut [O::F], g: &[O::F], state: &mut [&mut [O::F]]) {
        let [start, first, second, scale @ ..] = state else { unreachable!("three tensors") };
        let Shape { rows, columns } = at.shape;
        let mut u = self.precondition.apply(at, g, scale.first_mut());
        if rows < columns {
            u = turn(rows, columns, &u);
        }
        let size = norm(&u) / (at.shape.long() as f64).sqrt();
        if size > 0.0 {
            u.iter_mut().for_each(|u| *u /= O::F::from_f64(size));
        }
        let mut y = self.learn(at.ops, at.shape.short(), &u, [start, first, second]);
        if rows < columns {
            y = turn(columns, rows, &y);
        }
        let size = if self.output == Output::Linear { size } else { 1.0 };
        advance(p, at.keep(self.weight_decay), O::F::from_f64(at.rate * size), &y);
    }
}
