//! Causal attention with rotary positions, over a window or over everything that the state keeps.

use super::persistent::Persistent;
use super::{Builder, Call};
use crate::config::AttentionConfig;
use crate::pool::{Pool, fit};
use crate::state::{Content, StateLayout};
use hecate_core::Scalar;
use hecate_core::ops::{AttentionShape, HeadShape, KEY_BLOCK, Ops, Prefix, attention};
use std::ops::Range;

/// Tokens of one serving call that the state's ring has room for besides the window.
pub(crate) const SERVE_TOKENS: usize = 128;

pub(crate) struct Attention {
    heads: usize,
    kv_heads: usize,
    pub width: usize,
    window: usize,
    pub base: f64,
    q: Range<usize>,
    k: Range<usize>,
    v: Range<usize>,
    /// Present where attention stands alone and projects its own way out.
    out: Option<Range<usize>>,
    /// Persistent rows that every query sees: their number and their place.
    prefix: (usize, Range<usize>),
    /// A token is a row and the one before it.
    paired: bool,
    /// Rows of one serving call that the ring has room for besides the window.
    serve: usize,
    /// Ring of the state, in slots.
    ring: usize,
    keys: Range<usize>,
    values: Range<usize>,
}

#[derive(Debug, Default)]
pub(crate) struct AttentionTape<F> {
    q: Vec<F>,             // [heads, T, D], rotated
    keys: Vec<F>,          // the ring that the call attended over
    values: Vec<F>,        // the same for values
    y: Vec<F>,             // [heads, T, D]
    lse: Vec<F>,           // [heads, T]
    merged: Vec<F>,        // [T, heads * D], where attention stands alone
    prefix_keys: Vec<F>,   // [kv_heads, P, D]
    prefix_values: Vec<F>, // [kv_heads, P, D]
}

impl<F> AttentionTape<F> {
    pub fn len(&self) -> usize {
        let prefix = self.prefix_keys.len() + self.prefix_values.len();
        let own = [&self.q, &self.keys, &self.values, &self.y, &self.lse, &self.merged];
        prefix + own.iter().map(|v| v.len()).sum::<usize>()
    }
}

impl Attention {
    /// `extra` rows may come on top of the tokens of a serving call. `again`: keys stand at the places of their tokens, so
    /// that running the same tokens again writes the same ones.
    pub fn new(
        b: &mut Builder<'_>,
        config: &AttentionConfig,
        part: &str,
        alone: bool,
        extra: usize,
        again: bool,
    ) -> Self {
        let (heads, width) = (config.heads, config.head_width(b.width));
        let kv_heads = config.kv_heads.unwrap_or(heads);
        let q = b.weight(&format!("{part}.q"), b.width, heads * width);
        let k = b.weight(&format!("{part}.k"), b.width, kv_heads * width);
        let v = b.weight(&format!("{part}.v"), b.width, kv_heads * width);
        let out = alone.then(|| b.weight_out(&format!("{part}.out"), heads * width));
        let serve = SERVE_TOKENS + extra;
        let ring = AttentionShape::ring_for(config.window(), serve);
        let blocks = ring / KEY_BLOCK;
        let name = format!("{}.attention", b.prefix);
        let add = if again { StateLayout::add_again } else { StateLayout::add };
        let keys = add(b.state, format!("{name}.keys"), Content::Tensor(vec![kv_heads, blocks, width, KEY_BLOCK]));
        let values = add(b.state, format!("{name}.values"), Content::Tensor(vec![kv_heads, blocks, KEY_BLOCK, width]));
        let (window, base) = (config.window(), config.rope_base);
        Self {
            heads,
            kv_heads,
            width,
            window,
            base,
            q,
            k,
            v,
            out,
            prefix: (0, 0..0),
            paired: false,
            serve,
            ring,
            keys,
            values,
        }
    }

    /// With rows that every query sees, whatever the window.
    pub fn seeing(self, rows: &Persistent) -> Self {
        Self { prefix: (rows.count(), rows.rows.clone()), ..self }
    }

    /// Over pairs of rows: what makes a token's key in the row before its own belongs to its column.
    pub fn paired(self) -> Self {
        Self { paired: true, ..self }
    }

    /// Width of what it gives: all heads side by side.
    pub fn inner(&self) -> usize {
        self.heads * self.width
    }

    fn shape(&self, tokens: usize, pos: u64, ring: usize) -> AttentionShape {
        let Self { heads, kv_heads, width, window, .. } = *self;
        AttentionShape { tokens, heads, kv_heads, width, window, prefix: self.prefix.0, pos, ring }
    }

    fn head_shape(&self, tokens: usize, heads: usize) -> HeadShape {
        HeadShape { tokens, heads, width: self.width }
    }

    /// Attention alone, with its way out: `out [T, width]` from the normed stream `x`.
    pub fn mix_forward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        state: &mut [O::F],
        tape: &mut AttentionTape<O::F>,
        pool: &mut Pool<O::F>,
        out: &mut [O::F],
    ) {
        let mut merged = std::mem::take(&mut tape.merged);
        self.forward(call, x, state, tape, pool, fit(&mut merged, call.tokens * self.inner()));
        call.linear(self.out.as_ref().expect("attention stands alone"), &merged, out);
        tape.merged = merged;
    }

    /// Transpose of [`Attention::mix_forward`].
    pub fn mix_backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        tape: &AttentionTape<O::F>,
        dout: &[O::F],
        dx: &mut [O::F],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) {
        let mut dmerged = pool.zeros(tape.merged.len());
        let out = self.out.as_ref().expect("attention stands alone");
        call.linear_backward(out, &tape.merged, dout, Some(&mut dmerged), grads);
        self.backward(call, x, tape, &dmerged, dx, grads, pool);
        pool.give(dmerged);
    }

    /// Projects, rotates, stores and attends: `merged [T, inner]`.
    pub fn forward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        state: &mut [O::F],
        tape: &mut AttentionTape<O::F>,
        pool: &mut Pool<O::F>,
        merged: &mut [O::F],
    ) {
        let tokens = call.tokens;
        let table = call.rope_table(self.width, self.base);
        let (all, kv) = (tokens * self.inner(), tokens * self.kv_heads * self.width);
        let mut pre = pool.take(all);
        call.linear(&self.q, x, &mut pre);
        call.ops.rope_forward(self.head_shape(tokens, self.heads), table, &pre, fit(&mut tape.q, all));
        pre.truncate(kv);
        let (mut k, mut v) = (pool.take(kv), pool.take(kv));
        call.linear(&self.k, x, &mut pre);
        call.ops.rope_forward(self.head_shape(tokens, self.kv_heads), table, &pre, &mut k);
        call.linear(&self.v, x, &mut pre);
        call.ops.rope_forward(self.head_shape(tokens, self.kv_heads), &[], &pre, &mut v);

        self.fill_prefix(call, tape, pool);
        let prefix = Prefix { keys: &tape.prefix_keys[..], values: &tape.prefix_values[..] };
        let (y, lse) = (fit(&mut tape.y, all), fit(&mut tape.lse, self.heads * tokens));
        let kept = self.shape(tokens, call.pos, self.ring);
        let (keys, values) = self.cache(state);
        if !call.record && tokens <= self.serve {
            attention::store(kept, &k, &v, keys, values);
            call.ops.attention_forward(kept, &tape.q, keys, values, prefix, y, lse);
        } else {
            // A training call is longer than the state's ring: attend over a ring of its own, kept for the way back.
            let own = self.shape(tokens, call.pos, AttentionShape::ring_for(self.window, tokens));
            let (own_keys, own_values) = (fit(&mut tape.keys, own.cache_len()), fit(&mut tape.values, own.cache_len()));
            attention::carry(self.shape(0, call.pos, self.ring), keys, values, own.ring, own_keys, own_values);
            attention::store(own, &k, &v, own_keys, own_values);
            call.ops.attention_forward(own, &tape.q, own_keys, own_values, prefix, y, lse);
            attention::carry(own, own_keys, own_values, kept.ring, keys, values);
        }
        call.ops.merge_forward(self.head_shape(tokens, self.heads), &tape.y, merged);
        for buffer in [pre, k, v] {
            pool.give(buffer);
        }
    }

    /// Transpose of [`Attention::forward`]; keys of earlier calls are constants.
    pub fn backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        tape: &AttentionTape<O::F>,
        dmerged: &[O::F],
        dx: &mut [O::F],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) {
        let tokens = call.tokens;
        let table = call.rope_table(self.width, self.base);
        let (all, kv) = (tokens * self.inner(), tokens * self.kv_heads * self.width);
        let (mut dy, mut dq) = (pool.zeros(all), pool.zeros(all));
        let (mut dk, mut dv) = (pool.zeros(kv), pool.zeros(kv));
        let [mut dprefix_keys, mut dprefix_values] = std::array::from_fn(|_| pool.zeros(tape.prefix_keys.len()));
        let own = self.shape(tokens, call.pos, AttentionShape::ring_for(self.window, tokens));
        call.ops.merge_backward(self.head_shape(tokens, self.heads), dmerged, &mut dy);
        let prefix = Prefix { keys: &tape.prefix_keys[..], values: &tape.prefix_values[..] };
        let (AttentionTape { q, keys, values, y, lse, .. }, ops) = (tape, call.ops);
        if call.column {
            ops.attention_column_backward(own, q, keys, values, prefix, y, lse, &dy, &mut dq, &mut dk, &mut dv);
            if self.paired {
                self.pairs_backward(call, own, tape, &dy, [&mut dk, &mut dv], pool);
            }
        } else {
            let dprefix = Prefix { keys: &mut dprefix_keys[..], values: &mut dprefix_values[..] };
            ops.attention_backward(own, q, keys, values, prefix, y, lse, &dy, &mut dq, &mut dk, &mut dv, dprefix);
            self.prefix_backward(call, [&dprefix_keys, &dprefix_values], grads, pool);
        }
        let empty: &[O::F] = &[];
        for (w, heads, table, dhead) in [
            (&self.q, self.heads, table, &dq),
            (&self.k, self.kv_heads, table, &dk),
            (&self.v, self.kv_heads, empty, &dv),
        ] {
            let mut dpre = pool.zeros(dhead.len());
            call.ops.rope_backward(self.head_shape(tokens, heads), table, dhead, &mut dpre);
            call.linear_backward(w, x, &dpre, Some(dx), grads);
            pool.give(dpre);
        }
        for buffer in [dy, dq, dk, dv, dprefix_keys, dprefix_values] {
            pool.give(buffer);
        }
    }

    /// What the query of a row gives to the key and the value of the row before it: as if it stood there.
    fn pairs_backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        own: AttentionShape,
        tape: &AttentionTape<O::F>,
        dy: &[O::F],
        [dk, dv]: [&mut [O::F]; 2],
        pool: &mut Pool<O::F>,
    ) {
        let tokens = call.tokens;
        let mut earlier = |x: &[O::F], width: usize| {
            let mut moved = pool.zeros(x.len());
            for (to, from) in moved.chunks_exact_mut(tokens * width).zip(x.chunks_exact(tokens * width)) {
                to[..(tokens - 1) * width].copy_from_slice(&from[width..]);
            }
            moved
        };
        let [q, y, dy] = [&tape.q, &tape.y, dy].map(|x| earlier(x, self.width));
        let (lse, mut unused) = (earlier(&tape.lse, 1), pool.zeros(q.len()));
        let prefix = Prefix { keys: &tape.prefix_keys[..], values: &tape.prefix_values[..] };
        let (keys, values) = (&tape.keys, &tape.values);
        call.ops.attention_column_backward(own, &q, keys, values, prefix, &y, &lse, &dy, &mut unused, dk, dv);
        [q, y, dy, lse, unused].into_iter().for_each(|buffer| pool.give(buffer));
    }

    /// Keys and values of the persistent rows, which have no position.
    fn fill_prefix<O: Ops>(&self, call: &Call<'_, O>, tape: &mut AttentionTape<O::F>, pool: &mut Pool<O::F>) {
        let (count, rows) = &self.prefix;
        let n = count * self.kv_heads * self.width;
        if n == 0 {
            return;
        }
        let mut pre = pool.take(n);
        let own = call.with(*count, 0);
        for (w, out) in [(&self.k, &mut tape.prefix_keys), (&self.v, &mut tape.prefix_values)] {
            own.linear(w, &call.params[rows.clone()], &mut pre);
            call.ops.rope_forward(self.head_shape(*count, self.kv_heads), &[], &pre, fit(out, n));
        }
        pool.give(pre);
    }

    /// Transpose of [`Attention::fill_prefix`].
    fn prefix_backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        dprefix: [&[O::F]; 2],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) {
        let (count, rows) = &self.prefix;
        if *count == 0 {
            return;
        }
        let own = call.with(*count, 0);
        let mut drows = pool.zeros(rows.len());
        for (w, dhead) in [&self.k, &self.v].into_iter().zip(dprefix) {
            let mut dpre = pool.zeros(dhead.len());
            call.ops.rope_backward(self.head_shape(*count, self.kv_heads), &[], dhead, &mut dpre);
            own.linear_backward(w, &call.params[rows.clone()], &dpre, Some(&mut drows), grads);
            pool.give(dpre);
        }
        super::add(&mut grads[rows.clone()], &drows);
        pool.give(drows);
    }

    /// Forgets all keys: what comes next stands at position 0.
    pub fn clear<F: Scalar>(&self, state: &mut [F]) {
        state[self.keys.start..self.values.end].fill(F::zero());
    }

    fn cache<'s, F>(&self, state: &'s mut [F]) -> (&'s mut [F], &'s mut [F]) {
        debug_assert_eq!(self.keys.end, self.values.start);
        state[self.keys.start..self.values.end].split_at_mut(self.keys.len())
    }

    /// Projections, scores and weighted sums; the mean number of keys that a query of the call sees.
    pub fn flops(&self, tokens: usize, pos: u64) -> f64 {
        let weights = self.q.len() + self.k.len() + self.v.len() + self.out.as_ref().map_or(0, Range::len);
        let seen = |t: usize| (pos + t as u64 + 1).min(self.window as u64) as f64;
        let keys = self.prefix.0 as f64 + (0..tokens).map(seen).sum::<f64>() / tokens.max(1) as f64;
        2.0 * weights as f64 + 4.0 * self.inner() as f64 * keys
    }

    /// The same where every token stands for `rows` rows, of which one asks, over `keys` keys.
    pub fn flops_over(&self, rows: f64, keys: f64) -> f64 {
        let kv = rows * (self.k.len() + self.v.len()) as f64;
        2.0 * (self.q.len() as f64 + kv) + 4.0 * self.inner() as f64 * keys
    }
}
