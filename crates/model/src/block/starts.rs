//! What a memory holds before its first token.
//!
//! Where a rule's tensor has a learned start, the model has a parameter `start.TENSOR` of shape `[heads, ..]`. A state
//! holds zeros until its first token comes: the call that takes token 0 pours the starts in, from the weights of that
//! call. So a state needs no weights to be made, reset, saved or forked, a reset state is a new one bit for bit, and
//! the gradient of the starts is that of the state before token 0. A call that begins later leaves them alone.

use super::Builder;
use crate::params::{Init, Kind};
use hecate_core::{Scalar, Start, StateTensor};
use std::ops::Range;

/// Where one tensor of a state starts from.
#[derive(Clone, Debug, PartialEq)]
enum Source {
    /// A parameter `[heads, ..]`.
    Learned(Range<usize>),
    /// A multiple of the identity of this side.
    Identity { scale: f64, side: usize },
}

/// A tensor of one head's state that does not start at zero.
#[derive(Clone, Debug, PartialEq)]
struct Part {
    source: Source,
    /// Place in one head's state.
    at: Range<usize>,
}

/// All tensors of a memory that do not start at zero.
#[derive(Debug, Default)]
pub(super) struct Starts {
    parts: Vec<Part>,
    heads: usize,
    /// Values in one head's state.
    stride: usize,
}

impl Starts {
    /// Adds the learned starts to the parameters.
    pub fn new(b: &mut Builder<'_>, part: &str, heads: usize, tensors: &[StateTensor]) -> Self {
        let mut sources: Vec<Option<Source>> = Vec::new();
        let (mut parts, mut stride) = (Vec::new(), 0);
        for t in tensors {
            let name = format!("{}.{part}.start.{}", b.prefix, t.name);
            let shape = [&[heads], t.shape.as_slice()].concat();
            let mut learned = |init| Some(Source::Learned(b.params.add(name.clone(), &shape, Kind::Start, init)));
            let source = match t.start {
                Start::Zero => None,
                Start::Learned { deviation } => learned(Init::Normal(deviation)),
                Start::UnitColumns => learned(Init::UnitColumns),
                Start::Identity(scale) => Some(Source::Identity { scale, side: t.shape[0] }),
                Start::Same(i) => sources[i].clone(),
            };
            let at = stride..stride + t.len();
            stride = at.end;
            parts.extend(source.clone().map(|source| Part { source, at }));
            sources.push(source);
        }
        Self { parts, heads, stride }
    }

    /// Fills the states of all heads, zero so far, with their starts.
    pub fn pour<F: Scalar>(&self, params: &[F], state: &mut [F]) {
        for (h, state) in state.chunks_exact_mut(self.stride.max(1)).enumerate() {
            for part in &self.parts {
                let own = &mut state[part.at.clone()];
                match &part.source {
                    Source::Learned(range) => own.copy_from_slice(&params[self.head(range, h)]),
                    Source::Identity { scale, side } => {
                        own.iter_mut().step_by(side + 1).for_each(|x| *x = F::from_f64(*scale));
                    }
                }
            }
        }
    }

    /// Transpose of [`Starts::pour`]: adds the gradient of the states into that of the parameters.
    pub fn pour_backward<F: Scalar>(&self, dstate: &[F], grads: &mut [F]) {
        for (h, dstate) in dstate.chunks_exact(self.stride.max(1)).enumerate() {
            for part in &self.parts {
                let Source::Learned(range) = &part.source else { continue };
                for (d, &ds) in grads[self.head(range, h)].iter_mut().zip(&dstate[part.at.clone()]) {
                    *d += ds;
                }
            }
        }
    }

    /// The part of a parameter that is head `h`'s.
    fn head(&self, range: &Range<usize>, h: usize) -> Range<usize> {
        let n = range.len() / self.heads;
        range.start + h * n..range.start + (h + 1) * n
    }
}
