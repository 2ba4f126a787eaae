//! What keys and queries pass through before the memory sees them: more features hold more associations
//! [Atlas v1 sec.3.1].

use super::knob::knob;
use crate::error::Result;
use crate::rule::Input;
use crate::scalar::Scalar;

/// A feature map.
pub trait Features {
    /// Refuses key widths that do not exist, with the reason.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`].
    fn check(&self, _dk: usize) -> Result<()> {
        Ok(())
    }
    /// Number of features of a key of width `dk`.
    fn width(&self, dk: usize) -> usize;
    /// The input that brings its learned coefficients, if it has any.
    fn coefficients(&self) -> Option<Input> {
        None
    }
    /// `phi(x)`: `x [dk]`, `coefficients` as wide as the input says, `y [width]`, overwritten.
    fn forward<F: Scalar>(&self, x: &[F], coefficients: &[F], y: &mut [F]);
    /// Transpose of [`Features::forward`]; adds into `dx` and `dcoefficients`.
    fn backward<F: Scalar>(&self, x: &[F], coefficients: &[F], dy: &[F], dx: &mut [F], dcoefficients: &mut [F]);
}

knob! { $
    /// A feature map; see [`Features`].
    AnyFeatures in features, with_features, "feature map", {
        none::None,
        polynomial::Polynomial,
        elu::Elu,
        fourier::Fourier,
    }
}
