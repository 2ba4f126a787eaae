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
    wide: Vec<F>,   // [N + T, width]
}

impl<F> MalTape<F> {
    pub fn len(&self) -> usize {
        let own = [&self.m, &self.normed, &self.wide].map(|v| v.len());
        self.memory.len() + self.attention.len() + self.prefixed.len() + own.iter().sum::<usize>()
    }
}

impl Mal {
    pub fn new(b: &mut Builder<'_>, config: &MalConfig) -> Self {
        Self {
            memory: Alone::new(b, &config.memory, "mixer.memory"),
            attention: Attention::new(b, &config.attention, "mixer.attention", true, config.persistent),
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
        let long = self.persistent.call(call);
        let x = self.persistent.prepend(call, x, &mut tape.prefixed);
        let n = x.len();
        self.memory.forward(&long, x, state, &mut tape.memory, fit(&mut tape.m, n))?;
        let scale = &call.params[self.scale.clone()];
        call.ops.rms_norm_forward(self.scale.len(), &tape.m, scale, fit(&mut tape.normed, n));
        let wide = fit(&mut tape.wide, n);
        self.attention.mix_forward(&long, &tape.normed, state, &mut tape.attention, pool, wide);
        out.copy_from_slice(&wide[n - out.len()..]);
        Ok(())
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
        let long = self.persistent.call(call);
        let prefixed = long.tokens > call.tokens;
        let x = if prefixed { tape.prefixed.x() } else { x };
        let n = x.len();
        let [mut wide, mut dnormed, mut dm, mut dlong] = std::array::from_fn(|_| pool.zeros(n));
        wide[n - dout.len()..].copy_from_slice(dout);
        self.attention.mix_backward(&long, &tape.normed, &tape.attention, &wide, &mut dnormed, grads, pool);
        let scale = &call.params[self.scale.clone()];
        let dscale = &mut grads[self.scale.clone()];
        call.ops.rms_norm_backward(self.scale.len(), &tape.m, scale, &dnormed, &mut dm, dscale);
        self.memory.backward(&long, x, &tape.memory, &dm, &mut dlong, grads, pool)?;
        match prefixed {
            true => self.persistent.prepend_backward(&dlong, dx, grads),
            false => super::add(dx, &dlong),
        }
        [wide, dnormed, dm, dlong].into_iter().for_each(|buffer| pool.give(buffer));
        Ok(())
    }

    pub fn flops(&self, tokens: usize, pos: u64) -> f64 {
        self.memory.flops() + self.attention.flops(tokens, pos)
    }
}
