//! The delta rule with decay: Titans without momentum. The error is that of the memory before the decay.
//!
//! ```text
//! e  = W k - v                       inner loss 1/2 |W k - v|^2, at the state before the token
//! W' = retain W - rate e k^T         [Titans v1 eq.13] at momentum 0
//! y  = W' q
//! ```
//!
//! Unlike what the paper's appendix says, this is not the gated delta rule, which takes the error of the decayed
//! memory: the two differ by a factor `retain` in the strength of the erasure.

use super::matrix;
use crate::kernel::Kernel;
use crate::kernels::memory::{self, Erase, Form, RankOne};
use crate::rule::{About, ChunkForm, Dims, Input, MemoryRule, StateTensor, input, named, named_mut};
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// Matrix memory under the delta rule with decay; see the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecayDelta {}

impl MemoryRule for DecayDelta {
    const NAME: &'static str = "decay_delta";
    const KERNELS: &'static [Kernel<Self>] = &memory::kernels();

    fn about(&self) -> About {
        About {
            equation: "W' = retain W - rate (W k - v) kᵀ; y = W' q",
            source: "[Titans v1 eq.13]",
            structure: "matrix",
            features: "none",
            bias: "l2",
            retention: "l2",
            algorithm: "gd",
            chunk: ChunkForm::Exact,
        }
    }

    fn inputs(&self) -> Vec<Input> {
        vec![input::K, input::V, input::Q, input::RETAIN, input::RATE]
    }

    fn state(&self, d: Dims) -> Vec<StateTensor> {
        vec![matrix::tensor("W", d)]
    }

    /// Predict 2, decay 1, add the gradient 2, read 2, per entry of W.
    fn flops(&self, d: Dims) -> f64 {
        7.0 * (d.dk * d.dv) as f64
    }

    fn write<F: Scalar>(&self, _d: Dims, _pos: u64, x: &[&[F]], w: &mut [F]) {
        let [k, v, _q, retain, rate] = named(x);
        let e = matrix::error(w, k, v);
        matrix::decay(w, retain[0]);
        matrix::correct(w, rate[0], &e, k);
    }

    fn write_backward<F: Scalar>(
        &self,
        _d: Dims,
        _pos: u64,
        x: &[&[F]],
        w: &[F],
        dx: &mut [&mut [F]],
        dw: &mut [F],
    ) {
        let [k, v, _q, retain, rate] = named(x);
        let [dk, dv, _dq, dretain, drate] = named_mut(dx);
        let e = matrix::error(w, k, v);
        let de = matrix::correct_backward(dw, rate[0], &e, k, &mut drate[0], dk);
        matrix::decay_backward(w, retain[0], &mut dretain[0], dw);
        matrix::error_backward(w, k, &de, dw, dk, dv);
    }

    fn read<F: Scalar>(&self, _d: Dims, _pos: u64, x: &[&[F]], w: &[F], y: &mut [F]) {
        matrix::read(w, x[2], y);
    }

    fn read_backward<F: Scalar>(
        &self,
        _d: Dims,
        _pos: u64,
        x: &[&[F]],
        w: &[F],
        dy: &[F],
        dx: &mut [&mut [F]],
        dw: &mut [F],
    ) {
        matrix::read_backward(w, x[2], dy, dx[2], dw);
    }
}

impl RankOne for DecayDelta {
    const FORM: Form = Form { erase: Erase::Previous, retain: true, momentum: false };
}
