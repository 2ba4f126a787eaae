//! Oja's rule: a Hebbian write that takes back what the memory would already answer from the value's side.
//!
//! ```text
//! b  = k - W^T v                     what the value does not recall of its key
//! W' = retain W + rate v b^T         [NestedLearning v1 eq.66]
//! y  = W' q
//! ```
//!
//! `retain` is alpha of the paper, `rate` its eta. The inner loss is -<W k, v> + 1/2 |W^T v|^2. What is decayed along
//! the value is rate |v|^2, so `v` has unit length here: then `retain I - rate v v^T` lengthens nothing, and a token
//! adds at most `rate`. Unlike the paper, which leaves the length of values open.

use super::matrix;
use crate::kernel::Kernel;
use crate::kernels;
use crate::rule::{About, Activation, ChunkForm, Dims, Input, MemoryRule, StateTensor, input, named, named_mut};
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// Matrix memory under Oja's rule; see the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Oja {}

impl MemoryRule for Oja {
    const NAME: &'static str = "oja";
    const KERNELS: &'static [Kernel<Self>] = kernels::oja::KERNELS;

    fn about(&self) -> About {
        About {
            equation: "W' = retain W + rate v (k - Wᵀ v)ᵀ; y = W' q",
            source: "[NestedLearning v1 eq.66]",
            structure: "matrix",
            features: "none",
            bias: "dot, ½|Wᵀ v|²",
            retention: "l2",
            algorithm: "gd",
            chunk: ChunkForm::Sequential,
        }
    }

    fn inputs(&self) -> Vec<Input> {
        vec![input::K, Input { activation: Activation::Unit, ..input::V }, input::Q, input::RETAIN, input::RATE]
    }

    fn state(&self, d: Dims) -> Vec<StateTensor> {
        vec![matrix::tensor("W", d)]
    }

    /// Recall 2, decay 1, add the write 2, read 2, per entry of W.
    fn flops(&self, d: Dims) -> f64 {
        7.0 * (d.dk * d.dv) as f64
    }

    fn write<F: Scalar>(&self, _d: Dims, _pos: u64, x: &[&[F]], w: &mut [F]) {
        let [k, v, _q, retain, rate] = named(x);
        let b = unrecalled(w, k, v);
        matrix::decay(w, retain[0]);
        matrix::add_outer(w, rate[0], v, &b);
    }

    fn write_backward<F: Scalar>(&self, _d: Dims, _pos: u64, x: &[&[F]], w: &[F], dx: &mut [&mut [F]], dw: &mut [F]) {
        let [k, v, _q, retain, rate] = named(x);
        let [dk, dv, _dq, dretain, drate] = named_mut(dx);
        let b = unrecalled(w, k, v);
        // W' = retain W + rate v b^T
        let mut db = matrix::apply_transposed(dw, v);
        drate[0] += matrix::dot(&db, &b);
        matrix::add_scaled(dv, rate[0], &matrix::apply(dw, &b));
        matrix::scale(&mut db, rate[0]);
        matrix::decay_backward(w, retain[0], &mut dretain[0], dw);
        // b = k - W^T v
        matrix::add_scaled(dk, F::one(), &db);
        matrix::add_scaled(dv, -F::one(), &matrix::apply(w, &db));
        matrix::add_outer(dw, -F::one(), v, &db);
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

/// `k - W^T v`: `[dk]`.
fn unrecalled<F: Scalar>(w: &[F], k: &[F], v: &[F]) -> Vec<F> {
    let mut b = k.to_vec();
    matrix::add_scaled(&mut b, -F::one(), &matrix::apply_transposed(w, v));
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Oja is known for: under one direction of values at full retention, the row of W along it comes to rest at
    /// the key, where a Hebbian memory would grow for ever.
    #[test]
    fn repeated_associations_come_to_rest_at_the_key() {
        let (d, k, v) = (Dims::new(2, 2), [0.6, 0.8], [0.8, 0.6]);
        let mut w = vec![0.0_f64; 4];
        for _ in 0..200 {
            Oja {}.write(d, 0, &[&k, &v, &k, &[1.0], &[0.3]], &mut w);
        }
        for (got, want) in matrix::apply_transposed(&w, &v).iter().zip(k) {
            assert!((got - want).abs() < 1e-12, "{got} {want}");
        }
    }
}
