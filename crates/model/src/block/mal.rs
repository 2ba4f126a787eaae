//! Memory as a layer: a memory first, then a window of attention over what it gives [Titans v1 eq.29].
//!
//! ```text
//! m = memory([P; x]);  out = attention(rms(m)), without the rows of P
//! ```

use super::alone::{Alone, AloneTape};
use super::attention::{Attention, AttentionTape};
use super::persistent::{Persistent, PersistentTape};
use super::{Builder, Call};
use crate::config::MalConfig;
use crate::error::Result;
use crate::pool::{Pool, fit};
use hecate_core::ops::Ops;
use std::ops::Range;

pub(crate) struct Mal {
    pub memory: Alone,
    pub attention: Attention,
    persistent: Persistent,
    scale: Range<usize>,
}

#[derive(Debug, Default)]
pub(crate) struct MalTape<F> {
    pub memory: AloneTape<F>,
    attention: AttentionTape<F>,
    prefixed: PersistentTape<F>,
    m: Vec<F>,      // [N + T, width]
    normed: Vec<F>, // [N + T, width]
}

impl<F> MalTape<F> {
    pub fn len(&self) -> usize {
        self.memory.len() + self.attention.len() + self.prefixed.len() + self.m.len() + self.normed.len()
    }
}

impl Mal {
    pub fn new(b: &mut Builder<'_>, config: &MalConfig) -> Self {
        Self {
            memory: Alone::new(b, &config.memory, "mixer.memory"),
            attention: Attention::new(b, &config.attention, "mixer.attention", true, config.persistent, true),
            persistent: Persistent::new(b, "mixer", config.persistent),
            scale: b.norm("mixer.memory_norm", b.width),
        }
    }

    /// Rows that stand before the sequence: as many positions more.
    pub fn persistent(&self) -> usize {
        self.persistent.count()
    }

    /// `out [T, width]` from the normed stream `x [T, width]`.
    pub fn forward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        state: &mut [O::F],
        tape: &mut MalTape<O::F>,
        pool: &mut Pool<O::F>,
        out: &mut [O::F],
    ) -> Result<()> {
        let MalTape { memory, attention, prefixed, m, normed } = tape;
        self.persistent.around(call, x, prefixed, out, |call, x, out| {
            self.memory.forward(call, x, state, memory, fit(m, x.len()))?;
            let scale = &call.params[self.scale.clone()];
            call.ops.rms_norm_forward(self.scale.len(), m, scale, fit(normed, x.len()));
            self.attention.mix_forward(call, normed, state, attention, pool, out);
            Ok(())
        })
    }

    /// Transpose of [`Mal::forward`].
    pub fn backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        tape: &MalTape<O::F>,
        dout: &[O::F],
        dx: &mut [O::F],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) -> Result<()> {
        let mut back = |call: &Call<'_, O>,
                        x: &[O::F],
                        dout: &[O::F],
                        dx: &mut [O::F],
                        grads: &mut [O::F],
                        pool: &mut Pool<O::F>| {
            let (mut dnormed, mut dm) = (pool.zeros(x.len()), pool.zeros(x.len()));
            self.attention.mix_backward(call, &tape.normed, &tape.attention, dout, &mut dnormed, grads, pool);
            let scale = &call.params[self.scale.clone()];
            let dscale = call.grad(grads, &self.scale);
            call.ops.rms_norm_backward(self.scale.len(), &tape.m, scale, &dnormed, &mut dm, dscale);
            self.memory.backward(call, x, &tape.memory, &dm, dx, grads, pool)?;
            pool.give(dnormed);
            pool.give(dm);
            Ok(())
        };
        self.persistent.around_backward(call, x, &tape.prefixed, dout, dx, grads, pool, &mut back)
    }

    pub fn flops(&self, tokens: usize, pos: u64) -> f64 {
        self.memory.flops() + self.attention.flops(tokens, pos)
    }
}
