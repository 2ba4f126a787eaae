//! A vector, `M(W, x) = W * x`: every channel remembers for itself [Miras v1 sec.3.1].

use super::{Axis, Structure, Tensor};
use crate::error::{Error, Result};
use crate::rule::{Dims, Start};
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Diagonal {}

impl Diagonal {
    /// Name in configs and tables.
    pub const NAME: &'static str = "diagonal";
}

impl Structure for Diagonal {
    fn check(&self, d: Dims) -> Result<()> {
        if d.dk == d.dv {
            return Ok(());
        }
        let reason = format!("a vector maps {} features to as many values, not to {}", d.dk, d.dv);
        Err(Error::Invalid { place: "structure `diagonal`".into(), reason })
    }

    // One row, so that a retention over rows sees all channels at once.
    fn tensors(&self, d: Dims) -> Vec<Tensor> {
        vec![Tensor {
            number: 0,
            rows: 1,
            columns: d.dv,
            values: Some(Axis::Columns),
            keys: Some(Axis::Columns),
            start: Start::Zero,
        }]
    }

    fn forward<F: Scalar>(&self, _d: Dims, w: &[F], x: &[F], y: &mut [F]) {
        for ((y, &w), &x) in y.iter_mut().zip(w).zip(x) {
            *y = w * x;
        }
    }

    fn backward<F: Scalar>(&self, _d: Dims, w: &[F], x: &[F], dy: &[F], dw: &mut [F], dx: &mut [F]) {
        for (i, &dy) in dy.iter().enumerate() {
            dw[i] += dy * x[i];
            dx[i] += dy * w[i];
        }
    }

    fn is_vector(&self) -> bool {
        true
    }
    fn is_linear(&self) -> bool {
        true
    }
    fn rate_max(&self) -> f64 {
        1.0
    }
    fn rate_bias(&self) -> f64 {
        0.0
    }
}
