//! Samples kept to be learned from again.

use crate::rng::Rng;

/// A bounded draw of everything that came, every sample as likely as any other (reservoir sampling).
#[derive(Clone, Debug)]
pub(super) struct Replay {
    capacity: usize,
    features: usize,
    pub values: Vec<f32>, // [kept, features], as they came
    pub labels: Vec<u32>,
    pub tasks: Vec<u32>,
    /// Samples that came.
    pub seen: u64,
    pub rng: Rng,
}

impl Replay {
    pub fn new(capacity: usize, features: usize, seed: u64) -> Self {
        let (values, labels, tasks) = (Vec::new(), Vec::new(), Vec::new());
        Self { capacity, features, values, labels, tasks, seen: 0, rng: Rng::new(seed, "classifier.replay") }
    }

    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Takes a sample in, in the place of a chance one where it is full; or not.
    pub fn add(&mut self, sample: &[f32], label: usize, task: usize) {
        self.seen += 1;
        if self.len() < self.capacity {
            self.values.extend_from_slice(sample);
            self.labels.push(label as u32);
            self.tasks.push(task as u32);
            return;
        }
        let at = (self.rng.uniform() * self.seen as f64) as usize;
        if at < self.capacity {
            self.values[at * self.features..][..self.features].copy_from_slice(sample);
            self.labels[at] = label as u32;
            self.tasks[at] = task as u32;
        }
    }

    /// Places of `count` samples, drawn each on its own; none where nothing is kept.
    pub fn draw(&mut self, count: usize) -> Vec<usize> {
        let (len, rng) = (self.len(), &mut self.rng);
        let draws = if len == 0 { 0 } else { count };
        (0..draws).map(|_| ((rng.uniform() * len as f64) as usize).min(len - 1)).collect()
    }

    pub fn sample(&self, at: usize) -> &[f32] {
        &self.values[at * self.features..][..self.features]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_kept_as_often_as_any_other_and_the_ring_stays_bounded() {
        let mut kept = [0; 20];
        for seed in 0..2000 {
            let mut replay = Replay::new(5, 1, seed);
            (0..20).for_each(|i| replay.add(&[i as f32], i, i));
            assert_eq!((replay.len(), replay.seen, replay.values.len()), (5, 20, 5));
            assert!((0..5).all(|i| replay.sample(i)[0] == replay.labels[i] as f32));
            replay.labels.iter().for_each(|&label| kept[label as usize] += 1);
        }
        // 500 expected, deviation 19.
        assert!(kept.iter().all(|n| (420..580).contains(n)), "{kept:?}");
        assert!(Replay::new(0, 1, 0).draw(3).is_empty());
    }
}
