//! Targets that ask for no loss.

use crate::error::{Error, Result};
use crate::model::Model;
use hecate_core::Scalar;
use hecate_core::ops::Ops;

/// A target of [`Model::train`] that asks for no loss: its position has the loss 0 and gives no gradient, and levels that
/// learn from the loss of the next token learn nothing from it.
pub const IGNORED: u32 = u32::MAX;

/// Most targets at a time: rows of the head that a training step holds at once, so that logits stay in the cache.
pub(crate) const ROWS: usize = 128;
const _: () = assert!(crate::slices::SLICE_TOKENS <= ROWS, "a slice asks for its losses at once");

/// Up to [`ROWS`] targets as the loss op takes them: an ignored one is token 0 at weight zero.
pub(crate) struct Targets<'a, F> {
    targets: &'a [u32],
    ids: [u32; ROWS],
    weights: [F; ROWS],
}

impl<'a, F: Scalar> Targets<'a, F> {
    /// With `weight` on every one that is asked for.
    pub fn new(targets: &'a [u32], weight: F) -> Self {
        debug_assert!(targets.len() <= ROWS);
        let mut own = Self { targets, ids: [0; ROWS], weights: [F::zero(); ROWS] };
        for ((id, own_weight), &target) in own.ids.iter_mut().zip(&mut own.weights).zip(targets) {
            if target != IGNORED {
                (*id, *own_weight) = (target, weight);
            }
        }
        own
    }

    /// The loss of each row, 0 where nothing is asked for.
    pub fn forward<O: Ops<F = F>>(&self, ops: &O, vocab: usize, logits: &[F], losses: &mut [F]) {
        ops.cross_entropy_forward(vocab, logits, &self.ids[..losses.len()], losses);
        for (loss, _) in losses.iter_mut().zip(self.targets).filter(|(_, target)| **target == IGNORED) {
            // What is not finite stays so, that it is found whatever was asked for.
            *loss -= *loss;
        }
    }

    /// Transpose of [`Targets::forward`]: adds into `dlogits`.
    pub fn backward<O: Ops<F = F>>(&self, ops: &O, vocab: usize, logits: &[F], dlogits: &mut [F]) {
        let rows = self.targets.len();
        ops.cross_entropy_backward(vocab, logits, &self.ids[..rows], &self.weights[..rows], dlogits);
    }
}

impl Model {
    pub(crate) fn check_targets(&self, targets: &[u32]) -> Result<()> {
        let vocab = self.config().vocab;
        match targets.iter().position(|&t| t as usize >= vocab && t != IGNORED) {
            Some(position) => Err(Error::Token { token: targets[position], position, vocab }),
            None => Ok(()),
        }
    }
}
