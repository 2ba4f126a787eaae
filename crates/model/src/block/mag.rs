//! Memory as a gate: a window of attention, and a memory for what lies beyond it [Titans v1 eq.28].
//!
//! ```text
//! y = attention([P] x);  m = memory([P; x]);  out = (rms(y) * sigmoid(rms(m))) W_o
//! ```
//!
//! Every query sees the persistent rows P, whatever the window; the memory takes them before the first token.

use super::attention::{Attention, AttentionTape};
use super::levels::{Levels, LevelsTape};
use super::persistent::{Persistent, PersistentTape};
use super::{Builder, Call};
use crate::config::MagConfig;
use crate::error::Result;
use crate::pool::{Pool, fit};
use hecate_core::ops::Ops;
use std::ops::Range;

pub(crate) struct Mag {
    pub attention: Attention,
    pub levels: Levels,
    persistent: Persistent,
    attention_scale: Range<usize>,
    memory_scale: Range<usize>,
    out: Range<usize>,
}

#[derive(Debug, Default)]
pub(crate) struct MagTape<F> {
    attention: AttentionTape<F>,
    pub levels: LevelsTape<F>,
    prefixed: PersistentTape<F>,
    y: Vec<F>,        // [T, C]
    m: Vec<F>,        // [T, C]
    y_normed: Vec<F>, // [T, C]
    m_normed: Vec<F>, // [T, C]
    gated: Vec<F>,    // [T, C]
}

impl<F> MagTape<F> {
    pub fn len(&self) -> usize {
        let own = [&self.y, &self.m, &self.y_normed, &self.m_normed, &self.gated].map(|v| v.len());
        self.attention.len() + self.levels.len() + self.prefixed.len() + own.iter().sum::<usize>()
    }
}

impl Mag {
    pub fn new(b: &mut Builder<'_>, config: &MagConfig) -> Self {
        let persistent = Persistent::new(b, "mixer", config.persistent);
        let attention = Attention::new(b, &config.attention, "mixer.attention", false, 0, true).seeing(&persistent);
        let levels = Levels::new(b, &config.memory, "mixer.memory");
        let inner = attention.inner();
        let attention_scale = b.norm("mixer.attention_norm", inner);
        let memory_scale = b.norm("mixer.memory_norm", inner);
        let out = b.weight_out("mixer.out", inner);
        Self { attention, levels, persistent, attention_scale, memory_scale, out }
    }

    /// `out [T, width]` from the normed stream `x [T, width]`.
    pub fn forward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        state: &mut [O::F],
        tape: &mut MagTape<O::F>,
        pool: &mut Pool<O::F>,
        out: &mut [O::F],
    ) -> Result<()> {
        let inner = self.attention.inner();
        let n = call.tokens * inner;
        self.attention.forward(call, x, state, &mut tape.attention, pool, fit(&mut tape.y, n));
        let MagTape { levels, prefixed, m, .. } = &mut *tape;
        self.persistent.around(call, x, prefixed, fit(m, n), |call, x, m| {
            self.levels.forward(call, x, state, levels)?;
            call.ops.merge_forward(self.levels.head_shape(call.tokens), levels.y(), m);
            Ok(())
        })?;
        let norm = |scale: &Range<usize>, x: &[O::F], y: &mut [O::F]| {
            call.ops.rms_norm_forward(inner, x, &call.params[scale.clone()], y);
        };
        norm(&self.attention_scale, &tape.y, fit(&mut tape.y_normed, n));
        norm(&self.memory_scale, &tape.m, fit(&mut tape.m_normed, n));
        call.ops.sigmoid_gate_forward(&tape.y_normed, &tape.m_normed, fit(&mut tape.gated, n));
        call.linear(&self.out, &tape.gated, out);
        Ok(())
    }

    /// Transpose of [`Mag::forward`].
    pub fn backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        tape: &MagTape<O::F>,
        dout: &[O::F],
        dx: &mut [O::F],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) -> Result<()> {
        let inner = self.attention.inner();
        let n = call.tokens * inner;
        let [mut dgated, mut dy_normed, mut dm_normed, mut dy, mut dm] = std::array::from_fn(|_| pool.zeros(n));
        call.linear_backward(&self.out, &tape.gated, dout, Some(&mut dgated), grads);
        call.ops.sigmoid_gate_backward(&tape.y_normed, &tape.m_normed, &dgated, &mut dy_normed, &mut dm_normed);
        let norm = |scale: &Range<usize>, x: &[O::F], dy: &[O::F], dx: &mut [O::F], grads: &mut [O::F]| {
            let s = &call.params[scale.clone()];
            call.ops.rms_norm_backward(inner, x, s, dy, dx, call.grad(grads, scale));
        };
        norm(&self.attention_scale, &tape.y, &dy_normed, &mut dy, grads);
        norm(&self.memory_scale, &tape.m, &dm_normed, &mut dm, grads);
        self.attention.backward(call, x, &tape.attention, &dy, dx, grads, pool);
        let mut back = |call: &Call<'_, O>,
                        x: &[O::F],
                        dm: &[O::F],
                        dx: &mut [O::F],
                        grads: &mut [O::F],
                        pool: &mut Pool<O::F>| {
            let mut dm_heads = pool.zeros(dm.len());
            call.ops.merge_backward(self.levels.head_shape(call.tokens), dm, &mut dm_heads);
            self.levels.backward(call, x, &tape.levels, &dm_heads, dx, grads, pool)?;
            pool.give(dm_heads);
            Ok(())
        };
        self.persistent.around_backward(call, x, &tape.prefixed, &dm, dx, grads, pool, &mut back)?;
        for buffer in [dgated, dy_normed, dm_normed, dy, dm] {
            pool.give(buffer);
        }
        Ok(())
    }

    pub fn flops(&self, tokens: usize, pos: u64) -> f64 {
        self.attention.flops(tokens, pos) + self.levels.flops() + 2.0 * self.out.len() as f64
    }
}
