//! One memory: what it answers, the gradient of its loss, the directions in which its layers erase, and its step, each
//! with its transpose.

use crate::rule::Dims;
use crate::rules::matrix::{add_outer, add_scaled, apply, apply_transposed, dot, scale};
use crate::rules::miras::Miras;
use crate::rules::miras::bias::AnyBias;
use crate::rules::miras::gradient::Pair;
use crate::rules::miras::plan::Plan as Shape;
use crate::rules::miras::structure::{AnyStructure, Structure, Tensor, with_structure};
use crate::scalar::Scalar;
use std::ops::Range;

/// A structure with its loss, at one size.
#[derive(Clone, Debug)]
pub(crate) struct Net {
    of: Miras,
    shape: Shape,
}

/// How far a token moves a memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gates<F> {
    pub retain: F,
    pub rate: F,
    /// Zero without one.
    pub momentum: F,
}

/// What a token does to one tensor besides keeping it.
pub(super) struct Step<'a, F> {
    /// Momentum before the step; none, without one.
    pub s: &'a [F],
    pub g: &'a [F],
    /// The direction to erase, if there is one.
    pub z: Option<&'a [F]>,
}

/// Gradients of a [`Step`].
pub(super) struct DStep<F> {
    pub s: Vec<F>,
    pub g: Vec<F>,
    pub z: Vec<F>,
}

impl Net {
    pub(super) fn new(structure: AnyStructure, bias: AnyBias, d: Dims) -> Self {
        let mut of = Miras::default();
        (of.structure, of.bias) = (structure, bias);
        let shape = Shape::new(&of, d);
        Self { of, shape }
    }

    /// Its structure and its loss, as settings of the generic rule.
    pub(crate) fn rule(&self) -> &Miras {
        &self.of
    }
    /// Its size.
    pub(crate) fn dims(&self) -> Dims {
        self.shape.d
    }
    /// Number of weights.
    pub(crate) fn len(&self) -> usize {
        self.shape.weights()
    }
    /// Weights above the layer that takes the key.
    pub(super) fn upper(&self) -> usize {
        self.tensors().iter().rev().skip(1).map(|(t, _)| t.len()).sum()
    }
    /// Its tensors from the output, and where each lies in its weights.
    pub(crate) fn tensors(&self) -> &[(Tensor, Range<usize>)] {
        &self.shape.tensors
    }

    /// What it answers to `x`.
    pub(super) fn predict<F: Scalar>(&self, w: &[F], x: &[F]) -> Vec<F> {
        self.of.predict(&self.shape, w, x, x)
    }

    /// Transpose of [`Net::predict`]; adds into `dw` and `dx`.
    pub(super) fn predict_backward<F: Scalar>(&self, w: &[F], x: &[F], dy: &[F], dw: &mut [F], dx: &mut [F]) {
        with_structure!(&self.of.structure, s => {
            s.backward(self.shape.d, w, x, dy, dw, dx);
            if s.residual() {
                add_scaled(dx, F::one(), dy);
            }
        });
    }

    /// The gradient of its loss for one association.
    pub(super) fn gradient<F: Scalar>(&self, w: &[F], k: &[F], v: &[F]) -> Vec<F> {
        let mut g = vec![F::zero(); w.len()];
        self.of.add_gradient(&self.shape, w, pair(k, v), &[], &mut g);
        g
    }

    /// Transpose of [`Net::gradient`]; adds into `dw` and `dk`, gives the gradient of the value.
    pub(super) fn gradient_backward<F: Scalar>(
        &self,
        w: &[F],
        k: &[F],
        v: &[F],
        dg: &[F],
        dw: &mut [F],
        dk: &mut [F],
    ) -> Vec<F> {
        let back = self.of.add_gradient_backward(&self.shape, w, pair(k, v), &[], dg, dw, &mut []);
        add_scaled(dk, F::one(), &back.k);
        back.v
    }

    /// What each tensor is multiplied with where the memory sees `k`; unit length above the first layer.
    pub(super) fn directions<F: Scalar>(&self, w: &[F], k: &[F]) -> Vec<Vec<F>> {
        let mut inputs = self.layer_inputs(w, k);
        let above = inputs.len() - 1;
        inputs[..above].iter_mut().for_each(|z| *z = unit(z));
        inputs
    }

    /// Transpose of [`Net::directions`]; adds into `dw` and `dk`.
    pub(super) fn directions_backward<F: Scalar>(
        &self,
        w: &[F],
        k: &[F],
        mut dz: Vec<Vec<F>>,
        dw: &mut [F],
        dk: &mut [F],
    ) {
        let AnyStructure::Mlp(mlp) = &self.of.structure else { return add_scaled(dk, F::one(), &dz[0]) };
        let inputs = self.layer_inputs(w, k);
        let above = inputs.len() - 1;
        for (dz, z) in dz[..above].iter_mut().zip(&inputs) {
            let mut d = vec![F::zero(); z.len()];
            unit_backward(z, dz, &mut d);
            *dz = d;
        }
        mlp.layer_inputs_backward(self.shape.d, w, k, &dz, dw, dk);
    }

    fn layer_inputs<F: Scalar>(&self, w: &[F], x: &[F]) -> Vec<Vec<F>> {
        match &self.of.structure {
            AnyStructure::Mlp(mlp) => mlp.layer_inputs(self.shape.d, w, x),
            _ => vec![x.to_vec()],
        }
    }
}

fn pair<'a, F: Scalar>(k: &'a [F], v: &'a [F]) -> Pair<'a, F> {
    Pair { k, v, threshold: F::zero(), gamma: F::one(), implicit: None }
}

/// `W' = W (retain I - rate z z^T) + S'` and `S' = momentum S - rate G`; `w` and `s` in place, `s` empty without
/// momentum.
pub(super) fn step<F: Scalar>(gates: Gates<F>, g: &[F], z: Option<&[F]>, w: &mut [F], s: &mut [F]) {
    let held = z.map(|z| apply(w, z));
    scale(w, gates.retain);
    if let (Some(z), Some(held)) = (z, held) {
        add_outer(w, -gates.rate, &held, z);
    }
    if s.is_empty() {
        return add_scaled(w, -gates.rate, g);
    }
    scale(s, gates.momentum);
    add_scaled(s, -gates.rate, g);
    add_scaled(w, F::one(), s);
}

/// Transpose of [`step`]; `w` is the tensor before it. In: `dw` = dL/dW', `ds` = dL/dS'. Out: dL/dW. Adds into `dgates`.
pub(super) fn step_backward<F: Scalar>(
    gates: Gates<F>,
    w: &[F],
    step: &Step<'_, F>,
    dw: &mut [F],
    ds: &[F],
    dgates: &mut Gates<F>,
) -> DStep<F> {
    // S' reaches the loss through W' too.
    let mut dstep = dw.to_vec();
    add_scaled(&mut dstep, F::one(), ds);
    dgates.rate -= dot(&dstep, step.g);
    let g = dstep.iter().map(|&d| -gates.rate * d).collect();
    let mut s = Vec::new();
    if !step.s.is_empty() {
        dgates.momentum += dot(&dstep, step.s);
        s = dstep.iter().map(|&d| gates.momentum * d).collect();
    }
    dgates.retain += dot(dw, w);
    let Some(z) = step.z else {
        scale(dw, gates.retain);
        return DStep { s, g, z: Vec::new() };
    };
    let (held, dheld) = (apply(w, z), apply(dw, z));
    dgates.rate -= dot(&held, &dheld);
    let mut dz = apply_transposed(dw, &held);
    add_scaled(&mut dz, F::one(), &apply_transposed(w, &dheld));
    scale(&mut dz, -gates.rate);
    scale(dw, gates.retain);
    add_outer(dw, -gates.rate, &dheld, z);
    DStep { s, g, z: dz }
}

/// Under the root of a length.
pub(super) const UNIT: f64 = 1e-6;

/// `x / sqrt(|x|^2 + 1e-6)`.
pub(super) fn unit<F: Scalar>(x: &[F]) -> Vec<F> {
    let n = (dot(x, x) + F::from_f64(UNIT)).sqrt();
    x.iter().map(|&x| x / n).collect()
}

/// Transpose of [`unit`]; adds into `dx`.
pub(super) fn unit_backward<F: Scalar>(x: &[F], dy: &[F], dx: &mut [F]) {
    let n = (dot(x, x) + F::from_f64(UNIT)).sqrt();
    add_scaled(dx, F::one() / n, dy);
    add_scaled(dx, -dot(x, dy) / (n * n * n), x);
}

/// `t / sqrt(1 + |t|^2 / n)` over n values: no longer than their root.
pub(super) fn soft<F: Scalar>(t: &[F]) -> Vec<F> {
    let n = F::from_f64(t.len() as f64);
    let by = (F::one() + dot(t, t) / n).sqrt();
    t.iter().map(|&t| t / by).collect()
}

/// Transpose of [`soft`].
pub(super) fn soft_backward<F: Scalar>(t: &[F], dy: &[F]) -> Vec<F> {
    let n = F::from_f64(t.len() as f64);
    let by = (F::one() + dot(t, t) / n).sqrt();
    let along = dot(t, dy) / (n * by * by * by);
    t.iter().zip(dy).map(|(&t, &dy)| dy / by - along * t).collect()
}
