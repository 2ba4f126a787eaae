//! What stands between an input and a head: blocks and a final norm. A model of tokens and a classifier of vectors share it.

use crate::access::Access;
use crate::block::{Again, Block, BlockTape, Builder, Call, MemoryInfo, Pace, RopeTable};
use crate::config::BlockConfig;
use crate::error::Result;
use crate::params::{Init, Kind, ParamLayout, Params};
use crate::pool::{Pool, fit};
use crate::slices::Schedule;
use crate::state::{LevelSchedule, StateLayout};
use hecate_core::ops::{Ops, rope};
use hecate_core::{AnyRule, Scalar};
use std::ops::Range;

/// Blocks and a final norm, without numbers.
pub(crate) struct Trunk {
    pub blocks: Vec<Block>,
    pub norm: Range<usize>,
    /// When continuum memories move.
    pub schedule: Schedule,
    rope: Vec<(usize, f64)>,
    /// Positions that some mixer puts before the sequence, at most.
    rope_extra: usize,
    /// A level whose period is no shorter is the optimizer's in training.
    context: u64,
}

impl Trunk {
    /// Lays out blocks, `repeat` written out, in a stream of `width`, and the norm behind them.
    pub fn new(
        params: &mut ParamLayout,
        state: &mut StateLayout,
        width: usize,
        context: u64,
        list: &[BlockConfig],
    ) -> Self {
        let (mut blocks, mut sums) = (Vec::new(), 0);
        for (i, block) in list.iter().enumerate() {
            let (prefix, depth) = (format!("blocks.{i}"), list.len());
            let mut b = Builder { params, state, width, depth, context, prefix, sums };
            blocks.push(Block::new(&mut b, block));
            sums = b.sums;
        }
        let norm = params.add("norm.scale".into(), &[width], Kind::Norm, Init::Constant(1.0));
        let mut rope: Vec<(usize, f64)> = Vec::new();
        for key in blocks.iter().filter_map(Block::rope_key) {
            if !rope.contains(&key) {
                rope.push(key);
            }
        }
        for (b, block) in blocks.iter().enumerate() {
            state.levels.extend(block.memory_infos().iter().filter_map(|info| {
                let AnyRule::Paced(paced) = &info.rule else { return None };
                Some(LevelSchedule { block: b, level: info.level, period: paced.period })
            }));
            let periods = block.cms().into_iter().flat_map(|cms| cms.schedule().enumerate());
            state.levels.extend(periods.map(|(level, period)| LevelSchedule { block: b, level, period }));
        }
        let rope_extra = blocks.iter().map(Block::rope_extra).max().unwrap_or(0);
        let schedule = Schedule::new(&blocks, sums, context, params);
        Self { blocks, norm, schedule, rope, rope_extra, context }
    }

    /// The memories of all blocks, level by level, with their block.
    pub fn memories(&self) -> impl Iterator<Item = (usize, MemoryInfo)> + '_ {
        self.blocks.iter().enumerate().flat_map(|(i, b)| b.memory_infos().into_iter().map(move |info| (i, info)))
    }

    /// Floating-point operations of one token, forward, in a call of `tokens` tokens that starts at `pos`.
    pub fn flops(&self, tokens: usize, pos: u64) -> f64 {
        self.blocks.iter().map(|b| b.flops(tokens, pos)).sum()
    }

    /// Levels whose period is no shorter than the context are the optimizer's.
    pub fn training_pace(&self) -> Pace {
        Pace::Training { context: self.context }
    }

    /// The matrices of levels that are the optimizer's in training, by their first value, and their periods.
    pub fn slow_parameters(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        let pace = self.training_pace();
        let cms = self.blocks.iter().filter_map(Block::cms);
        cms.flat_map(move |cms| cms.slow(pace)).map(|(range, period)| (range.start, period))
    }

    /// The sums of all parameters that sequences change and of what this one added.
    pub fn add_up<F: Scalar>(&self, params: &Params<F>, fast: &[F], sums: &mut Vec<F>) {
        let sums = fit(sums, self.schedule.sums);
        self.blocks.iter().filter_map(Block::cms).for_each(|cms| cms.add_up(&params.data, fast, sums));
    }

    /// A call that serves `tokens` tokens from position `pos` on.
    pub fn call<'a, O: Ops>(
        &self,
        ops: &'a O,
        params: &'a Params<O::F>,
        tokens: usize,
        pos: u64,
        access: &'a Access,
        rope: &'a [RopeTable<O::F>],
    ) -> Call<'a, O> {
        Call {
            ops,
            params: &params.data,
            tokens,
            pos,
            record: false,
            access,
            block: 0,
            rope,
            rope_from: pos,
            inputs: None,
            fast: &[],
            pace: Pace::Serving,
            column: false,
        }
    }

    /// Rotary tables for `tokens` tokens from position `pos` on.
    pub fn fill_rope<F: Scalar>(&self, tables: &mut Vec<RopeTable<F>>, tokens: usize, pos: u64) {
        tables.truncate(self.rope.len());
        for (i, &(width, base)) in self.rope.iter().enumerate() {
            // A workspace may have served another model.
            if tables.get(i).is_none_or(|table| (table.width, table.base) != (width, base)) {
                tables.truncate(i);
                tables.push(RopeTable { width, base, frequencies: rope::frequencies(width, base), data: Vec::new() });
            }
            let RopeTable { frequencies, data, .. } = &mut tables[i];
            let rows = tokens + self.rope_extra;
            rope::table_into(pos, frequencies, fit(data, rows * width));
        }
    }

    /// Rows `x: [T, width]` through all blocks, with one tape for all of them: nothing of it is needed afterwards.
    pub fn serve<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &mut [O::F],
        state: &mut [O::F],
        tape: &mut BlockTape<O::F>,
        pool: &mut Pool<O::F>,
    ) -> Result<()> {
        let mut blocks = self.blocks.iter().enumerate();
        blocks.try_for_each(|(b, block)| block.forward(&Call { block: b, ..*call }, x, state, tape, pool))
    }

    /// As [`Trunk::serve`], with a tape for every block.
    pub fn forward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &mut [O::F],
        state: &mut [O::F],
        tapes: &mut [BlockTape<O::F>],
        pool: &mut Pool<O::F>,
    ) -> Result<()> {
        let mut blocks = self.blocks.iter().zip(tapes).enumerate();
        blocks.try_for_each(|(b, (block, tape))| block.forward(&Call { block: b, ..*call }, x, state, tape, pool))
    }

    /// Transpose of [`Trunk::forward`]: `dx` is the gradient of the rows behind the blocks on entry, before them on exit.
    pub fn backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        tapes: &mut [BlockTape<O::F>],
        dx: &mut [O::F],
        grads: &mut [O::F],
        again: &mut Again<O::F>,
        pool: &mut Pool<O::F>,
    ) -> Result<()> {
        let mut blocks = self.blocks.iter().zip(tapes).enumerate().rev();
        blocks.try_for_each(|(b, (block, tape))| {
            block.backward(&Call { block: b, ..*call }, tape, dx, grads, again, pool)
        })
    }
}
