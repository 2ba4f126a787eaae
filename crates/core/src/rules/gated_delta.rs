//! The gated delta rule: the memory decays first, and the error is that of the decayed memory.
//!
//! ```text
//! Wd = retain W
//! e  = Wd k - v                      inner loss 1/2 |Wd k - v|^2, at the decayed state
//! W' = Wd - rate e k^T               [GatedDeltaNet v3 eq.10]
//! y  = W' q
//! ```
//!
//! `retain` is alpha of the paper, `rate` its beta. The rule `decay_delta` takes the error before the decay.

use super::matrix;
use crate::kernel::Kernel;
use crate::kernels::memory::{self, Erase, Form, RankOne};
use crate::rule::{About, ChunkForm, Dims, Input, MemoryRule, StateTensor, input, named, named_mut};
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// Matrix memory under the gated delta rule; see the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatedDelta {}

impl MemoryRule for GatedDelta {
    const NAME: &'static str = "gated_delta";
    const KERNELS: &'static [Kernel<Self>] = &memory::kernels();

    fn about(&self) -> About {
        About {
            equation: "Wd = retain W; W' = Wd - rate (Wd k - v) kᵀ; y = W' q",
            source: "[GatedDeltaNet v3 eq.10]",
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

    /// Decay 1, predict 2, add the gradient 2, read 2, per entry of W.
    fn flops(&self, d: Dims) -> f64 {
        7.0 * (d.dk * d.dv) as f64
    }

    fn write<F: Scalar>(&self, _d: Dims, _pos: u64, x: &[&[F]], w: &mut [F]) {
        let [k, v, _q, retain, rate] = named(x);
        matrix::decay(w, retain[0]);
        let e = matrix::error(w, k, v);
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
        let mut decayed = w.to_vec();
        matrix::decay(&mut decayed, retain[0]);
        let e = matrix::error(&decayed, k, v);
        let de = matrix::correct_backward(dw, rate[0], &e, k, &mut drate[0], dk);
        matrix::error_backward(&decayed, k, &de, dw, dk, dv);
        matrix::decay_backward(w, retain[0], &mut dretain[0], dw);
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

impl RankOne for GatedDelta {
    const FORM: Form = Form { erase: Erase::Decayed, retain: true, momentum: false };
}
