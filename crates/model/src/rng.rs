//! Random numbers as a pure function of (seed, stream, index): nothing to save but a counter.

/// A counter-based generator: the n-th number depends on the seed, the stream's name and n alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rng {
    key: u64,
    /// Numbers drawn so far; part of every checkpoint that draws.
    pub counter: u64,
}

/// Finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection that mixes all 64 bits.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// The stream called `name` under `seed`, from its start.
    pub fn new(seed: u64, name: &str) -> Self {
        let key = name.bytes().fold(mix(seed ^ 0x9e37_79b9_7f4a_7c15), |k, b| mix(k ^ u64::from(b)));
        Self { key, counter: 0 }
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        mix(self.key.wrapping_add(self.counter.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Puts everything in another order (Fisher and Yates); draws one number less than there are things.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for i in (1..all.len()).rev() {
            all.swap(i, (self.uniform() * (i + 1) as f64) as usize);
        }
    }

    /// Standard normal, by Box and Muller; draws two numbers.
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_continues_from_its_counter() {
        let mut a = Rng::new(7, "init");
        let first: Vec<u64> = (0..5).map(|_| a.bits()).collect();
        let mut b = Rng::new(7, "init");
        b.counter = 3;
        assert_eq!(b.bits(), first[3]);
        assert_ne!(Rng::new(7, "sample").bits(), first[0]);
        assert_ne!(Rng::new(8, "init").bits(), first[0]);
    }

    #[test]
    fn a_shuffle_keeps_everything_and_changes_the_order() {
        let mut all: Vec<usize> = (0..50).collect();
        Rng::new(3, "test").shuffle(&mut all);
        assert!(all.iter().enumerate().any(|(i, &x)| i != x));
        all.sort_unstable();
        assert_eq!(all, (0..50).collect::<Vec<usize>>());
    }

    #[test]
    fn normal_numbers_have_mean_zero_and_unit_variance() {
        let mut rng = Rng::new(1, "test");
        let x: Vec<f64> = (0..20_000).map(|_| rng.normal()).collect();
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let var = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
        assert!(mean.abs() < 0.03 && (var - 1.0).abs() < 0.04, "{mean} {var}");
    }
}
