//! HGRN2: every key channel is an average of the values that it let in; what a channel does not keep, it takes.
//!
//! ```text
//! W' = W diag(retain) + v (1 - retain)^T      [HGRN2 v1 sec.3]
//! y  = W' q
//! ```
//!
//! There is no key: 1 - retain stands in its place, one value per key channel, so the write is the Hebbian one (Miras
//! lists an l1 loss here, whose gradient would be bounded in v; this one is linear in it). Each column of W stays a
//! weighted mean of values. Unlike the paper, the forget gates have no lower bound that rises from layer to layer, and
//! the query has unit length.

use super::matrix;
use crate::kernel::Kernel;
use crate::kernels::channels::{self, Channels, Made};
use crate::rule::{About, ChunkForm, Dims, Input, MemoryRule, StateTensor, Width, input, named, named_mut};
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// Matrix memory of gated averages; see the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hgrn2 {}

impl MemoryRule for Hgrn2 {
    const NAME: &'static str = "hgrn2";
    const KERNELS: &'static [Kernel<Self>] = &channels::kernels();

    fn about(&self) -> About {
        About {
            equation: "W' = W diag(retain) + v (1 - retain)ᵀ; y = W' q",
            source: "[HGRN2 v1 sec.3]",
            structure: "matrix",
            features: "none",
            bias: "dot",
            retention: "l2",
            algorithm: "gd",
            chunk: ChunkForm::Sequential,
        }
    }

    fn inputs(&self) -> Vec<Input> {
        vec![
            input::V,
            input::Q,
            Input { width: Width::Key, about: "fraction of each key channel kept this token", ..input::RETAIN },
        ]
    }

    fn state(&self, d: Dims) -> Vec<StateTensor> {
        vec![matrix::tensor("W", d)]
    }

    /// Decay 1, add the write 2, read 2, per entry of W.
    fn flops(&self, d: Dims) -> f64 {
        5.0 * (d.dk * d.dv) as f64
    }

    fn write<F: Scalar>(&self, d: Dims, _pos: u64, x: &[&[F]], w: &mut [F]) {
        let [v, _q, retain] = named(x);
        for (row, &v) in w.chunks_exact_mut(d.dk).zip(v) {
            for (w, &retain) in row.iter_mut().zip(retain) {
                *w = retain * *w + (F::one() - retain) * v;
            }
        }
    }

    fn write_backward<F: Scalar>(&self, d: Dims, _pos: u64, x: &[&[F]], w: &[F], dx: &mut [&mut [F]], dw: &mut [F]) {
        let [v, _q, retain] = named(x);
        let [dv, _dq, dretain] = named_mut(dx);
        for (row, (dw, w)) in dw.chunks_exact_mut(d.dk).zip(w.chunks_exact(d.dk)).enumerate() {
            for i in 0..d.dk {
                dv[row] += dw[i] * (F::one() - retain[i]);
                dretain[i] += dw[i] * (w[i] - v[row]);
                dw[i] *= retain[i];
            }
        }
    }

    fn read<F: Scalar>(&self, _d: Dims, _pos: u64, x: &[&[F]], w: &[F], y: &mut [F]) {
        matrix::read(w, x[1], y);
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
        matrix::read_backward(w, x[1], dy, dx[1], dw);
    }
}

impl Channels for Hgrn2 {
    fn erases(&self) -> bool {
        false
    }
    fn value_and_query(&self) -> [usize; 2] {
        [0, 1]
    }
    fn make(&self, x: &[&[f32]], to: Made<&mut [f32]>) {
        to.keep.copy_from_slice(x[2]);
        to.key.iter_mut().zip(x[2]).for_each(|(key, keep)| *key = 1.0 - keep);
    }
    fn make_backward(&self, _x: &[&[f32]], d: Made<&[f32]>, dx: &mut [&mut [f32]]) {
        dx[2].iter_mut().zip(d.keep).zip(d.key).for_each(|((dx, dkeep), dkey)| *dx += dkeep - dkey);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_that_keeps_half_averages_what_it_sees() {
        let (d, q) = (Dims::new(2, 1), [0.0, 0.0]);
        let mut w = vec![0.0_f64; 2];
        for v in [8.0, 2.0] {
            Hgrn2 {}.write(d, 0, &[&[v], &q, &[0.5, 1.0]], &mut w);
        }
        assert_eq!(w, [3.0, 0.0]);
    }
}
