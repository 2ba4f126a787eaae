//! A gated perceptron, the memory of Atlas++ [Atlas v1 eq.43].
//!
//! ```text
//! z = W2 x;   u = W3 x;   h = act(z) * u;   M = x + LN(W1 h)
//! ```
//!
//! Unlike the paper, the result is normalised by default, as that of `mlp` is: without it nothing bounds how fast a
//! product of three tensors grows. `norm = false` is the printed form. The residual adds the raw key.

use super::{Axis, Network, Structure, Tensor};
use crate::error::{Error, Result};
use crate::rule::{Dims, Start};
use crate::rules::matrix::{add_outer, add_scaled, apply, apply_transposed};
use crate::rules::miras::smooth::{Activation, layer_norm, layer_norm_backward};
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatedMlp {
    /// Hidden width over the width of values.
    pub expansion: usize,
    /// The non-linearity of the gate.
    pub activation: Activation,
    /// Add the key to the result.
    pub residual: bool,
    /// Normalise what the last layer gives.
    pub norm: bool,
}

impl Default for GatedMlp {
    fn default() -> Self {
        Self { expansion: 4, activation: Activation::Gelu, residual: true, norm: true }
    }
}

/// What a pass computes on the way.
struct Parts<F> {
    z: Vec<F>,
    u: Vec<F>,
    h: Vec<F>,
    out: Vec<F>,
}

impl GatedMlp {
    /// Name in configs and tables.
    pub const NAME: &'static str = "gated_mlp";

    fn hidden(&self, d: Dims) -> usize {
        self.expansion * d.dv
    }

    fn parts<F: Scalar>(&self, d: Dims, w: &[F], x: &[F]) -> Parts<F> {
        let (w1, rest) = w.split_at(d.dv * self.hidden(d));
        let (w2, w3) = rest.split_at(self.hidden(d) * d.dk);
        let (z, u) = (apply(w2, x), apply(w3, x));
        let h: Vec<F> = z.iter().zip(&u).map(|(&z, &u)| self.activation.value(z) * u).collect();
        let out = apply(w1, &h);
        Parts { z, u, h, out }
    }
}

impl Structure for GatedMlp {
    fn check(&self, d: Dims) -> Result<()> {
        let refuse = |reason: String| Err(Error::Invalid { place: "structure `gated_mlp`".into(), reason });
        if self.expansion == 0 {
            return refuse("expansion = 0: a hidden layer has at least one unit".into());
        }
        if d.dv < 2 && self.norm {
            return refuse("norm over a single value is always zero: use wider values, or norm = false".into());
        }
        Ok(())
    }

    fn tensors(&self, d: Dims) -> Vec<Tensor> {
        let h = self.hidden(d);
        // Gates per channel live on the side of the model [Miras v1 sec.5.4].
        let columns = (d.dk == d.dv).then_some(Axis::Columns);
        let of = |number: usize, rows: usize, columns: usize, values: Option<Axis>| {
            let start = Start::Learned { deviation: (columns as f64).powf(-0.5) };
            Tensor { number, rows, columns, values, keys: None, start }
        };
        vec![of(0, d.dv, h, Some(Axis::Rows)), of(1, h, d.dk, columns), of(2, h, d.dk, columns)]
    }

    fn residual(&self) -> bool {
        self.residual
    }
    fn network(&self) -> Option<Network> {
        Some(Network { layers: 2, gated: true, activation: self.activation, norm: self.norm })
    }

    fn forward<F: Scalar>(&self, d: Dims, w: &[F], x: &[F], y: &mut [F]) {
        let out = self.parts(d, w, x).out;
        if self.norm {
            layer_norm(&out, y);
        } else {
            y.copy_from_slice(&out);
        }
    }

    fn backward<F: Scalar>(&self, d: Dims, w: &[F], x: &[F], dy: &[F], dw: &mut [F], dx: &mut [F]) {
        let Parts { z, u, h, out } = self.parts(d, w, x);
        let (w1, rest) = w.split_at(d.dv * h.len());
        let (w2, w3) = rest.split_at(h.len() * d.dk);
        let (dw1, rest) = dw.split_at_mut(w1.len());
        let (dw2, dw3) = rest.split_at_mut(w2.len());
        let mut dout = dy.to_vec();
        if self.norm {
            dout.fill(F::zero());
            layer_norm_backward(&out, dy, &mut dout);
        }
        add_outer(dw1, F::one(), &dout, &h);
        let dh = apply_transposed(w1, &dout);
        let along = |f: &dyn Fn(usize) -> F| (0..dh.len()).map(|i| dh[i] * f(i)).collect::<Vec<F>>();
        let dz = along(&|i| self.activation.slope(z[i]) * u[i]);
        let du = along(&|i| self.activation.value(z[i]));
        for (w, dw, d) in [(w2, dw2, &dz), (w3, dw3, &du)] {
            add_outer(dw, F::one(), d, x);
            add_scaled(dx, F::one(), &apply_transposed(w, d));
        }
    }

    // The norm bounds it.
    fn is_bounded(&self) -> bool {
        self.norm
    }
    fn rate_max(&self) -> f64 {
        0.1
    }
    fn rate_bias(&self) -> f64 {
        -2.0
    }
}
