//! A preference for zero weights seen from all gradients so far: the state gathers every step, and the weights are its
//! soft threshold, `W = S(Z)` [Miras v1 eq.23].
//!
//! Unlike the paper, whose regulariser lacks a half, `W` is the minimiser of `<W, -Z> + 1/2 |W|^2 + sparsity |W|_1`.

use super::elastic::{side, soft};
use super::{Pull, Retention, Tensor};
use crate::error::Result;
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ElasticFtrl {
    /// By how much weights shrink.
    pub sparsity: f64,
}

impl Default for ElasticFtrl {
    fn default() -> Self {
        Self { sparsity: 0.01 }
    }
}

impl ElasticFtrl {
    /// Name in configs and tables.
    pub const NAME: &'static str = "elastic_ftrl";
}

impl Retention for ElasticFtrl {
    fn check(&self) -> Result<()> {
        super::positive(Self::NAME, "sparsity", self.sparsity)
    }
    fn pull(&self) -> Pull {
        Pull::Keep
    }
    fn is_dual(&self) -> bool {
        true
    }

    fn weights<F: Scalar>(&self, _t: &Tensor, z: &[F], _frozen: &[F], w: &mut [F]) {
        w.iter_mut().zip(z).for_each(|(w, &z)| *w = soft(z, F::from_f64(self.sparsity)));
    }

    fn weights_backward<F: Scalar>(&self, _t: &Tensor, z: &[F], _f: &[F], dw: &[F], dz: &mut [F], _df: &mut [F]) {
        for ((dz, &dw), &z) in dz.iter_mut().zip(dw).zip(z) {
            *dz += dw * F::from_f64(side(z, F::from_f64(self.sparsity)).abs());
        }
    }
}
