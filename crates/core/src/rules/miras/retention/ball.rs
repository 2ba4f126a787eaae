//! Decay towards zero, and a bound: a tensor longer than `radius` is shortened to it [Miras v1 sec.4].

use super::{Pull, Retention, Tensor};
use crate::error::Result;
use crate::rules::miras::smooth;
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ball {
    /// Largest length of a tensor.
    pub radius: f64,
}

impl Default for Ball {
    fn default() -> Self {
        // The length of the wider tensor of a fresh memory of 64 values and 256 hidden units.
        Self { radius: 16.0 }
    }
}

impl Ball {
    /// Name in configs and tables.
    pub const NAME: &'static str = "ball";
}

impl Retention for Ball {
    fn check(&self) -> Result<()> {
        super::positive(Self::NAME, "radius", self.radius)
    }
    fn pull(&self) -> Pull {
        Pull::Zero
    }
    fn settles(&self) -> bool {
        true
    }
    fn is_bounded(&self) -> bool {
        true
    }

    fn settle<F: Scalar>(&self, _t: &Tensor, z: &mut [F], _step: &[F], _shrink: F) {
        smooth::clip(F::from_f64(self.radius), z);
    }

    fn settle_backward<F: Scalar>(&self, _t: &Tensor, z: &[F], _s: &[F], _h: F, dz: &mut [F], _ds: &mut [F]) -> F {
        smooth::clip_backward(F::from_f64(self.radius), z, dz);
        F::zero()
    }
}
