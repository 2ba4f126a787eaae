//! The linear memory of self-referential Titans, which erases twice: no rule of the registry, and here to be compared.
//!
//! ```text
//! W' = retain W - 2 rate (W k) k^T + rate v k^T        [NestedLearning v1 eq.93]
//! y  = W' q
//! ```

use hecate_core::{
    About, AnyRule, ChunkForm, Dims, Input, MemoryRule, Number, Over, Scalar, StateTensor, input, named, named_mut,
};
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Dgd {}

/// A rule to be compared, registered or not.
#[derive(Clone, Debug)]
pub(super) enum Candidate {
    Registered(AnyRule),
    Dgd(Dgd),
}

impl Candidate {
    /// The rule over one number type.
    pub fn over<F: Number>(&self) -> &dyn Over<F> {
        match self {
            Candidate::Registered(rule) => F::over(rule),
            Candidate::Dgd(rule) => rule,
        }
    }

    /// What a token brings.
    pub fn inputs(&self) -> Vec<Input> {
        match self {
            Candidate::Registered(rule) => rule.inputs(),
            Candidate::Dgd(rule) => rule.inputs(),
        }
    }
}

/// `W x` of `[rows, columns]`.
fn apply<F: Scalar>(w: &[F], x: &[F]) -> Vec<F> {
    w.chunks(x.len()).map(|row| row.iter().zip(x).map(|(&w, &x)| w * x).sum()).collect()
}

/// `dx += W^T y`.
fn add_transposed<F: Scalar>(dx: &mut [F], w: &[F], y: &[F]) {
    for (row, &y) in w.chunks(dx.len()).zip(y) {
        dx.iter_mut().zip(row).for_each(|(d, &w)| *d += w * y);
    }
}

/// `W = c W + y x^T`.
fn scale_and_add<F: Scalar>(w: &mut [F], c: F, y: &[F], x: &[F]) {
    for (row, &y) in w.chunks_mut(x.len()).zip(y) {
        row.iter_mut().zip(x).for_each(|(w, &x)| *w = c * *w + y * x);
    }
}

impl MemoryRule for Dgd {
    const NAME: &'static str = "dgd";

    fn about(&self) -> About {
        About {
            equation: "W' = retain W - 2 rate (W k) kᵀ + rate v kᵀ; y = W' q",
            source: "[NestedLearning v1 eq.93]",
            structure: "matrix",
            features: "none",
            bias: "l2",
            retention: "l2",
            algorithm: "gd",
            chunk: ChunkForm::Sequential,
        }
    }

    fn inputs(&self) -> Vec<Input> {
        vec![input::K, input::V, input::Q, input::RETAIN, input::RATE]
    }

    fn state(&self, d: Dims) -> Vec<StateTensor> {
        vec![StateTensor::matrix("W", d.dv, d.dk)]
    }

    /// Predict 2, decay 1, add 2, read 2, per entry of W.
    fn flops(&self, d: Dims) -> f64 {
        7.0 * (d.dk * d.dv) as f64
    }

    fn write<F: Scalar>(&self, _d: Dims, _pos: u64, x: &[&[F]], w: &mut [F]) {
        let [k, v, _q, retain, rate] = named(x);
        let two = F::from_f64(2.0);
        let step: Vec<F> = apply(w, k).iter().zip(v).map(|(&p, &v)| rate[0] * (v - two * p)).collect();
        scale_and_add(w, retain[0], &step, k);
    }

    fn write_backward<F: Scalar>(&self, _d: Dims, _pos: u64, x: &[&[F]], w: &[F], dx: &mut [&mut [F]], dw: &mut [F]) {
        let [k, v, _q, retain, rate] = named(x);
        let [dk, dv, _dq, dretain, drate] = named_mut(dx);
        let two = F::from_f64(2.0);
        let error: Vec<F> = apply(w, k).iter().zip(v).map(|(&p, &v)| v - two * p).collect();
        let dstep = apply(dw, k);
        let step: Vec<F> = error.iter().map(|&e| rate[0] * e).collect();
        add_transposed(dk, dw, &step);
        dretain[0] += dw.iter().zip(w).map(|(&d, &w)| d * w).sum();
        drate[0] += dstep.iter().zip(&error).map(|(&d, &e)| d * e).sum();
        dv.iter_mut().zip(&dstep).for_each(|(dv, &d)| *dv += rate[0] * d);
        let dp: Vec<F> = dstep.iter().map(|&d| -(two * rate[0] * d)).collect();
        add_transposed(dk, w, &dp);
        scale_and_add(dw, retain[0], &dp, k);
    }

    fn read<F: Scalar>(&self, _d: Dims, _pos: u64, x: &[&[F]], w: &[F], y: &mut [F]) {
        y.copy_from_slice(&apply(w, x[2]));
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
        add_transposed(dx[2], w, dy);
        scale_and_add(dw, F::one(), dy, x[2]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The other checks of the suite are for rules that a model may have.
    #[test]
    fn the_gradient_is_exact() {
        let report = hecate_core::conformance::check(&Dgd {});
        let wrong: Vec<_> =
            report.failures.iter().filter(|f| f.check == hecate_core::conformance::Check::Transpose).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}
