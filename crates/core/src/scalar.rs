//! The numbers that every reference is written over: `f32`, `f64`, and [`Dual`] for exact derivatives.

use std::fmt::Debug;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

/// A real number, or one that carries a derivative along.
///
/// One source, written once over `F: Scalar`, is the fast reference (`f32`), the oracle's partner (`f64`)
/// and its own exact derivative (`Dual<f64>`). Comparisons look at the value only.
pub trait Scalar:
    Copy
    + Debug
    + Default
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
    + Sum
    + 'static
{
    /// The constant `x`, with derivative zero.
    fn from_f64(x: f64) -> Self;
    /// The value, without its derivative.
    fn value(self) -> f64;
    /// `e^self`.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Hyperbolic tangent.
    fn tanh(self) -> Self;
    /// Error function.
    fn erf(self) -> Self;
    /// Sine.
    fn sin(self) -> Self;
    /// Cosine.
    fn cos(self) -> Self;
    /// The same value as a constant: derivatives stop here.
    fn detach(self) -> Self;
    /// The value of `hard` with the derivative of `soft`: how a surrogate gradient is declared.
    fn straight_through(hard: Self, soft: Self) -> Self;

    /// Zero.
    fn zero() -> Self {
        Self::from_f64(0.0)
    }
    /// One.
    fn one() -> Self {
        Self::from_f64(1.0)
    }
    /// `1 / (1 + e^-self)`, without overflow on either side.
    fn sigmoid(self) -> Self {
        if self.value() >= 0.0 {
            Self::one() / (Self::one() + (-self).exp())
        } else {
            let e = self.exp();
            e / (Self::one() + e)
        }
    }
    /// `self * sigmoid(self)`.
    fn silu(self) -> Self {
        self * self.sigmoid()
    }
    /// `ln(1 + e^self)`, without overflow.
    fn softplus(self) -> Self {
        if self.value() > 0.0 { self + (Self::one() + (-self).exp()).ln() } else { (Self::one() + self.exp()).ln() }
    }
    /// The derivative of [`Scalar::silu`].
    fn silu_slope(self) -> Self {
        let s = self.sigmoid();
        s + self * s * (Self::one() - s)
    }
    /// Neither infinite nor NaN (the value; a derivative may still overflow).
    fn is_finite(self) -> bool {
        self.value().is_finite()
    }
}

macro_rules! real {
    ($($F:ident $erf:path),*) => {$(
        impl Scalar for $F {
            fn from_f64(x: f64) -> Self { x as $F }
            fn value(self) -> f64 { f64::from(self) }
            fn exp(self) -> Self { $F::exp(self) }
            fn ln(self) -> Self { $F::ln(self) }
            fn sqrt(self) -> Self { $F::sqrt(self) }
            fn tanh(self) -> Self { $F::tanh(self) }
            fn erf(self) -> Self { $erf(self) }
            fn sin(self) -> Self { $F::sin(self) }
            fn cos(self) -> Self { $F::cos(self) }
            fn detach(self) -> Self { self }
            fn straight_through(hard: Self, _soft: Self) -> Self { hard }
        }
    )*};
}
real!(f32 libm::erff, f64 libm::erf);

/// A dual number `re + eps * E` with `E^2 = 0`: `eps` is the exact derivative of `re` along one direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dual<F> {
    /// Value.
    pub re: F,
    /// Derivative along the chosen direction.
    pub eps: F,
}

impl<F: Scalar> Dual<F> {
    /// A value with a derivative.
    pub fn new(re: F, eps: F) -> Self {
        Self { re, eps }
    }
}

impl<F: Scalar> PartialEq for Dual<F> {
    fn eq(&self, other: &Self) -> bool {
        self.re == other.re
    }
}
impl<F: Scalar> PartialOrd for Dual<F> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        self.re.partial_cmp(&other.re)
    }
}
impl<F: Scalar> Add for Dual<F> {
    type Output = Self;
    fn add(self, o: Self) -> Self {
        Self::new(self.re + o.re, self.eps + o.eps)
    }
}
impl<F: Scalar> Sub for Dual<F> {
    type Output = Self;
    fn sub(self, o: Self) -> Self {
        Self::new(self.re - o.re, self.eps - o.eps)
    }
}
impl<F: Scalar> Mul for Dual<F> {
    type Output = Self;
    fn mul(self, o: Self) -> Self {
        Self::new(self.re * o.re, self.eps * o.re + self.re * o.eps)
    }
}
impl<F: Scalar> Div for Dual<F> {
    type Output = Self;
    fn div(self, o: Self) -> Self {
        let re = self.re / o.re;
        Self::new(re, (self.eps - re * o.eps) / o.re)
    }
}
impl<F: Scalar> Neg for Dual<F> {
    type Output = Self;
    fn neg(self) -> Self {
        Self::new(-self.re, -self.eps)
    }
}
impl<F: Scalar> AddAssign for Dual<F> {
    fn add_assign(&mut self, o: Self) {
        *self = *self + o;
    }
}
impl<F: Scalar> SubAssign for Dual<F> {
    fn sub_assign(&mut self, o: Self) {
        *self = *self - o;
    }
}
impl<F: Scalar> MulAssign for Dual<F> {
    fn mul_assign(&mut self, o: Self) {
        *self = *self * o;
    }
}
impl<F: Scalar> DivAssign for Dual<F> {
    fn div_assign(&mut self, o: Self) {
        *self = *self / o;
    }
}
impl<F: Scalar> Sum for Dual<F> {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::zero(), |a, b| a + b)
    }
}

impl<F: Scalar> Scalar for Dual<F> {
    fn from_f64(x: f64) -> Self {
        Self::new(F::from_f64(x), F::zero())
    }
    fn value(self) -> f64 {
        self.re.value()
    }
    fn exp(self) -> Self {
        let re = self.re.exp();
        Self::new(re, re * self.eps)
    }
    fn ln(self) -> Self {
        Self::new(self.re.ln(), self.eps / self.re)
    }
    fn sqrt(self) -> Self {
        let re = self.re.sqrt();
        Self::new(re, self.eps / (re + re))
    }
    fn tanh(self) -> Self {
        let re = self.re.tanh();
        Self::new(re, self.eps * (F::one() - re * re))
    }
    fn erf(self) -> Self {
        let slope = F::from_f64(2.0 / std::f64::consts::PI.sqrt()) * (-(self.re * self.re)).exp();
        Self::new(self.re.erf(), self.eps * slope)
    }
    fn sin(self) -> Self {
        Self::new(self.re.sin(), self.eps * self.re.cos())
    }
    fn cos(self) -> Self {
        Self::new(self.re.cos(), -(self.eps * self.re.sin()))
    }
    fn detach(self) -> Self {
        Self::new(self.re.detach(), F::zero())
    }
    fn straight_through(hard: Self, soft: Self) -> Self {
        Self::new(F::straight_through(hard.re, soft.re), soft.eps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derivative(f: impl Fn(Dual<f64>) -> Dual<f64>, x: f64) -> f64 {
        f(Dual::new(x, 1.0)).eps
    }

    #[test]
    fn derivatives_of_the_elementary_functions_are_exact() {
        let x = 0.7_f64;
        let s = 1.0 / (1.0 + (-x).exp());
        for (got, want) in [
            (derivative(Scalar::exp, x), x.exp()),
            (derivative(Scalar::ln, x), 1.0 / x),
            (derivative(Scalar::sqrt, x), 0.5 / x.sqrt()),
            (derivative(Scalar::tanh, x), 1.0 - x.tanh().powi(2)),
            (derivative(Scalar::erf, x), 2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp()),
            (derivative(Scalar::sin, x), x.cos()),
            (derivative(Scalar::cos, x), -x.sin()),
            (derivative(Scalar::softplus, x), s),
            (derivative(Scalar::softplus, -x), 1.0 - s),
            (derivative(Scalar::sigmoid, x), s * (1.0 - s)),
            (derivative(Scalar::sigmoid, -x), s * (1.0 - s)),
            (derivative(|x| x * x / (x + Dual::one()), x), (x * x + 2.0 * x) / (x + 1.0).powi(2)),
        ] {
            assert!((got - want).abs() <= 1e-15 * want.abs().max(1.0), "{got} {want}");
        }
    }

    #[test]
    fn detach_stops_and_straight_through_replaces_the_derivative() {
        assert_eq!(derivative(|x| x.detach() * x, 3.0), 3.0);
        let y = Scalar::straight_through(Dual::new(1.0, 9.0), Dual::new(0.3, 2.0));
        assert_eq!((y.re, y.eps), (1.0, 2.0));
    }

    #[test]
    fn sigmoid_saturates_without_overflow() {
        assert_eq!(1000.0_f32.sigmoid(), 1.0);
        assert_eq!((-1000.0_f32).sigmoid(), 0.0);
    }
}
