//! Weights between zero and one, `W = sigmoid(Z)`, near the last ones by the entropy of a coin [Miras v1 sec.5.2].
//!
//! `retain` fades logits to zero, weights to one half. The state settles within 30 on either side, beyond which nothing
//! moves in `f32`.

use super::{Pull, Retention, Start, Tensor, clamp, clamp_backward};
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sigmoid {}

/// Largest logit of a settled state.
const MOST: f64 = 30.0;

impl Sigmoid {
    /// Name in configs and tables.
    pub const NAME: &'static str = "sigmoid";
}

impl Retention for Sigmoid {
    fn pull(&self) -> Pull {
        Pull::Zero
    }
    // At zero all weights are equal, and hidden units would stay equal for ever.
    fn start(&self, _tensor: &Tensor) -> Start {
        Start::Learned { deviation: 0.5 }
    }
    fn is_dual(&self) -> bool {
        true
    }
    fn settles(&self) -> bool {
        true
    }
    fn is_bounded(&self) -> bool {
        true
    }

    fn weights<F: Scalar>(&self, _t: &Tensor, z: &[F], _frozen: &[F], w: &mut [F]) {
        w.iter_mut().zip(z).for_each(|(w, z)| *w = z.sigmoid());
    }

    fn weights_backward<F: Scalar>(&self, _t: &Tensor, z: &[F], _f: &[F], dw: &[F], dz: &mut [F], _df: &mut [F]) {
        for ((dz, &dw), z) in dz.iter_mut().zip(dw).zip(z) {
            let w = z.sigmoid();
            *dz += dw * w * (F::one() - w);
        }
    }

    fn settle<F: Scalar>(&self, _t: &Tensor, z: &mut [F], _step: &[F], _shrink: F) {
        clamp(MOST, z);
    }

    fn settle_backward<F: Scalar>(&self, _t: &Tensor, z: &[F], _s: &[F], _h: F, dz: &mut [F], _ds: &mut [F]) -> F {
        clamp_backward(MOST, z, dz);
        F::zero()
    }
}
