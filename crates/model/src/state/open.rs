//! The tokens that a state has taken and not learned from yet.
//!
//! The loss of a token is known when the next one comes, and gradients are taken of several tokens at once, which is the
//! same sum. A state therefore keeps the last few tokens, and what it was before them: when they are learned from, they
//! are run again from there.

use super::StateLayout;
use crate::access::Access;
use crate::buffer::{Buffer, place};
use hecate_core::Scalar;

/// Tokens that wait to be learned from, the last ones that the state took.
#[derive(Clone, Debug)]
pub(crate) struct Open<F> {
    pub tokens: Vec<u32>,
    /// What the calls that took them were allowed to write.
    pub access: Access,
    /// What the state was before them, without what running them again makes anew; unspecified without tokens.
    pub start: Buffer<F>,
}

impl<F: Scalar> Open<F> {
    /// No tokens. `start` has room only where a layout has weights that a sequence changes.
    pub fn new(layout: &StateLayout) -> Self {
        Self { tokens: Vec::new(), access: Access::Learn, start: Buffer::zeros(len(layout)) }
    }

    /// Keeps the state as it is before the tokens to come.
    pub fn keep(&mut self, layout: &StateLayout, data: &[F]) {
        places(layout).for_each(|(from, to)| self.start[to].copy_from_slice(&data[from]));
    }

    /// Makes of `data` what it was before the tokens, as far as they do not do that themselves.
    pub fn restore(&self, layout: &StateLayout, data: &mut [F]) {
        places(layout).for_each(|(from, to)| data[from].copy_from_slice(&self.start[to]));
    }
}

impl<F: Scalar> Default for Open<F> {
    fn default() -> Self {
        Self { tokens: Vec::new(), access: Access::Learn, start: Buffer::zeros(0) }
    }
}

impl<F: PartialEq> PartialEq for Open<F> {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &Self, b: &Self| a.access == b.access && a.start == b.start;
        self.tokens == other.tokens && (self.tokens.is_empty() || same(self, other))
    }
}

/// Values of [`Open::start`].
pub(super) fn len(layout: &StateLayout) -> usize {
    let all = places(layout).map(|(_, to)| to.end).last().unwrap_or(0);
    if layout.fast.is_empty() { 0 } else { all }
}

type Place = std::ops::Range<usize>;

/// The parts that are kept: where they lie in a state, and here.
pub(super) fn places(layout: &StateLayout) -> impl Iterator<Item = (Place, Place)> + '_ {
    layout.kept().scan(0, |len, spec| {
        let to = place(*len, spec.range.len());
        *len = to.end;
        Some((spec.range.clone(), to))
    })
}
