//! RWKV-7: a delta rule that erases under one key, by a rate per channel, and writes under another.
//!
//! ```text
//! W' = W diag(retain) - (W k) (rate * k)^T + v r^T      [RWKV7 v1 sec.4]
//! y  = W' q
//! ```
//!
//! `k` is the removal key, `rate` (one value per key channel) the in-context learning rate, r the input `replacement`,
//! the key that the value is written under. With r = rate * k it is the decayed delta rule with channels. Unlike the
//! paper, `retain` may go down to 0, not only to 0.545, and replacement keys have unit length.
//!
//! With equal rates the transition diag(retain) - k (rate * k)^T is symmetric and lengthens nothing; with rates that
//! differ it is not, and single products may lengthen W by some per cent although every transition has its eigenvalues
//! in [-1, 1].

use super::matrix;
use crate::kernel::Kernel;
use crate::kernels::channels::{self, Channels, Made};
use crate::rule::{About, Activation, ChunkForm, Dims, Input, MemoryRule, StateTensor, Width, input, named, named_mut};
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// Matrix memory under RWKV-7's rule; see the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rwkv7 {}

/// The key of the write.
const REPLACEMENT: Input = Input {
    name: "replacement",
    width: Width::Key,
    activation: Activation::Unit,
    about: "key that the value is written under",
};

impl MemoryRule for Rwkv7 {
    const NAME: &'static str = "rwkv7";
    const KERNELS: &'static [Kernel<Self>] = &channels::kernels();

    fn about(&self) -> About {
        About {
            equation: "W' = W diag(retain) - (W k) (rate * k)ᵀ + v replacementᵀ; y = W' q",
            source: "[RWKV7 v1 sec.4]",
            structure: "matrix",
            features: "none",
            bias: "l2",
            retention: "l2",
            algorithm: "gd",
            chunk: ChunkForm::Sequential,
        }
    }

    fn inputs(&self) -> Vec<Input> {
        let per_channel = |about, gate: Input| Input { width: Width::Key, about, ..gate };
        vec![
            Input { about: "key to erase under", ..input::K },
            input::V,
            input::Q,
            per_channel("fraction of each key channel kept this token", input::RETAIN),
            per_channel("how much each channel of the key erases", input::RATE),
            REPLACEMENT,
        ]
    }

    fn state(&self, d: Dims) -> Vec<StateTensor> {
        vec![matrix::tensor("W", d)]
    }

    /// Predict 2, decay 1, erase 2, write 2, read 2, per entry of W.
    fn flops(&self, d: Dims) -> f64 {
        9.0 * (d.dk * d.dv) as f64
    }

    fn write<F: Scalar>(&self, d: Dims, _pos: u64, x: &[&[F]], w: &mut [F]) {
        let [k, v, _q, retain, rate, r] = named(x);
        let p = matrix::apply(w, k);
        let erase = times(rate, k);
        for row in w.chunks_exact_mut(d.dk) {
            row.iter_mut().zip(retain).for_each(|(w, &retain)| *w *= retain);
        }
        matrix::add_outer(w, -F::one(), &p, &erase);
        matrix::add_outer(w, F::one(), v, r);
    }

    fn write_backward<F: Scalar>(&self, d: Dims, _pos: u64, x: &[&[F]], w: &[F], dx: &mut [&mut [F]], dw: &mut [F]) {
        let [k, v, _q, retain, rate, r] = named(x);
        let [dk, dv, _dq, dretain, drate, dr] = named_mut(dx);
        let p = matrix::apply(w, k);
        let erase = times(rate, k);
        matrix::add_scaled(dv, F::one(), &matrix::apply(dw, r));
        matrix::add_scaled(dr, F::one(), &matrix::apply_transposed(dw, v));
        // - (W k) (rate * k)^T
        let mut dp = matrix::apply(dw, &erase);
        matrix::scale(&mut dp, -F::one());
        let mut derase = matrix::apply_transposed(dw, &p);
        matrix::scale(&mut derase, -F::one());
        matrix::add_scaled(dk, F::one(), &times(rate, &derase));
        matrix::add_scaled(drate, F::one(), &times(k, &derase));
        // W diag(retain)
        for (dw, w) in dw.chunks_exact_mut(d.dk).zip(w.chunks_exact(d.dk)) {
            for i in 0..d.dk {
                dretain[i] += dw[i] * w[i];
                dw[i] *= retain[i];
            }
        }
        // p = W k
        matrix::read_backward(w, k, &dp, dk, dw);
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

impl Channels for Rwkv7 {
    fn erases(&self) -> bool {
        true
    }
    fn value_and_query(&self) -> [usize; 2] {
        [1, 2]
    }
    fn make(&self, x: &[&[f32]], to: Made<&mut [f32]>) {
        to.keep.copy_from_slice(x[3]);
        to.ask.copy_from_slice(x[0]);
        to.erase.iter_mut().zip(x[4]).zip(x[0]).for_each(|((to, rate), k)| *to = rate * k);
        to.key.copy_from_slice(x[5]);
    }
    fn make_backward(&self, x: &[&[f32]], d: Made<&[f32]>, dx: &mut [&mut [f32]]) {
        matrix::add_scaled(dx[3], 1.0, d.keep);
        matrix::add_scaled(dx[0], 1.0, d.ask);
        matrix::add_scaled(dx[0], 1.0, &times(x[4], d.erase));
        matrix::add_scaled(dx[4], 1.0, &times(x[0], d.erase));
        matrix::add_scaled(dx[5], 1.0, d.key);
    }
}

/// The product, value by value.
fn times<F: Scalar>(a: &[F], b: &[F]) -> Vec<F> {
    a.iter().zip(b).map(|(&a, &b)| a * b).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::DecayDelta;

    #[test]
    fn one_rate_and_the_key_times_the_rate_as_replacement_give_the_decayed_delta_rule() {
        let d = Dims::new(3, 2);
        let (k, v, q) = ([0.6, 0.0, 0.8], [1.0, -2.0], [0.0, 1.0, 0.0]);
        let (mut a, mut b) = (vec![0.1_f64, -0.2, 0.3, 0.4, -0.5, 0.6], vec![0.1, -0.2, 0.3, 0.4, -0.5, 0.6]);
        let r = k.map(|k| 0.7 * k);
        Rwkv7 {}.write(d, 0, &[&k, &v, &q, &[0.9; 3], &[0.7; 3], &r], &mut a);
        DecayDelta::default().write(d, 0, &[&k, &v, &q, &[0.9], &[0.7]], &mut b);
        for (a, b) in a.iter().zip(&b) {
            assert!((a - b).abs() < 1e-15, "{a} {b}");
        }
    }
}
