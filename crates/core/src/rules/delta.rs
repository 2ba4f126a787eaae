//! The delta rule: one step of gradient descent on what the memory gets wrong about the token.
//!
//! ```text
//! e  = W k - v                       inner loss 1/2 |W k - v|^2
//! W' = W - rate e k^T                [Miras v1 eq.9]
//! y  = W' q
//! ```
//!
//! Unlike the paper, whose equation leaves the step off the written value, `rate` multiplies the whole gradient.

use super::matrix;
use crate::kernel::Kernel;
use crate::kernels::memory::{self, Erase, Form, RankOne};
use crate::rule::{About, ChunkForm, Dims, Input, MemoryRule, StateTensor, input, named, named_mut};
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// Matrix memory under the delta rule; see the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delta {}

impl MemoryRule for Delta {
    const NAME: &'static str = "delta";
    const KERNELS: &'static [Kernel<Self>] = &memory::kernels();

    fn about(&self) -> About {
        About {
            equation: "W' = W - rate (W k - v) kᵀ; y = W' q",
            source: "[Miras v1 eq.9]",
            structure: "matrix",
            features: "none",
            bias: "l2",
            retention: "none",
            algorithm: "gd",
            chunk: ChunkForm::Exact,
        }
    }

    fn inputs(&self) -> Vec<Input> {
        vec![input::K, input::V, input::Q, input::RATE]
    }

    fn state(&self, d: Dims) -> Vec<StateTensor> {
        vec![matrix::tensor("W", d)]
    }

    /// Predict 2, add the gradient 2, read 2, per entry of W.
    fn flops(&self, d: Dims) -> f64 {
        6.0 * (d.dk * d.dv) as f64
    }

    fn write<F: Scalar>(&self, _d: Dims, _pos: u64, x: &[&[F]], w: &mut [F]) {
        let [k, v, _q, rate] = named(x);
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
        let [k, v, _q, rate] = named(x);
        let [dk, dv, _dq, drate] = named_mut(dx);
        let e = matrix::error(w, k, v);
        let de = matrix::correct_backward(dw, rate[0], &e, k, &mut drate[0], dk);
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

impl RankOne for Delta {
    const FORM: Form = Form { erase: Erase::Previous, retain: false, momentum: false };
}
