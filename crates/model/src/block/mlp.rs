//! A multi-layer perceptron, gated or plain: the usual channel part, and what a continuum memory is made of.

use super::{Builder, Call};
use crate::config::MlpConfig;
use crate::pool::{Pool, fit};
use hecate_core::ops::{MlpKind, Ops};
use std::ops::Range;

pub(crate) struct Mlp {
    kind: MlpKind,
    pub hidden: usize,
    pub up: Range<usize>,
    pub down: Range<usize>,
}

#[derive(Debug, Default)]
pub(crate) struct MlpTape<F> {
    pub up: Vec<F>,     // [T, kind.input_width(hidden)]
    pub hidden: Vec<F>, // [T, hidden]
}

impl<F> MlpTape<F> {
    pub fn len(&self) -> usize {
        self.up.len() + self.hidden.len()
    }
}

/// Its two matrices.
pub(super) type Weights<'a, F> = [&'a [F]; 2];

impl Mlp {
    /// `part` is the prefix of its parameters' names.
    pub fn new(b: &mut Builder<'_>, config: &MlpConfig, part: &str) -> Self {
        let (kind, hidden) = (MlpKind::from(config.kind), config.hidden(b.width));
        let up = b.weight(&format!("{part}.up"), b.width, kind.input_width(hidden));
        let down = b.weight_out(&format!("{part}.down"), hidden);
        Self { kind, hidden, up, down }
    }

    /// Values that enter the non-linearity, per token.
    pub fn up_width(&self) -> usize {
        self.kind.input_width(self.hidden)
    }

    /// The matrices that the optimizer learned.
    pub fn weights<'a, O: Ops>(&self, call: &Call<'a, O>) -> Weights<'a, O::F> {
        [&call.params[self.up.clone()], &call.params[self.down.clone()]]
    }

    /// `out [T, width]` from the normed stream `x [T, width]`.
    pub fn forward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        [up_weight, down_weight]: Weights<'_, O::F>,
        x: &[O::F],
        tape: &mut MlpTape<O::F>,
        out: &mut [O::F],
    ) {
        let up = fit(&mut tape.up, call.tokens * self.up_width());
        call.product(up_weight, x, up);
        let hidden = fit(&mut tape.hidden, call.tokens * self.hidden);
        call.ops.mlp_forward(self.kind, self.hidden, up, hidden);
        call.product(down_weight, hidden, out);
    }

    /// Transpose of [`Mlp::forward`].
    pub fn backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        weights: Weights<'_, O::F>,
        x: &[O::F],
        tape: &MlpTape<O::F>,
        dout: &[O::F],
        dx: &mut [O::F],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) {
        let mut dup = pool.zeros(tape.up.len());
        self.input_backward(call, weights, &tape.up, dout, &mut dup, Some(dx), pool);
        if !call.column {
            call.weight_backward(&self.down, &tape.hidden, dout, grads);
            call.weight_backward(&self.up, x, &dup, grads);
        }
        pool.give(dup);
    }

    /// The part of [`Mlp::backward`] that looks at weights: adds the gradient of the pre-activations `up` into `dup`, and
    /// that of `x` into `dx`.
    pub fn input_backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        [up_weight, down_weight]: Weights<'_, O::F>,
        up: &[O::F],
        dout: &[O::F],
        dup: &mut [O::F],
        dx: Option<&mut [O::F]>,
        pool: &mut Pool<O::F>,
    ) {
        let mut dhidden = pool.zeros(call.tokens * self.hidden);
        call.product_backward(down_weight, dout, &mut dhidden);
        self.point_backward(call, up, &dhidden, dup);
        if let Some(dx) = dx {
            call.product_backward(up_weight, dup, dx);
        }
        pool.give(dhidden);
    }

    /// Transpose of the non-linearity: adds into `dup`.
    pub fn point_backward<O: Ops>(&self, call: &Call<'_, O>, up: &[O::F], dhidden: &[O::F], dup: &mut [O::F]) {
        call.ops.mlp_backward(self.kind, self.hidden, up, dhidden, dup);
    }

    pub fn flops(&self) -> f64 {
        2.0 * (self.up.len() + self.down.len()) as f64
    }
}
