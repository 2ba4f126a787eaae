//! Titans' long-term memory with a matrix: gradient descent with momentum and decay on the surprise.
//!
//! ```text
//! e  = W k - v                       inner loss 1/2 |W k - v|^2, at the state before the token
//! S' = momentum S - rate e k^T       [Titans v1 eq.10], [Titans v1 eq.14]
//! W' = retain W + S'                 [Titans v1 eq.13]
//! y  = W' q                          [Titans v1 eq.15]
//! ```
//!
//! `retain` is 1 - alpha of the paper, `rate` its theta, `momentum` its eta. Unlike the paper, the inner loss
//! carries a factor 1/2, so that `rate` is the step of the delta rule. S is the step that is added.

use super::matrix;
use crate::kernel::Kernel;
use crate::kernels::memory::{self, Erase, Form, RankOne};
use crate::rule::{About, ChunkForm, Dims, Input, MemoryRule, StateTensor, input, named, named_mut};
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// Matrix memory with momentum; see the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Titans {}

impl MemoryRule for Titans {
    const NAME: &'static str = "titans";
    const KERNELS: &'static [Kernel<Self>] = &memory::kernels();

    fn about(&self) -> About {
        About {
            equation: "S' = momentum S - rate (W k - v) kᵀ; W' = retain W + S'; y = W' q",
            source: "[Titans v1 eq.13]",
            structure: "matrix",
            features: "none",
            bias: "l2",
            retention: "l2",
            algorithm: "momentum",
            chunk: ChunkForm::Exact,
        }
    }

    fn inputs(&self) -> Vec<Input> {
        vec![input::K, input::V, input::Q, input::RETAIN, input::DAMPED_RATE, input::MOMENTUM]
    }

    fn state(&self, d: Dims) -> Vec<StateTensor> {
        vec![matrix::tensor("W", d), matrix::tensor("S", d)]
    }

    /// Predict 2, momentum 1, add the gradient 2, decay and add 2, read 2, per entry of W.
    fn flops(&self, d: Dims) -> f64 {
        9.0 * (d.dk * d.dv) as f64
    }

    fn write<F: Scalar>(&self, d: Dims, _pos: u64, x: &[&[F]], state: &mut [F]) {
        let [k, v, _q, retain, rate, momentum] = named(x);
        let (w, s) = state.split_at_mut(d.dv * d.dk);
        let e = matrix::error(w, k, v);
        matrix::decay(s, momentum[0]);
        matrix::correct(s, rate[0], &e, k);
        matrix::decay(w, retain[0]);
        matrix::add_scaled(w, F::one(), s);
    }

    fn write_backward<F: Scalar>(
        &self,
        d: Dims,
        _pos: u64,
        x: &[&[F]],
        prev: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    ) {
        let [k, v, _q, retain, rate, momentum] = named(x);
        let [dk, dv, _dq, dretain, drate, dmomentum] = named_mut(dx);
        let (w, s) = prev.split_at(d.dv * d.dk);
        let (dw, ds) = dstate.split_at_mut(d.dv * d.dk);
        let e = matrix::error(w, k, v);

        // W' = retain W + S'
        matrix::add_scaled(ds, F::one(), dw);
        matrix::decay_backward(w, retain[0], &mut dretain[0], dw);
        // S' = momentum S - rate e k^T
        let de = matrix::correct_backward(ds, rate[0], &e, k, &mut drate[0], dk);
        matrix::decay_backward(s, momentum[0], &mut dmomentum[0], ds);
        matrix::error_backward(w, k, &de, dw, dk, dv);
    }

    fn read<F: Scalar>(&self, d: Dims, _pos: u64, x: &[&[F]], state: &[F], y: &mut [F]) {
        matrix::read(&state[..d.dv * d.dk], x[2], y);
    }

    fn read_backward<F: Scalar>(
        &self,
        d: Dims,
        _pos: u64,
        x: &[&[F]],
        state: &[F],
        dy: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    ) {
        let n = d.dv * d.dk;
        matrix::read_backward(&state[..n], x[2], dy, dx[2], &mut dstate[..n]);
    }
}

impl RankOne for Titans {
    const FORM: Form = Form { erase: Erase::Previous, retain: true, momentum: true };
}
