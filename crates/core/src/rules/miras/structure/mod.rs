//! Knob 1, structure: what function of a key the memory is [Miras v1 sec.3.1].
//!
//! A structure is a parametric function `M(W, x)` and its transpose. The inner gradient of a rule is that transpose,
//! and the gradient of the inner gradient is the same source on dual numbers, so that a structure need not know
//! about either.

use super::knob::knob;
use super::smooth::Activation;
use crate::error::Result;
use crate::rule::{Dims, Start};
use crate::scalar::Scalar;

/// On which axis of a tensor the channels of values, or of keys, lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// One channel per row.
    Rows,
    /// One channel per column.
    Columns,
}

/// One weight tensor of a memory, `[rows, columns]`, row-major.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tensor {
    /// Place in the lists of names: 0 is `W1`, the output side; a memory with a single tensor calls it `W`.
    pub number: usize,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Where gates per value channel act; `None` if they cannot.
    pub values: Option<Axis>,
    /// Where gates per key channel act; `None` if they cannot.
    pub keys: Option<Axis>,
    /// What it holds before the first token, under a retention that keeps weights as they are.
    pub start: Start,
}

impl Tensor {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.rows * self.columns
    }
    /// True if it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What the fused kernels know of a structure: layers from the output, `z_i = W_i h_i` and `h_{i-1} = act(z_i)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Number of layers; a matrix has one.
    pub layers: usize,
    /// True if there are two layers and a third tensor beside the inner one, `h_1 = act(W_2 x) (W_3 x)`.
    pub gated: bool,
    /// The non-linearity between layers.
    pub activation: Activation,
    /// Whether the last layer's result is normalised.
    pub norm: bool,
}

/// The shape of a memory.
pub trait Structure {
    /// Refuses sizes that do not exist, with the reason. `d.dk` is the width of what the memory sees: the features.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`].
    fn check(&self, _d: Dims) -> Result<()> {
        Ok(())
    }
    /// Its tensors, in the order in which they lie in the flat weights.
    fn tensors(&self, d: Dims) -> Vec<Tensor>;
    /// True if the raw key is added to what the tensors give.
    fn residual(&self) -> bool {
        false
    }
    /// `M(W, x)`: `x [dk]`, `y [dv]`, overwritten.
    fn forward<F: Scalar>(&self, d: Dims, w: &[F], x: &[F], y: &mut [F]);
    /// Transpose of [`Structure::forward`]; adds into `dw` and `dx`.
    fn backward<F: Scalar>(&self, d: Dims, w: &[F], x: &[F], dy: &[F], dw: &mut [F], dx: &mut [F]);
    /// Its layers, if it is made of them in the way that the fused kernels know.
    fn network(&self) -> Option<Network> {
        None
    }
    /// True if `M` is linear in `x` and one matrix: closed forms of inner steps exist.
    fn is_matrix(&self) -> bool {
        false
    }
    /// True if `M` is linear in its weights: chunks then add up steps that a rate below one over their length keeps
    /// stable.
    fn is_linear(&self) -> bool {
        self.is_matrix()
    }
    /// True if what it gives for a bounded key is bounded, whatever its weights.
    fn is_bounded(&self) -> bool {
        false
    }
    /// True if its one tensor is a vector: state files then give it one axis.
    fn is_vector(&self) -> bool {
        false
    }
    /// Upper end of the inner step size.
    fn rate_max(&self) -> f64;
    /// Bias of the inner step size at the start.
    fn rate_bias(&self) -> f64;
}

knob! { $
    /// The shape of a memory; see [`Structure`].
    AnyStructure in structure, with_structure, "structure", {
        diagonal::Diagonal,
        matrix::Matrix,
        mlp::Mlp,
        gated_mlp::GatedMlp,
    }
}
