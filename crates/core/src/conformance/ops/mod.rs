//! Checks that any implementation of [`Ops`] can be held to: exact transposes with dual numbers, and closeness
//! of `f32` kernels to the `f64` reference.

mod case;
mod column;
mod cuts;
mod list;

pub use case::{Argument, Kind, OpCase, Output, Role};
pub use cuts::{attention_in_pieces, conv_in_pieces, scan_columns_in_pieces};
pub use list::{large_cases, small_cases};

use super::random::Random;
use crate::ops::{Ops, Reference};
use crate::scalar::{Dual, Scalar};
use std::fmt;

/// Share of the sum of absolute terms by which the two sides of the transpose identity may differ.
pub const EXACT_TOLERANCE: f64 = 1e-12;
/// The same for a scan, where the rounding of many steps adds up.
pub const EXACT_SCAN_TOLERANCE: f64 = 1e-10;
/// Share of the largest reference value by which an `f32` implementation may be off.
pub const KERNEL_TOLERANCE: f64 = 1e-5;

/// A gradient that is not the transpose of its forward pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch {
    /// The op and its shape.
    pub case: String,
    /// The argument whose gradient is wrong.
    pub argument: &'static str,
    /// `<dy, J dx>` by dual numbers.
    pub jvp: f64,
    /// `<J^T dy, dx>` by the backward pass.
    pub vjp: f64,
    /// Sum of the absolute terms of both.
    pub scale: f64,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { case, argument, jvp, vjp, scale } = self;
        write!(f, "{case}: gradient of `{argument}` is wrong: jvp {jvp:.6e}, vjp {vjp:.6e}, scale {scale:.1e}")
    }
}

/// Checks `<dy, J dx> = <J^T dy, dx>` for every differentiable argument of `case` on its own: the left side by
/// running the forward pass of `dual`, the right side by the backward pass of `real`.
///
/// The gradients start from random numbers, so a backward pass that overwrites instead of adding fails; outputs
/// start from NaN, so a forward pass that adds instead of overwriting fails.
///
/// # Errors
/// The first gradient that is wrong.
pub fn check_exact<D, R>(dual: &D, real: &R, case: &OpCase, seed: u64) -> Result<(), Mismatch>
where
    D: Ops<F = Dual<f64>>,
    R: Ops<F = f64>,
{
    let mut random = Random::new(seed);
    let arguments = case.arguments(&mut random);
    let values: Vec<Vec<f64>> = arguments.iter().map(|a| a.values.clone()).collect();
    let outputs = case.forward(real, &values);
    let dy: Vec<Vec<f64>> = outputs.iter().map(|o| random.values(o.values.len())).collect();
    let start: Vec<Vec<f64>> = arguments.iter().map(|a| starting_gradient(a, &mut random)).collect();
    let mut gradients = start.clone();
    case.backward(real, &values, &outputs, &dy, &mut gradients);

    for (i, argument) in arguments.iter().enumerate().filter(|(_, a)| a.role != Role::Constant) {
        let dx = random.values(argument.values.len());
        let forward = match case.columns() {
            None => forward_terms(dual, case, &values, i, &dx, &dy, None),
            Some(n) => (0..n).flat_map(|t| forward_terms(dual, case, &values, i, &dx, &dy, Some(t))).collect(),
        };
        let added = gradients[i].iter().zip(&start[i]).map(|(g, s)| g - s);
        let backward: Vec<f64> = added.zip(&dx).map(|(g, dx)| g * dx).collect();
        let (jvp, vjp): (f64, f64) = (forward.iter().sum(), backward.iter().sum());
        let scale = forward.iter().chain(&backward).map(|x| x.abs()).sum();
        // A comparison with NaN is false, so a NaN on either side is a mismatch.
        let agrees = (jvp - vjp).abs() <= case.exact_tolerance() * scale;
        if !agrees {
            return Err(Mismatch { case: case.to_string(), argument: argument.name, jvp, vjp, scale });
        }
    }
    Ok(())
}

/// What is in the gradient's buffer before the backward pass adds to it.
fn starting_gradient(argument: &Argument, random: &mut Random) -> Vec<f64> {
    match argument.role {
        Role::Added => random.values(argument.values.len()),
        Role::Carried | Role::Constant => vec![0.0; argument.values.len()],
    }
}

/// The terms of `<dy, J dx>`, where `dx` moves argument `moved` alone; with a `token`, its values of `dx` and `dy`
/// alone.
fn forward_terms<D: Ops<F = Dual<f64>>>(
    dual: &D,
    case: &OpCase,
    values: &[Vec<f64>],
    moved: usize,
    dx: &[f64],
    dy: &[Vec<f64>],
    token: Option<usize>,
) -> Vec<f64> {
    let counts = |argument, i| token.is_none_or(|token| case.token_of(argument, i) == token);
    let mut lifted: Vec<Vec<Dual<f64>>> =
        values.iter().map(|v| v.iter().map(|&x| Dual::from_f64(x)).collect()).collect();
    for (i, (x, &dx)) in lifted[moved].iter_mut().zip(dx).enumerate() {
        x.eps = if counts(Some(moved), i) { dx } else { 0.0 };
    }
    let outputs = case.forward(dual, &lifted);
    let results = outputs.iter().zip(dy).filter(|(o, _)| o.kind == Kind::Result);
    let pairs = results.flat_map(|(o, dy)| o.values.iter().zip(dy).enumerate());
    pairs.filter(|&(i, _)| counts(None, i)).map(|(_, (y, dy))| dy * y.eps).collect()
}

/// How far one output or gradient of an `f32` implementation is from the reference.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The op and its shape.
    pub case: String,
    /// Name of the output, or `d` and the name of the argument.
    pub what: String,
    /// Largest `|got - reference| / max |reference|`; infinite where only the reference is zero, or a value is NaN.
    pub error: f64,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: `{}` is off by {:.2e} of its scale", self.case, self.what, self.error)
    }
}

/// Runs every case of [`small_cases`] and [`large_cases`]; see [`measure`].
pub fn measure_all<O: Ops<F = f32>>(ops: &O, seed: u64) -> Vec<Measured> {
    small_cases().iter().chain(&large_cases()).flat_map(|case| measure(ops, case, seed)).collect()
}

/// Runs `case` forward and backward on seeded inputs, and compares every output and gradient with
/// [`Reference<f64>`] on the same `f32` inputs.
///
/// The backward pass runs twice into the same gradients: they must hold the reference's after the first, and
/// twice that after the second.
pub fn measure<O: Ops<F = f32>>(ops: &O, case: &OpCase, seed: u64) -> Vec<Measured> {
    let mut random = Random::new(seed);
    let arguments = case.arguments(&mut random);
    let exact: Vec<Vec<f64>> = arguments.iter().map(|a| a.values.clone()).collect();
    let rounded: Vec<Vec<f32>> = exact.iter().map(|v| narrow(v)).collect();
    let reference = Reference::<f64>::new();
    let (want, got) = (case.forward(&reference, &exact), case.forward(ops, &rounded));
    let dy: Vec<Vec<f64>> = want.iter().map(|o| random.values(o.values.len())).collect();
    let dy_rounded: Vec<Vec<f32>> = dy.iter().map(|v| narrow(v)).collect();

    let mut dwant: Vec<Vec<f64>> = exact.iter().map(|v| vec![0.0; v.len()]).collect();
    case.backward(&reference, &exact, &want, &dy, &mut dwant);
    let mut once: Vec<Vec<f32>> = rounded.iter().map(|v| vec![0.0; v.len()]).collect();
    case.backward(ops, &rounded, &got, &dy_rounded, &mut once);
    let mut twice = once.clone();
    case.backward(ops, &rounded, &got, &dy_rounded, &mut twice);

    let mut all = Vec::new();
    for (want, got) in want.iter().zip(&got).filter(|(o, _)| o.kind != Kind::Private) {
        let error = relative_error(&want.values, &got.values, 1.0, largest(&want.values));
        all.push(Measured { case: case.to_string(), what: want.name.to_string(), error });
    }
    for (i, argument) in arguments.iter().enumerate().filter(|(_, a)| a.role != Role::Constant) {
        let scale = if case.vanishes(argument.name) { largest(&dy[0]) } else { largest(&dwant[i]) };
        let again = if argument.role == Role::Added { 2.0 } else { 1.0 };
        let errors =
            [relative_error(&dwant[i], &once[i], 1.0, scale), relative_error(&dwant[i], &twice[i], again, scale)];
        let what = format!("d{}", argument.name);
        all.push(Measured { case: case.to_string(), what, error: errors.into_iter().fold(0.0, larger) });
    }
    all
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}

/// The larger one, counting NaN as infinite.
fn larger(a: f64, b: f64) -> f64 {
    if b.is_nan() { f64::INFINITY } else { a.max(b) }
}

fn largest(values: &[f64]) -> f64 {
    values.iter().map(|x| x.abs()).fold(0.0, larger)
}

/// `max |got - times want| / (times scale)`.
fn relative_error(want: &[f64], got: &[f32], times: f64, scale: f64) -> f64 {
    let error = want.iter().zip(got).map(|(w, &g)| (f64::from(g) - times * w).abs()).fold(0.0, larger);
    if error == 0.0 { 0.0 } else { error / (times * scale) }
}
