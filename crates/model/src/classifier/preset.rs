//! Classifiers for common ends, sized by the data that they are to learn from.

use super::config::levels_block;
use super::{ClassifierConfig, DecayTowards, Heads, Learning};
use serde::{Deserialize, Serialize};

/// What a classifier is to be good at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Learns new tasks and keeps old ones: levels at several paces, and some replay.
    #[default]
    Balanced,
    /// Learns what is new quickly and keeps no sample: one level that is stepped always, at twice the rate.
    FastAdapt,
    /// Keeps what it knows: slower levels, as many old samples in a step as new ones, decay towards the start of the task.
    HighRetention,
}

/// Width of the stream for so many features and samples: about one and a half times the root of the number of samples, a
/// multiple of 16 between 16 and 256, and no more than four times the features. Parameters, which go with the square of the
/// width, then grow with the samples.
pub fn width_for(features: usize, samples: usize) -> usize {
    let wide = (1.5 * (samples as f64).sqrt()).min(4.0 * features as f64);
    ((wide / 16.0).round() as usize * 16).clamp(16, 256)
}

/// Passes over so many samples: as many as give 60,000 samples in all, between 5 and 100.
pub fn passes_for(samples: usize) -> usize {
    (60_000 / samples.max(1)).clamp(5, 100)
}

/// Periods of levels in samples, fastest first: the first is one step, each further one `apart` times as long, but no longer
/// than half of a pass over so many samples, so that every level changes at least twice in a pass where steps allow it.
pub fn periods_for(samples: usize, batch: usize, levels: usize, apart: u64) -> Vec<u64> {
    let (step, most) = (batch as u64, (samples as u64 / 2).max(batch as u64));
    (0..levels as u32).map(|level| step.saturating_mul(apart.saturating_pow(level)).min(most)).collect()
}

/// Samples to keep of so many samples a task: a fifth of those of all tasks, at least 50 and at most 2,000 a task.
pub fn replay_for(samples: usize, tasks: usize) -> usize {
    (samples / 5).clamp(50, 2000) * tasks.max(1)
}

impl Preset {
    /// The configuration for samples of so many features, about so many samples a task, and so many tasks in all; `heads` may
    /// have fewer so far.
    pub fn config(self, features: usize, heads: Heads, samples: usize, tasks: usize) -> ClassifierConfig {
        let (width, replay, base) = (width_for(features, samples), replay_for(samples, tasks), Learning::default());
        let (levels, apart, learning) = match self {
            Preset::Balanced => (3, 2, Learning { replay, ..base }),
            Preset::FastAdapt => (1, 1, Learning { rate: 2.0 * base.rate, final_rate: 0.5, ..base }),
            Preset::HighRetention => {
                let decay_towards = DecayTowards::TaskStart;
                (3, 4, Learning { replay: 2 * replay, replay_share: 1.0, decay: 0.05, decay_towards, ..base })
            }
        };
        let periods = periods_for(samples, learning.batch, levels, apart);
        let blocks = vec![levels_block(2 * width, &periods)];
        ClassifierConfig { features, heads, width, blocks, learning, ..ClassifierConfig::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_the_data() {
        assert_eq!([0, 100, 1_437, 1_000_000].map(|n| width_for(64, n)), [16, 16, 64, 256]);
        assert_eq!(width_for(2, 1_000_000), 16);
        assert_eq!([1, 600, 1_000, 1_000_000].map(passes_for), [100, 100, 60, 5]);
        assert_eq!(periods_for(1_000, 32, 4, 4), [32, 128, 500, 500]);
        assert_eq!(periods_for(10, 32, 2, 4), [32, 32]);
        assert_eq!((replay_for(10, 2), replay_for(1_000, 2), replay_for(1_000_000, 1)), (100, 400, 2000));
    }

    #[test]
    fn every_preset_can_be_built_and_they_differ() {
        let config = |preset: Preset| preset.config(64, Heads::PerTask { classes: vec![5, 5] }, 700, 2);
        let all = [Preset::Balanced, Preset::FastAdapt, Preset::HighRetention].map(config);
        all.iter().for_each(|config| config.check().unwrap());
        assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
    }
}
