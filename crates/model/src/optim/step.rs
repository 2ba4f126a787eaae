//! What an optimizer is: its state for one tensor, and one step of that tensor.

use super::rest::Rest;
use crate::error::{Error, Result};
use crate::params::{Kind, ParamSpec};
use hecate_core::Scalar;
use hecate_core::ops::Ops;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// A tensor as a matrix: rows of its last axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// All axes but the last together; of a weight, the width of its input.
    pub rows: usize,
    /// The last axis; of a weight, the width of its output.
    pub columns: usize,
}

impl Shape {
    /// A tensor of this shape; a single number is one by one.
    pub fn of(shape: &[usize]) -> Self {
        match shape.split_last() {
            Some((&columns, rest)) => Self { rows: rest.iter().product(), columns },
            None => Self { rows: 1, columns: 1 },
        }
    }
    /// Number of values.
    pub fn len(self) -> usize {
        self.rows * self.columns
    }
    /// True if there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
    /// The shorter side.
    pub fn short(self) -> usize {
        self.rows.min(self.columns)
    }
    /// The longer side.
    pub fn long(self) -> usize {
        self.rows.max(self.columns)
    }
}

/// Whether optimizers of matrices treat it: the weight of a matrix product between hidden layers. Embedding, head,
/// gates, convolutions, norms and starts are none.
pub fn is_matrix(spec: &ParamSpec) -> bool {
    spec.kind == Kind::Matrix && spec.shape.len() == 2 && spec.shape.iter().all(|&n| n > 1)
}

/// One step of one tensor.
pub struct Step<'a, O: Ops> {
    /// What computes.
    pub ops: &'a O,
    /// The tensor's shape.
    pub shape: Shape,
    /// Learning rate.
    pub rate: f64,
    /// Steps of this tensor, this one included: what bias corrections and periods go by.
    pub count: u64,
    /// Whether weight decay applies to it.
    pub decays: bool,
    /// Mean over tokens of `x x^T` for the inputs x of the matrix, `[rows, rows]`; only for optimizers that ask.
    pub inputs: Option<&'a [O::F]>,
}

impl<O: Ops> Step<'_, O> {
    /// What weight decay leaves of a parameter.
    pub fn keep(&self, weight_decay: f64) -> O::F {
        O::F::from_f64(if self.decays { 1.0 - self.rate * weight_decay } else { 1.0 })
    }
    /// What brings a mean that started at zero and decays by `beta` to its size.
    pub fn correction(&self, beta: f64) -> O::F {
        O::F::from_f64(1.0 / (1.0 - beta.powf(self.count as f64)))
    }
    /// The same step `factor` times as fast.
    pub fn faster(&self, factor: f64) -> Self {
        Self { rate: self.rate * factor, ..*self }
    }
}

/// One tensor of the state of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct StateSpec {
    /// Its name, before that of the parameter.
    pub name: &'static str,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Whether it has a number for every one of the parameter's, and is written in the parameter's own shape.
    pub like: bool,
    /// Deviation of the normal numbers that it starts with; 0: it starts at zero.
    pub deviation: f64,
}

impl StateSpec {
    /// A tensor like the parameter, zero at the start.
    pub fn like(name: &'static str, s: Shape) -> Self {
        Self { like: true, ..Self::zeros(name, vec![s.rows, s.columns]) }
    }
    /// Zeros.
    pub fn zeros(name: &'static str, shape: Vec<usize>) -> Self {
        Self { name, shape, like: false, deviation: 0.0 }
    }
    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What tables say of an optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// Its step on one line; g is the gradient, W a parameter.
    pub equation: &'static str,
    /// Where it comes from.
    pub source: &'static str,
}

/// An optimizer: its settings, and what one step of one tensor is.
pub trait Optimizer: Clone + Debug + Default + PartialEq + Send + Sync + Serialize + DeserializeOwned {
    /// What tables say of it.
    fn about(&self) -> About;
    /// Refuses settings without meaning.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key.
    fn check(&self) -> Result<()>;
    /// How tensors that are no matrices are treated, if it is an optimizer of matrices alone; see [`is_matrix`].
    fn rest(&self) -> Option<&Rest> {
        None
    }
    /// Whether it needs [`Step::inputs`].
    fn needs_inputs(&self) -> bool {
        false
    }
    /// The state of one tensor, in the order in which [`Optimizer::step`] takes it.
    fn state(&self, s: Shape) -> Vec<StateSpec>;
    /// Values that a step of one tensor holds for a while.
    fn scratch(&self, _s: Shape) -> usize {
        0
    }
    /// One step: `p` and `g` are the parameter and its gradient, `state` as [`Optimizer::state`] lists it.
    fn step<O: Ops>(&self, at: &Step<'_, O>, p: &mut [O::F], g: &[O::F], state: &mut [&mut [O::F]]);
}

/// Refuses a setting outside of `[low, high)`.
pub(super) fn within(key: &str, x: f64, low: f64, high: f64) -> Result<()> {
    if (low..high).contains(&x) {
        return Ok(());
    }
    Err(Error::config(format!("optimizer.{key}"), format!("{x} is not in [{low}, {high})")))
}

/// Refuses a number outside of `low..=high`.
pub(super) fn counted(key: &str, n: usize, low: usize, high: usize) -> Result<()> {
    if (low..=high).contains(&n) {
        return Ok(());
    }
    Err(Error::config(format!("optimizer.{key}"), format!("{n} is not from {low} to {high}")))
}
