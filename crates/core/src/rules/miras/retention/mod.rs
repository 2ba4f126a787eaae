//! Knob 3, retention: how the memory stays near what it was [Miras v1 sec.5.2].
//!
//! Every retention is a dual state `Z`, a map to weights `W = psi(Z)`, and a settling of the state after a step:
//!
//! ```text
//! Zd = retain Z + (1 - retain) target      the pull
//! Z' = settle(Zd + step)                   the step of the inner optimizer
//! W  = psi(Z')
//! ```
//!
//! Inside a chunk the state moves without settling; reads settle a copy, and the end of the chunk settles the state.

use super::knob::knob;
use super::structure::Tensor;
use crate::error::{Error, Result};
use crate::rule::Start;
use crate::scalar::Scalar;

/// What `retain` pulls the state towards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pull {
    /// Nothing: the state is kept as it is, and the rule has no input `retain`.
    Keep,
    /// Zero.
    Zero,
    /// Where the memory started.
    Start,
    /// This value, the same everywhere.
    Constant(f64),
}

/// A retention. Functions take one tensor of the state at a time.
pub trait Retention {
    /// Refuses settings that do not exist, with the reason.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`].
    fn check(&self) -> Result<()> {
        Ok(())
    }
    /// What `retain` pulls towards.
    fn pull(&self) -> Pull;
    /// What the state starts with, where a plain memory's tensor would start as it says itself.
    fn start(&self, tensor: &Tensor) -> Start {
        tensor.start
    }
    /// True if the state holds something else than the weights.
    fn is_dual(&self) -> bool {
        false
    }
    /// `W = psi(Z)`, overwritten. `frozen` is the state whose scalar norms are used: the anchor under chunks.
    fn weights<F: Scalar>(&self, _t: &Tensor, z: &[F], _frozen: &[F], w: &mut [F]) {
        w.copy_from_slice(z);
    }
    /// Transpose of [`Retention::weights`]; adds into `dz` and `dfrozen`.
    fn weights_backward<F: Scalar>(
        &self,
        _t: &Tensor,
        _z: &[F],
        _frozen: &[F],
        dw: &[F],
        dz: &mut [F],
        _dfrozen: &mut [F],
    ) {
        for (dz, &dw) in dz.iter_mut().zip(dw) {
            *dz += dw;
        }
    }
    /// True if an inner gradient is projected, as [`Retention::project`] does.
    fn projects(&self) -> bool {
        false
    }
    /// Projects the inner gradient `g` at weights `w`, in place.
    fn project<F: Scalar>(&self, _t: &Tensor, _w: &[F], _g: &mut [F]) {}
    /// Transpose of [`Retention::project`]: `g` as it went in, `dg` in place, adds into `dw`.
    fn project_backward<F: Scalar>(&self, _t: &Tensor, _w: &[F], _g: &[F], _dg: &mut [F], _dw: &mut [F]) {}
    /// True if steps are scaled by `retain` too.
    fn scales_steps(&self) -> bool {
        false
    }
    /// True if the state is settled after a step.
    fn settles(&self) -> bool {
        false
    }
    /// True if settling shrinks by an amount that grows with the rate times `retain`.
    fn shrinks(&self) -> bool {
        false
    }
    /// True if steps multiply: then they are gathered apart from the state until it settles.
    fn multiplies(&self) -> bool {
        false
    }
    /// Settles the state in place. `step` is what was gathered (empty unless the retention [multiplies]), `shrink` the
    /// sum of `rate * retain` since it last settled.
    ///
    /// [multiplies]: Retention::multiplies
    fn settle<F: Scalar>(&self, _t: &Tensor, _z: &mut [F], _step: &[F], _shrink: F) {}
    /// Transpose of [`Retention::settle`]: `z` as it went in, `dz` in place, adds into `dstep`, gives the gradient of
    /// `shrink`.
    fn settle_backward<F: Scalar>(
        &self,
        _t: &Tensor,
        _z: &[F],
        _step: &[F],
        _shrink: F,
        _dz: &mut [F],
        _dstep: &mut [F],
    ) -> F {
        F::zero()
    }
}

/// Refuses a setting that is not a number above zero.
fn positive(retention: &str, setting: &str, value: f64) -> Result<()> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    let reason = format!("{setting} = {value}: a number above zero");
    Err(Error::Invalid { place: format!("retention `{retention}`"), reason })
}

/// Every value, not beyond `most` on either side.
fn clamp<F: Scalar>(most: f64, x: &mut [F]) {
    for x in x {
        if x.value().abs() > most {
            *x = F::from_f64(if x.value() > 0.0 { most } else { -most });
        }
    }
}

/// Transpose of [`clamp`] at `x` before it; `dx` in place.
fn clamp_backward<F: Scalar>(most: f64, x: &[F], dx: &mut [F]) {
    for (dx, x) in dx.iter_mut().zip(x) {
        if x.value().abs() > most {
            *dx = F::zero();
        }
    }
}

knob! { $
    /// A retention; see [`Retention`].
    AnyRetention in retention, with_retention, "retention", {
        none::None,
        l2::L2,
        l2_anchor::L2Anchor,
        kl::Kl,
        chi2::Chi2,
        reverse_kl::ReverseKl,
        hellinger::Hellinger,
        elastic::Elastic,
        elastic_ftrl::ElasticFtrl,
        lq_exact::LqExact,
        lq_literal::LqLiteral,
        sigmoid::Sigmoid,
        tanh::Tanh,
        sphere::Sphere,
        ball::Ball,
    }
}
