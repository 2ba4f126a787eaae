//! A state whose weights are `W = sign(Z) |Z|^(q-1) / norm_q(Z)^(q-2)` per tensor: the map that a squared norm of
//! exponent `q / (q - 1)` asks for.
//!
//! Unlike the paper [Miras v1 eq.24], whose map drops the power of single entries and is the solution of no such
//! objective (`lq_literal` has it), this one is: checked below. It keeps scale, so `retain` fades weights as it fades the
//! state. Inside a chunk the norm is that of the chunk's start; no entry counts as larger than it, as none is larger than
//! its own norm.

use super::{Pull, Retention, Start, Tensor};
use crate::error::{Error, Result};
use crate::rules::miras::smooth;
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LqExact {
    /// The exponent, 2 to 8; 2 is no map at all.
    pub q: f64,
}

impl Default for LqExact {
    fn default() -> Self {
        // [Miras v1 sec.5.2]: Moneta.
        Self { q: 4.0 }
    }
}

impl LqExact {
    /// Name in configs and tables.
    pub const NAME: &'static str = "lq_exact";

    /// The norm that divides, and whether it is that of `frozen`: where the chunk started at zero, `z` brings its own.
    fn norm<F: Scalar>(&self, z: &[F], frozen: &[F]) -> (F, bool) {
        let norm = smooth::norm_q(frozen, self.q);
        if norm.value() > 0.0 { (norm, true) } else { (smooth::norm_q(z, self.q), false) }
    }

    /// `(|z| / norm)^(q - 2)`, at most one.
    fn share<F: Scalar>(&self, z: F, norm: F) -> F {
        let ratio = smooth::magnitude(z) / norm;
        if ratio > F::one() { F::one() } else { smooth::power(ratio, self.q - 2.0) }
    }
}

/// Refuses exponents out of range.
pub(super) fn check_exponent(name: &str, q: f64) -> Result<()> {
    if (2.0..=8.0).contains(&q) {
        return Ok(());
    }
    Err(Error::Invalid { place: format!("retention `{name}`"), reason: format!("q = {q}: from 2 to 8") })
}

/// The mean of `|x|^s` over normal numbers of variance one.
fn moment(s: f64) -> f64 {
    2.0_f64.powf(0.5 * s) * libm::tgamma(0.5 * (s + 1.0)) / std::f64::consts::PI.sqrt()
}

impl Retention for LqExact {
    fn check(&self) -> Result<()> {
        check_exponent(Self::NAME, self.q)
    }
    fn pull(&self) -> Pull {
        Pull::Zero
    }
    // Such that the weights, not the state, start as wide as the structure asks.
    fn start(&self, t: &Tensor) -> Start {
        let Start::Learned { deviation } = t.start else { return t.start };
        let (n, q) = (t.len() as f64, self.q);
        let by = (n * moment(q)).powf((q - 2.0) / q) / moment(2.0 * q - 2.0).sqrt();
        Start::Learned { deviation: deviation * by }
    }
    fn is_dual(&self) -> bool {
        true
    }

    fn weights<F: Scalar>(&self, _t: &Tensor, z: &[F], frozen: &[F], w: &mut [F]) {
        let (norm, _) = self.norm(z, frozen);
        for (w, &z) in w.iter_mut().zip(z) {
            *w = if z.value() == 0.0 { z } else { z * self.share(z, norm) };
        }
    }

    fn weights_backward<F: Scalar>(
        &self,
        _t: &Tensor,
        z: &[F],
        frozen: &[F],
        dw: &[F],
        dz: &mut [F],
        dfrozen: &mut [F],
    ) {
        let (norm, is_frozen) = self.norm(z, frozen);
        let mut dnorm = F::zero();
        for ((dz, &dw), &z) in dz.iter_mut().zip(dw).zip(z) {
            if z.value() == 0.0 {
                // The derivative of the power at zero, which is zero unless the map is the identity.
                *dz += if self.q == 2.0 { dw } else { F::zero() };
                continue;
            }
            if z.value().abs() > norm.value() {
                *dz += dw;
                continue;
            }
            let by = self.share(z, norm);
            *dz += dw * by * F::from_f64(self.q - 1.0);
            dnorm += -(dw * z * by * F::from_f64(self.q - 2.0)) / norm;
        }
        let (of, into) = if is_frozen { (frozen, dfrozen) } else { (z, dz) };
        smooth::norm_q_backward(of, self.q, norm, dnorm, into);
    }
}
