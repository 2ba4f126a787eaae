//! Linear attention with decay: the Hebbian rule, which adds what it is told and asks nothing of what it knows.
//!
//! ```text
//! W' = retain W + rate v k^T         inner loss -<W k, v>
//! y  = W' q
//! ```
//!
//! The write is [NestedLearning v1 eq.64]; at `retain` = `rate` = 1 this is plain linear attention. Without decay
//! the memory grows with the sequence, which is why `retain` is an input and not an option.

use super::matrix;
use crate::kernel::Kernel;
use crate::kernels::memory::{self, Erase, Form, RankOne};
use crate::rule::{About, ChunkForm, Dims, Input, MemoryRule, StateTensor, input, named, named_mut};
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// Hebbian matrix memory with decay; see the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinearAttention {}

impl MemoryRule for LinearAttention {
    const NAME: &'static str = "linear_attention";
    const KERNELS: &'static [Kernel<Self>] = &memory::kernels();

    fn about(&self) -> About {
        About {
            equation: "W' = retain W + rate v kᵀ; y = W' q",
            source: "[NestedLearning v1 eq.64]",
            structure: "matrix",
            features: "none",
            bias: "dot",
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

    /// Decay 1, add the outer product 2, read 2, per entry of W.
    fn flops(&self, d: Dims) -> f64 {
        5.0 * (d.dk * d.dv) as f64
    }

    fn write<F: Scalar>(&self, _d: Dims, _pos: u64, x: &[&[F]], w: &mut [F]) {
        let [k, v, _q, retain, rate] = named(x);
        matrix::decay(w, retain[0]);
        // The gradient of -<W k, v> is that of the error -v.
        matrix::correct(w, -rate[0], v, k);
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
        // W' = retain W - (-rate) v k^T
        let mut minus_drate = F::zero();
        let dv_term = matrix::correct_backward(dw, -rate[0], v, k, &mut minus_drate, dk);
        drate[0] -= minus_drate;
        matrix::add_scaled(dv, F::one(), &dv_term);
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

impl RankOne for LinearAttention {
    const FORM: Form = Form { erase: Erase::Nothing, retain: true, momentum: false };
}
