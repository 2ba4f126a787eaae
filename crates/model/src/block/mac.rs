//! Memory as context: attention inside segments, and a memory that carries from one to the next
//! [Titans v1 eq.21].
//!
//! ```text
//! h_j = rms(M(q(x_j)))          M the memory at the start of the segment
//! y   = attention([P; h; x])    at the rows of x, inside the segment
//! M_i = write(M_{i-1}, rms(y_i))
//! o_i = (rms(y_i) * sigmoid(rms(M_i(q(rms(y_i)))))) W_o
//! ```
//!
//! Causal, unlike the printed form: row i sees the slots `h_j` with j <= i and reads the memory after its own token.
//! The printed form (`causal = false`) shows every slot to every row and reads after the whole segment, so that a token
//! learns from those behind it. The persistent rows P stand in every segment and are never written. Positions count
//! from the start of the segment; a slot has that of its token, P has none.

use super::attention::{Attention, AttentionTape, SERVE_TOKENS};
use super::levels::{Levels, LevelsTape};
use super::look::LookTape;
use super::memory::{Flow, Memory};
use super::persistent::Persistent;
use super::{Builder, Call, RopeTable, add};
use crate::config::MacConfig;
use crate::error::{Error, Result};
use crate::pool::{Pool, fit};
use hecate_core::Scalar;
use hecate_core::ops::{Ops, rope};
use std::ops::Range;

pub(crate) struct Mac {
    pub attention: Attention,
    pub levels: Levels,
    persistent: Persistent,
    place: String,
    segment: usize,
    causal: bool,
    slot_scale: Range<usize>,
    attention_scale: Range<usize>,
    memory_scale: Range<usize>,
    out: Range<usize>,
    /// Per level the memory at the start of the segment, in the state.
    snapshots: Vec<Range<usize>>,
}

/// The pieces of a call: one per segment that it touches.
#[derive(Debug, Default)]
pub(crate) struct MacTape<F> {
    pieces: Vec<Piece<F>>,
    count: usize,
}

#[derive(Debug, Default)]
struct Piece<F> {
    snapshots: Vec<Vec<F>>,
    slots: Looks<F>,
    slots_normed: Vec<F>, // [n, C]
    rows: Vec<F>,         // [P + 2n, C] at the start of a segment, else [2n, C]
    rope: Vec<RopeTable<F>>,
    attention: AttentionTape<F>,
    merged: Vec<F>,   // as rows
    y: Vec<F>,        // [n, C]
    y_normed: Vec<F>, // [n, C]
    levels: LevelsTape<F>,
    /// The printed form reads what the segment left.
    after: Vec<Vec<F>>,
    late: Looks<F>,
    m: Vec<F>,        // [n, C]
    m_normed: Vec<F>, // [n, C]
    gated: Vec<F>,    // [n, C]
}

/// Reads of all levels without writing, and their sum.
#[derive(Debug, Default)]
struct Looks<F> {
    levels: Vec<LookTape<F>>,
    sum: Vec<F>,    // [H, n, dv]
    merged: Vec<F>, // [n, C]
}

impl<F> Looks<F> {
    fn len(&self) -> usize {
        self.levels.iter().map(LookTape::len).sum::<usize>() + self.sum.len() + self.merged.len()
    }
}

impl<F> Piece<F> {
    fn len(&self) -> usize {
        let rows = [&self.slots_normed, &self.rows, &self.merged, &self.y, &self.y_normed, &self.m, &self.m_normed];
        let states = self.snapshots.iter().chain(&self.after).map(Vec::len).sum::<usize>();
        let parts = self.attention.len() + self.levels.len() + self.slots.len() + self.late.len();
        rows.map(|v| v.len()).iter().sum::<usize>() + self.gated.len() + states + parts
    }
}

impl<F> MacTape<F> {
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Piece::len).sum()
    }
    /// The reads of the last piece.
    pub fn last(&self) -> Option<&LevelsTape<F>> {
        self.pieces[..self.count].last().map(|piece| &piece.levels)
    }
}

impl Mac {
    pub fn new(b: &mut Builder<'_>, config: &MacConfig) -> Self {
        let persistent = Persistent::new(b, "mixer", config.persistent);
        let seen = config.persistent + 2 * config.segment;
        let (over, extra) = (config.attention_over(seen), config.persistent + SERVE_TOKENS);
        let attention = Attention::new(b, &over, "mixer.attention", false, extra, false).paired();
        // The printed form reads by queries without a convolution alone.
        let query_taps = if config.causal { config.memory.conv } else { 0 };
        let levels = Levels::with_query_taps(b, &config.memory, "mixer.memory", query_taps);
        let inner = attention.inner();
        let mut snapshots = Vec::new();
        for (l, memory) in levels.list.iter().enumerate() {
            snapshots.push(b.state.add(format!("{}.snapshot.{l}", b.prefix), memory.content()));
        }
        Self {
            attention,
            levels,
            persistent,
            place: b.prefix.clone(),
            segment: config.segment,
            causal: config.causal,
            slot_scale: b.norm("mixer.slot_norm", inner),
            attention_scale: b.norm("mixer.attention_norm", inner),
            memory_scale: b.norm("mixer.memory_norm", inner),
            out: b.weight_out("mixer.out", inner),
            snapshots,
        }
    }

    /// The pieces of a call, as ranges of its tokens: none reaches into another segment.
    fn cuts(&self, tokens: usize, pos: u64) -> impl Iterator<Item = Range<usize>> + use<> {
        let segment = self.segment;
        let mut from = 0;
        std::iter::from_fn(move || {
            let phase = ((pos + from as u64) % segment as u64) as usize;
            let next = (from + segment - phase).min(tokens);
            let piece = (from < tokens).then_some(from..next);
            from = next;
            piece
        })
    }

    fn phase(&self, call: &Call<'_, impl Ops>) -> usize {
        (call.pos % self.segment as u64) as usize
    }

    /// `out [T, width]` from the normed stream `x [T, width]`.
    pub fn forward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        state: &mut [O::F],
        tape: &mut MacTape<O::F>,
        pool: &mut Pool<O::F>,
        out: &mut [O::F],
    ) -> Result<()> {
        if !self.causal && self.phase(call) != 0 {
            let reason = format!(
                "mac with causal = false takes whole segments of {} tokens, and this call begins at token {}: it reads \
                 tokens behind its own, so that it cannot go token by token; use causal = true",
                self.segment, call.pos
            );
            return Err(Error::config(format!("{}.mixer.causal", self.place), reason));
        }
        let width = self.out.len() / self.attention.inner();
        tape.count = 0;
        for range in self.cuts(call.tokens, call.pos) {
            if tape.pieces.len() == tape.count {
                tape.pieces.push(Piece::default());
            }
            let piece = &mut tape.pieces[if call.record { tape.count } else { 0 }];
            tape.count += usize::from(call.record);
            let own = call.with(range.len(), call.pos + range.start as u64);
            let rows = range.start * width..range.end * width;
            self.piece(&own, &x[rows.clone()], state, piece, pool, &mut out[rows])?;
        }
        Ok(())
    }

    fn piece<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        state: &mut [O::F],
        tape: &mut Piece<O::F>,
        pool: &mut Pool<O::F>,
        out: &mut [O::F],
    ) -> Result<()> {
        let (inner, n) = (self.attention.inner(), call.tokens);
        let norm = |scale: &Range<usize>, x: &[O::F], y: &mut [O::F]| {
            call.ops.rms_norm_forward(inner, x, &call.params[scale.clone()], y);
        };
        for (l, memory) in self.levels.list.iter().enumerate() {
            memory.begin(call, state);
            if self.phase(call) == 0 {
                state.copy_within(memory.state(), self.snapshots[l].start);
            }
        }
        if self.phase(call) == 0 {
            self.attention.clear(state);
        }
        self.look(call, x, state, &self.snapshots, &mut tape.slots)?;
        if call.record {
            keep(state, &self.snapshots, &mut tape.snapshots);
        }
        norm(&self.slot_scale, &tape.slots.merged, fit(&mut tape.slots_normed, n * inner));

        self.lay_rows(call, x, tape);
        self.fill_rope(call, &mut tape.rope);
        let (rows, pos) = (tape.rows.len() / inner, self.row_of(call));
        let own = Call { tokens: rows, pos, rope: &tape.rope, rope_from: pos, ..*call };
        let merged = fit(&mut tape.merged, rows * inner);
        self.attention.forward(&own, &tape.rows, state, &mut tape.attention, pool, merged);
        for (i, y) in fit(&mut tape.y, n * inner).chunks_exact_mut(inner).enumerate() {
            y.copy_from_slice(&tape.merged[self.token_row(call, i) * inner..][..inner]);
        }
        norm(&self.attention_scale, &tape.y, fit(&mut tape.y_normed, n * inner));

        self.levels.forward(call, &tape.y_normed, state, &mut tape.levels)?;
        let read = if self.causal {
            tape.levels.y()
        } else {
            let now: Vec<Range<usize>> = self.levels.list.iter().map(Memory::state).collect();
            self.look(call, &tape.y_normed, state, &now, &mut tape.late)?;
            if call.record {
                keep(state, &now, &mut tape.after);
            }
            &tape.late.sum
        };
        call.ops.merge_forward(self.levels.head_shape(n), read, fit(&mut tape.m, n * inner));
        norm(&self.memory_scale, &tape.m, fit(&mut tape.m_normed, n * inner));
        call.ops.sigmoid_gate_forward(&tape.y_normed, &tape.m_normed, fit(&mut tape.gated, n * inner));
        call.linear(&self.out, &tape.gated, out);
        Ok(())
    }

    /// What the levels read for the rows of `x` from the states that lie at these places.
    fn look<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        state: &mut [O::F],
        places: &[Range<usize>],
        looks: &mut Looks<O::F>,
    ) -> Result<()> {
        looks.levels.resize_with(self.levels.list.len(), LookTape::default);
        for ((memory, at), own) in self.levels.list.iter().zip(places).zip(&mut looks.levels) {
            memory.look(call, x, &mut state[at.clone()], own)?;
        }
        self.levels.combine(call.params, looks.levels.iter().map(|own| &own.y[..]), &mut looks.sum);
        let s = self.levels.head_shape(call.tokens);
        call.ops.merge_forward(s, &looks.sum, fit(&mut looks.merged, looks.sum.len()));
        Ok(())
    }

    /// Transpose of [`Mac::look`] from the gradient of the merged reads; adds into that of the states and of `x`.
    fn look_backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        states: &[Vec<O::F>],
        looks: &Looks<O::F>,
        dmerged: &[O::F],
        dstates: &mut [Flow<O::F>],
        dx: &mut [O::F],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) {
        let [mut dsum, mut down] = std::array::from_fn(|_| pool.zeros(dmerged.len()));
        call.ops.merge_backward(self.levels.head_shape(call.tokens), dmerged, &mut dsum);
        for (l, memory) in self.levels.list.iter().enumerate() {
            let own = &looks.levels[l];
            self.levels.combine_backward(call, l, &own.y, &dsum, &mut down, grads);
            memory.look_backward(call, x, &states[l], own, &down, &mut dstates[l].state, dx, grads, pool);
        }
        pool.give(dsum);
        pool.give(down);
    }

    /// Rows of P in this piece: in the first of a segment.
    fn prefix(&self, call: &Call<'_, impl Ops>) -> usize {
        if self.phase(call) == 0 { self.persistent.count() } else { 0 }
    }

    /// The row of the segment at which the piece begins.
    fn row_of(&self, call: &Call<'_, impl Ops>) -> u64 {
        let phase = self.phase(call);
        if phase == 0 { 0 } else { (self.persistent.count() + 2 * phase) as u64 }
    }

    /// The rows of token `i` and of its slot. The order is the mask: attention is causal over rows.
    fn token_row(&self, call: &Call<'_, impl Ops>, i: usize) -> usize {
        self.prefix(call) + if self.causal { 2 * i + 1 } else { call.tokens + i }
    }
    fn slot_row(&self, call: &Call<'_, impl Ops>, i: usize) -> usize {
        self.prefix(call) + if self.causal { 2 * i } else { i }
    }

    fn lay_rows<O: Ops>(&self, call: &Call<'_, O>, x: &[O::F], tape: &mut Piece<O::F>) {
        let inner = self.attention.inner();
        let prefix = self.prefix(call);
        let rows = fit(&mut tape.rows, (prefix + 2 * call.tokens) * inner);
        rows[..prefix * inner].copy_from_slice(&call.params[self.persistent.rows.clone()][..prefix * inner]);
        for i in 0..call.tokens {
            let from = i * inner..(i + 1) * inner;
            rows[self.slot_row(call, i) * inner..][..inner].copy_from_slice(&tape.slots_normed[from.clone()]);
            rows[self.token_row(call, i) * inner..][..inner].copy_from_slice(&x[from]);
        }
    }

    /// The rotations of the piece's rows.
    fn fill_rope<O: Ops>(&self, call: &Call<'_, O>, tables: &mut Vec<RopeTable<O::F>>) {
        let (width, base) = (self.attention.width, self.attention.base);
        if tables.first().is_none_or(|table| (table.width, table.base) != (width, base)) {
            let frequencies = rope::frequencies(width, base);
            *tables = vec![RopeTable { width, base, frequencies, data: Vec::new() }];
        }
        let RopeTable { frequencies, data, .. } = &mut tables[0];
        let prefix = self.prefix(call);
        fit(data, (prefix + 2 * call.tokens) * width);
        for r in 0..prefix {
            rope::table_into(0, frequencies, &mut data[r * width..][..width]);
        }
        for i in 0..call.tokens {
            let pos = (self.phase(call) + i) as u64;
            for row in [self.slot_row(call, i), self.token_row(call, i)] {
                rope::table_into(pos, frequencies, &mut data[row * width..][..width]);
            }
        }
    }

    /// Transpose of [`Mac::forward`]; what earlier calls left is a constant.
    pub fn backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        tape: &MacTape<O::F>,
        dout: &[O::F],
        dx: &mut [O::F],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) -> Result<()> {
        let width = self.out.len() / self.attention.inner();
        let mut flows: Vec<Flow<O::F>> = self.levels.list.iter().map(|memory| memory.no_flow(pool)).collect();
        let cuts: Vec<Range<usize>> = self.cuts(call.tokens, call.pos).collect();
        for (range, piece) in cuts.into_iter().zip(&tape.pieces).rev() {
            let own = call.with(range.len(), call.pos + range.start as u64);
            let rows = range.start * width..range.end * width;
            let (x, dout, dx) = (&x[rows.clone()], &dout[rows.clone()], &mut dx[rows]);
            self.piece_backward(&own, x, piece, dout, &mut flows, dx, grads, pool)?;
        }
        for (memory, flow) in self.levels.list.iter().zip(flows) {
            memory.begin_backward(call, &flow.state, grads);
            flow.tails.into_iter().chain([flow.state]).for_each(|buffer| pool.give(buffer));
        }
        Ok(())
    }

    fn piece_backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        tape: &Piece<O::F>,
        dout: &[O::F],
        flows: &mut [Flow<O::F>],
        dx: &mut [O::F],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) -> Result<()> {
        let (inner, n) = (self.attention.inner(), call.tokens);
        let [mut dgated, mut dy_normed, mut dm_normed, mut dy, mut dm, mut dread] =
            std::array::from_fn(|_| pool.zeros(n * inner));
        let norm = |scale: &Range<usize>, x: &[O::F], dy: &[O::F], dx: &mut [O::F], grads: &mut [O::F]| {
            let s = &call.params[scale.clone()];
            call.ops.rms_norm_backward(inner, x, s, dy, dx, call.grad(grads, scale));
        };
        call.linear_backward(&self.out, &tape.gated, dout, Some(&mut dgated), grads);
        call.ops.sigmoid_gate_backward(&tape.y_normed, &tape.m_normed, &dgated, &mut dy_normed, &mut dm_normed);
        norm(&self.memory_scale, &tape.m, &dm_normed, &mut dm, grads);
        if self.causal {
            call.ops.merge_backward(self.levels.head_shape(n), &dm, &mut dread);
        } else {
            self.look_backward(call, &tape.y_normed, &tape.after, &tape.late, &dm, flows, &mut dy_normed, grads, pool);
        }
        self.levels.flow_backward(call, &tape.y_normed, &tape.levels, &dread, flows, &mut dy_normed, grads, pool)?;
        norm(&self.attention_scale, &tape.y, &dy_normed, &mut dy, grads);
        let dslots = self.rows_backward(call, tape, &dy, dx, grads, pool);
        let mut dmerged = pool.zeros(n * inner);
        norm(&self.slot_scale, &tape.slots.merged, &dslots, &mut dmerged, grads);
        // A snapshot that an earlier call took is a constant.
        let mut lost: Vec<Flow<O::F>> = Vec::new();
        let into = match self.phase(call) {
            0 => flows,
            _ => {
                lost.extend(self.levels.list.iter().map(|memory| memory.no_flow(pool)));
                &mut lost
            }
        };
        self.look_backward(call, x, &tape.snapshots, &tape.slots, &dmerged, into, dx, grads, pool);
        let lost = lost.into_iter().flat_map(|flow| flow.tails.into_iter().chain([flow.state]));
        let all = [dgated, dy_normed, dm_normed, dy, dm, dread, dslots, dmerged];
        all.into_iter().chain(lost).for_each(|buffer| pool.give(buffer));
        Ok(())
    }

    /// Back through attention: adds into `dx` and gives the gradient of the slots' rows.
    fn rows_backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        tape: &Piece<O::F>,
        dy: &[O::F],
        dx: &mut [O::F],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) -> Vec<O::F> {
        let inner = self.attention.inner();
        let (mut dmerged, mut drows) = (pool.zeros(tape.rows.len()), pool.zeros(tape.rows.len()));
        let mut dslots = pool.zeros(dy.len());
        for (i, dy) in dy.chunks_exact(inner).enumerate() {
            dmerged[self.token_row(call, i) * inner..][..inner].copy_from_slice(dy);
        }
        let pos = self.row_of(call);
        let own = Call { tokens: tape.rows.len() / inner, pos, rope: &tape.rope, rope_from: pos, ..*call };
        self.attention.backward(&own, &tape.rows, &tape.attention, &dmerged, &mut drows, grads, pool);
        let prefix = self.prefix(call) * inner;
        if !call.column {
            add(&mut grads[self.persistent.rows.clone()][..prefix], &drows[..prefix]);
        }
        for i in 0..call.tokens {
            let to = i * inner..(i + 1) * inner;
            add(&mut dx[to.clone()], &drows[self.token_row(call, i) * inner..][..inner]);
            dslots[to].copy_from_slice(&drows[self.slot_row(call, i) * inner..][..inner]);
        }
        pool.give(dmerged);
        pool.give(drows);
        dslots
    }

    /// Attention over a segment, the memory, its second read, and the way out.
    pub fn flops(&self, tokens: usize, pos: u64) -> f64 {
        let first = (pos % self.segment as u64) as usize;
        let keys = |t: usize| (self.persistent.count() + 2 * ((first + t) % self.segment + 1)) as f64;
        let seen = (0..tokens).map(keys).sum::<f64>() / tokens.max(1) as f64;
        let reads = if self.causal { 1.0 } else { 2.0 };
        self.attention.flops_over(2.0, seen)
            + self.levels.flops()
            + reads * self.levels.read_flops()
            + 2.0 * self.out.len() as f64
    }
}

/// Copies the parts of a state that lie at these places.
fn keep<F: Scalar>(state: &[F], places: &[Range<usize>], copies: &mut Vec<Vec<F>>) {
    copies.resize_with(places.len(), Vec::new);
    for (copy, at) in copies.iter_mut().zip(places) {
        fit(copy, at.len()).copy_from_slice(&state[at.clone()]);
    }
}
