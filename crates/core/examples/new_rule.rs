//! A new bias, a new retention and a new rule, written outside the crate and held to its suite.
//!
//! Run with: `cargo run --release -p hecate-core --example new_rule`
//!
//! Inside the crate each of the three costs one file and one line: a bias its file in `rules/miras/bias/` and a line in
//! that list, from which every combination of `miras` has it; a retention the same in `rules/miras/retention/`; a rule
//! its file in `rules/` and a line in `rules!`, from which it has its name in configs, its tests, its row in every
//! table and its Python name. What such a file holds is what stands here.

use hecate_core::rules::miras::bias::{Bias, Growth};
use hecate_core::rules::miras::retention::{Pull, Retention};
use hecate_core::rules::miras::structure::Tensor;
use hecate_core::{About, ChunkForm, Dims, Dual, Input, MemoryRule, Scalar, Start, StateTensor};
use hecate_core::{conformance, input, named, named_mut};
use serde::{Deserialize, Serialize};

/// A new bias: `sum log cosh(p - v)`, squared for small errors and absolute for large ones, without a threshold.
struct LogCosh;

impl Bias for LogCosh {
    fn growth(&self) -> Growth {
        Growth::Slower
    }

    fn loss<F: Scalar>(&self, p: &[F], v: &[F], _threshold: F) -> Option<F> {
        // log cosh e = softplus(2 e) - e - log 2, which does not overflow.
        let two = F::from_f64(2.0);
        Some(p.iter().zip(v).map(|(&p, &v)| (two * (p - v)).softplus() - (p - v) - two.ln()).sum())
    }

    fn residual<F: Scalar>(&self, p: &[F], v: &[F], _threshold: F, r: &mut [F]) {
        for ((r, &p), &v) in r.iter_mut().zip(p).zip(v) {
            *r = (p - v).tanh();
        }
    }

    fn residual_backward<F: Scalar>(&self, p: &[F], v: &[F], _t: F, dr: &[F], dp: &mut [F], dv: &mut [F]) -> F {
        for (i, &dr) in dr.iter().enumerate() {
            let r = (p[i] - v[i]).tanh();
            let d = dr * (F::one() - r * r);
            dp[i] += d;
            dv[i] += -d;
        }
        F::zero()
    }
}

/// A new retention: the state may grow as it likes, the weights `z / sqrt(1 + z^2)` stay between -1 and 1.
struct Algebraic;

impl Retention for Algebraic {
    fn pull(&self) -> Pull {
        Pull::Zero
    }

    fn is_dual(&self) -> bool {
        true
    }

    fn weights<F: Scalar>(&self, _t: &Tensor, z: &[F], _frozen: &[F], w: &mut [F]) {
        for (w, &z) in w.iter_mut().zip(z) {
            *w = z / (F::one() + z * z).sqrt();
        }
    }

    fn weights_backward<F: Scalar>(
        &self,
        _t: &Tensor,
        z: &[F],
        _frozen: &[F],
        dw: &[F],
        dz: &mut [F],
        _dfrozen: &mut [F],
    ) {
        for ((dz, &z), &dw) in dz.iter_mut().zip(z).zip(dw) {
            let s = F::one() + z * z;
            *dz += dw / (s * s.sqrt());
        }
    }
}

/// A new rule, made of both: `Z' = retain Z - rate tanh(W k - v) k^T`, `W = Z / sqrt(1 + Z^2)`, `y = W' q`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Careful {}

impl Careful {
    fn tensor(d: Dims) -> Tensor {
        Tensor { number: 0, rows: d.dv, columns: d.dk, values: None, keys: None, start: Start::Zero }
    }

    /// The weights `[dv, dk]`, and what they make of `x`.
    fn apply<F: Scalar>(d: Dims, z: &[F], x: &[F]) -> (Vec<F>, Vec<F>) {
        let mut w = vec![F::zero(); z.len()];
        Algebraic.weights(&Self::tensor(d), z, z, &mut w);
        let y = w.chunks_exact(d.dk).map(|row| row.iter().zip(x).map(|(&w, &x)| w * x).sum()).collect();
        (w, y)
    }

    /// Transpose of [`Careful::apply`]: adds into `dz` and `dx`.
    fn apply_backward<F: Scalar>(d: Dims, z: &[F], w: &[F], x: &[F], dy: &[F], dz: &mut [F], dx: &mut [F]) {
        let mut dw = vec![F::zero(); z.len()];
        for (i, dw) in dw.iter_mut().enumerate() {
            let (row, column) = (i / d.dk, i % d.dk);
            *dw = dy[row] * x[column];
            dx[column] += dy[row] * w[i];
        }
        Algebraic.weights_backward(&Self::tensor(d), z, z, &dw, dz, &mut []);
    }
}

impl MemoryRule for Careful {
    const NAME: &'static str = "careful";

    fn about(&self) -> About {
        About {
            equation: "Z' = retain Z - rate tanh(W k - v) kᵀ; W = Z / sqrt(1 + Z²); y = W' q",
            source: "this example",
            structure: "matrix",
            features: "none",
            bias: "log_cosh",
            retention: "algebraic",
            algorithm: "gd",
            chunk: ChunkForm::Sequential,
        }
    }

    fn inputs(&self) -> Vec<Input> {
        vec![input::K, input::V, input::Q, input::RETAIN, input::RATE]
    }

    fn state(&self, d: Dims) -> Vec<StateTensor> {
        vec![StateTensor::matrix("Z", d.dv, d.dk)]
    }

    /// Map to weights 4, predict 2, step and decay 3, map and read 6, per entry of Z.
    fn flops(&self, d: Dims) -> f64 {
        15.0 * (d.dk * d.dv) as f64
    }

    fn write<F: Scalar>(&self, d: Dims, _pos: u64, x: &[&[F]], z: &mut [F]) {
        let [k, v, _q, retain, rate] = named(x);
        let (_, p) = Self::apply(d, z, k);
        let mut r = vec![F::zero(); d.dv];
        LogCosh.residual(&p, v, F::zero(), &mut r);
        for (i, z) in z.iter_mut().enumerate() {
            *z = retain[0] * *z - rate[0] * r[i / d.dk] * k[i % d.dk];
        }
    }

    fn write_backward<F: Scalar>(
        &self,
        d: Dims,
        _pos: u64,
        x: &[&[F]],
        z: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    ) {
        let [k, v, _q, retain, rate] = named(x);
        let [dk, dv, _dq, dretain, drate] = named_mut(dx);
        let (w, p) = Self::apply(d, z, k);
        let (mut r, mut dr, mut dp) = (vec![F::zero(); d.dv], vec![F::zero(); d.dv], vec![F::zero(); d.dv]);
        LogCosh.residual(&p, v, F::zero(), &mut r);
        for (i, dz) in dstate.iter_mut().enumerate() {
            let (row, column) = (i / d.dk, i % d.dk);
            dretain[0] += *dz * z[i];
            drate[0] += -(*dz * r[row] * k[column]);
            dr[row] += -(*dz * rate[0] * k[column]);
            dk[column] += -(*dz * rate[0] * r[row]);
            *dz *= retain[0];
        }
        LogCosh.residual_backward(&p, v, F::zero(), &dr, &mut dp, dv);
        Self::apply_backward(d, z, &w, k, &dp, dstate, dk);
    }

    fn read<F: Scalar>(&self, d: Dims, _pos: u64, x: &[&[F]], z: &[F], y: &mut [F]) {
        y.copy_from_slice(&Self::apply(d, z, x[2]).1);
    }

    fn read_backward<F: Scalar>(
        &self,
        d: Dims,
        _pos: u64,
        x: &[&[F]],
        z: &[F],
        dy: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    ) {
        let (w, _) = Self::apply(d, z, x[2]);
        Self::apply_backward(d, z, &w, x[2], dy, dstate, dx[2]);
    }
}

/// The residual is the derivative of the loss: by dual numbers, to rounding.
fn check_bias() {
    for e in [-30.0_f64, -1.0, -0.1, 0.0, 0.3, 2.0, 40.0] {
        let (p, v) = ([Dual::new(e, 1.0)], [Dual::new(0.0, 0.0)]);
        let loss = LogCosh.loss(&p, &v, Dual::new(0.0, 0.0)).expect("it has a loss");
        let mut r = [0.0_f64];
        LogCosh.residual(&[e], &[0.0], 0.0, &mut r);
        assert!((loss.eps - r[0]).abs() < 1e-15, "at {e}: {} and {}", loss.eps, r[0]);
    }
    println!("log_cosh: its residual is the gradient of its loss");
}

fn main() {
    check_bias();
    // Exact transposes, causality, cuts, threads, every input and state alive, recall, 2,000 tokens of endurance.
    let report = conformance::check(&Careful::default());
    print!("{report}");
    assert!(report.passed());
}
