//! Samples through the blocks: mixers sample by sample, everything else over all rows at once.

use super::{Classifier, Samples, add_rows};
use crate::access::Access;
use crate::block::{Again, BlockTape, Call, RopeTable};
use crate::error::Result;
use crate::params::Params;
use crate::pool::{Pool, fit};
use hecate_core::Scalar;
use hecate_core::ops::{LinearShape, Ops};

/// Buffers of a pass, reused from pass to pass; after one that was recorded, what its way back needs.
#[derive(Debug)]
pub struct SamplesTape<F> {
    pub(super) pool: Pool<F>,
    /// Logits of the last pass.
    pub(super) logits: Vec<F>,
    /// The last token of every sample, before and behind the final norm.
    pub(super) last: Vec<F>,
    pub(super) normed: Vec<F>,
    x: Vec<F>,
    blocks: Vec<Passes<F>>,
    /// State of one sample.
    state: Vec<F>,
    rope: Vec<RopeTable<F>>,
}

/// A block's tapes: one per sample for its mixer, one for its channel.
#[derive(Debug, Default)]
struct Passes<F> {
    mixers: Vec<BlockTape<F>>,
    channel: BlockTape<F>,
}

impl<F: Scalar> Default for SamplesTape<F> {
    fn default() -> Self {
        let [logits, last, normed, x, state] = std::array::from_fn(|_| Vec::new());
        Self { pool: Pool::default(), logits, last, normed, x, blocks: Vec::new(), state, rope: Vec::new() }
    }
}

impl Classifier {
    /// The call of one sample, or with other tokens of all rows.
    fn sample_call<'a, O: Ops>(
        &self,
        ops: &'a O,
        params: &'a Params<O::F>,
        record: bool,
        rope: &'a [RopeTable<O::F>],
    ) -> Call<'a, O> {
        Call { record, ..self.trunk.call(ops, params, self.config.patches, 0, &Access::Learn, rope) }
    }

    /// Input layer, blocks, final norm and heads.
    pub(super) fn run<O: Ops>(
        &self,
        ops: &O,
        params: &Params<O::F>,
        samples: Samples<'_, O::F>,
        record: bool,
        tape: &mut SamplesTape<O::F>,
    ) -> Result<()> {
        let (width, tokens, n) = (self.config.width, self.config.patches, samples.tasks.len());
        self.trunk.fill_rope(&mut tape.rope, tokens, 0);
        self.input_forward(ops, params, &samples, fit(&mut tape.x, n * tokens * width));
        tape.blocks.resize_with(self.trunk.blocks.len(), Passes::default);
        let SamplesTape { x, blocks, state, rope, pool, .. } = tape;
        let call = self.sample_call(ops, params, record, rope);
        let end = self.states.iter().map(|part| part.end).max().unwrap_or(0);
        fit(state, end);
        for (b, (block, own)) in self.trunk.blocks.iter().zip(blocks).enumerate() {
            let call = Call { block: b, ..call };
            let tapes = if block.mixes() { if record { n } else { 1 } } else { 0 };
            own.mixers.resize_with(tapes.max(own.mixers.len()), BlockTape::default);
            for (i, x) in x.chunks_exact_mut(tokens * width).enumerate().filter(|_| block.mixes()) {
                state[self.states[b].clone()].fill(O::F::zero());
                let own = &mut own.mixers[if record { i } else { 0 }];
                block.mixer_forward(&call, x, state, own, pool)?;
            }
            block.channel_forward(&call.with(n * tokens, 0), x, &mut own.channel, pool)?;
        }
        let last = fit(&mut tape.last, n * width);
        for (last, x) in last.chunks_exact_mut(width).zip(tape.x.chunks_exact(tokens * width)) {
            last.copy_from_slice(&x[(tokens - 1) * width..]);
        }
        let scale = &params.data[self.trunk.norm.clone()];
        ops.rms_norm_forward(width, &tape.last, scale, fit(&mut tape.normed, n * width));
        self.heads_forward(ops, params, &samples, tape);
        Ok(())
    }

    /// Transpose of [`Classifier::run`] from the last tokens on.
    pub(super) fn run_backward<O: Ops>(
        &self,
        ops: &O,
        params: &Params<O::F>,
        samples: Samples<'_, O::F>,
        dlast: Vec<O::F>,
        grads: &mut [O::F],
        tape: &mut SamplesTape<O::F>,
    ) -> Result<()> {
        let (width, tokens, n) = (self.config.width, self.config.patches, samples.tasks.len());
        let mut dx = tape.pool.zeros(n * tokens * width);
        for (dx, dlast) in dx.chunks_exact_mut(tokens * width).zip(dlast.chunks_exact(width)) {
            dx[(tokens - 1) * width..].copy_from_slice(dlast);
        }
        tape.pool.give(dlast);
        let SamplesTape { blocks, rope, pool, .. } = &mut *tape;
        let call = self.sample_call(ops, params, true, rope);
        for (b, (block, own)) in self.trunk.blocks.iter().zip(blocks).enumerate().rev() {
            let call = Call { block: b, ..call };
            block.channel_backward(
                &call.with(n * tokens, 0),
                &mut own.channel,
                &mut dx,
                grads,
                &mut Again::default(),
                pool,
            )?;
            for (dx, own) in dx.chunks_exact_mut(tokens * width).zip(&own.mixers) {
                block.mixer_backward(&call, own, dx, grads, pool)?;
            }
        }
        self.input_backward(ops, &samples, &dx, grads);
        tape.pool.give(dx);
        Ok(())
    }

    fn input_shape(&self, n: usize) -> LinearShape {
        let tokens = self.config.patches;
        LinearShape { rows: n * tokens, inner: self.config.features / tokens, outer: self.config.width }
    }

    /// Tokens `[N, patches, width]` of samples.
    fn input_forward<O: Ops>(&self, ops: &O, params: &Params<O::F>, samples: &Samples<'_, O::F>, x: &mut [O::F]) {
        let shape = self.input_shape(samples.tasks.len());
        ops.linear_forward(shape, samples.values, &params.data[self.input.clone()], x);
        let sample = self.config.patches * self.config.width;
        for (x, &task) in x.chunks_exact_mut(sample).zip(samples.tasks) {
            for place in self.added(task) {
                let row = &params.data[place];
                x.chunks_exact_mut(row.len()).for_each(|x| x.iter_mut().zip(row).for_each(|(x, &b)| *x += b));
            }
        }
    }

    /// Transpose of [`Classifier::input_forward`] towards the parameters.
    fn input_backward<O: Ops>(&self, ops: &O, samples: &Samples<'_, O::F>, dx: &[O::F], grads: &mut [O::F]) {
        let (shape, dw) = (self.input_shape(samples.tasks.len()), &mut grads[self.input.clone()]);
        ops.linear_backward(shape, samples.values, &[], dx, None, Some(dw));
        let sample = self.config.patches * self.config.width;
        for (dx, &task) in dx.chunks_exact(sample).zip(samples.tasks) {
            self.added(task).for_each(|place| add_rows(dx, &mut grads[place]));
        }
    }

    /// Rows that are added to every token of a sample.
    fn added(&self, task: usize) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        [Some(&self.bias), self.embeddings.get(task)].into_iter().flatten().cloned()
    }
}
