//! Knob 2, attentional bias: the inner loss that a token's association is learned under [Miras v1 sec.5.1].
//!
//! All that a rule needs of a loss is its gradient with respect to the prediction, the residual.

use super::knob::knob;
use crate::scalar::Scalar;

/// An inner loss. `p` is the prediction `M(k)`, `v` the value, both `[dv]`.
pub trait Bias {
    /// True if every token brings a threshold (the input `threshold`).
    fn threshold(&self) -> bool {
        false
    }
    /// The loss, for checks: the residual must be its gradient. `None` where the rule is not the gradient of a loss.
    fn loss<F: Scalar>(&self, p: &[F], v: &[F], threshold: F) -> Option<F>;
    /// The residual `r = dloss/dp`, overwritten. `threshold` is zero for losses without one.
    fn residual<F: Scalar>(&self, p: &[F], v: &[F], threshold: F, r: &mut [F]);
    /// Transpose of [`Bias::residual`]: adds into `dp` and `dv`, gives the gradient of the threshold.
    fn residual_backward<F: Scalar>(&self, p: &[F], v: &[F], threshold: F, dr: &[F], dp: &mut [F], dv: &mut [F]) -> F;

    /// True if the implicit step has a form here.
    fn has_implicit(&self) -> bool {
        false
    }
    /// The residual at the end of an implicit step: `r` with `r = loss'(p - s r)`, `s` the rate times `|k|^2`.
    fn implicit<F: Scalar>(&self, _p: &[F], _v: &[F], _threshold: F, _s: F, _r: &mut [F]) {
        unreachable!("only called where has_implicit says so");
    }
    /// Transpose of [`Bias::implicit`]: adds into `dp` and `dv`, gives the gradients of the threshold and of `s`.
    fn implicit_backward<F: Scalar>(
        &self,
        _p: &[F],
        _v: &[F],
        _threshold: F,
        _s: F,
        _dr: &[F],
        _dp: &mut [F],
        _dv: &mut [F],
    ) -> (F, F) {
        unreachable!("only called where has_implicit says so");
    }
}

knob! { $
    /// An inner loss; see [`Bias`].
    AnyBias in bias, with_bias, "bias", {
        l2::L2,
        dot::Dot,
    }
}
