//! Knob 2, attentional bias: the inner loss that a token's association is learned under [Miras v1 sec.5.1].
//!
//! All that a rule needs of a loss is its gradient with respect to the prediction, the residual.

use super::knob::knob;
use super::smooth;
use crate::error::Result;
use crate::rule::{Activation, Input, Width};
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// How a residual grows with the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Growth {
    /// More slowly: steps on large errors are small.
    Slower,
    /// Alike: a rate below 2 is stable.
    Alike,
    /// Faster: no rate is small enough for every error.
    Faster,
}

/// What a threshold is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threshold {
    /// Every value's error; it starts at one.
    Values,
    /// The length of the error; it starts at the root of the number of values, so that about half of the tokens of a
    /// new memory lie on either side.
    Length,
}

impl Threshold {
    /// The rule's input.
    pub(crate) fn input(self) -> Input {
        // softplus(0.5413..) = 1.
        let lengths = self == Threshold::Length;
        Input {
            name: "threshold",
            width: Width::One,
            activation: Activation::Softplus { floor: 1e-3, bias: &[0.541_324_854_612_918], lengths },
            about: "error beyond which the loss grows more slowly",
        }
    }
}

/// An inner loss. `p` is the prediction `M(k)`, `v` the value, both `[dv]`.
pub trait Bias {
    /// Refuses settings that do not exist, with the reason.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`].
    fn check(&self) -> Result<()> {
        Ok(())
    }
    /// How the residual grows with the error.
    fn growth(&self) -> Growth;
    /// What the residual is multiplied by over that of a loss without constants; the range of the rate is divided by it.
    fn factor(&self) -> f64 {
        1.0
    }
    /// What the threshold that every token brings (the input `threshold`) is compared with; `None` without one.
    fn threshold(&self) -> Option<Threshold> {
        None
    }
    /// The loss, for checks: the residual must be its gradient. `None` where the rule is not the gradient of a loss.
    fn loss<F: Scalar>(&self, p: &[F], v: &[F], threshold: F) -> Option<F>;
    /// The residual `r = dloss/dp`, overwritten. `threshold` is zero for losses without one.
    fn residual<F: Scalar>(&self, p: &[F], v: &[F], threshold: F, r: &mut [F]);
    /// Transpose of [`Bias::residual`]: adds into `dp` and `dv`, gives the gradient of the threshold.
    fn residual_backward<F: Scalar>(&self, p: &[F], v: &[F], threshold: F, dr: &[F], dp: &mut [F], dv: &mut [F]) -> F;

    /// True if the implicit step has a form here: the loss is convex, and a sum over coordinates.
    fn has_implicit(&self) -> bool {
        false
    }
    /// The residual at the end of an implicit step: `r` with `r = loss'(p - s r)`, `s` the rate times `|k|^2`.
    fn implicit<F: Scalar>(&self, _p: &[F], _v: &[F], _threshold: F, _s: F, _r: &mut [F]) {
        unreachable!("only called where has_implicit says so");
    }
    /// Transpose of [`Bias::implicit`]: adds into `dp` and `dv`, gives the gradients of the threshold and of `s`.
    fn implicit_backward<F: Scalar>(
        &self,
        _p: &[F],
        _v: &[F],
        _threshold: F,
        _s: F,
        _dr: &[F],
        _dp: &mut [F],
        _dv: &mut [F],
    ) -> (F, F) {
        unreachable!("only called where has_implicit says so");
    }
}

/// How `sign(e) |e|^s` is made smooth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// As the gradient of a smooth loss: `e (e^2 + 1e-6)^((s - 1) / 2)`.
    #[default]
    Smooth,
    /// As printed, with an approximate sign and the factor of an undivided loss: `(s + 1) tanh(10 e) (e^2 + 1e-6)^(s/2)`.
    Tanh,
}

/// Steepness of the approximate sign.
const SHARP: f64 = 10.0;

impl Form {
    /// The residual of one coordinate for the power `p = s + 1` of its error.
    fn residual<F: Scalar>(self, p: f64, e: F) -> F {
        let u = e * e + F::from_f64(smooth::ABS);
        match self {
            Form::Smooth => smooth_sign(e) * smooth::power(u, 0.5 * (p - 1.0)),
            Form::Tanh => F::from_f64(p) * (F::from_f64(SHARP) * e).tanh() * smooth::power(u, 0.5 * (p - 1.0)),
        }
    }

    /// Its derivative.
    fn slope<F: Scalar>(self, p: f64, e: F) -> F {
        let u = e * e + F::from_f64(smooth::ABS);
        match self {
            // Not u + (p - 2) e^2, whose terms cancel at p = 1.
            Form::Smooth => {
                smooth::power(u, 0.5 * p - 2.0) * (F::from_f64(smooth::ABS) + F::from_f64(p - 1.0) * e * e)
            }
            Form::Tanh => {
                let t = (F::from_f64(SHARP) * e).tanh();
                let bend = F::from_f64(SHARP) * (F::one() - t * t) * smooth::power(u, 0.5 * (p - 1.0));
                F::from_f64(p) * (bend + t * F::from_f64(p - 1.0) * e * smooth::power(u, 0.5 * (p - 3.0)))
            }
        }
    }
}

/// `e / sqrt(e^2 + 1e-6)`. For large errors as `sqrt(1 - 1e-6 / (e^2 + 1e-6))`, whose derivative is no difference of
/// nearly equal terms.
fn smooth_sign<F: Scalar>(e: F) -> F {
    let abs = F::from_f64(smooth::ABS);
    let u = e * e + abs;
    if e * e > abs { signed(e, (F::one() - abs / u).sqrt()) } else { e / u.sqrt() }
}

/// A residual that looks at one coordinate of the error at a time.
fn each<F: Scalar>(p: &[F], v: &[F], r: &mut [F], residual: impl Fn(F) -> F) {
    for ((r, &p), &v) in r.iter_mut().zip(p).zip(v) {
        *r = residual(p - v);
    }
}

/// Transpose of [`each`]; adds into `dp` and `dv`.
fn each_backward<F: Scalar>(p: &[F], v: &[F], dr: &[F], dp: &mut [F], dv: &mut [F], slope: impl Fn(F) -> F) {
    for (i, &dr) in dr.iter().enumerate() {
        let de = dr * slope(p[i] - v[i]);
        dp[i] += de;
        dv[i] += -de;
    }
}

/// The error `p - v`.
fn error<F: Scalar>(p: &[F], v: &[F]) -> Vec<F> {
    p.iter().zip(v).map(|(&p, &v)| p - v).collect()
}

/// Adds the gradient of an error into those of `p` and `v`.
fn error_backward<F: Scalar>(de: &[F], dp: &mut [F], dv: &mut [F]) {
    for (i, &de) in de.iter().enumerate() {
        dp[i] += de;
        dv[i] += -de;
    }
}

/// `x`, not beyond `most` on either side.
fn within<F: Scalar>(x: F, most: F) -> F {
    if x > most {
        most
    } else if x < -most {
        -most
    } else {
        x
    }
}

/// The value where the sign is that of `x`, zero where `x` is.
fn signed<F: Scalar>(x: F, value: F) -> F {
    match x.value() {
        v if v > 0.0 => value,
        v if v < 0.0 => -value,
        _ => F::zero(),
    }
}

knob! { $
    /// An inner loss; see [`Bias`].
    AnyBias in bias, with_bias, "bias", {
        l2::L2,
        dot::Dot,
        lp::Lp,
        l1::L1,
        huber::Huber,
        huber_norm::HuberNorm,
        huber_switch::HuberSwitch,
        robust::Robust,
        kl::Kl,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scalar::Dual;

    const P: [f64; 5] = [0.7, -1.9, 0.02, 2.4, -0.3];
    const V: [f64; 5] = [0.1, 0.6, 0.05, -0.2, -0.31];

    /// Every value of the knob, with the settings that change its form.
    fn all() -> Vec<AnyBias> {
        let mut all = AnyBias::all();
        all.extend([1.0, 1.5, 4.0].map(|p| Lp { p, ..Lp::default() }.into()));
        all.push(L1 { form: Form::Tanh }.into());
        all
    }

    fn along(x: &[f64], i: usize) -> Vec<Dual<f64>> {
        x.iter().enumerate().map(|(j, &x)| Dual::new(x, f64::from(u8::from(i == j)))).collect()
    }

    fn still(x: &[f64]) -> Vec<Dual<f64>> {
        along(x, usize::MAX)
    }

    #[test]
    fn the_residual_is_the_gradient_of_the_loss() {
        let mut losses = 0;
        for bias in all() {
            for threshold in [0.5, 2.0, 10.0] {
                let mut r = [f64::NAN; 5];
                with_bias!(&bias, b => b.residual(&P, &V, threshold, &mut r));
                for (i, &r) in r.iter().enumerate() {
                    let t = Dual::new(threshold, 0.0);
                    let Some(loss) = with_bias!(&bias, b => b.loss(&along(&P, i), &still(&V), t)) else { continue };
                    losses += 1;
                    assert!((loss.eps - r).abs() < 1e-12 * (1.0 + r.abs()), "{bias:?}: {i}: {} {r}", loss.eps);
                }
            }
        }
        // All but `huber_switch`, which is the gradient of no loss.
        assert_eq!(losses, (all().len() - 1) * 15);
    }

    /// The residual of an implicit step is the loss's own at the error that the step leaves.
    #[test]
    fn the_implicit_residual_is_the_explicit_one_at_the_end_of_the_step() {
        let mut forms = 0;
        for bias in all() {
            if !with_bias!(&bias, b => b.has_implicit()) {
                continue;
            }
            forms += 1;
            for (s, threshold) in [(1e-6, 0.5), (0.3, 0.5), (1.0, 2.0), (50.0, 0.5)] {
                let (mut r, mut at_end) = ([f64::NAN; 5], [f64::NAN; 5]);
                with_bias!(&bias, b => b.implicit(&P, &V, threshold, s, &mut r));
                let end: Vec<f64> = P.iter().zip(&r).map(|(p, r)| p - s * r).collect();
                with_bias!(&bias, b => b.residual(&end, &V, threshold, &mut at_end));
                for (i, (r, at_end)) in r.iter().zip(&at_end).enumerate() {
                    // The implicit step of `l1` is that of |e| itself, whose residual is any number up to 1 at zero.
                    let kink = matches!(bias, AnyBias::L1(_)) && (end[i] - V[i]).abs() < 1e-12 && r.abs() <= 1.0;
                    // Explicit steps see its sign smooth: at the smallest error here, 0.01, by 5e-3.
                    let off = if matches!(bias, AnyBias::L1(_)) { 3e-3 } else { 1e-9 };
                    assert!(kink || (r - at_end).abs() < off * (1.0 + r.abs()), "{bias:?}, {s}: {i}: {r} {at_end}");
                }
            }
        }
        assert_eq!(forms, 8, "l2, dot, l1, huber, and lp four times");
    }

    #[test]
    fn an_implicit_step_of_no_size_divides_by_nothing() {
        for bias in all().iter().filter(|b| with_bias!(b, b => b.has_implicit())) {
            let mut r = [f64::NAN; 5];
            with_bias!(bias, b => b.implicit(&P, &P, 0.5, 0.0, &mut r));
            assert!(r.iter().all(|r| r.is_finite()), "{bias:?}: {r:?}");
        }
    }

    /// Backward functions against the forward source on dual numbers, one argument at a time.
    #[test]
    fn every_backward_is_the_transpose_of_its_forward() {
        for bias in all() {
            for implicit in [false, true] {
                if implicit && !with_bias!(&bias, b => b.has_implicit()) {
                    continue;
                }
                for (s, threshold) in [(0.3, 0.5), (2.0, 2.5)] {
                    check_transpose(&bias, implicit, s, threshold);
                }
            }
        }
    }

    fn check_transpose(bias: &AnyBias, implicit: bool, s: f64, threshold: f64) {
        let dr = [0.4, -0.9, 0.3, 1.1, -0.2];
        let (mut dp, mut dv) = ([0.0; 5], [0.0; 5]);
        let (dt, ds) = with_bias!(bias, b => if implicit {
            b.implicit_backward(&P, &V, threshold, s, &dr, &mut dp, &mut dv)
        } else {
            (b.residual_backward(&P, &V, threshold, &dr, &mut dp, &mut dv), 0.0)
        });
        let forward = |p: &[Dual<f64>], v: &[Dual<f64>], t: Dual<f64>, s: Dual<f64>| -> f64 {
            let mut r = [Dual::default(); 5];
            with_bias!(bias, b => if implicit { b.implicit(p, v, t, s, &mut r) } else { b.residual(p, v, t, &mut r) });
            r.iter().zip(&dr).map(|(r, d)| r.eps * d).sum()
        };
        let (t, size) = (Dual::new(threshold, 0.0), Dual::new(s, 0.0));
        let mut pairs = Vec::new();
        for i in 0..5 {
            pairs.push(("p", forward(&along(&P, i), &still(&V), t, size), dp[i]));
            pairs.push(("v", forward(&still(&P), &along(&V, i), t, size), dv[i]));
        }
        pairs.push(("threshold", forward(&still(&P), &still(&V), Dual::new(threshold, 1.0), size), dt));
        pairs.push(("s", forward(&still(&P), &still(&V), t, Dual::new(s, 1.0)), ds));
        for (name, jvp, vjp) in pairs {
            let holds = (jvp - vjp).abs() <= 1e-12 * (1.0 + jvp.abs());
            assert!(holds, "{bias:?}, implicit {implicit}, s {s}: {name}: {jvp} {vjp}");
        }
    }
}
