//! How much memory a run will take, said before its first step.
//!
//! What a training pass keeps grows by the same amount with every token, so two short passes tell it for any length.

use super::Trainer;
use crate::error::Result;
use hecate_model::Tape;
use serde::Serialize;

/// Tokens of the two passes.
const SHORT_TOKENS: usize = 64;

/// Bytes by purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// Weights, both means of the optimizer, and the gradient buffers.
    pub parameters: u64,
    /// The state of every lane.
    pub states: u64,
    /// What forward passes keep for backward passes, over all threads.
    pub activations: u64,
    /// Copies while a checkpoint is written.
    pub checkpoint: u64,
}

impl Estimate {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.parameters + self.states + self.activations + self.checkpoint
    }
}

impl Trainer {
    /// The memory of this run in bytes, without the program and the text.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn estimate(&mut self) -> Result<Estimate> {
        const F32: u64 = 4;
        let len = self.model.params().len as u64;
        let tokens = self.config.model.context;
        let activations = if tokens <= 2 * SHORT_TOKENS {
            self.pass_len(tokens)?
        } else {
            let (one, two) = (self.pass_len(SHORT_TOKENS)?, self.pass_len(2 * SHORT_TOKENS)?);
            two + (two - one) * (tokens - 2 * SHORT_TOKENS) / SHORT_TOKENS
        };
        let tasks = rayon::current_num_threads().min(self.buffers.len()) as u64;
        Ok(Estimate {
            parameters: F32 * len * (3 + self.buffers.len() as u64),
            states: F32 * (self.states.len() * self.model.state_layout().len) as u64,
            activations: F32 * activations as u64 * tasks,
            // Weights and both means, each gathered and then put into one file.
            checkpoint: F32 * len * 5,
        })
    }

    /// Values that a pass over `tokens` tokens keeps.
    fn pass_len(&mut self, tokens: usize) -> Result<usize> {
        let (mut state, mut tape) = (self.model.new_state(), Tape::default());
        let (ids, mut losses) = (vec![0; tokens], vec![0.0; tokens]);
        // The gradient goes into a buffer that the next step clears.
        let grads = &mut self.buffers[0];
        self.model.train(&self.ops, &self.params, &mut state, &ids, &ids, 0.0, &mut losses, grads, &mut tape)?;
        Ok(tape.len())
    }
}
