//! Numbers for the bench, and the comparison that comes before every timing.

/// Share of the largest expected magnitude by which a result may differ: the bound that the kernels' tests use.
pub(super) const TOLERANCE: f64 = 1e-5;
/// The same for the gradient of a whole model, which passes through dozens of kernels that may differ by so much each,
/// and which is a sum of terms that cancel.
pub(super) const GRADIENT_TOLERANCE: f64 = 1e-4;

/// Numbers in [-1, 1), the same on every run.
pub(super) fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// What is wrong if not every result is within the tolerance of what is expected.
pub(super) fn fault(pairs: impl Iterator<Item = (f32, f64)>) -> Option<String> {
    fault_within(TOLERANCE, pairs)
}

/// [`fault`] with a tolerance of its own.
pub(super) fn fault_within(tolerance: f64, pairs: impl Iterator<Item = (f32, f64)>) -> Option<String> {
    let (mut scale, mut off) = (0.0_f64, 0.0_f64);
    for (got, want) in pairs {
        if !got.is_finite() {
            return Some(format!("a result is {got}"));
        }
        scale = scale.max(want.abs());
        off = off.max((f64::from(got) - want).abs());
    }
    (off > tolerance * scale).then(|| format!("off by {off:.3e} where the largest value is {scale:.3e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_outside_the_tolerance_or_not_finite_is_a_fault() {
        assert_eq!(fault([(1.0, 1.000_001), (0.0, 0.0)].into_iter()), None);
        assert!(fault([(1.0, 1.0), (0.0, 2e-5)].into_iter()).is_some());
        assert!(fault([(f32::NAN, 1.0)].into_iter()).is_some());
    }
}
