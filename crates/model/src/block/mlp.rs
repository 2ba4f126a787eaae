//! The channel part: a multi-layer perceptron, gated or plain.

use super::{Builder, Call};
use crate::config::MlpConfig;
use crate::pool::{Pool, fit};
use hecate_core::ops::{MlpKind, Ops};
use std::ops::Range;

pub(crate) struct Mlp {
    kind: MlpKind,
    hidden: usize,
    up: Range<usize>,
    down: Range<usize>,
}

#[derive(Debug, Default)]
pub(crate) struct MlpTape<F> {
    up: Vec<F>,     // [T, kind.input_width(hidden)]
    hidden: Vec<F>, // [T, hidden]
}

impl<F> MlpTape<F> {
    pub fn len(&self) -> usize {
        self.up.len() + self.hidden.len()
    }
}

impl Mlp {
    pub fn new(b: &mut Builder<'_>, config: &MlpConfig) -> Self {
        let (kind, hidden) = (MlpKind::from(config.kind), config.hidden(b.width));
        let up = b.weight("channel.up", b.width, kind.input_width(hidden));
        let down = b.weight_out("channel.down", hidden);
        Self { kind, hidden, up, down }
    }

    /// `out [T, width]` from the normed stream `x [T, width]`.
    pub fn forward<O: Ops>(&self, call: &Call<'_, O>, x: &[O::F], tape: &mut MlpTape<O::F>, out: &mut [O::F]) {
        let up = fit(&mut tape.up, call.tokens * self.kind.input_width(self.hidden));
        call.linear(&self.up, x, up);
        let hidden = fit(&mut tape.hidden, call.tokens * self.hidden);
        call.ops.mlp_forward(self.kind, self.hidden, up, hidden);
        call.linear(&self.down, hidden, out);
    }

    /// Transpose of [`Mlp::forward`].
    pub fn backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        tape: &MlpTape<O::F>,
        dout: &[O::F],
        dx: &mut [O::F],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) {
        let mut dhidden = pool.zeros(tape.hidden.len());
        call.linear_backward(&self.down, &tape.hidden, dout, Some(&mut dhidden), grads);
        let mut dup = pool.zeros(tape.up.len());
        call.ops.mlp_backward(self.kind, self.hidden, &tape.up, &dhidden, &mut dup);
        call.linear_backward(&self.up, x, &dup, Some(dx), grads);
        pool.give(dhidden);
        pool.give(dup);
    }

    pub fn flops(&self) -> f64 {
        2.0 * (self.up.len() + self.down.len()) as f64
    }
}
