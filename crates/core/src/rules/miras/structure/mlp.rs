//! A perceptron of `layers` layers: deeper memories hold more associations than their width
//! [Atlas v1 sec.3.1], [Titans v1 sec.3.1].
//!
//! ```text
//! h_L = x;   z_i = W_i h_i;   h_{i-1} = act(z_i);   M = x + LN(W_1 h_1)      layers counted from the output
//! ```
//!
//! The residual adds the raw key; LN has no scale and no offset. With all weights zero every gradient vanishes for
//! ever, so the tensors start from learned parameters.

use super::{Axis, Network, Structure, Tensor};
use crate::error::{Error, Result};
use crate::rule::{Dims, Start};
use crate::rules::matrix::{apply, apply_transposed, add_outer, add_scaled};
use crate::rules::miras::smooth::{Activation, layer_norm, layer_norm_backward};
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mlp {
    /// Number of weight tensors, 2 to 8.
    pub layers: usize,
    /// Hidden width over the width of values.
    pub expansion: usize,
    /// The non-linearity between layers.
    pub activation: Activation,
    /// Add the key to the result.
    pub residual: bool,
    /// Normalise what the last layer gives.
    pub norm: bool,
}

impl Default for Mlp {
    fn default() -> Self {
        // [Miras v1 sec.5.3]: two layers, four times as wide, residual and norm.
        Self { layers: 2, expansion: 4, activation: Activation::Gelu, residual: true, norm: true }
    }
}

impl Mlp {
    /// Name in configs and tables.
    pub const NAME: &'static str = "mlp";
    const MOST_LAYERS: usize = 8;

    fn hidden(&self, d: Dims) -> usize {
        self.expansion * d.dv
    }

    /// Weights, layer by layer from the output.
    fn split<'a, F>(&self, d: Dims, w: &'a [F]) -> Vec<&'a [F]> {
        let mut rest = w;
        self.tensors(d).iter().map(|t| {
            let (head, tail) = rest.split_at(t.len());
            rest = tail;
            head
        }).collect()
    }

    /// Inputs `h` and pre-activations `z` of every layer, from the output.
    fn layers<F: Scalar>(&self, d: Dims, w: &[F], x: &[F]) -> (Vec<Vec<F>>, Vec<Vec<F>>) {
        let weights = self.split(d, w);
        let (mut inputs, mut outputs) = (vec![Vec::new(); self.layers], vec![Vec::new(); self.layers]);
        let mut h = x.to_vec();
        for i in (0..self.layers).rev() {
            let z = apply(weights[i], &h);
            let next = z.iter().map(|&z| self.activation.value(z)).collect();
            inputs[i] = std::mem::replace(&mut h, next);
            outputs[i] = z;
        }
        (inputs, outputs)
    }

    /// What each tensor is multiplied with where the memory sees `x`, from the output.
    pub(crate) fn layer_inputs<F: Scalar>(&self, d: Dims, w: &[F], x: &[F]) -> Vec<Vec<F>> {
        self.layers(d, w, x).0
    }

    /// Transpose of [`Mlp::layer_inputs`]; adds into `dw` and `dx`.
    pub(crate) fn layer_inputs_backward<F: Scalar>(
        &self,
        d: Dims,
        w: &[F],
        x: &[F],
        dinputs: &[Vec<F>],
        dw: &mut [F],
        dx: &mut [F],
    ) {
        let weights = self.split(d, w);
        let (inputs, outputs) = self.layers(d, w, x);
        let mut dh = dinputs[0].clone();
        let mut rest = &mut dw[weights[0].len()..];
        for i in 1..self.layers {
            let (here, behind) = rest.split_at_mut(weights[i].len());
            rest = behind;
            let dz: Vec<F> = dh.iter().zip(&outputs[i]).map(|(&dh, &z)| dh * self.activation.slope(z)).collect();
            add_outer(here, F::one(), &dz, &inputs[i]);
            dh = apply_transposed(weights[i], &dz);
            add_scaled(&mut dh, F::one(), &dinputs[i]);
        }
        add_scaled(dx, F::one(), &dh);
    }
}

impl Structure for Mlp {
    fn check(&self, d: Dims) -> Result<()> {
        let refuse = |reason: String| Err(Error::Invalid { place: "structure `mlp`".into(), reason });
        if !(2..=Self::MOST_LAYERS).contains(&self.layers) {
            return refuse(format!("layers = {}: from 2 to {}; one layer is `matrix`", self.layers, Self::MOST_LAYERS));
        }
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
        let layer = |number: usize| {
            let rows = if number == 0 { d.dv } else { h };
            let columns = if number + 1 == self.layers { d.dk } else { h };
            // Gates per channel live on the side of the model [Miras v1 sec.5.4]; middle layers have none.
            let values = match number {
                0 => Some(Axis::Rows),
                n if n + 1 == self.layers && d.dk == d.dv => Some(Axis::Columns),
                _ => None,
            };
            let start = Start::Learned { deviation: (columns as f64).powf(-0.5) };
            Tensor { number, rows, columns, values, keys: None, start }
        };
        (0..self.layers).map(layer).collect()
    }

    fn residual(&self) -> bool {
        self.residual
    }
    fn network(&self) -> Option<Network> {
        Some(Network { layers: self.layers, gated: false, activation: self.activation, norm: self.norm })
    }

    fn forward<F: Scalar>(&self, d: Dims, w: &[F], x: &[F], y: &mut [F]) {
        let (_, outputs) = self.layers(d, w, x);
        if self.norm {
            layer_norm(&outputs[0], y);
        } else {
            y.copy_from_slice(&outputs[0]);
        }
    }

    fn backward<F: Scalar>(&self, d: Dims, w: &[F], x: &[F], dy: &[F], dw: &mut [F], dx: &mut [F]) {
        let weights = self.split(d, w);
        let (inputs, outputs) = self.layers(d, w, x);
        let mut dz = dy.to_vec();
        if self.norm {
            dz.fill(F::zero());
            layer_norm_backward(&outputs[0], dy, &mut dz);
        }
        let mut rest = dw;
        for i in 0..self.layers {
            let (here, behind) = rest.split_at_mut(weights[i].len());
            rest = behind;
            add_outer(here, F::one(), &dz, &inputs[i]);
            let mut dh = apply_transposed(weights[i], &dz);
            if i + 1 == self.layers {
                add_scaled(dx, F::one(), &dh);
            } else {
                for (dh, &z) in dh.iter_mut().zip(&outputs[i + 1]) {
                    *dh *= self.activation.slope(z);
                }
                dz = dh;
            }
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
