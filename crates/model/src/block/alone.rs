//! A memory as the only mixer: its read leaves through `norm * silu(x W_g)` and a projection [Titans v1 sec.4.4].

use super::levels::{Levels, LevelsTape};
use super::persistent::{Persistent, PersistentTape};
use super::{Builder, Call};
use crate::config::MemoryConfig;
use crate::error::Result;
use crate::pool::{Pool, fit};
use hecate_core::ops::Ops;
use std::ops::Range;

pub(crate) struct Alone {
    pub levels: Levels,
    persistent: Persistent,
    gate: Range<usize>,
    scale: Range<usize>,
    out: Range<usize>,
}

#[derive(Debug, Default)]
pub(crate) struct AloneTape<F> {
    pub levels: LevelsTape<F>,
    prefixed: PersistentTape<F>,
    g: Vec<F>,     // [T, H * dv]
    gated: Vec<F>, // [T, H * dv]
    wide: Vec<F>,  // [N + T, width], where persistent tokens come first
}

impl<F> AloneTape<F> {
    pub fn len(&self) -> usize {
        self.levels.len() + self.prefixed.len() + self.g.len() + self.gated.len() + self.wide.len()
    }
}

impl Alone {
    pub fn new(b: &mut Builder<'_>, config: &MemoryConfig, part: &str) -> Self {
        let inner = config.heads * config.dims(b.width).dv;
        Self {
            levels: Levels::new(b, config, part),
            persistent: Persistent::new(b, part, config.persistent),
            gate: b.weight(&format!("{part}.out_gate"), b.width, inner),
            scale: b.norm(&format!("{part}.out_norm"), inner),
            out: b.weight_out(&format!("{part}.out"), inner),
        }
    }

    /// `out [T, width]` from the normed stream `x`.
    pub fn forward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        state: &mut [O::F],
        tape: &mut AloneTape<O::F>,
        out: &mut [O::F],
    ) -> Result<()> {
        let inner_call = self.persistent.call(call);
        let mut prefixed = std::mem::take(&mut tape.prefixed);
        let mut wide = std::mem::take(&mut tape.wide);
        let x = self.persistent.prepend(call, x, &mut prefixed);
        if inner_call.tokens == call.tokens {
            self.mix(&inner_call, x, state, tape, out)?;
        } else {
            self.mix(&inner_call, x, state, tape, fit(&mut wide, x.len()))?;
            out.copy_from_slice(&wide[x.len() - out.len()..]);
        }
        (tape.prefixed, tape.wide) = (prefixed, wide);
        Ok(())
    }

    /// Transpose of [`Alone::forward`].
    pub fn backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        tape: &AloneTape<O::F>,
        dout: &[O::F],
        dx: &mut [O::F],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) -> Result<()> {
        let inner_call = self.persistent.call(call);
        if inner_call.tokens == call.tokens {
            return self.mix_backward(&inner_call, x, tape, dout, dx, grads, pool);
        }
        let x = tape.prefixed.x();
        let (mut wide, mut dwide) = (pool.zeros(x.len()), pool.zeros(x.len()));
        let first = x.len() - dout.len();
        wide[first..].copy_from_slice(dout);
        self.mix_backward(&inner_call, x, tape, &wide, &mut dwide, grads, pool)?;
        self.persistent.prepend_backward(&dwide, dx, grads);
        pool.give(wide);
        pool.give(dwide);
        Ok(())
    }

    fn mix<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        state: &mut [O::F],
        tape: &mut AloneTape<O::F>,
        out: &mut [O::F],
    ) -> Result<()> {
        self.levels.forward(call, x, state, &mut tape.levels)?;
        let y = tape.levels.y();
        call.linear(&self.gate, x, fit(&mut tape.g, y.len()));
        let (s, scale) = (self.levels.head_shape(call.tokens), &call.params[self.scale.clone()]);
        call.ops.gated_norm_forward(s, y, scale, &tape.g, fit(&mut tape.gated, y.len()));
        call.linear(&self.out, &tape.gated, out);
        Ok(())
    }

    fn mix_backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        tape: &AloneTape<O::F>,
        dout: &[O::F],
        dx: &mut [O::F],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) -> Result<()> {
        let y = tape.levels.y();
        let [mut dgated, mut dy, mut dg] = std::array::from_fn(|_| pool.zeros(y.len()));
        call.linear_backward(&self.out, &tape.gated, dout, Some(&mut dgated), grads);
        let (s, scale) = (self.levels.head_shape(call.tokens), &call.params[self.scale.clone()]);
        let dscale = &mut grads[self.scale.clone()];
        call.ops.gated_norm_backward(s, y, scale, &tape.g, &dgated, &mut dy, dscale, &mut dg);
        call.linear_backward(&self.gate, x, &dg, Some(dx), grads);
        self.levels.backward(call, x, &tape.levels, &dy, dx, grads, pool)?;
        [dgated, dy, dg].into_iter().for_each(|buffer| pool.give(buffer));
        Ok(())
    }

    pub fn flops(&self) -> f64 {
        self.levels.flops() + 2.0 * (self.gate.len() + self.out.len()) as f64
    }
}
