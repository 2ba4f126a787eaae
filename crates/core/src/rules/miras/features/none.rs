//! Keys and queries as they are.

use super::Features;
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct None {}

impl None {
    /// Name in configs and tables.
    pub const NAME: &'static str = "none";
}

impl Features for None {
    fn width(&self, dk: usize) -> usize {
        dk
    }

    fn forward<F: Scalar>(&self, x: &[F], _coefficients: &[F], y: &mut [F]) {
        y.copy_from_slice(x);
    }

    fn backward<F: Scalar>(&self, _x: &[F], _coefficients: &[F], dy: &[F], dx: &mut [F], _dcoefficients: &mut [F]) {
        for (dx, &dy) in dx.iter_mut().zip(dy) {
            *dx += dy;
        }
    }
}
