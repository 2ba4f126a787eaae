//! Settings whose channels of keys decay each by its own gate: the family of [`crate::kernels::channels`].

use crate::kernels::channels::{Channels, Made};
use crate::rules::Miras;
use crate::rules::miras::algorithm::AnyAlgorithm;
use crate::rules::miras::bias::AnyBias;
use crate::rules::miras::features::AnyFeatures;
use crate::rules::miras::retention::AnyRetention;
use crate::rules::miras::structure::AnyStructure;
use crate::rules::miras::{Decay, Gates, GradientAt, ReadAt};

/// Indices of the inputs of these settings.
const K: usize = 0;
const V: usize = 1;
const Q: usize = 2;
const RETAIN: usize = 3;
const RATE: usize = 4;

impl Channels for Miras {
    fn belongs(&self) -> bool {
        let whole = self.chunk <= 1 && self.window == 0 && self.steps == 1 && self.clip.is_none();
        let gates = self.gates == Gates::Key && self.decay == Decay::Gate && self.read == ReadAt::Post;
        whole
            && gates
            && matches!(self.structure, AnyStructure::Matrix(_))
            && matches!(self.features, AnyFeatures::None(_))
            && matches!(self.bias, AnyBias::Dot(_) | AnyBias::L2(_))
            && matches!(self.retention, AnyRetention::L2(_))
            && matches!(self.algorithm, AnyAlgorithm::Gd(_))
    }

    fn erases(&self) -> bool {
        matches!(self.bias, AnyBias::L2(_))
    }

    fn value_and_query(&self) -> [usize; 2] {
        [V, Q]
    }

    /// `W' = W diag(retain) - rate (W ask - v) k^T`, with `ask = retain * k` where the gradient is that of the decayed
    /// state.
    fn make(&self, x: &[&[f32]], to: Made<&mut [f32]>) {
        let (k, retain, rate) = (x[K], x[RETAIN], x[RATE][0]);
        to.keep.copy_from_slice(retain);
        to.key.iter_mut().zip(k).for_each(|(to, k)| *to = rate * k);
        to.erase.iter_mut().zip(k).for_each(|(to, k)| *to = rate * k);
        match self.gradient {
            GradientAt::Prev => to.ask.iter_mut().zip(k).for_each(|(to, k)| *to = *k),
            GradientAt::Decayed => {
                to.ask.iter_mut().zip(k).zip(retain).for_each(|((to, k), retain)| *to = retain * k);
            }
        }
    }

    fn make_backward(&self, x: &[&[f32]], d: Made<&[f32]>, dx: &mut [&mut [f32]]) {
        let (k, retain, rate) = (x[K], x[RETAIN], x[RATE][0]);
        let add = |to: &mut [f32], by: f32, from: &[f32]| to.iter_mut().zip(from).for_each(|(to, d)| *to += by * d);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        add(dx[RETAIN], 1.0, d.keep);
        for dkey in [d.key, d.erase] {
            add(dx[K], rate, dkey);
            dx[RATE][0] += dot(dkey, k);
        }
        match self.gradient {
            GradientAt::Prev => add(dx[K], 1.0, d.ask),
            GradientAt::Decayed => {
                for (i, d) in d.ask.iter().enumerate() {
                    dx[K][i] += retain[i] * d;
                    dx[RETAIN][i] += k[i] * d;
                }
            }
        }
    }
}
