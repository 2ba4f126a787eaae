//! The learned state of one sequence: an object of its own, apart from the weights.
//!
//! Memory states, convolution tails, attention windows and the position lie in one flat buffer with names, what the
//! sequence added to the model's weights in another. Copying it is a fork; comparing it is a diff; its bytes are a file.

mod file;
mod layout;
mod open;

pub use file::FORMAT;
pub use layout::{Content, LevelSchedule, NamedTensor, StateLayout, StateSpec};
pub(crate) use open::Open;

use crate::buffer::Buffer;
use hecate_core::Scalar;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// What a state file says about where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// sha256 of the base model's weights.
    pub base: String,
    /// sha256 of the base model's config.
    pub config: String,
    /// Instruction set on which it was written: bits are promised to continue on that one.
    pub isa: String,
}

/// The learned state of one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct State<F> {
    layout: Arc<StateLayout>,
    /// Values, laid out by [`StateLayout`].
    pub data: Buffer<F>,
    /// What the sequence added to the model's weights, with what it has gathered for the next change; laid out by
    /// [`StateLayout::fast`].
    pub fast: Buffer<F>,
    /// Tokens taken since the start or the last reset.
    pub position: u64,
    /// A token that was drawn and has not been read yet: the next call reads it first.
    pub pending: Option<u32>,
    /// The last of the tokens taken, which continuum memories have not learned from yet.
    pub(crate) open: Open<F>,
}

impl<F: Scalar> State<F> {
    /// The state before the first token: zeros. What a memory starts from is part of the weights, and the call that
    /// takes the first token puts it in.
    pub fn new(layout: Arc<StateLayout>) -> Self {
        let (data, fast, open) = (Buffer::zeros(layout.len), Buffer::zeros(layout.fast_len), Open::new(&layout));
        Self { layout, data, fast, position: 0, pending: None, open }
    }

    /// Back to the state before the first token.
    pub fn reset(&mut self) {
        self.data.fill(F::zero());
        self.fast.fill(F::zero());
        self.open.tokens.clear();
        self.position = 0;
        self.pending = None;
    }

    /// Its layout.
    pub fn layout(&self) -> &StateLayout {
        &self.layout
    }

    /// The first part that holds a value that is infinite or not a number.
    pub fn first_non_finite(&self) -> Option<&StateSpec> {
        let bad = |values: &[F], s: &&StateSpec| !values[s.range.clone()].iter().all(|x| x.is_finite());
        let found = self.layout.specs.iter().find(|s| bad(&self.data, s));
        found.or_else(|| self.layout.fast.iter().find(|s| bad(&self.fast, s)))
    }
}

impl State<f32> {
    /// sha256 over position and values: equal exactly when the states are equal bit for bit.
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update(self.position.to_le_bytes());
        hasher.update(self.pending.map_or(u64::MAX, u64::from).to_le_bytes());
        let start: &[f32] = if self.open.tokens.is_empty() { &[] } else { &self.open.start };
        for x in self.data.iter().chain(self.fast.iter()).chain(start) {
            hasher.update(x.to_le_bytes());
        }
        for t in &self.open.tokens {
            hasher.update(t.to_le_bytes());
        }
        hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}
