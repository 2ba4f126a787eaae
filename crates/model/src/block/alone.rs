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
    pub mixed: MixedTape<F>,
    prefixed: PersistentTape<F>,
}

/// With the persistent tokens in front.
#[derive(Debug, Default)]
pub(crate) struct MixedTape<F> {
    pub levels: LevelsTape<F>,
    g: Vec<F>,     // [N + T, H * dv]
    gated: Vec<F>, // [N + T, H * dv]
}

impl<F> AloneTape<F> {
    pub fn len(&self) -> usize {
        self.mixed.levels.len() + self.mixed.g.len() + self.mixed.gated.len() + self.prefixed.len()
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
        let AloneTape { mixed, prefixed } = tape;
        self.persistent.around(call, x, prefixed, out, |call, x, out| self.mix(call, x, state, mixed, out))
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
        let AloneTape { mixed, prefixed } = tape;
        let mut back =
            |call: &Call<'_, O>,
             x: &[O::F],
             dout: &[O::F],
             dx: &mut [O::F],
             grads: &mut [O::F],
             pool: &mut Pool<O::F>| { self.mix_backward(call, x, mixed, dout, dx, grads, pool) };
        self.persistent.around_backward(call, x, prefixed, dout, dx, grads, pool, &mut back)
    }

    fn mix<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        state: &mut [O::F],
        tape: &mut MixedTape<O::F>,
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
        tape: &MixedTape<O::F>,
        dout: &[O::F],
        dx: &mut [O::F],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) -> Result<()> {
        let y = tape.levels.y();
        let [mut dgated, mut dy, mut dg] = std::array::from_fn(|_| pool.zeros(y.len()));
        call.linear_backward(&self.out, &tape.gated, dout, Some(&mut dgated), grads);
        let (s, scale) = (self.levels.head_shape(call.tokens), &call.params[self.scale.clone()]);
        let dscale = call.grad(grads, &self.scale);
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
