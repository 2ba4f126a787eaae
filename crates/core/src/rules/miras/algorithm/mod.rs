//! Knob 4, algorithm: how the inner loss is descended [Miras v1 sec.5.3], [Atlas v1 sec.5].
//!
//! ```text
//! S' = momentum S - rate G          without momentum: S' = -rate G
//! step = direction(S')              times the input `ns_rate` where the direction has unit scale
//! ```
//!
//! `implicit` and `newton` solve for the step in closed form instead.

pub use muon::{Polynomial, When};

use super::knob::knob;
use super::structure::Tensor;
use crate::error::Result;
use crate::scalar::Scalar;

/// How the step comes from the inner gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Solve {
    /// A step along the gradient.
    Explicit,
    /// The residual at the end of the step instead of at its start.
    Implicit,
    /// Recursive least squares: the state holds an inverse covariance too.
    Newton,
}

/// An inner optimizer.
pub trait Algorithm {
    /// Refuses settings that do not exist, with the reason.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`].
    fn check(&self) -> Result<()> {
        Ok(())
    }
    /// How the step comes from the gradient.
    fn solve(&self) -> Solve {
        Solve::Explicit
    }
    /// True if it keeps momentum: the input `momentum`, and a state `S` like the memory.
    fn momentum(&self) -> bool {
        false
    }
    /// True if it gathers all gradients and forgets nothing: retentions that pull are then refused.
    fn keeps_all(&self) -> bool {
        false
    }
    /// True if the direction has unit scale, and the input `ns_rate` scales it.
    fn unit_scale(&self) -> bool {
        false
    }
    /// True if, under chunks, the direction is taken once at the end of each instead of at every token, as far as the
    /// `ns_rate` of all its tokens goes.
    fn once_per_chunk(&self) -> bool {
        false
    }
    /// What multiple of the identity the inverse covariance starts as, if the state holds one.
    fn covariance(&self) -> Option<f64> {
        None
    }
    /// Operations of a direction of this shape, beyond those of every step.
    fn direction_flops(&self, _t: &Tensor) -> f64 {
        0.0
    }
    /// The polynomial and the number of iterations that a direction is made with, if it is.
    fn orthogonal(&self) -> Option<([f64; 3], usize)> {
        None
    }
    /// The direction of a step, overwritten.
    fn direction<F: Scalar>(&self, _t: &Tensor, s: &[F], out: &mut [F]) {
        out.copy_from_slice(s);
    }
    /// Transpose of [`Algorithm::direction`]; adds into `ds`.
    fn direction_backward<F: Scalar>(&self, _t: &Tensor, _s: &[F], dout: &[F], ds: &mut [F]) {
        for (ds, &d) in ds.iter_mut().zip(dout) {
            *ds += d;
        }
    }
}

knob! { $
    /// An inner optimizer; see [`Algorithm`].
    AnyAlgorithm in algorithm, with_algorithm, "algorithm", {
        gd::Gd,
        momentum::Momentum,
        muon::Muon,
        ftrl::Ftrl,
        implicit::Implicit,
        newton::Newton,
    }
}
