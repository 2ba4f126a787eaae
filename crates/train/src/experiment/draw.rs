//! Random vectors for experiments.

use hecate_model::rng::Rng;

/// The generator of one seed of one experiment.
pub(super) fn rng(experiment: &str, seed: usize) -> Rng {
    Rng::new(seed as u64, experiment)
}

/// `n` normal numbers.
pub(super) fn normals(rng: &mut Rng, n: usize) -> Vec<f64> {
    (0..n).map(|_| rng.normal()).collect()
}

/// A direction, uniform over the sphere.
pub(super) fn unit(rng: &mut Rng, n: usize) -> Vec<f64> {
    let x = normals(rng, n);
    scaled(&x, 1.0 / length(&x))
}

/// `count` directions.
pub(super) fn units(rng: &mut Rng, count: usize, n: usize) -> Vec<Vec<f64>> {
    (0..count).map(|_| unit(rng, n)).collect()
}

/// Inner product.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Euclidean length.
pub(super) fn length(x: &[f64]) -> f64 {
    dot(x, x).sqrt()
}

/// `|a - b|^2`.
pub(super) fn distance2(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// `c x`.
pub(super) fn scaled(x: &[f64], c: f64) -> Vec<f64> {
    x.iter().map(|x| c * x).collect()
}

/// The largest magnitude; NaN where one of the numbers is none.
pub(super) fn largest(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |a: f64, x| if a.is_nan() || x.abs() <= a { a } else { x.abs() })
}
