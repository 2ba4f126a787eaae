//! Features brought to one size.

/// Most deviations from the mean: a feature that hardly varied at first must not swamp the others when it does.
const MOST: f64 = 4.0;

/// Mean and deviation of every feature, by the samples of the first call. They stay: a prediction keeps its meaning.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scaling {
    pub mean: Vec<f32>,
    pub deviation: Vec<f32>,
}

impl Scaling {
    /// Of samples `[N, features]`. A feature that is always the same counts as of deviation 1.
    pub fn of(features: usize, values: &[f32]) -> Self {
        let n = (values.len() / features).max(1) as f64;
        let column = |f: usize| values[f.min(values.len())..].iter().step_by(features).map(|&x| f64::from(x));
        let moments = (0..features).map(|f| {
            let mean = column(f).sum::<f64>() / n;
            let deviation = (column(f).map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
            // What rounding alone could make of a constant.
            let constant = deviation <= 1e-7 * mean.abs();
            (mean as f32, if constant { 1.0 } else { deviation.max(f64::from(f32::MIN_POSITIVE)) as f32 })
        });
        let (mean, deviation) = moments.unzip();
        Self { mean, deviation }
    }

    /// Samples as the classifier takes them.
    pub fn apply(&self, values: &[f32]) -> Vec<f32> {
        let features = self.mean.iter().zip(&self.deviation).cycle();
        let scaled = |(&x, (&mean, &deviation)): (&f32, (&f32, &f32))| {
            ((f64::from(x) - f64::from(mean)) / f64::from(deviation)).clamp(-MOST, MOST) as f32
        };
        values.iter().zip(features).map(scaled).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_come_to_mean_zero_and_deviation_one_and_outliers_stay_near() {
        let scaling = Scaling::of(3, &[1.0, 5.0, -1e30, 3.0, 5.0, 1e30]);
        assert_eq!(scaling.apply(&[1.0, 5.0, 1e30, 3.0, 6.0, 0.0]), [-1.0, 0.0, 1.0, 1.0, 1.0, 0.0]);
        assert_eq!(scaling.apply(&[1e9, -1e9, 0.0]), [4.0, -4.0, 0.0]);
        assert_eq!(Scaling::of(2, &[]).deviation, [1.0, 1.0]);
    }
}
