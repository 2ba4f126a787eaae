//! A matrix, `M(W, x) = W x`: at most `dk` independent associations [Atlas v1 sec.3.1].

use super::{Axis, Network, Structure, Tensor};
use crate::rule::{Dims, Start};
use crate::rules::matrix;
use crate::rules::miras::smooth::Activation;
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matrix {}

impl Matrix {
    /// Name in configs and tables.
    pub const NAME: &'static str = "matrix";
}

impl Structure for Matrix {
    fn tensors(&self, d: Dims) -> Vec<Tensor> {
        vec![Tensor {
            number: 0,
            rows: d.dv,
            columns: d.dk,
            values: Some(Axis::Rows),
            keys: Some(Axis::Columns),
            start: Start::Zero,
        }]
    }

    fn forward<F: Scalar>(&self, _d: Dims, w: &[F], x: &[F], y: &mut [F]) {
        matrix::read(w, x, y);
    }

    fn backward<F: Scalar>(&self, _d: Dims, w: &[F], x: &[F], dy: &[F], dw: &mut [F], dx: &mut [F]) {
        matrix::read_backward(w, x, dy, dx, dw);
    }

    fn network(&self) -> Option<Network> {
        Some(Network { layers: 1, gated: false, activation: Activation::Gelu, norm: false })
    }
    fn is_matrix(&self) -> bool {
        true
    }
    fn rate_max(&self) -> f64 {
        1.0
    }
    fn rate_bias(&self) -> f64 {
        0.0
    }
}
