//! What keys and queries pass through before the memory sees them: more features hold more associations
//! [Atlas v1 sec.3.1].

use super::knob::knob;
use crate::error::Result;
use crate::rule::Input;
use crate::scalar::Scalar;
use arrayvec::ArrayVec;

/// Most parts of a feature map.
pub const MOST_PARTS: usize = 4;

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
    /// Widths of the parts of which each has a coefficient of its own; empty without coefficients. Then
    /// `phi(x) = root_i basis_i(x)` in part `i`.
    fn parts(&self, _dk: usize) -> ArrayVec<usize, MOST_PARTS> {
        ArrayVec::new()
    }
    /// The features without their coefficients: `x [dk]`, `y [width]`, overwritten.
    fn basis<F: Scalar>(&self, x: &[F], y: &mut [F]) {
        self.forward(x, &[], y);
    }
    /// Transpose of [`Features::basis`]; adds into `dx`.
    fn basis_backward<F: Scalar>(&self, x: &[F], dy: &[F], dx: &mut [F]) {
        self.backward(x, &[], dy, dx, &mut []);
    }
    /// What each part is multiplied with, one per coefficient, overwritten.
    fn roots<F: Scalar>(&self, _coefficients: &[F], _roots: &mut [F]) {}
    /// Transpose of [`Features::roots`]; adds into `dcoefficients`.
    fn roots_backward<F: Scalar>(&self, _coefficients: &[F], _droots: &[F], _dcoefficients: &mut [F]) {}
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
