//! Random Fourier features: `phi(x) = (cos w_1 x, sin w_1 x, ...) / sqrt(n)`, `n` frequencies `w` drawn once, normal of
//! deviation `scale`. `phi(x) . phi(y)` comes near `exp(-scale^2 |x - y|^2 / 2)`, and every `phi(x)` has unit length.
//!
//! The frequencies are no state and no parameter: `seed` in the config says what they are, on every machine.

use super::Features;
use crate::error::{Error, Result};
use crate::rules::matrix::{add_scaled, dot};
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fourier {
    /// Number of features, two per frequency.
    pub features: usize,
    /// Which frequencies are drawn.
    pub seed: u64,
    /// Their standard deviation: one over the distance at which keys begin to differ.
    pub scale: f64,
}

impl Default for Fourier {
    fn default() -> Self {
        // Unit keys lie at most 2 apart.
        Self { features: 64, seed: 0, scale: 2.0 }
    }
}

impl Fourier {
    /// Name in configs and tables.
    pub const NAME: &'static str = "fourier";

    /// The frequencies, `[features / 2, dk]`.
    fn frequencies<F: Scalar>(&self, dk: usize) -> Vec<Vec<F>> {
        let mut state = self.seed;
        let mut unit = || {
            // SplitMix64: a counter, well mixed.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
        };
        // Box-Muller, with functions that give the same bits everywhere.
        let mut normal = || {
            let radius = libm::sqrt(-2.0 * libm::log(1.0 - unit()));
            radius * libm::cos(std::f64::consts::TAU * unit())
        };
        let mut frequency = |_| (0..dk).map(|_| F::from_f64(self.scale * normal())).collect();
        (0..self.features / 2).map(&mut frequency).collect()
    }

    fn height<F: Scalar>(&self) -> F {
        F::from_f64((self.features as f64 / 2.0).powf(-0.5))
    }
}

impl Features for Fourier {
    fn check(&self, _dk: usize) -> Result<()> {
        let refuse = |reason: String| Err(Error::Invalid { place: "feature map `fourier`".into(), reason });
        if self.features == 0 || !self.features.is_multiple_of(2) {
            return refuse(format!("features = {}: an even number above zero", self.features));
        }
        if !(self.scale.is_finite() && self.scale > 0.0) {
            return refuse(format!("scale = {}: a number above zero", self.scale));
        }
        Ok(())
    }

    fn width(&self, _dk: usize) -> usize {
        self.features
    }

    fn forward<F: Scalar>(&self, x: &[F], _coefficients: &[F], y: &mut [F]) {
        for (y, w) in y.chunks_exact_mut(2).zip(self.frequencies::<F>(x.len())) {
            let angle = dot(&w, x);
            y[0] = angle.cos() * self.height();
            y[1] = angle.sin() * self.height();
        }
    }

    fn backward<F: Scalar>(&self, x: &[F], _coefficients: &[F], dy: &[F], dx: &mut [F], _dcoefficients: &mut [F]) {
        for (dy, w) in dy.chunks_exact(2).zip(self.frequencies::<F>(x.len())) {
            let angle = dot(&w, x);
            let dangle = (dy[1] * angle.cos() - dy[0] * angle.sin()) * self.height();
            add_scaled(dx, dangle, &w);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_comes_near_the_gaussian_and_the_seed_fixes_it() {
        let map = Fourier { features: 8192, ..Fourier::default() };
        let phi = |x: &[f64]| {
            let mut y = vec![0.0; map.features];
            map.forward(x, &[], &mut y);
            y
        };
        let (x, y) = ([0.6, 0.0, -0.8], [0.0, 0.8, -0.6]);
        let distance: f64 = x.iter().zip(&y).map(|(a, b)| (a - b) * (a - b)).sum();
        assert!((dot(&phi(&x), &phi(&x)) - 1.0).abs() < 1e-12);
        assert!((dot(&phi(&x), &phi(&y)) - (-2.0 * distance).exp()).abs() < 0.03);
        // Pinned: a config names these numbers.
        let first: f64 = Fourier::default().frequencies::<f64>(2)[0][0];
        assert_eq!(first, Fourier::default().frequencies::<f64>(5)[0][0]);
        assert_ne!(first, Fourier { seed: 1, ..Fourier::default() }.frequencies::<f64>(2)[0][0]);
    }
}
