//! The learning rate over a run: a linear warm-up, then half a cosine.

use serde::{Deserialize, Serialize};

/// Learning rate by step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Highest rate.
    pub peak: f64,
    /// Steps of the linear rise.
    pub warmup_steps: u64,
    /// Fraction of the peak at the end.
    pub floor: f64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { peak: 3e-3, warmup_steps: 100, floor: 0.05 }
    }
}

impl Schedule {
    /// The rate of step `step` (from 0) in a run of `steps` steps.
    pub fn rate(&self, step: u64, steps: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let span = steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let done = ((step - self.warmup_steps) as f64 / span).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
        self.peak * (self.floor + (1.0 - self.floor) * cosine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_to_the_peak_and_falls_to_the_floor() {
        let s = Schedule { peak: 2.0, warmup_steps: 10, floor: 0.1 };
        assert_eq!(s.rate(0, 100), 0.2);
        assert_eq!(s.rate(9, 100), 2.0);
        assert_eq!(s.rate(10, 100), 2.0);
        assert!((s.rate(100, 100) - 0.2).abs() < 1e-12);
        assert!((11..100).all(|i| s.rate(i, 100) < s.rate(i - 1, 100)));
    }
}
