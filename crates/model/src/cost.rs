//! What a token costs, in closed formulas.

use crate::block::{Block, Pace};
use crate::model::Model;
use crate::params::Kind;

/// What it costs per token that continuum memories learn while they are read, besides the pass forward.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LearningCost {
    /// Floating-point operations: the way back along columns through every matrix, and the gradient of those that move. The
    /// columns of memories and of attention are left out.
    pub flops: f64,
    /// Bytes of single precision that must move between memory and processor: a change reads what the optimizer learned and
    /// what the sequence added, and writes the latter.
    pub bytes: f64,
}

impl Model {
    /// Floating-point operations of one token, forward, a multiply-add counted as two, in a call of `tokens` tokens
    /// that starts at position `pos`. Recomputation and padding do not count; a training step counts three times this, and
    /// [`Model::learning`] once.
    pub fn flops(&self, tokens: usize, pos: u64) -> f64 {
        let head = 2.0 * (self.config().width * self.config().vocab) as f64;
        head + self.trunk.flops(tokens, pos)
    }

    /// What continuum memories add to that, while a sequence is read or in `training`; nothing where none moves.
    pub fn learning(&self, training: bool) -> LearningCost {
        let pace = if training { self.trunk.training_pace() } else { Pace::Serving };
        if !self.trunk.schedule.moves(pace) {
            return LearningCost::default();
        }
        let head = self.config().width * self.config().vocab;
        let matrices = self.params().specs.iter().filter(|spec| spec.kind == Kind::Matrix);
        let matrices: usize = matrices.map(|spec| spec.range.len()).sum();
        let cms = || self.trunk.blocks.iter().filter_map(Block::cms);
        let moving: usize = cms().flat_map(|cms| cms.moving(pace)).map(|(values, _)| values).sum();
        let passed = if cms().any(|cms| cms.asks_for_columns()) { head + matrices } else { moving };
        // Three times four bytes; a training step goes through the changes once more on the way back.
        let each = if training { 24.0 } else { 12.0 };
        let bytes = cms().flat_map(|cms| cms.moving(pace)).map(|(values, period)| each * values as f64 / period as f64);
        LearningCost { flops: 2.0 * (passed + moving) as f64, bytes: bytes.sum() }
    }
}
