//! Seeded numbers for the checks: the same on every machine.

/// SplitMix64: one 64-bit counter, well mixed. Good enough for test data, and nothing else.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A stream that `seed` fixes.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `[low, high)`, rounded to `f32`, so that every number type sees the same inputs.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        let unit = (self.bits() >> 11) as f64 / (1_u64 << 53) as f64;
        f64::from((low + (high - low) * unit) as f32)
    }

    /// `n` numbers of mean zero and variance one, uniform in `[-sqrt 3, sqrt 3)`.
    pub fn values(&mut self, n: usize) -> Vec<f64> {
        let end = 3.0_f64.sqrt();
        (0..n).map(|_| self.uniform(-end, end)).collect()
    }

    /// A number in `0..n`; `n` is above zero.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// A normal number, mean zero and variance one (Box-Muller).
    pub fn normal(&mut self) -> f64 {
        let unit = |bits: u64| (bits >> 11) as f64 / (1_u64 << 53) as f64;
        let radius = (-2.0 * (1.0 - unit(self.bits())).ln()).sqrt();
        radius * (std::f64::consts::TAU * unit(self.bits())).cos()
    }

    /// `n` normal numbers.
    pub fn normals(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.normal()).collect()
    }
}
