//! Weights that are distributions, near the last ones by KL: `W' = n softmax(retain log W - step)` per row, the retention
//! of Memora [Miras v1 eq.19-21].
//!
//! Each row of each tensor is a distribution over its `n` inputs, of mass `n`, so that a weight is one on average. The
//! state holds the logarithms, on which steps and `retain` act; it settles to what log-softmax gives, not below -80.
//! From uniform rows all hidden units would stay equal for ever, so logits start random.

use super::{Pull, Retention, Start, Tensor};
use crate::rules::miras::smooth;
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kl {}

/// Smallest logit of a settled row.
const LEAST: f64 = -80.0;

impl Kl {
    /// Name in configs and tables.
    pub const NAME: &'static str = "kl";
}

impl Retention for Kl {
    fn pull(&self) -> Pull {
        Pull::Zero
    }
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

    fn weights<F: Scalar>(&self, t: &Tensor, z: &[F], _frozen: &[F], w: &mut [F]) {
        let mass = F::from_f64(t.columns as f64);
        for (z, w) in z.chunks_exact(t.columns).zip(w.chunks_exact_mut(t.columns)) {
            smooth::softmax(z, w);
            w.iter_mut().for_each(|w| *w *= mass);
        }
    }

    fn weights_backward<F: Scalar>(&self, t: &Tensor, z: &[F], _f: &[F], dw: &[F], dz: &mut [F], _df: &mut [F]) {
        let mass = F::from_f64(t.columns as f64);
        let mut share = vec![F::zero(); t.columns];
        for (i, z) in z.chunks_exact(t.columns).enumerate() {
            let row = i * t.columns..(i + 1) * t.columns;
            smooth::softmax(z, &mut share);
            smooth::softmax_backward(&share, &dw[row.clone()], mass, &mut dz[row]);
        }
    }

    fn settle<F: Scalar>(&self, t: &Tensor, z: &mut [F], _step: &[F], _shrink: F) {
        for z in z.chunks_exact_mut(t.columns) {
            let all = smooth::log_sum_exp(z);
            for z in z {
                *z -= all;
                if z.value() < LEAST {
                    *z = F::from_f64(LEAST);
                }
            }
        }
    }

    fn settle_backward<F: Scalar>(&self, t: &Tensor, z: &[F], _s: &[F], _h: F, dz: &mut [F], _ds: &mut [F]) -> F {
        let mut share = vec![F::zero(); t.columns];
        for (z, dz) in z.chunks_exact(t.columns).zip(dz.chunks_exact_mut(t.columns)) {
            let all = smooth::log_sum_exp(z);
            for (dz, &z) in dz.iter_mut().zip(z) {
                if (z - all).value() < LEAST {
                    *dz = F::zero();
                }
            }
            let dall = dz.iter().copied().sum::<F>();
            smooth::softmax(z, &mut share);
            dz.iter_mut().zip(&share).for_each(|(dz, &s)| *dz += -dall * s);
        }
        F::zero()
    }
}
