//! Learning from what was read, a slice of tokens at a time: how continuum memories move.
//!
//! Levels change at multiples of their periods. Between two such places all weights are constant, so that the tokens
//! between them, a *slice*, run side by side: forward, the loss of every token's successor, and back along the column of
//! each token, where keys, values and states that other positions left are constants. So a gradient does not depend on
//! how a stream was cut. What comes of it are two thin matrices per weight, inputs and gradients of outputs, and their
//! product is what the level gathers.
//!
//! Slices lie at absolute positions. A serving call that ends inside one leaves its tokens open in the state; they run
//! again, from what the state was before them, when the token behind the slice comes.

use crate::access::Access;
use crate::block::{Again, Block, BlockTape, Call, Cms, CmsTape, Pace, Predictions, RopeTable, next_change};
use crate::error::Result;
use crate::model::{Model, Tape, Workspace};
use crate::params::{Kind, ParamLayout, Params};
use crate::pool::{Pool, fit};
use crate::state::State;
use crate::targets::Targets;
use hecate_core::Scalar;
use hecate_core::ops::Ops;
use std::ops::Range;

/// Most tokens of a slice: what runs again, and is recorded, at once.
pub(crate) const SLICE_TOKENS: usize = 64;

/// What a model knows of its continuum memories.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    serving: Vec<u64>,
    training: Vec<u64>,
    /// Values of the weights that a sequence changes.
    pub sums: usize,
    /// Whether any level goes by the loss of the next token.
    columns: bool,
    /// Whether gradients go through changes.
    unrolls: bool,
    /// Whether any level asks how much a token surprises the whole model.
    predictions: bool,
    /// Scratch for gradients that nobody asks for in a pass along columns.
    scratch: usize,
}

/// A level of a continuum memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContinuumLevel {
    /// Block, from 0.
    pub block: usize,
    /// Place in the block, from 0, fastest first.
    pub level: usize,
    /// Values of its matrices, or of its part of them.
    pub parameters: usize,
    /// Tokens from one change to the next; where that is learned, at the start.
    pub period: u64,
    /// In training it moves inside of a sequence, and is not stepped by the optimizer alone.
    pub in_context: bool,
}

/// Buffers of one slice.
#[derive(Debug)]
pub(crate) struct Slice<F> {
    blocks: Vec<BlockTape<F>>,
    rope: Vec<RopeTable<F>>,
    x: Vec<F>,
    normed: Vec<F>,
    pub logits: Vec<F>,
    losses: Vec<F>,
    entropies: Vec<F>,
    scratch: Vec<F>,
}

impl<F> Default for Slice<F> {
    fn default() -> Self {
        let [x, normed, logits, losses, entropies, scratch] = std::array::from_fn(|_| Vec::new());
        Self { blocks: Vec::new(), rope: Vec::new(), x, normed, logits, losses, entropies, scratch }
    }
}

impl<F: Scalar> Slice<F> {
    pub fn len(&self) -> usize {
        let own = [&self.x, &self.normed, &self.logits, &self.losses, &self.entropies, &self.scratch].map(|v| v.len());
        self.blocks.iter().map(BlockTape::len).sum::<usize>() + own.iter().sum::<usize>()
    }
}

/// What moves while slices run.
pub(crate) struct Moving<'a, F> {
    pub data: &'a mut [F],
    pub fast: &'a mut [F],
    pub sums: &'a mut [F],
    pub slice: &'a mut Slice<F>,
    pub pool: &'a mut Pool<F>,
}

/// Entropy of each row's softmax.
fn fill_entropies<F: Scalar>(vocab: usize, logits: &[F], entropies: &mut [F]) {
    for (row, entropy) in logits.chunks_exact(vocab).zip(entropies) {
        let most = row.iter().fold(row[0], |m, &l| if l > m { l } else { m });
        let sum: F = row.iter().map(|&l| (l - most).exp()).sum();
        let mean: F = row.iter().map(|&l| (l - most).exp() * (l - most)).sum::<F>() / sum;
        *entropy = sum.ln() - mean;
    }
}

/// What a continuum memory does with what a slice left in its tape: the memory, its block, the tape, what the sequence added
/// to weights, the sums, and buffers.
type Learn<'l, F> = dyn FnMut(&Cms, usize, &CmsTape<F>, &mut [F], &mut [F], &mut Pool<F>) + 'l;

/// The tokens of a slice, those that follow them, and what may be learned from them.
pub(crate) struct Lesson<'a> {
    pub pos: u64,
    pub tokens: &'a [u32],
    pub targets: &'a [u32],
    pub access: &'a Access,
    pub pace: Pace,
}

impl Schedule {
    /// Of these blocks.
    pub fn new(blocks: &[Block], sums: usize, context: u64, params: &ParamLayout) -> Self {
        let list = || blocks.iter().filter_map(Block::cms);
        let at = |pace| {
            let mut periods: Vec<u64> = list().flat_map(|cms| cms.periods(pace)).collect();
            periods.sort_unstable();
            periods.dedup();
            periods
        };
        let small =
            params.specs.iter().filter(|s| s.kind == Kind::Norm || (s.kind == Kind::Gate && s.shape.len() == 1));
        Self {
            serving: at(Pace::Serving),
            training: at(Pace::Training { context }),
            sums,
            columns: list().any(|cms| cms.asks_for_columns()),
            unrolls: list().any(Cms::unrolls),
            predictions: list().any(|cms| cms.asks_for_predictions()),
            scratch: small.map(|s| s.range.len()).max().unwrap_or(0),
        }
    }

    /// Whether anything moves at this pace.
    pub fn moves(&self, pace: Pace) -> bool {
        !self.periods(pace).is_empty()
    }

    /// Whether gradients of a training call go through what it changes.
    pub fn unrolls(&self, pace: Pace) -> bool {
        self.unrolls && self.moves(pace)
    }

    fn periods(&self, pace: Pace) -> &[u64] {
        match pace {
            Pace::Serving => &self.serving,
            Pace::Training { .. } => &self.training,
        }
    }

    /// The end of the slice that begins at `at`.
    pub fn end_of_slice(&self, at: u64, pace: Pace) -> u64 {
        next_change(self.periods(pace), at).min(next_change(&[SLICE_TOKENS as u64], at))
    }
}

impl Model {
    /// Whether a call may move a level of a continuum memory.
    pub(crate) fn may_move(&self, access: &Access) -> bool {
        let mut blocks = self.trunk.blocks.iter().enumerate();
        self.trunk.schedule.moves(Pace::Serving)
            && *access != Access::Read
            && blocks.any(|(b, block)| {
                block.cms().is_some_and(|cms| (0..cms.schedule().count()).any(|level| access.writes(b, level)))
            })
    }

    /// Learns from the tokens that a state has open, of which `next` is the successor. They are then no longer open.
    pub(crate) fn close<O: Ops>(
        &self,
        ops: &O,
        params: &Params<O::F>,
        state: &mut State<O::F>,
        next: u32,
        ws: &mut Workspace<O::F>,
    ) -> Result<()> {
        let count = state.open.tokens.len();
        if count == 0 {
            return Ok(());
        }
        // They may come from a file.
        self.check_tokens(&state.open.tokens)?;
        let layout = self.state_layout();
        let State { data, fast, open, position, .. } = state;
        open.restore(layout, data);
        open.tokens.push(next);
        let lesson = Lesson {
            pos: *position - count as u64,
            tokens: &open.tokens[..count],
            targets: &open.tokens[1..],
            access: &open.access,
            pace: Pace::Serving,
        };
        let Workspace { sums, slice, pool, .. } = ws;
        let moving = Moving { data, fast, sums, slice, pool };
        let result = self.serve_slice(ops, params, &lesson, moving);
        open.tokens.clear();
        result
    }

    /// Runs a slice, and lets all continuum memories learn from it.
    pub(crate) fn serve_slice<O: Ops>(
        &self,
        ops: &O,
        params: &Params<O::F>,
        lesson: &Lesson<'_>,
        moving: Moving<'_, O::F>,
    ) -> Result<()> {
        let call = self.trunk.call(ops, params, lesson.tokens.len(), lesson.pos, lesson.access, &[]);
        self.slice(ops, params, lesson, moving, &mut |cms, block, tape, fast, sums, pool| {
            cms.learn(&Call { block, pace: lesson.pace, ..call }, tape, fast, sums, pool);
        })
    }

    /// Runs a slice, and on the way back lets the continuum memory of each block `learn` as soon as it is known what from:
    /// no other block looks at its weights, and they have just been read.
    fn slice<O: Ops>(
        &self,
        ops: &O,
        params: &Params<O::F>,
        lesson: &Lesson<'_>,
        moving: Moving<'_, O::F>,
        learn: &mut Learn<'_, O::F>,
    ) -> Result<()> {
        let (width, n) = (self.config().width, lesson.tokens.len());
        let Moving { data, fast, sums, slice, pool } = moving;
        let Slice { blocks, rope, x, normed, logits, losses, entropies, scratch } = slice;
        blocks.resize_with(self.trunk.blocks.len(), BlockTape::default);
        ops.embedding_forward(width, lesson.tokens, &params.data[self.embedding.clone()], fit(x, n * width));
        self.trunk.fill_rope(rope, n, lesson.pos);
        let &Lesson { pos, access, pace, .. } = lesson;
        let call = self.trunk.call(ops, params, n, pos, access, rope);
        let call = Call { record: true, pace, ..call };
        for (b, (block, own)) in self.trunk.blocks.iter().zip(&mut *blocks).enumerate() {
            block.forward(&Call { block: b, fast: sums, ..call }, x, data, own, pool)?;
        }
        let scale = &params.data[self.trunk.norm.clone()];
        ops.rms_norm_forward(width, x, scale, fit(normed, n * width));
        let logits = fit(logits, n * self.config().vocab);
        self.head_forward(ops, params, normed, logits);

        let schedule = &self.trunk.schedule;
        if schedule.predictions {
            let targets = Targets::new(lesson.targets, O::F::one());
            targets.forward(ops, self.config().vocab, logits, fit(losses, n));
            fill_entropies(self.config().vocab, logits, fit(entropies, n));
        }
        let predictions = Predictions { losses, entropies };
        let scratch = fit(scratch, schedule.scratch);
        let mut dx = pool.zeros(if schedule.columns { n * width } else { 0 });
        if schedule.columns {
            self.column_loss(ops, params, lesson.targets, [x, normed, logits], &mut dx, scratch, pool);
        }
        for (b, (block, own)) in self.trunk.blocks.iter().zip(blocks).enumerate().rev() {
            let call = Call { block: b, fast: sums, ..call };
            if schedule.columns {
                block.backward(&Call { column: true, ..call }, own, &mut dx, scratch, &mut Again::default(), pool)?;
            }
            let Some(cms) = block.cms() else { continue };
            cms.look_at_itself(&call, &mut own.cms, pool);
            cms.shut_out(&call, &mut own.cms, predictions, fast);
            learn(cms, b, &own.cms, fast, sums, pool);
        }
        pool.give(dx);
        Ok(())
    }

    /// The gradient of every token's loss with respect to the stream at that token.
    fn column_loss<O: Ops>(
        &self,
        ops: &O,
        params: &Params<O::F>,
        targets: &[u32],
        [x, normed, logits]: [&[O::F]; 3],
        dx: &mut [O::F],
        scratch: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) {
        let (mut dlogits, mut dnormed) = (pool.zeros(logits.len()), pool.zeros(normed.len()));
        Targets::new(targets, O::F::one()).backward(ops, self.config().vocab, logits, &mut dlogits);
        self.head_backward(ops, params, normed, &dlogits, &mut dnormed, None);
        let scale = &params.data[self.trunk.norm.clone()];
        ops.rms_norm_backward(scale.len(), x, scale, &dnormed, dx, &mut scratch[..scale.len()]);
        pool.give(dlogits);
        pool.give(dnormed);
    }

    /// The first pass of a training step: all slices of a call, on a copy of the state's memories. The tape then knows what
    /// every level gave at every token, and `again` where weights began.
    pub(crate) fn play<O: Ops>(
        &self,
        ops: &O,
        params: &Params<O::F>,
        state: &mut State<O::F>,
        tokens: &[u32],
        targets: &[u32],
        tape: &mut Tape<O::F>,
    ) -> Result<()> {
        let pace = self.trunk.training_pace();
        let Tape { blocks, slice, again, sums, data, pool, .. } = tape;
        again.known.clear();
        fit(&mut again.fast, state.fast.len()).copy_from_slice(&state.fast);
        fit(data, state.data.len()).copy_from_slice(&state.data);
        self.trunk.add_up(params, &state.fast, sums);
        let (mut from, end) = (0, tokens.len());
        while from < end {
            let pos = state.position + from as u64;
            let to = end.min(from + (self.trunk.schedule.end_of_slice(pos, pace) - pos) as usize);
            let (tokens, targets) = (&tokens[from..to], &targets[from..to]);
            let lesson = Lesson { pos, tokens, targets, access: &Access::Learn, pace };
            let moving = Moving { data, fast: &mut state.fast, sums, slice, pool };
            self.play_slice(ops, params, state.position, (from..to, to == end), &lesson, moving, blocks)?;
            from = to;
        }
        self.trunk.add_up(params, &again.fast, &mut again.sums);
        Ok(())
    }

    /// Runs a slice of a training call that began at `pos`, the call's `rows` and maybe its `last`: appends it to the tape of
    /// the call, from which continuum memories learn.
    pub(crate) fn play_slice<O: Ops>(
        &self,
        ops: &O,
        params: &Params<O::F>,
        pos: u64,
        (rows, last): (Range<usize>, bool),
        lesson: &Lesson<'_>,
        moving: Moving<'_, O::F>,
        blocks: &mut [BlockTape<O::F>],
    ) -> Result<()> {
        let call = self.trunk.call(ops, params, rows.end, pos, lesson.access, &[]);
        self.slice(ops, params, lesson, moving, &mut |cms, block, tape, fast, sums, pool| {
            let whole = &mut blocks[block].cms;
            cms.collect(tape, whole, rows.start == 0);
            cms.learn_collected(&Call { block, pace: lesson.pace, ..call }, whole, last, fast, sums, pool);
        })
    }

    /// What continuum memories did in a sequence: `blocks.N.levels.L.written`, the share of tokens that a level behind a gate
    /// has learned from of late, `blocks.N.levels.L.mean_period`, the tokens from one change to the next where a gate decides,
    /// and `blocks.N.MATRIX.added_norm`, the Euclidean norm of what was added to a matrix.
    pub(crate) fn continuum_traces<F: Scalar>(&self, state: &State<F>) -> Vec<(String, f64)> {
        let mut out = Vec::new();
        for (b, cms) in self.trunk.blocks.iter().enumerate().filter_map(|(b, block)| Some((b, block.cms()?))) {
            let name = |(level, share)| (format!("blocks.{b}.levels.{level}.written"), share);
            out.extend(cms.written(&state.fast).map(name));
            let name = |(level, period)| (format!("blocks.{b}.levels.{level}.mean_period"), period);
            out.extend(cms.mean_periods(state.position, &state.fast).map(name));
        }
        for spec in &self.state_layout().fast {
            let Some(matrix) = spec.name.strip_suffix(".delta") else { continue };
            let sum: f64 = state.fast[spec.range.clone()].iter().map(|x| x.value() * x.value()).sum();
            out.push((format!("{matrix}.added_norm"), sum.sqrt()));
        }
        out
    }

    /// The levels of continuum memories that move when they are served.
    pub fn levels(&self) -> impl Iterator<Item = ContinuumLevel> + '_ {
        let context = self.config().context as u64;
        let blocks = self.trunk.blocks.iter().enumerate().filter_map(|(b, block)| Some((b, block.cms()?)));
        blocks.flat_map(move |(block, cms)| {
            let level = move |(level, parameters, period)| ContinuumLevel {
                block,
                level,
                parameters,
                period,
                in_context: period < context,
            };
            cms.level_sizes().map(level)
        })
    }

    /// The matrices of levels that are the optimizer's in training, by their first value, and the tokens after which each is
    /// due. Levels that share a matrix, those of `headwise`, are due with it at every step.
    pub fn slow_parameters(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.trunk.slow_parameters()
    }
}
